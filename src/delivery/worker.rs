//! The worker: claims a message, has a route deliver it, and settles it by how that went.
//!
//! Here, and only here, a [`Disposition`] turns into what becomes of the message:
//!
//! | disposition      | the message                                         | counts | the queue                |
//! |------------------|-----------------------------------------------------|--------|--------------------------|
//! | `Delivered`      | leaves                                               |        |                          |
//! | `Retry`          | waits longer each time, until `give_up_after`        | yes    |                          |
//! | `Failed`         | leaves, a bounce enters                              |        |                          |
//! | `Unknown`        | waits for `settle_after`, then is sent again         | yes    |                          |
//! | `MailboxBlocked` | waits for its turn                                   | no     | the mailbox sleeps       |
//! | `TenantBlocked`  | waits for its turn                                   | no     | the tenant sleeps        |
//!
//! If the process dies between the claim and the settlement, the next start finds a lease, and the message is treated as
//! `Unknown`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    Disposition, Reason,
    graph::Graph,
    notice::{GivenUp, bounce_for},
};
use crate::{
    bounce::{EnhancedStatus, Kind},
    clock::{self, Timestamp},
    config::{RetryConfig, Tenant, TenantName},
    identity::{Identity, TokenErrorKind},
    message::MailboxAddress,
    schedule::{Blocked, Courier, Job, Task, Verdict, retry_delay},
    spool::{Claim, Settlement, Spool, SpoolError},
    telemetry::{Metrics, Outcome, Resolved, Route},
};

pub struct WorkerSettings {
    pub tenants: Arc<BTreeMap<TenantName, Arc<Tenant>>>,
    /// This relay's name, in bounces.
    pub hostname: String,
    pub retry: RetryConfig,
    pub settle_after: Duration,
}

pub struct Worker {
    settings: WorkerSettings,
    spool: Spool,
    identity: Arc<Identity>,
    graph: Graph,
    metrics: Metrics,
}

impl Worker {
    pub fn new(
        settings: WorkerSettings,
        spool: Spool,
        identity: Arc<Identity>,
        graph: Graph,
        metrics: Metrics,
    ) -> Self {
        Self { settings, spool, identity, graph, metrics }
    }
}

impl Courier for Worker {
    async fn prepare(&self, tenant: &TenantName) -> Result<Instant, Blocked> {
        match self.identity.token(tenant).await {
            Ok(token) => Ok(token.expires()),
            Err(error) => Err(Blocked {
                reason: match error.kind {
                    TokenErrorKind::Transient => "login",
                    TokenErrorKind::Blocked => "credential",
                },
                why: error.why,
                retry_after: error.retry_after,
            }),
        }
    }

    async fn carry(&self, job: Job) -> Verdict {
        let Some(tenant) = self.settings.tenants.get(&job.lane.tenant) else { return Verdict::Done };
        let claim = match self.spool.claim(job.id).await {
            Ok(claim) => claim,
            Err(e) => return cannot_claim(&job, &e),
        };
        let attempt = Attempt { worker: self, tenant, mailbox: &job.mailbox, claim };
        match job.task {
            Task::Deliver => attempt.deliver().await,
            Task::Expire => attempt.expire("the message waited too long behind a limit or a block").await,
        }
    }
}

fn cannot_claim(job: &Job, error: &SpoolError) -> Verdict {
    match error {
        SpoolError::Unhealthy(_) | SpoolError::Closed | SpoolError::Body(_) => Verdict::SpoolUnhealthy,
        // Somebody else ended it or put it aside, and has said so.
        SpoolError::NoSuchMessage(_) | SpoolError::Damaged { .. } => Verdict::Done,
        SpoolError::StaleLease(_) => {
            error!(id = %job.id, "the message is leased already");
            Verdict::Done
        }
    }
}

/// One claimed message on its way.
struct Attempt<'a> {
    worker: &'a Worker,
    tenant: &'a Tenant,
    mailbox: &'a MailboxAddress,
    claim: Claim,
}

impl Attempt<'_> {
    async fn deliver(self) -> Verdict {
        let (metrics, tenant) = (&self.worker.metrics, &self.tenant.name);
        if self.claim.in_doubt {
            // Nobody can be asked yet whether the earlier attempt arrived: nothing is lost, and it may be sent twice.
            metrics.unknown_outcome(tenant, Resolved::Resent);
            warn!(id = %self.claim.lease.id, %tenant, "sending again a message that may have been sent before");
        }
        let started = Instant::now();
        let result = self.worker.graph.deliver(self.tenant, self.mailbox, &self.claim).await;
        let took = started.elapsed();
        let disposition = match result {
            Ok(disposition) => disposition,
            Err(damaged) => {
                return self
                    .settle(Settlement::Quarantine { reason: damaged.to_string() }, Verdict::Done)
                    .await;
            }
        };
        metrics.attempt(tenant, Route::Graph, outcome(&disposition), took);
        self.log(&disposition, took);
        self.act(disposition).await
    }

    async fn act(self, disposition: Disposition) -> Verdict {
        let now = clock::now();
        match disposition {
            Disposition::Delivered(_) => {
                let waited = now.since(self.claim.lease.id.accepted());
                let (metrics, tenant) = (&self.worker.metrics, &self.tenant.name);
                let verdict = self.settle(Settlement::End { bounce: None }, Verdict::Done).await;
                if verdict == Verdict::Done {
                    metrics.delivered_after(tenant, waited);
                }
                verdict
            }
            Disposition::Failed(Reason { status, diagnostic }) => {
                self.give_up(GivenUp { kind: Kind::Failed, status, diagnostic: &diagnostic }).await
            }
            Disposition::Retry { after, why } => {
                let (retry, in_doubt) = (&self.worker.settings.retry, self.claim.in_doubt);
                let failed = self.claim.attempts.saturating_add(1);
                let delay = retry_delay(retry, failed, rand::rng().random_range(0.0..1.0));
                self.wait_or_expire(now, delay.max(after.unwrap_or_default()), in_doubt, &why).await
            }
            Disposition::Unknown(why) => {
                let wait = self.worker.settings.settle_after;
                self.wait_or_expire(now, wait, true, &why).await
            }
            Disposition::MailboxBlocked { until, limit, .. } => {
                self.wait_for_turn(Verdict::MailboxAsleep { until, limit }).await
            }
            Disposition::TenantBlocked { reason, why, retry_after } => {
                self.wait_for_turn(Verdict::TenantBlocked(Blocked { reason, why, retry_after })).await
            }
        }
    }

    /// The attempt counts. A message whose time is up leaves; any other is tried once more when it is up, at the latest.
    async fn wait_or_expire(self, now: Timestamp, wait: Duration, in_doubt: bool, why: &str) -> Verdict {
        let give_up_at = self.claim.lease.id.accepted() + self.worker.settings.retry.give_up_after;
        if now >= give_up_at {
            return self.expire(why).await;
        }
        // An unknown outcome is never concluded before its time.
        let due = if in_doubt { now + wait } else { (now + wait).min(give_up_at) };
        self.settle(Settlement::Wait { due, counted: true, in_doubt }, Verdict::Done).await
    }

    async fn wait_for_turn(self, verdict: Verdict) -> Verdict {
        let in_doubt = self.claim.in_doubt;
        self.settle(Settlement::Wait { due: clock::now(), counted: false, in_doubt }, verdict).await
    }

    async fn expire(self, why: &str) -> Verdict {
        self.give_up(GivenUp { kind: Kind::Expired, status: EnhancedStatus::EXPIRED, diagnostic: why }).await
    }

    async fn give_up(self, given_up: GivenUp<'_>) -> Verdict {
        let Worker { spool, settings, metrics, .. } = self.worker;
        let label = match given_up.kind {
            Kind::Failed => "failed",
            Kind::Expired => "expired",
        };
        warn!(
            id = %self.claim.lease.id, tenant = %self.tenant.name, why = given_up.diagnostic,
            "{label}: the message is given up"
        );
        let bounce =
            bounce_for(spool, self.tenant, &settings.hostname, self.mailbox, &self.claim, given_up).await;
        let bounce = match bounce {
            Ok(bounce) => bounce,
            Err(e) => {
                error!(id = %self.claim.lease.id, error = %e, "cannot write the bounce");
                return Verdict::SpoolUnhealthy;
            }
        };
        if let Some(bounce) = &bounce {
            info!(id = %bounce.id, bounce_of = %self.claim.lease.id, tenant = %self.tenant.name, "bounce queued");
            metrics.bounce(&self.tenant.name, label);
        }
        self.settle(Settlement::End { bounce }, Verdict::Done).await
    }

    /// Stores what becomes of the message; `verdict` if that worked.
    async fn settle(self, settlement: Settlement, verdict: Verdict) -> Verdict {
        match self.worker.spool.settle(self.claim.lease, settlement).await {
            Ok(()) => verdict,
            Err(e) => {
                error!(id = %self.claim.lease.id, error = %e, "cannot store how the delivery went");
                Verdict::SpoolUnhealthy
            }
        }
    }

    fn log(&self, disposition: &Disposition, took: Duration) {
        let (id, tenant, mailbox) = (self.claim.lease.id, &self.tenant.name, self.mailbox);
        let attempt = self.claim.attempts + 1;
        match disposition {
            Disposition::Delivered(receipt) => {
                let (status, request_id) = (receipt.status, &receipt.request_id);
                info!(%id, %tenant, %mailbox, attempt, status, request_id, ?took, "delivered");
            }
            Disposition::Retry { why, .. } => {
                info!(%id, %tenant, %mailbox, attempt, why, ?took, "to be tried again")
            }
            Disposition::Unknown(why) => {
                warn!(%id, %tenant, %mailbox, attempt, why, ?took, "nobody knows whether it was sent")
            }
            Disposition::MailboxBlocked { why, .. } => {
                info!(%id, %tenant, %mailbox, why, ?took, "the mailbox has to wait")
            }
            // The scheduler says this once for the tenant, the worker for the message says it when it is given up.
            Disposition::TenantBlocked { .. } | Disposition::Failed(_) => {}
        }
    }
}

fn outcome(disposition: &Disposition) -> Outcome {
    match disposition {
        Disposition::Delivered(_) => Outcome::Delivered,
        Disposition::Retry { .. } => Outcome::Retry,
        Disposition::Failed(_) => Outcome::Failed,
        Disposition::Unknown(_) => Outcome::Unknown,
        Disposition::TenantBlocked { .. } => Outcome::TenantBlocked,
        Disposition::MailboxBlocked { .. } => Outcome::MailboxBlocked,
    }
}
