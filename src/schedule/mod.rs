//! Which message next: tenant and mailbox queues, retry times, limits.
//!
//! # Contract
//!
//! * Each tenant has a pool of workers, and in it each mailbox a queue. Nothing that stops one queue (a
//!   limit, a throttling service) stops another; nothing that stops one tenant (a slow login, a broken
//!   credential, a backlog) stops another tenant.
//! * The permit comes before the claim: a message is handed to a worker only when its tenant has a
//!   credential, its mailbox has a free slot and its limits allow it now. So waiting costs no attempt and no
//!   lease.
//! * A mailbox at a limit sleeps until the time that the limiter gives. Nothing polls.
//! * Of a waiting message only the id and the due time are known: no envelope, no body.
//! * Not durable, and need not be: after a crash the spool announces everything again.
//!
//! * A new roster of tenants disturbs nothing that it does not change. Mail of a tenant that is not in it is
//!   held until a roster has the tenant again. A tenant that it changes is asked for its credential again,
//!   and its jobs end as they began.
//!
//! One task owns all queues, so there are no locks. It hears of messages from the spool, hands [`Job`]s to a
//! [`Courier`] and hears back a [`Verdict`]. How a delivery went and what happens to the message is the
//! courier's business; the scheduler only learns whether a mailbox or a tenant must sleep.

mod depth;
mod inspector;
mod pool;
mod queue;
mod ramp;
mod report;
mod retry;
mod scheduler;
mod turn;

#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use depth::{Depth, Depths};
pub use inspector::{
    Ages, Inspector, Listing, MessageState, MessageStatus, Questions, Selection, SurveyBy, TenantStatus,
    Waits,
};
pub use report::Early;
pub use retry::retry_delay;
pub use scheduler::{Inbox, Order, Scheduler, Settings};

use crate::{config::Tenant, telemetry::LimitKind};
use relay_mail::{MailboxAddress, MessageId};

/// After a start nothing expires for this long, or for `give_up_after` if that is shorter: mail that grew old
/// while the relay was off must be tried first. The same applies to a tenant that comes back.
const GRACE: Duration = Duration::from_secs(600);

/// Carries messages for the scheduler: claims, delivers, settles.
pub trait Courier: Send + Sync + 'static {
    /// Gets the tenant ready to deliver: it has a credential. Returns until when that is valid.
    fn prepare(&self, tenant: &Arc<Tenant>) -> impl Future<Output = Result<Instant, Blocked>> + Send;

    /// Takes the job to its end: the message has been settled in the spool, or cannot be. What concerns the
    /// next message is said `early`, before the settlement is stored.
    fn carry(&self, job: Job, early: &Early) -> impl Future<Output = Verdict> + Send;
}

/// One message for one worker.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: MessageId,
    /// As it was when the job was handed out.
    pub tenant: Arc<Tenant>,
    pub mailbox: MailboxAddress,
    pub task: Task,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    Deliver,
    /// The message has waited longer than `give_up_after`: it must be bounced without another attempt. `why`:
    /// what it waited for, for the sender.
    Expire {
        why: String,
    },
}

/// What a job tells about its mailbox and tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that concerns the next message.
    Done,
    /// Nothing that concerns another message; but this one waits for something to be fixed.
    Refused,
    /// The mailbox must not be used before `until`. `why` is for the senders of messages that expire
    /// meanwhile.
    MailboxAsleep { until: Instant, limit: LimitKind, why: String },
    /// The tenant cannot deliver.
    TenantBlocked(Blocked),
    /// The spool did not record how it went. The scheduler does nothing about that: before each job it asks
    /// the spool itself whether it is healthy.
    SpoolUnhealthy,
}

/// Why a tenant cannot deliver, and when to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// For the metric: one of a few words.
    pub reason: &'static str,
    /// For the administrator: what to fix.
    pub why: String,
    pub retry_after: Duration,
}

impl Blocked {
    /// Microsoft 365 refuses the app.
    pub const CONFIGURATION: &'static str = "configuration";
    pub const PERMISSION: &'static str = "permission";
    /// Somebody has suspended the tenant.
    pub const SUSPENDED: &'static str = "suspended";
    /// Microsoft 365 said when to come again.
    pub const THROTTLED: &'static str = "throttled";
}
