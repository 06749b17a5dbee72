//! The durable store of messages on their way.
//!
//! # Contract
//!
//! * [`Spool::accept`] returns once the message is on stable storage: body synced, directory entry synced, index record
//!   synced. Until it returns, the message does not exist; after it has returned, no crash loses it.
//! * A message is delivered under a [`Lease`]: [`Spool::claim`] stores "attempt N began" with a raised epoch before it
//!   returns, and [`Spool::settle`] with an older epoch is refused. So two workers never both settle one message.
//! * A settlement that ends a message and the bounce that follows from it are one transaction.
//! * Every change goes through one committer thread, which makes whatever is waiting durable together (group commit).
//!   An I/O error latches the spool unhealthy: changes are refused until it is opened anew, and callers stop accepting
//!   and delivering.
//! * After a crash, [`Spool::start`] releases the leases of the dead process. An attempt had begun under each of them, so
//!   its outcome is unknown: the message waits for `settle_after` and carries [`Message`]'s `in_doubt` from then on.
//!   Bodies without an index record were never acknowledged, and are swept.
//!
//! The committer works on a [`Store`]: [`DiskStore`] (sled as the index, bodies in files of their own) or
//! [`MemoryStore`], for tests. The spool knows no network and no tenant's configuration.
//!
//! Called by ingress (accept), by the scheduler (claim) and by the worker (settle). [`archive`] is for a spool that no
//! relay has open.

pub mod archive;
mod body;
mod body_record;
mod committer;
mod disk;
mod free_space;
mod lane;
mod memory;
mod record;
mod store;
mod tally;
mod usage;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

pub use body::{Body, BodyReader, BodyWriter, DamagedBody, OpenBody};
pub use disk::{DiskStore, OpenError};
pub use free_space::FreeSpace;
pub use lane::{Lane, LaneId};
pub use memory::MemoryStore;
pub use record::{BodyPlace, Message, Phase, State};
pub use store::{Change, Store, StoreError};
pub use tally::{Tally, TenantTally};
pub use usage::Usage;

use crate::{
    clock::{self, Timestamp},
    message::MessageId,
    telemetry::Metrics,
};
use committer::{Committer, Operation};

/// Bodies up to this size are held in memory on their way in; larger ones go to a file of their own as they come.
pub const SMALL_BODY: usize = 64 * 1024;

/// Operations that wait for the committer before callers have to wait to hand theirs over.
const WAITING_OPERATIONS: usize = 1024;

/// The spool. Cheap to clone; the committer ends when the last clone is gone.
#[derive(Clone)]
pub struct Spool {
    operations: mpsc::Sender<Operation>,
    shared: Arc<Shared>,
}

struct Shared {
    health: Arc<committer::Health>,
    tally: Arc<Tally>,
    last_id: AtomicU64,
    spill: body::Spill,
}

/// A message that waits for its turn. The receiving end of these events is the scheduler.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub id: MessageId,
    pub lane: Arc<Lane>,
    pub due: Timestamp,
}

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
    /// An earlier attempt may have been sent: nobody knows.
    pub in_doubt: bool,
}

/// What becomes of a message under lease.
#[derive(Debug)]
pub enum Settlement {
    /// It leaves the spool, and `bounce` enters it, both or neither.
    End { bounce: Option<Box<NewMessage>> },
    /// It waits until `due`.
    Wait {
        due: Timestamp,
        /// Whether the attempt counts: waiting for a limit or for a credential does not.
        counted: bool,
        /// Whether this or an earlier attempt may have been sent.
        in_doubt: bool,
    },
    /// It is damaged: its record and what is left of its body are put aside, with the reason. If that cannot be done
    /// now, it waits a minute.
    Quarantine { reason: String },
}

/// A message to accept.
#[derive(Debug)]
pub struct NewMessage {
    pub id: MessageId,
    pub message: Message,
    pub body: Body,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool is unhealthy: {0}")]
    Unhealthy(&'static str),
    #[error("no message {0} in the spool")]
    NoSuchMessage(MessageId),
    #[error("message {0} is leased to somebody else")]
    StaleLease(MessageId),
    #[error("message {id} is damaged: {reason}")]
    Damaged { id: MessageId, reason: String },
    #[error("cannot write the body: {0}")]
    Body(Arc<std::io::Error>),
    #[error("the spool is closed")]
    Closed,
}

impl NewMessage {
    /// Whatever comes into the spool is sealed before the committer gets it.
    async fn seal(&mut self) -> Result<(), SpoolError> {
        self.body.seal(self.id, &self.message).await
    }
}

impl Spool {
    /// Takes over `store` and returns the spool with the stream of messages that wait: first those found in the store,
    /// oldest first, then each that is accepted or rescheduled.
    ///
    /// `settle_after` is how long a message waits whose attempt was under way when the last process died.
    pub fn start(
        store: impl Store,
        settle_after: Duration,
        metrics: Metrics,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Waiting>), StoreError> {
        let (operations, waiting_operations) = mpsc::channel(WAITING_OPERATIONS);
        let (events, waiting) = mpsc::unbounded_channel();
        let health = Arc::new(committer::Health::default());
        let tally = Arc::new(Tally::default());
        let spill = store.spill();
        let last_id = Committer::start(
            Box::new(store),
            committer::Context {
                events,
                health: health.clone(),
                tally: tally.clone(),
                metrics,
                settle_after,
            },
            waiting_operations,
        )?;
        let last_id = AtomicU64::new(u64::from_be_bytes(last_id.to_bytes()));
        Ok((Self { operations, shared: Arc::new(Shared { health, tally, last_id, spill }) }, waiting))
    }

    /// Begins a message: gives it its id, which `Received` needs, and a place to write its body to.
    pub fn begin(&self) -> (MessageId, BodyWriter) {
        let id = self.next_id();
        (id, BodyWriter::new(id, self.shared.spill.clone()))
    }

    /// Makes a message durable. When this returns `Ok`, it may be acknowledged.
    pub async fn accept(&self, mut message: NewMessage) -> Result<(), SpoolError> {
        message.seal().await?;
        self.ask(|answer| Operation::Accept { message: Box::new(message), answer }).await?
    }

    /// Leases a message that waits, and stores that an attempt begins.
    pub async fn claim(&self, id: MessageId) -> Result<Claim, SpoolError> {
        self.ask(|answer| Operation::Claim { id, answer }).await?
    }

    /// Stores what became of a message under `lease`.
    pub async fn settle(&self, lease: Lease, mut settlement: Settlement) -> Result<(), SpoolError> {
        if let Settlement::End { bounce: Some(bounce) } = &mut settlement {
            bounce.seal().await?;
        }
        self.ask(|answer| Operation::Settle { lease, settlement, answer }).await?
    }

    /// Why the spool takes no changes, if it does not.
    pub fn unhealthy(&self) -> Option<&'static str> {
        self.shared.health.reason()
    }

    /// How much waits, by tenant.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.shared.tally
    }

    fn next_id(&self) -> MessageId {
        let floor = u64::from_be_bytes(MessageId::first_at(clock::now()).to_bytes());
        let next = |last: u64| Some(floor.max(last + 1));
        // The closure never answers None, so the update cannot fail.
        let last = self
            .shared
            .last_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or_else(|last| last);
        MessageId::from_bytes(floor.max(last + 1).to_be_bytes())
    }

    async fn ask<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<Result<T, SpoolError>>) -> Operation,
    ) -> Result<Result<T, SpoolError>, SpoolError> {
        if let Some(reason) = self.unhealthy() {
            return Err(SpoolError::Unhealthy(reason));
        }
        let (answer, answered) = oneshot::channel();
        self.operations.send(operation(answer)).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)
    }
}
