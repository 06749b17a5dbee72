//! How a delivery attempt ended.

use std::time::Duration;

use tokio::time::Instant;

use crate::{bounce::EnhancedStatus, clock::Timestamp, telemetry::LimitKind};

/// What a route answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    pub disposition: Disposition,
    /// What is still open of the attempts before this one: since when it is so.
    pub doubt: Option<Timestamp>,
    /// A call timed out, and the service may be at work on it still.
    pub timed_out: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// The service has the message.
    Delivered(Receipt),
    /// The service does not have it and may take it later; counts as an attempt. `after`: not before that.
    Retry { after: Option<Duration>, why: String },
    /// The service will never take this message.
    Failed(Reason),
    /// The service may or may not have the message; counts as an attempt. `look_after`: when it can be asked. Where it cannot, the
    /// message waits as for `Retry`, for `settle_after` at least. `after`: in no case before that.
    Unknown { look_after: Option<Duration>, after: Option<Duration>, why: String },
    /// It is still open what became of an earlier attempt. Costs no attempt.
    Unsettled { look_after: Duration, why: String },
    /// The service takes so many recipients at most: the message is to go in parts.
    Split { most: usize },
    /// No message of this tenant can be delivered until an administrator mends something.
    TenantBlocked { reason: &'static str, why: String, retry_after: Duration },
    /// The mailbox takes no message before `until`, and this one costs no attempt.
    MailboxBlocked { until: Instant, limit: LimitKind, why: String },
}

/// What the service said when it took the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub status: u16,
    /// Graph's `request-id`: what Microsoft's support asks for.
    pub request_id: String,
    /// What the call was named by this relay.
    pub client_request_id: String,
    /// It was an earlier attempt that had arrived.
    pub is_earlier: bool,
}

/// Why a message can never be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub status: EnhancedStatus,
    /// For the sender, in the service's words where it said something.
    pub diagnostic: String,
}
