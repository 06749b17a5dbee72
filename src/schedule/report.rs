//! What the scheduler is told by the tasks that it has started.

use std::sync::OnceLock;

use tokio::{sync::mpsc, time::Instant};

use super::{
    Blocked, Verdict,
    pool::{QueueId, Turn},
};
use crate::config::TenantName;

pub(super) enum Report {
    Ended(Ended),
    /// A verdict before the end of its job.
    Early(TenantName, QueueId, Verdict),
    Prepared(TenantName, Result<Instant, Blocked>),
}

/// A job that has ended. Reports itself when it is dropped, so that even a panic gives its slots back.
pub(super) struct Ended {
    pub(super) turn: Turn,
    pub(super) tenant: TenantName,
    pub(super) lease: u64,
    pub(super) verdict: Verdict,
}

pub(super) struct OnDrop {
    pub(super) ended: Option<Ended>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Nobody listens once the scheduler has stopped.
            let _ = self.reports.send(Report::Ended(ended));
        }
    }
}

/// Lets a courier say its verdict as soon as it knows it, before the message is settled: storing that takes
/// milliseconds, in which more mail of the same mailbox would go to a service that has just refused it.
///
/// The courier answers the same verdict at the end of the job, which then changes nothing.
pub struct Early {
    tenant: TenantName,
    queue: QueueId,
    said: OnceLock<Verdict>,
    reports: mpsc::UnboundedSender<Report>,
}

impl Early {
    pub(super) fn new(tenant: TenantName, queue: QueueId, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self { tenant, queue, said: OnceLock::new(), reports }
    }

    /// The first verdict is heeded at once. Any later one is not: the last word is the end of the job.
    pub fn say(&self, verdict: &Verdict) {
        if self.said.set(verdict.clone()).is_ok() {
            // Nobody listens once the scheduler has stopped.
            let _ = self.reports.send(Report::Early(self.tenant.clone(), self.queue, verdict.clone()));
        }
    }

    /// What is new in the verdict at the end of the job.
    pub(super) fn news(&self, last: Verdict) -> Verdict {
        if self.said.get() == Some(&last) { Verdict::Done } else { last }
    }

    /// For tests of couriers: nobody listens.
    #[cfg(test)]
    pub(crate) fn unheard() -> Self {
        let tenant = "test".parse().expect("a tenant's name");
        Self::new(tenant, 0, mpsc::unbounded_channel().0)
    }

    #[cfg(test)]
    pub(crate) fn said(&self) -> Option<&Verdict> {
        self.said.get()
    }
}
