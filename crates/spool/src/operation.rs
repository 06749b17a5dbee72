//! What the committer is asked to do.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{
    Accepted, BodyPlace, FailedAttempt, Found, HoldReason, Lane, Lease, Note, Settlement, SpoolError, State,
    store::Moved, stored::StoredRecord,
};
use relay_mail::{MessageId, TenantName, Timestamp};

pub(super) type Responder<T> = oneshot::Sender<Result<T, SpoolError>>;

/// Answers the caller. If it no longer waits, it is not told; what was done stays done.
pub(super) fn respond<T>(responder: Responder<T>, result: Result<T, SpoolError>) {
    let _ = responder.send(result);
}

pub(super) enum Operation {
    Accept {
        new: StoredMessage,
        answer: Responder<Accepted>,
    },
    /// Removes a message that has not been announced.
    Unwind {
        accepted: Accepted,
        answer: Responder<()>,
        /// It has been tried before, and nobody knows whether it was stored.
        is_again: bool,
    },
    /// What the index has of these.
    Find {
        ids: Vec<MessageId>,
        answer: Responder<HashMap<MessageId, Found>>,
    },
    /// Tells the scheduler again of these tenants' messages, of those after `after`. Answers where to go on.
    TellAgain {
        tenants: Arc<HashSet<TenantName>>,
        after: Option<MessageId>,
        answer: Responder<Option<MessageId>>,
    },
    Claim {
        id: MessageId,
        answer: Responder<Granted>,
    },
    Settle {
        lease: Lease,
        end: End,
        answer: Responder<()>,
        /// It has been tried before, and nobody knows whether it was stored.
        is_again: bool,
    },
    /// Stores a note on a message under lease.
    Remember {
        lease: Lease,
        note: Option<Note>,
        answer: Responder<()>,
    },
    Alter {
        id: MessageId,
        alteration: Alteration,
        answer: Responder<()>,
    },
    /// Lets a message enter in the place of one that no worker has.
    Replace {
        id: MessageId,
        new: StoredMessage,
        answer: Responder<()>,
        /// It has been tried before, and nobody knows whether it was stored.
        is_again: bool,
    },
    /// The other thread cannot write: the committer must find out when that works again.
    Mend,
    /// Copies of bodies by compaction. Nobody waits for an answer.
    Moved(Vec<Moved>),
}

/// A message whose body is stored, and which the index does not have yet.
#[derive(Debug, Clone)]
pub(super) struct StoredMessage {
    pub(super) id: MessageId,
    pub(super) lane: Lane,
    pub(super) place: BodyPlace,
    /// When its group began to be stored.
    pub(super) since: Instant,
}

/// A settlement. The bodies of the messages that enter with it are stored.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// Others take its place, or none.
    Leave {
        entering: Vec<StoredMessage>,
    },
    Wait {
        due: Timestamp,
        counted: bool,
        doubt: Option<Timestamp>,
        attempt: Option<FailedAttempt>,
    },
    Hold {
        reason: HoldReason,
        doubt: Option<Timestamp>,
        attempt: Option<FailedAttempt>,
    },
    Quarantine {
        reason: String,
    },
    /// Not all messages that should enter could be stored: the message is tried again after a while.
    Later {
        error: SpoolError,
        /// Those that could be stored. They do not enter.
        stored: Vec<StoredMessage>,
    },
}

/// What an operator does to a message that no worker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Alteration {
    /// `None`: a reason that it has stays.
    Hold(Option<HoldReason>),
    /// Due now, unless it is held.
    Retry,
    /// Due now, whether it was held or waited.
    Release,
    Remove,
}

/// A lease, and where to read its message.
pub(super) struct Granted {
    pub(super) lease: Lease,
    pub(super) state: State,
    pub(super) lane: Arc<Lane>,
    pub(super) record: StoredRecord,
    pub(super) note: Option<Note>,
}

impl End {
    /// For a settlement that no message enters with.
    pub(super) fn with_nothing_new(settlement: Settlement) -> Self {
        match settlement {
            Settlement::End { .. } | Settlement::Split { .. } => Self::Leave { entering: Vec::new() },
            Settlement::Wait { due, counted, doubt, attempt } => Self::Wait { due, counted, doubt, attempt },
            Settlement::Hold { reason, doubt, attempt } => Self::Hold { reason, doubt, attempt },
            Settlement::Quarantine { reason } => Self::Quarantine { reason },
        }
    }
}
