//! Bounces: what the sender is told about a message that is given up.
//!
//! The rules:
//!
//! - A bounce is a delivery status notification (RFC 3464) that goes through the same spool, and through the
//!   same tenant, as the message it tells about.
//! - Its envelope sender is null (RFC 5321 section 4.5.5). A message with a null sender that cannot be
//!   delivered is never answered: no bounce about a bounce. [`wants_bounce`] is where that is decided.
//! - Microsoft Graph has no null sender on the wire. There the bounce is posted by a mailbox of the tenant,
//!   which must then be its header From; fields against automatic answers keep that mailbox and the reader's
//!   from answering each other.
//! - It returns the header of the message, without Bcc; the body only if the sender asked for that (RFC
//!   3461 `RET=FULL`) and it is small.
//! - A recipient with `NOTIFY=NEVER`, or without `FAILURE` in its list, is not reported. One with `SUCCESS`
//!   is reported when Microsoft 365 has taken the message, since that is the last that this relay hears of
//!   it.
//! - Whatever a stranger wrote (subjects, addresses, the service's words) is cleaned before it is quoted.

mod report;
mod status;
#[cfg(test)]
mod tests;

pub use report::{Kind, MAX_RETURNED_BODY, Notification, RecipientReport, Service, report};
pub use status::{EnhancedStatus, InvalidStatus};

use crate::config::{BounceTo, BouncesConfig};
use relay_mail::Envelope;

/// Whether anybody is to be told that the message was given up: not if the sender is null, and not if the
/// tenant wants none. A report with a sender, as abuse reports have one, is mail like any other.
pub fn wants_bounce(envelope: &Envelope, bounces: &BouncesConfig) -> bool {
    let wanted = match bounces.to {
        BounceTo::Mailbox => true,
        BounceTo::None => false,
    };
    wanted && envelope.sender().is_some()
}
