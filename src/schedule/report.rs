//! What the scheduler is told by the tasks that it has started.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Blocked, Verdict,
    turn::{QueueId, Turn},
};
use crate::config::Tenant;

pub(super) enum Report {
    Ended(Ended),
    /// A verdict before the end of its job.
    Early(Arc<Tenant>, QueueId, Verdict),
    Prepared(Arc<Tenant>, Result<Instant, Blocked>),
}

/// A job that has ended. Reports itself when it is dropped, so that even a panic gives its slots back.
pub(super) struct Ended {
    pub(super) turn: Turn,
    pub(super) tenant: Arc<Tenant>,
    pub(super) lease: u64,
    pub(super) verdict: Verdict,
    /// Nothing stopped the call, as far as the queue is concerned.
    pub(super) is_well: bool,
    /// See [`Early::keep_slot`].
    pub(super) keep: Duration,
}

pub(super) struct OnDrop {
    pub(super) ended: Option<Ended>,
    pub(super) kept_millis: Arc<AtomicU64>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(mut ended) = self.ended.take() {
            ended.keep = Duration::from_millis(self.kept_millis.load(Ordering::Relaxed));
            // Nobody listens once the scheduler has stopped.
            let _ = self.reports.send(Report::Ended(ended));
        }
    }
}

/// Lets a courier say its verdict as soon as it knows it, before the message is settled. Storing the
/// settlement takes milliseconds, in which more mail of the same mailbox would be sent to a service that has
/// just refused it.
///
/// The courier returns the same verdict at the end of the job, which then changes nothing.
pub struct Early {
    tenant: Arc<Tenant>,
    queue: QueueId,
    said: OnceLock<Verdict>,
    kept_millis: Arc<AtomicU64>,
    reports: mpsc::UnboundedSender<Report>,
}

impl Early {
    pub(super) fn new(tenant: Arc<Tenant>, queue: QueueId, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self { tenant, queue, said: OnceLock::new(), kept_millis: Arc::default(), reports }
    }

    /// The first verdict is applied at once. Later ones are not: the last word is the end of the job.
    pub fn say(&self, verdict: &Verdict) {
        if self.said.set(verdict.clone()).is_ok() {
            // Nobody listens once the scheduler has stopped.
            let _ = self.reports.send(Report::Early(self.tenant.clone(), self.queue, verdict.clone()));
        }
    }

    /// A call of this job timed out, and the service may still be working on it: it counts among the
    /// mailbox's calls for this long after the end of the job. Of several, the longest counts. Without
    /// `concurrent_requests` it changes nothing.
    pub fn keep_slot(&self, long: Duration) {
        let millis = u64::try_from(long.as_millis()).unwrap_or(u64::MAX);
        self.kept_millis.fetch_max(millis, Ordering::Relaxed);
    }

    pub(super) fn kept_millis(&self) -> Arc<AtomicU64> {
        self.kept_millis.clone()
    }

    /// Whether the job has ended with this, and nothing stopped it before.
    pub(super) fn is_well(&self, last: &Verdict) -> bool {
        matches!(last, Verdict::Done | Verdict::Refused) && self.said.get().is_none()
    }

    /// What is new in the verdict at the end of the job.
    pub(super) fn news(&self, last: Verdict) -> Verdict {
        if self.said.get() == Some(&last) { Verdict::Done } else { last }
    }

    /// For tests of couriers: nobody listens.
    #[cfg(test)]
    pub(crate) fn unheard() -> Self {
        let cloud = crate::config::Cloud::loopback("http://127.0.0.1:1");
        Self::new(Tenant::sample("test", cloud).into(), 0, mpsc::unbounded_channel().0)
    }

    #[cfg(test)]
    pub(crate) fn said(&self) -> Option<&Verdict> {
        self.said.get()
    }
}
