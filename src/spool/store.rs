//! What a store has to do: the seam behind which the spool's engine can be another.

use std::{io, sync::Arc};

use super::{Body, BodyPlace, BodyReader, Lane, LaneId, Message, State, body::Spill};
use crate::message::MessageId;

/// What the committer works on: an index of small records and the bodies beside it. Driven by one thread.
pub trait Store: Send + 'static {
    /// Where bodies too large for memory go while they come in.
    fn spill(&self) -> Spill;

    /// Every lane. Called once, first.
    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError>;

    /// Every message's state, oldest first, after damaged entries were put aside; answers how many were.
    /// Called once, after [`lanes`](Store::lanes).
    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError>;

    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError>;

    /// The immutable part of a message whose body is at `place`. An unreadable one is `Ok(None)`.
    fn message(&self, id: MessageId, place: BodyPlace) -> Result<Option<Message>, StoreError>;

    fn body(&self, id: MessageId, place: BodyPlace) -> BodyReader;

    /// Puts a copy of what there is of a damaged message where a person can look at it. An error changes nothing, and the
    /// message must stay: its octets are nowhere else.
    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> io::Result<()>;

    /// Makes all of `changes` durable, or none. On `Ok` they are on stable storage. [`StoreError::Unwritten`]: nothing has
    /// changed, and it may work the next time; after any other error nobody knows before the next start.
    fn commit(&mut self, changes: &mut [Change]) -> Result<(), StoreError>;
}

#[derive(Debug)]
pub enum Change {
    AddLane {
        id: LaneId,
        lane: Arc<Lane>,
    },
    DropLane(LaneId),
    /// A new message; the store fills in where its body is.
    Insert {
        id: MessageId,
        message: Message,
        state: State,
        body: Body,
    },
    Update {
        id: MessageId,
        state: State,
    },
    Remove {
        id: MessageId,
        body: BodyPlace,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// Nothing was written.
    #[error("{what}: {source}")]
    Unwritten { what: &'static str, source: io::Error },
    #[error("the index fails: {0}")]
    Index(#[from] sled::Error),
}
