//! The worker: claims a message, has a route deliver it, and settles it by how that went.
//!
//! Here, and only here, a [`Disposition`] decides what happens to the message:
//!
//! | disposition      | the message                                        | counts | the queue          |
//! |------------------|----------------------------------------------------|--------|--------------------|
//! | `Delivered`      | leaves; a notification enters if one was asked for |        |                    |
//! | `Retry`          | waits longer each time, until `give_up_after`      | yes    |                    |
//! | `Refused`        | the same, or until its cause may be mended         | yes    |                    |
//! | `Failed`         | leaves, a bounce enters                            |        |                    |
//! | `Unknown`        | waits until the service can be asked (see below)   | yes    |                    |
//! | `Unsettled`      | waits until the service is asked again             | no     |                    |
//! | `Split`          | leaves, its parts enter                            | no     |                    |
//! | `Divided`        | leaves; its parts enter, and a bounce for failures | no     |                    |
//! | `Hold`           | waits until an operator releases or deletes it     | no     |                    |
//! | `MailboxBlocked` | waits as long as the mailbox sleeps                | no     | the mailbox sleeps |
//! | `TenantBlocked`  | waits for its turn                                 | no     | the tenant sleeps  |
//!
//! An `Unknown` message about which the service cannot be asked waits as for `Retry`, and for `settle_after`
//! at least.
//!
//! What concerns the queue is reported before the message is settled. A damaged body is quarantined. A body
//! that merely cannot be read now, and a bounce that cannot be written now, are looked at again after a
//! minute. A delivery that panics is an `Unknown`; a message that still panics when its time is up is
//! quarantined. The sender of a message that is quarantined is told.
//!
//! If the process dies between the claim and the settlement, the next start finds a lease, and the message is
//! treated as `Unknown`.

mod broken;
mod parting;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    Attempted, Disposition, Division, Reason, Receipt, Routes, Trouble,
    notice::{News, Whom, notification_for},
    route::Carried,
};
use crate::{
    bounce::{EnhancedStatus, Kind, Service},
    clock,
    config::{RetryConfig, RouteRule, Suspension, Tenant},
    identity::{Audience, Identity},
    schedule::{Blocked, Courier, Early, Job, Task, Verdict, retry_delay},
    telemetry::{ErrorClass, LimitKind, List, Metrics, Outcome, Route, seconds},
};
use broken::Broken;
use relay_mail::{MailboxAddress, Timestamp};
use relay_spool::{
    Claim, DamagedBody, FailedAttempt, HoldReason, Lease, NewMessage, Settlement, Spool, SpoolError,
};

/// How long a message waits when something on this machine stops it: too many open files, no room for its
/// bounce.
const LOCAL_FAULT: Duration = Duration::from_secs(60);

/// How long a call that timed out still counts as one at the service: its back end continues, and a mailbox
/// may have only four calls at a time.
const TIMED_OUT_CALL: Duration = Duration::from_secs(180);

/// When to look again at a suspended tenant. A changed configuration is looked at in any case.
const SUSPENDED: Duration = Duration::from_secs(60 * 60);

pub struct WorkerSettings {
    /// This relay's name, in bounces.
    pub hostname: String,
    pub retry: RetryConfig,
    pub settle_after: Duration,
}

pub struct Worker {
    settings: WorkerSettings,
    spool: Spool,
    identity: Arc<Identity>,
    routes: Routes,
    metrics: Metrics,
}

impl Worker {
    pub fn new(
        settings: WorkerSettings,
        spool: Spool,
        identity: Arc<Identity>,
        routes: Routes,
        metrics: Metrics,
    ) -> Self {
        Self { settings, spool, identity, routes, metrics }
    }
}

impl Courier for Worker {
    async fn prepare(&self, tenant: &Arc<Tenant>) -> Result<Instant, Blocked> {
        if let Some(Suspension { why, until, .. }) = &tenant.suspended {
            let left = until.map_or(SUSPENDED, |until| until.since(clock::wall()));
            let retry_after = left.clamp(Duration::from_secs(1), SUSPENDED);
            return Err(Blocked { reason: Blocked::SUSPENDED, why: why.clone(), retry_after });
        }
        let audience = match tenant.route {
            RouteRule::Smtp => Audience::Exchange,
            RouteRule::Graph | RouteRule::Auto => Audience::Graph,
        };
        match self.identity.token(tenant, audience).await {
            Ok(token) => Ok(token.expires()),
            Err(error) => {
                Err(Blocked { reason: error.kind.reason(), why: error.why, retry_after: error.retry_after })
            }
        }
    }

    async fn carry(&self, job: Job, early: &Early) -> Verdict {
        let claim = match self.spool.claim(job.id).await {
            Ok(claim) => claim,
            Err(SpoolError::Unreadable { lease, doubt, reason }) => {
                return self.cannot_read_at_all(lease, doubt, reason).await;
            }
            Err(e) => return cannot_claim(&job, &e),
        };
        let is_call = job.task == Task::Deliver;
        let tenant = &job.tenant;
        let broken = Broken::of(&claim, tenant, &job.mailbox, is_call);
        let route = Routes::usual(tenant);
        let attempt = Attempt { worker: self, tenant, mailbox: &job.mailbox, claim, early, route };
        let carried = async {
            match job.task {
                Task::Deliver => attempt.deliver().await,
                Task::Expire { why } => attempt.expire(&why).await,
            }
        };
        self.unless_it_panics(carried, broken).await
    }
}

impl Worker {
    fn give_up_at(&self, lease: Lease) -> Timestamp {
        lease.id.accepted().steady() + self.settings.retry.give_up_after
    }

    /// After `attempts` that counted and one more that failed.
    fn retry_wait(&self, attempts: u16) -> Duration {
        retry_delay(&self.settings.retry, attempts.saturating_add(1), rand::rng().random_range(0.0..1.0))
    }

    /// As [`retry_wait`](Self::retry_wait), where the outcome must settle first.
    fn unknown_wait(&self, attempts: u16) -> Duration {
        self.retry_wait(attempts).max(self.settings.settle_after)
    }

    /// Stores the settlement of the message; returns `verdict` if that worked.
    async fn settle(&self, lease: Lease, settlement: Settlement, verdict: Verdict) -> Verdict {
        match self.spool.settle(lease, settlement).await {
            Ok(()) => verdict,
            Err(e) => {
                error!(id = %lease.id, error = %e, "delivery result not stored");
                Verdict::SpoolUnhealthy
            }
        }
    }
}

fn cannot_claim(job: &Job, error: &SpoolError) -> Verdict {
    match error {
        SpoolError::Unhealthy(_)
        | SpoolError::Closed
        | SpoolError::Body(_)
        | SpoolError::Unreadable { .. } => Verdict::SpoolUnhealthy,
        // Somebody else has ended, quarantined or held it, and has said so.
        SpoolError::NoSuchMessage(_) | SpoolError::Damaged { .. } | SpoolError::Held(_) => Verdict::Done,
        SpoolError::StaleLease(_) | SpoolError::InDelivery(_) => {
            error!(id = %job.id, "message already leased");
            Verdict::Done
        }
    }
}

/// One claimed message on its way.
struct Attempt<'a> {
    worker: &'a Worker,
    tenant: &'a Arc<Tenant>,
    mailbox: &'a MailboxAddress,
    claim: Claim,
    early: &'a Early,
    /// The route that the message has taken, or would take.
    route: Route,
}

impl Attempt<'_> {
    async fn deliver(mut self) -> Verdict {
        let metrics = &self.worker.metrics;
        let tenant = &self.tenant.name;
        let started = Instant::now();
        let result = self.worker.routes.deliver(self.tenant, self.mailbox, &self.claim).await;
        let took = started.elapsed();
        let Carried { route, attempted } = match result {
            Ok(carried) => carried,
            Err(damaged) => return self.cannot_read(damaged).await,
        };
        let Attempted { disposition, doubt, timed_out, .. } = attempted;
        self.route = route;
        if timed_out {
            self.early.keep_slot(TIMED_OUT_CALL);
        }
        if let Some(outcome) = outcome(&disposition) {
            let error = disposition.trouble().map(|why| why.class);
            metrics.attempt(tenant, route, (outcome, error), took);
        }
        self.log(&disposition, took);
        self.act(disposition, doubt).await
    }

    /// `doubt`: since when the outcome of earlier attempts has been open.
    async fn act(mut self, disposition: Disposition, doubt: Option<Timestamp>) -> Verdict {
        let now = clock::now();
        self.claim.doubt = doubt;
        match disposition {
            Disposition::Delivered(receipt) => {
                let waited = now.since(self.claim.lease.id.accepted().steady());
                let metrics = &self.worker.metrics;
                let tenant = &self.tenant.name;
                let bounce = if receipt.reports_success { None } else { self.tell_delivered().await };
                let verdict = self.settle(Settlement::End { bounce }, Verdict::Done).await;
                if verdict == Verdict::Done {
                    metrics.delivered_after(tenant, waited);
                }
                verdict
            }
            Disposition::Failed(Reason { status, why }) => {
                self.give_up(Kind::Failed, Whom::All { status, diagnostic: &why.text }).await
            }
            Disposition::Retry { after, why } => {
                let wait = self.worker.retry_wait(self.claim.attempts).max(after.unwrap_or_default());
                self.wait_or_expire(now, wait, &why, Verdict::Done).await
            }
            Disposition::Refused { after, why } => {
                let wait = self.worker.retry_wait(self.claim.attempts).max(after);
                self.wait_or_expire(now, wait, &why, Verdict::Refused).await
            }
            Disposition::Unknown { look_after, after, why } => {
                self.claim.doubt = Some(now);
                let after = after.unwrap_or_default();
                match look_after {
                    // Whatever its age: it may have arrived, and then its sender must not be told that it has
                    // not.
                    Some(look_after) => self.wait(now + look_after.max(after), &why, Verdict::Done).await,
                    None => {
                        let wait = self.worker.unknown_wait(self.claim.attempts).max(after);
                        self.wait_or_expire(now, wait, &why, Verdict::Done).await
                    }
                }
            }
            Disposition::Unsettled { look_after, why } => {
                let settle_by = doubt.unwrap_or(now) + self.worker.settings.settle_after;
                if now >= self.worker.give_up_at(self.claim.lease).max(settle_by) {
                    return self.expire(&why.text).await;
                }
                self.wait_without_cost(now + look_after, None, Verdict::Done).await
            }
            Disposition::Split { most } => self.split(most).await,
            Disposition::Divided(division) => self.divide(division).await,
            Disposition::Hold { why } => {
                let attempt = why.attempt(clock::wall());
                let settlement = Settlement::Hold { reason: HoldReason::new(&why.text), doubt, attempt };
                self.settle(settlement, Verdict::Done).await
            }
            Disposition::MailboxBlocked { until, limit, why } => {
                let wakes = now + until.saturating_duration_since(Instant::now());
                let due = if limit == LimitKind::Mailbox {
                    // What stops the mailbox may be fixed before that, or while the relay is off.
                    now
                } else {
                    // When its time is up it must be due, so that it is found behind a mailbox that sleeps
                    // on.
                    wakes.min(self.worker.give_up_at(self.claim.lease)).max(now)
                };
                let attempt = why.attempt(clock::wall());
                self.wait_for_turn(due, attempt, Verdict::MailboxAsleep { until, limit, why: why.text }).await
            }
            Disposition::TenantBlocked { reason, why, retry_after } => {
                let attempt = why.attempt(clock::wall());
                let blocked = Blocked { reason, why: why.text, retry_after };
                self.wait_for_turn(now, attempt, Verdict::TenantBlocked(blocked)).await
            }
        }
    }

    /// The body cannot be read, and nothing was sent.
    async fn cannot_read(self, damaged: DamagedBody) -> Verdict {
        if damaged.is_certain() {
            let broken = Broken::of(&self.claim, self.tenant, self.mailbox, true);
            return self.worker.quarantine(broken, damaged.to_string()).await;
        }
        let why = damaged.to_string();
        warn!(id = %self.claim.lease.id, tenant = %self.tenant.name, why, "message not readable");
        if clock::now() >= self.worker.give_up_at(self.claim.lease) {
            return self.expire("the relay could not read the message").await;
        }
        self.wait_for_machine(why).await
    }

    /// Something on this machine must be fixed. It costs no attempt.
    async fn wait_for_machine(self, why: String) -> Verdict {
        let attempt = Trouble::new(ErrorClass::Relay, why).attempt(clock::wall());
        self.wait_without_cost(clock::now() + LOCAL_FAULT, attempt, Verdict::Done).await
    }

    /// The attempt counts. A message whose time is up leaves; any other is tried once more when its time is
    /// up, at the latest.
    async fn wait_or_expire(
        self,
        now: Timestamp,
        wait: Duration,
        why: &Trouble,
        verdict: Verdict,
    ) -> Verdict {
        let give_up_at = self.worker.give_up_at(self.claim.lease);
        if now >= give_up_at {
            return self.expire(&why.text).await;
        }
        // An unknown outcome is never given up before its time.
        let is_open = self.claim.doubt.is_some();
        self.wait(if is_open { now + wait } else { (now + wait).min(give_up_at) }, why, verdict).await
    }

    /// The attempt counts.
    async fn wait(self, due: Timestamp, why: &Trouble, verdict: Verdict) -> Verdict {
        let doubt = self.claim.doubt;
        let attempt = why.attempt(clock::wall());
        self.settle(Settlement::Wait { due, counted: true, doubt, attempt }, verdict).await
    }

    async fn wait_for_turn(
        self,
        due: Timestamp,
        attempt: Option<FailedAttempt>,
        verdict: Verdict,
    ) -> Verdict {
        self.early.say(&verdict);
        self.wait_without_cost(due, attempt, verdict).await
    }

    /// The attempt, if it was one, does not count.
    async fn wait_without_cost(
        self,
        due: Timestamp,
        attempt: Option<FailedAttempt>,
        verdict: Verdict,
    ) -> Verdict {
        let doubt = self.claim.doubt;
        self.settle(Settlement::Wait { due, counted: false, doubt, attempt }, verdict).await
    }

    async fn expire(self, why: &str) -> Verdict {
        self.give_up(Kind::Expired, Whom::All { status: EnhancedStatus::EXPIRED, diagnostic: why }).await
    }

    async fn give_up(self, kind: Kind, whom: Whom<'_>) -> Verdict {
        let metrics = &self.worker.metrics;
        let label = kind.label();
        let recipients = match &whom {
            Whom::Each(failed) => List::of(failed.iter().map(|(recipient, _)| recipient)),
            Whom::All { .. } => List::of_recipients(self.claim.message.envelope.recipients()),
        };
        warn!(
            id = %self.claim.lease.id, tenant = %self.tenant.name, ?recipients, why = whom.diagnostic(),
            "message {label}"
        );
        match self.notification(self.news(kind, whom)).await {
            Ok(bounce) => {
                self.worker.routes.discard(self.tenant, self.mailbox, &self.claim).await;
                if bounce.is_some() {
                    metrics.bounce(&self.tenant.name, label);
                }
                self.settle(Settlement::End { bounce }, Verdict::Done).await
            }
            Err(e) => {
                error!(id = %self.claim.lease.id, error = %e, "bounce not stored");
                self.wait_for_machine(format!("the report to the sender cannot be stored: {e}")).await
            }
        }
    }

    fn news<'n>(&'n self, kind: Kind, whom: Whom<'n>) -> News<'n> {
        let (service, remote) = match self.route {
            Route::Graph => (Service::Graph, None),
            Route::Smtp => (Service::Smtp, self.tenant.cloud.smtp.as_ref().map(|smtp| smtp.host.as_str())),
        };
        News { kind, whom, service, remote }
    }

    /// The notification for the sender, if one is wanted.
    async fn notification(&self, news: News<'_>) -> Result<Option<Box<NewMessage>>, SpoolError> {
        let Worker { spool, settings, .. } = self.worker;
        let told = notification_for(
            spool,
            self.tenant,
            &settings.hostname,
            self.mailbox,
            (&self.claim).into(),
            news,
        )
        .await?;
        if let Some(told) = &told {
            info!(id = %told.id, bounce_of = %self.claim.lease.id, tenant = %self.tenant.name, "bounce queued");
        }
        Ok(told)
    }

    /// Microsoft 365 has the message. It must leave, whether its sender can be told or not.
    async fn tell_delivered(&self) -> Option<Box<NewMessage>> {
        let wanted = self.claim.message.envelope.wishes().any(|(_, wish)| wish.on_success());
        if !wanted {
            return None;
        }
        let whom = Whom::All { status: EnhancedStatus::RELAYED, diagnostic: "" };
        let news = self.news(Kind::Relayed, whom);
        match self.notification(news).await {
            Ok(told) => {
                if told.is_some() {
                    self.worker.metrics.bounce(&self.tenant.name, Kind::Relayed.label());
                }
                told
            }
            Err(e) => {
                warn!(id = %self.claim.lease.id, error = %e, "success notification not stored");
                None
            }
        }
    }

    async fn settle(self, settlement: Settlement, verdict: Verdict) -> Verdict {
        self.worker.settle(self.claim.lease, settlement, verdict).await
    }

    fn log(&self, disposition: &Disposition, took: Duration) {
        let id = self.claim.lease.id;
        let tenant = &self.tenant.name;
        let mailbox = self.mailbox;
        let attempt = self.claim.attempts + 1;
        let took = seconds(took);
        match disposition {
            Disposition::Delivered(receipt) => {
                let Receipt { status, request_id, client_request_id, is_earlier, .. } = receipt;
                let route = self.route.as_str();
                let recipients = List::of_recipients(self.claim.message.envelope.recipients());
                info!(%id, %tenant, %mailbox, ?recipients, attempt, route, status, request_id, client_request_id, is_earlier, took, "message delivered");
            }
            Disposition::Retry { why, .. } | Disposition::Refused { why, .. } => {
                let error = why.class.as_str();
                info!(%id, %tenant, %mailbox, attempt, error, why = why.text, took, "delivery deferred")
            }
            Disposition::Unknown { why, .. } => {
                let error = why.class.as_str();
                warn!(%id, %tenant, %mailbox, attempt, error, why = why.text, took, "delivery outcome unknown")
            }
            Disposition::Unsettled { why, look_after } => {
                info!(%id, %tenant, %mailbox, why = why.text, look_after = seconds(*look_after), "delivery outcome still unknown")
            }
            Disposition::Hold { why } => {
                let error = why.class.as_str();
                error!(%id, %tenant, %mailbox, error, why = why.text, took, "message held")
            }
            Disposition::MailboxBlocked { why, .. } => {
                let error = why.class.as_str();
                info!(%id, %tenant, %mailbox, error, why = why.text, took, "mailbox throttled")
            }
            // The scheduler says this once for the tenant; the worker says it for the message when that is
            // given up.
            Disposition::TenantBlocked { .. }
            | Disposition::Failed(_)
            | Disposition::Split { .. }
            | Disposition::Divided(_) => {}
        }
    }
}

/// `None`: nothing was tried.
fn outcome(disposition: &Disposition) -> Option<Outcome> {
    Some(match disposition {
        Disposition::Delivered(_) => Outcome::Delivered,
        Disposition::Retry { .. } | Disposition::Refused { .. } => Outcome::Retry,
        Disposition::Failed(_) => Outcome::Failed,
        Disposition::Unknown { .. } => Outcome::Unknown,
        Disposition::Hold { .. } => Outcome::Held,
        Disposition::TenantBlocked { .. } => Outcome::TenantBlocked,
        Disposition::MailboxBlocked { .. } => Outcome::MailboxBlocked,
        Disposition::Divided(Division { failed, .. }) if !failed.is_empty() => Outcome::Failed,
        Disposition::Unsettled { .. } | Disposition::Split { .. } | Disposition::Divided(_) => return None,
    })
}
