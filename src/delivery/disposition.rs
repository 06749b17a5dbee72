//! How a delivery attempt ended.

use std::time::Duration;

use tokio::time::Instant;

use super::Trouble;
use crate::limits::allowance::Exhausted;
use crate::{
    bounce::EnhancedStatus,
    identity::{TokenError, TokenErrorKind},
    telemetry::{ErrorClass, LimitKind},
};
use relay_mail::{MailboxAddress, Timestamp};

/// What a route returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    pub disposition: Disposition,
    /// Since when the outcome of an earlier attempt has been open, if it still is.
    pub doubt: Option<Timestamp>,
    /// A call timed out, and the service may still be working on it.
    pub timed_out: bool,
    /// It failed because this route cannot carry such a message; another route may.
    pub is_unsuited: bool,
}

/// How a delivery attempt ended. It decides what the worker does with the message.
///
/// ```
/// use m365_relay::{bounce::EnhancedStatus, delivery::{Disposition, Reason, Trouble}, telemetry::ErrorClass};
///
/// /// Whether the attempt is one of those that `retry` counts.
/// fn counts(disposition: &Disposition) -> bool {
///     matches!(disposition, Disposition::Retry { .. } | Disposition::Unknown { .. })
/// }
///
/// let status = EnhancedStatus::new(5, 1, 1).unwrap();
/// let why = Trouble::new(ErrorClass::Recipients, "no such mailbox");
/// assert!(!counts(&Disposition::Failed(Reason { status, why })));
/// let why = Trouble::new(ErrorClass::Service, "HTTP 503");
/// assert!(counts(&Disposition::Retry { after: None, why }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// The service has the message.
    Delivered(Receipt),
    /// The service does not have it and may take it later; counts as an attempt. `after`: not before that.
    Retry { after: Option<Duration>, why: Trouble },
    /// What stops this message stops no other, and somebody must fix it: it waits for `after`, or until it
    /// may have been fixed. Counts as an attempt.
    Refused { after: Duration, why: Trouble },
    /// The service will never take this message.
    Failed(Reason),
    /// The service may or may not have the message; counts as an attempt. `look_after`: when it can be asked.
    /// If it cannot be asked, the message waits as for `Retry`, but for `settle_after` at least. `after`: in
    /// no case before that.
    Unknown { look_after: Option<Duration>, after: Option<Duration>, why: Trouble },
    /// The outcome of an earlier attempt is still open. Costs no attempt.
    Unsettled { look_after: Duration, why: Trouble },
    /// The service takes at most this many recipients: the message must be split.
    Split { most: usize },
    /// The service treats the recipients differently, and nothing was sent so far: the message must be
    /// divided.
    Divided(Division),
    /// The message must not go as it would, and an operator decides what becomes of it. Costs no attempt.
    Hold { why: Trouble },
    /// No message of this tenant can be delivered until an administrator fixes something.
    TenantBlocked { reason: &'static str, why: Trouble, retry_after: Duration },
    /// The mailbox takes no message before `until`. Costs no attempt.
    MailboxBlocked { until: Instant, limit: LimitKind, why: Trouble },
}

/// How the service treats the recipients of one message. No recipient is in two lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Division {
    /// The service takes these.
    pub taken: Vec<MailboxAddress>,
    /// It may take these later.
    pub later: Vec<MailboxAddress>,
    /// It will never take these.
    pub failed: Vec<(MailboxAddress, Reason)>,
}

/// What the service said when it took the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub status: u16,
    /// Graph's `request-id`, or the text of the SMTP server's 250: Microsoft's support asks for it.
    pub request_id: String,
    /// The name that this relay gave the call. Empty for SMTP, which has no such thing.
    pub client_request_id: String,
    /// An earlier attempt had delivered the message.
    pub is_earlier: bool,
    /// The service itself tells the sender of success if the sender wants that: it was given NOTIFY (RFC 3461
    /// section 5.2.2).
    pub reports_success: bool,
}

/// Why a message can never be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub status: EnhancedStatus,
    /// The sender gets its text.
    pub why: Trouble,
}

/// The reason of a tenant block that lasts until somebody fixes the credential.
pub(super) const NO_CREDENTIAL: &str = TokenErrorKind::Blocked.reason();

impl Disposition {
    /// What stopped it, if anything did.
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Retry { why, .. }
            | Self::Refused { why, .. }
            | Self::Failed(Reason { why, .. })
            | Self::Unknown { why, .. }
            | Self::Unsettled { why, .. }
            | Self::Hold { why }
            | Self::TenantBlocked { why, .. }
            | Self::MailboxBlocked { why, .. } => Some(why),
            Self::Divided(Division { failed, .. }) => failed.first().map(|(_, reason)| &reason.why),
            Self::Delivered(_) | Self::Split { .. } => None,
        }
    }

    pub(super) fn no_token(error: TokenError) -> Self {
        let class = match error.kind {
            TokenErrorKind::Transient => ErrorClass::Login,
            TokenErrorKind::Blocked => ErrorClass::Credential,
            TokenErrorKind::Fault => ErrorClass::Defect,
        };
        let why = Trouble::new(class, error.why);
        Self::TenantBlocked { reason: error.kind.reason(), why, retry_after: error.retry_after }
    }
}

/// A limit of the mailbox is reached: its mail waits, and that costs no attempt.
pub(super) fn put_off(exhausted: Exhausted, mailbox: &MailboxAddress) -> Disposition {
    let Exhausted { limit, until } = exhausted;
    let why = match limit {
        LimitKind::RecipientsPerDay => format!("mailbox {mailbox} has reached its recipients a day"),
        LimitKind::UploadPer5Minutes => format!("mailbox {mailbox} has reached its octets in five minutes"),
        LimitKind::AppRequests => "the application has reached its calls in ten seconds".to_owned(),
        _ => format!("mailbox {mailbox} has reached its calls in ten minutes"),
    };
    Disposition::MailboxBlocked { until, limit, why: Trouble::new(ErrorClass::Limit, why) }
}
