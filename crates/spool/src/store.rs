//! What a store must do: the interface behind which the spool's engine can be replaced.
//!
//! It has two halves, each driven by one thread: [`Bodies`] takes bodies in, [`Store`] keeps the index of
//! what there is. A body is stored first, and belongs to nobody until the index has a message for it.

use std::{io, sync::Arc};

use super::{
    Body, BodyPlace, FailedAttempts, Lane, LaneId, Message, Remembered, State, arriving::Spill,
    stored::StoredRecord,
};
use crate::threads::message_of;
use relay_mail::MessageId;

/// The index: small records. Driven by the committer's thread.
pub trait Store: Send + 'static {
    /// Where bodies too large for memory go as they come in.
    fn spill(&self) -> Spill;

    /// The other half. Called once.
    fn bodies(&self) -> io::Result<Box<dyn Bodies>>;

    /// Every lane. Called before each [`load`](Store::load).
    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError>;

    /// What is remembered of messages. Called after [`lanes`](Store::lanes) and before [`load`](Store::load).
    fn remembered(&mut self) -> Result<Vec<(MessageId, Remembered)>, StoreError>;

    /// Finds every message's state, oldest first, after damaged entries were quarantined. Returns how many
    /// were. [`StoreError::Damaged`]: the index is not what it was; [`rescue`](Store::rescue) helps.
    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError>;

    /// Rebuilds the index from what is left of it and from the bodies. A message whose delivery outcome is
    /// unknown gets the state that `found` makes for its body. Returns how many entries were quarantined.
    fn rescue(&mut self, found: &dyn Fn(LaneId, BodyPlace) -> State) -> Result<usize, StoreError>;

    /// Removes bodies that no message has. Only a start may do this, since no body is on its way in then.
    fn sweep(&mut self) -> Result<(), StoreError>;

    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError>;

    /// The attempts of a message that failed; none if there is no such message.
    fn attempts(&self, id: MessageId) -> Result<FailedAttempts, StoreError>;

    /// Finds the states of the next messages after `after`, oldest first, `most` at most. Returns the last
    /// one, if there may be more.
    fn walk(
        &self,
        after: Option<MessageId>,
        most: usize,
        found: &mut dyn FnMut(MessageId, State),
    ) -> Result<Option<MessageId>, StoreError>;

    /// The stored record, for another thread to read.
    fn record(&self, id: MessageId, place: BodyPlace) -> StoredRecord;

    /// Quarantines a copy of what there is of a damaged message, where a person can look at it. An error
    /// changes nothing, and the message must stay: its octets are nowhere else.
    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> io::Result<()>;

    /// Makes all of `changes` durable, or none. On `Ok` they are on stable storage; after an error, that is
    /// unknown until the store has been [reopened](Store::reopen) and loaded.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Discards a body that was stored, and that no message has or will have. `ended`: its message has left,
    /// too.
    fn discard(&mut self, id: MessageId, place: BodyPlace, ended: bool);

    /// A segment that is so sparse that its messages should move, if there is one. It is returned once, and
    /// again some time after its compaction has failed.
    fn sparse_segment(&mut self) -> Option<u32>;

    /// After an error: checks whether the disk works again, and if so, opens the index again.
    fn reopen(&mut self) -> Result<(), StoreError>;
}

/// Takes bodies in. Driven by a thread of its own.
pub trait Bodies: Send + 'static {
    /// Makes the bodies of a group durable and sets the place of each; all or none.
    /// [`StoreError::Unwritten`]: it may work the next time, and the disk is not at fault.
    fn store(&mut self, group: &mut [Arriving]) -> Result<(), StoreError>;

    /// Copies a few more live records of a sparse segment to where bodies are stored now, durably.
    /// [`StoreError::Unwritten`]: it is put off, and no mail is affected.
    fn compact(&mut self, segment: u32) -> Result<Compacted, StoreError>;
}

/// A body to store.
#[derive(Debug)]
pub struct Arriving {
    pub id: MessageId,
    pub message: Message,
    pub body: Body,
    /// Where it is, once it is stored.
    pub place: BodyPlace,
}

/// A body that has been copied. Its message may have ended meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub id: MessageId,
    pub from: BodyPlace,
    pub to: BodyPlace,
}

#[derive(Debug)]
pub struct Compacted {
    pub moved: Vec<Moved>,
    /// There is more in this segment.
    pub is_more: bool,
}

#[derive(Debug)]
pub enum Change {
    AddLane {
        id: LaneId,
        lane: Arc<Lane>,
    },
    DropLane {
        id: LaneId,
        lane: Arc<Lane>,
    },
    /// A new message, whose body is stored.
    Insert {
        id: MessageId,
        state: State,
    },
    Update {
        id: MessageId,
        was: State,
        state: State,
        /// `None`: the attempts stay as they are.
        attempts: Option<FailedAttempts>,
    },
    Remove {
        id: MessageId,
        was: State,
    },
    /// What is remembered of a message. Empty: nothing, and nothing is stored.
    Remember {
        id: MessageId,
        was: Remembered,
        now: Remembered,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// Nothing was written.
    #[error("{what}: {source}")]
    Unwritten { what: &'static str, source: io::Error },
    #[error("the index failed: {0}")]
    Index(#[from] sled::Error),
    #[error("the index panicked: {0}")]
    Panicked(String),
    #[error("the index is damaged: {0}")]
    Damaged(String),
    #[error("the index is not open")]
    Closed,
}

/// Runs what may panic: sled does so when it meets damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Panicked(message_of(&*panic).to_owned())))
}
