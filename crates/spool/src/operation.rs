//! What the committer is asked to do.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{
    Accepted, BodyPlace, Lane, Lease, Note, Settlement, SpoolError, State, store::Moved, stored::StoredRecord,
};
use relay_mail::{MessageId, TenantName, Timestamp};

pub(super) type Responder<T> = oneshot::Sender<Result<T, SpoolError>>;

/// Tells whoever asked. One who no longer waits for it is not told; what was done stays done.
pub(super) fn respond<T>(responder: Responder<T>, result: Result<T, SpoolError>) {
    let _ = responder.send(result);
}

pub(super) enum Operation {
    Accept {
        new: StoredMessage,
        answer: Responder<Accepted>,
    },
    /// Removes a message that nobody has heard of.
    Unwind {
        accepted: Accepted,
        answer: Responder<()>,
        /// It has been tried before, and nobody knows whether it was stored.
        is_again: bool,
    },
    /// Which of these are in the index, and where to read whose they are.
    Find {
        ids: Vec<MessageId>,
        answer: Responder<HashMap<MessageId, StoredRecord>>,
    },
    /// Tells the scheduler of these tenants' messages once more, of those behind `after`. Answers where to go
    /// on.
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
    /// Stores what is to be remembered of a message under lease.
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
    /// The other thread cannot write: it is for the committer to see when that works again.
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

/// A settlement; the bodies of what enters with it are stored.
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
    },
    Quarantine {
        reason: String,
    },
    /// Not all that is to enter could be stored: it is looked at again after a while.
    Later {
        error: SpoolError,
        /// What could be. It does not enter.
        stored: Vec<StoredMessage>,
    },
}

/// What an operator does to a message that no worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alteration {
    Hold,
    /// Due now, whether it was held or waited.
    Release,
    Remove,
}

/// A lease, and where to read what it is for.
pub(super) struct Granted {
    pub(super) lease: Lease,
    pub(super) state: State,
    pub(super) lane: Arc<Lane>,
    pub(super) record: StoredRecord,
    pub(super) note: Option<Note>,
}

impl End {
    /// Of a settlement that no message enters with.
    pub(super) fn with_nothing_new(settlement: Settlement) -> Self {
        match settlement {
            Settlement::End { .. } | Settlement::Split { .. } => Self::Leave { entering: Vec::new() },
            Settlement::Wait { due, counted, doubt } => Self::Wait { due, counted, doubt },
            Settlement::Quarantine { reason } => Self::Quarantine { reason },
        }
    }
}
