//! How a delivery attempt ended.

use std::time::Duration;

use tokio::time::Instant;

use crate::{bounce::EnhancedStatus, telemetry::LimitKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// The service has the message.
    Delivered(Receipt),
    /// The service does not have it and may take it later; counts as an attempt. `after`: not before that.
    Retry { after: Option<Duration>, why: String },
    /// The service will never take this message.
    Failed(Reason),
    /// The service may or may not have the message; counts as an attempt. `after`: not before that again.
    Unknown { after: Option<Duration>, why: String },
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
}

/// Why a message can never be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub status: EnhancedStatus,
    /// For the sender, in the service's words where it said something.
    pub diagnostic: String,
}
