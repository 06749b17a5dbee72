//! What a worker is given of a message, and what it says in the end.
//!
//! A lease is good for one settlement. A settlement under an older lease is refused, so that a worker that
//! was taken for dead changes nothing. If the process dies in between, the message is in doubt at the next
//! start.

use std::sync::Arc;

use crate::{BodyReader, FailedAttempt, HoldReason, Message, NewMessage, Note};
use relay_mail::{MessageId, Timestamp};

/// The right to settle one message, given to one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: MessageId,
    pub epoch: u32,
}

/// A message under lease.
#[derive(Debug)]
pub struct Claim {
    pub lease: Lease,
    pub message: Arc<Message>,
    pub body: BodyReader,
    /// Attempts that counted before this one.
    pub attempts: u16,
    /// Since when it is unknown whether an earlier attempt was sent.
    pub doubt: Option<Timestamp>,
    /// The note that was [remembered](crate::Spool::remember) last.
    pub note: Option<Note>,
}

/// What happens to a message under lease.
#[derive(Debug)]
pub enum Settlement {
    /// It leaves the spool, and `bounce` enters it, both or neither.
    End { bounce: Option<Box<NewMessage>> },
    /// These take its place, all of them or none.
    Split { parts: Vec<NewMessage> },
    /// It waits until `due`.
    Wait {
        due: Timestamp,
        /// Whether the attempt counts: waiting for a limit or for a credential does not.
        counted: bool,
        /// Since when it is unknown whether this or an earlier attempt was sent.
        doubt: Option<Timestamp>,
        /// What is kept of this attempt, if there was one.
        attempt: Option<FailedAttempt>,
    },
    /// It is held until an operator [releases](crate::Spool::release) or [removes](crate::Spool::remove) it.
    /// The attempt does not count.
    Hold { reason: HoldReason, doubt: Option<Timestamp>, attempt: Option<FailedAttempt> },
    /// It is damaged: its record and what is left of its body are quarantined, with the reason. If that
    /// cannot be done now, it waits a minute.
    Quarantine { reason: String },
}
