//! The durable store of messages on their way.
//!
//! # Contract
//!
//! * [`Spool::accept`] returns once the message is on stable storage: body synced, directory entry synced,
//!   index record synced. Until it returns, the message does not exist; after it has returned, no crash loses
//!   it.
//! * What it returns is [`Accepted`]: the scheduler hears of the message when that is announced or dropped.
//!   Before, it can be [unwound](Accepted::unwind): it is then removed again, durably, and nobody else has
//!   had it.
//! * A message is delivered under a [`Lease`]: [`Spool::claim`] stores "attempt N began" with a raised epoch
//!   before it returns, and [`Spool::settle`] with an older epoch is refused. So two workers never both
//!   settle one message.
//! * A settlement that ends a message and the bounce that follows from it are one transaction.
//! * Bodies go through one thread and every change of the index through another, the committer. Each makes
//!   whatever is waiting durable together (group commit). One group is in progress at a time.
//! * An I/O error latches the spool unhealthy: changes are refused, and callers stop accepting and
//!   delivering. It heals by itself when the disk works again. A settlement is not refused, but waits for
//!   that: the outcome of a delivery is known once, and must not be forgotten.
//! * After a crash, [`Spool::start`] releases the leases of the dead process. An attempt had begun under each
//!   of them, and its outcome is unknown: the message is [in doubt](Claim::doubt) from then on. Bodies
//!   without an index record were never acknowledged, and are swept.
//! * Damage does not spread: a damaged message is quarantined, with a reason; a damaged index is rebuilt from
//!   the bodies.
//!
//! Both threads work on a [`Store`]: [`DiskStore`] (sled as the index, bodies in segments and files beside
//! it) or [`MemoryStore`], for tests. The spool knows no network and no tenant's configuration.
//!
//! Called by ingress (accept, find), by the scheduler (claim), by the worker (settle) and by operators (hold,
//! release, remove). [`archive`] is for a spool that no relay has open.

#![forbid(unsafe_code)]

mod accepted;
pub mod archive;
mod arriving;
mod attempts;
mod bodies;
mod body_record;
mod clock;
mod committer;
mod disk;
mod found;
mod free_space;
mod health;
mod lane;
mod lease;
mod memory;
mod mending;
mod observer;
mod operation;
mod ownership;
mod pace;
mod put_aside;
mod quarantine;
mod record;
mod recovery;
mod remembered;
mod stall;
mod store;
mod stored;
mod tally;
pub mod threads;
mod usage;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

pub use accepted::Accepted;
pub use arriving::{Body, BodyWriter};
pub use attempts::{FailedAttempt, FailedAttempts};
pub use disk::{DiskStore, OPEN_LISTS, OpenError};
pub use found::Found;
pub use free_space::{Floor, FreeSpace, Shortage};
pub use lane::{Lane, LaneId};
pub use lease::{Claim, Lease, Settlement};
pub use memory::{Fault, MemoryStore};
pub use observer::Observer;
pub use ownership::give_to_owner;
pub use put_aside::PutAside;
pub use quarantine::{InvalidQuarantineName, Quarantine, QuarantineName, Quarantined};
pub use record::{BodyPlace, Message, Phase, State};
pub use remembered::{HoldReason, Note, NoteTooLong, Remembered};
pub use store::{Arriving, Bodies, Change, Compacted, Moved, Store, StoreError};
pub use stored::{BodyReader, DamagedBody, OpenBody};
pub use tally::{ArrivingBytes, Tally, TenantTally};
pub use usage::Usage;

use accepted::Announcer;
use bodies::{Arrival, BodyThread, Errand, Then};
use committer::Committer;
use operation::{Alteration, End, Operation, Responder};
use relay_mail::{MessageId, TenantName, Timestamp};

/// Bodies up to this size are held in memory on their way in and out.
pub const SMALL_BODY: usize = 64 * 1024;
/// Bodies up to this size share segments. Larger ones have a file of their own, and so do those over
/// [`SMALL_BODY`] when many arrive at once.
pub const SEGMENT_BODY: usize = 512 * 1024;

/// The longest that a message waits, as [`Spool::start`] assumes.
pub const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Operations that may wait for a thread before callers have to wait to submit theirs.
const WAITING_OPERATIONS: usize = 1024;

/// The spool. Cheap to clone; its threads end when the last clone is gone.
///
/// ```
/// # use m365_relay_spool as relay_spool;
/// use relay_mail::{BodyKind, Envelope, Ingress, MailboxAddress};
/// use relay_spool::{Event, MemoryStore, Message, NewMessage, Settlement, Spool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (spool, mut events) = Spool::start(MemoryStore::default(), ())?;
///
/// // A client sends a message.
/// let author: MailboxAddress = "ann@contoso.com".parse()?;
/// let recipients = ["bob@example.net".parse()?];
/// let envelope = Envelope::new(Some(author.clone()), recipients, BodyKind::SevenBit)?;
/// let message =
///     Message { tenant: "contoso".parse()?, ingress: Ingress::Smtp, envelope, author, bounce_of: None };
/// let (id, mut body) = spool.begin_for(&message.tenant);
/// body.write(b"Subject: hello\r\n\r\nHello!\r\n").await?;
/// let accepted = spool.accept(NewMessage { id, message, body: body.finish().await? }).await?;
///
/// // It is on stable storage: the client gets its 250, and the scheduler hears of the message.
/// accepted.announce();
/// let waiting = events.recv().await.and_then(Event::waiting).expect("the message waits");
///
/// // A worker delivers it under a lease, and settles it.
/// let claim = spool.claim(waiting.id).await?;
/// assert_eq!((claim.lease.id, claim.attempts), (id, 0));
/// spool.settle(claim.lease, Settlement::End { bounce: None }).await?;
/// assert_eq!(spool.tally().tenant(&"contoso".parse()?).messages(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Spool {
    errands: mpsc::Sender<Errand>,
    operations: mpsc::Sender<Operation>,
    shared: Arc<Shared>,
}

struct Shared {
    health: Arc<health::Health>,
    stall: Arc<stall::Stall>,
    tally: Arc<Tally>,
    last_id: AtomicU64,
    room: arriving::Room,
    pace: pace::Pace,
}

/// What the scheduler must know. It may be told of a message again; the last event counts.
#[derive(Debug, Clone)]
pub enum Event {
    Waiting(Waiting),
    /// It is held, by an operator or because of its last attempt.
    Held {
        id: MessageId,
        lane: Arc<Lane>,
        /// `None`: nobody gave one.
        reason: Option<HoldReason>,
    },
    /// It has left without having been claimed.
    Left {
        id: MessageId,
        lane: Arc<Lane>,
    },
}

impl Event {
    /// The message that waits, if that is the news.
    pub fn waiting(self) -> Option<Waiting> {
        match self {
            Self::Waiting(waiting) => Some(waiting),
            Self::Held { .. } | Self::Left { .. } => None,
        }
    }
}

/// A message that waits for its turn.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub id: MessageId,
    pub lane: Arc<Lane>,
    pub due: Timestamp,
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
    Unhealthy(Arc<str>),
    #[error("no message {0} in the spool")]
    NoSuchMessage(MessageId),
    #[error("message {0} is leased to another worker")]
    StaleLease(MessageId),
    #[error("message {0} is held")]
    Held(MessageId),
    #[error("message {0} is being delivered")]
    InDelivery(MessageId),
    #[error("message {id} is damaged: {reason}")]
    Damaged { id: MessageId, reason: String },
    /// It is leased all the same: the caller decides what happens to it.
    #[error("message {} cannot be read at present: {reason}", lease.id)]
    Unreadable { lease: Lease, doubt: Option<Timestamp>, reason: String },
    #[error("cannot write the body: {0}")]
    Body(Arc<std::io::Error>),
    #[error("the spool is closed")]
    Closed,
}

impl Spool {
    /// Takes over `store` and returns the spool with the stream of what the scheduler must know: first the
    /// messages found in the store, oldest first, then each change.
    pub fn start(
        store: impl Store,
        observer: impl Observer,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), StoreError> {
        Self::start_with_waits(store, observer, LONGEST_WAIT)
    }

    /// The same, where a [`Settlement::Wait`] may last for `longest_wait`. A message that is due later than
    /// that from now was stored by a clock that was ahead: it is due after `longest_wait`.
    pub fn start_with_waits(
        store: impl Store,
        observer: impl Observer,
        longest_wait: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), StoreError> {
        let observer: Arc<dyn Observer> = Arc::new(observer);
        let (errands, waiting_errands) = mpsc::channel(WAITING_OPERATIONS);
        let (operations, waiting_operations) = mpsc::channel(WAITING_OPERATIONS);
        let (events, heard) = mpsc::unbounded_channel();
        let health = Arc::new(health::Health::default());
        let stall = Arc::new(stall::Stall::default());
        let tally = Arc::new(Tally::default());
        let room = arriving::Room::new(store.spill());
        let bodies = store
            .bodies()
            .map_err(|source| StoreError::Io { what: "cannot prepare to store bodies", source })?;
        let context = committer::Context {
            announcer: Arc::new(Announcer::new(events)),
            operations: operations.downgrade(),
            errands: errands.downgrade(),
            health: health.clone(),
            tally: tally.clone(),
            observer: observer.clone(),
            stall: stall.clone(),
            longest_wait,
        };
        let last_id = Committer::start(Box::new(store), context, waiting_operations)?;
        let to_bodies = (health.clone(), stall.clone());
        BodyThread::start(bodies, waiting_errands, operations.clone(), to_bodies, observer)?;
        let last_id = AtomicU64::new(u64::from_be_bytes(last_id.to_bytes()));
        let pace = pace::Pace::default();
        let shared = Arc::new(Shared { health, stall, tally, last_id, room, pace });
        Ok((Self { errands, operations, shared }, heard))
    }

    /// Begins a message of the tenant's. Returns its id, which `Received` needs, and a writer for its body.
    pub fn begin_for(&self, tenant: &TenantName) -> (MessageId, BodyWriter) {
        let id = self.next_id();
        (id, BodyWriter::new(id, Some(tenant.clone()), self.shared.room.clone()))
    }

    /// The same for a message that has no tenant yet, or is the relay's own.
    pub fn begin(&self) -> (MessageId, BodyWriter) {
        let id = self.next_id();
        (id, BodyWriter::new(id, None, self.shared.room.clone()))
    }

    /// Makes a message durable. When this returns `Ok`, it may be acknowledged. The message is delivered once
    /// the returned [`Accepted`] is announced or dropped. If this is cancelled, the message is announced as
    /// soon as it is durable.
    pub async fn accept(&self, message: NewMessage) -> Result<Accepted, SpoolError> {
        self.shared.pace.arrival();
        self.store(message, |answer| Then::Accept { answer }).await
    }

    /// Those of these messages that the spool has, whatever their state. Other operations wait meanwhile, so
    /// ask for some hundreds at most.
    pub async fn find(&self, ids: Vec<MessageId>) -> Result<HashMap<MessageId, Found>, SpoolError> {
        self.ask(|answer| Operation::Find { ids, answer }).await
    }

    /// Tells the scheduler again of all messages of these tenants, except those that are leased. Looks at
    /// every message in the spool; other operations are committed in between.
    pub async fn tell_again(&self, tenants: HashSet<TenantName>) -> Result<(), SpoolError> {
        let tenants = Arc::new(tenants);
        let mut after = None;
        loop {
            let tenants = tenants.clone();
            after = self.ask(|answer| Operation::TellAgain { tenants, after, answer }).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Leases a message that waits, stores that an attempt begins, and reads whose it is. A damaged one is
    /// quarantined. Waits for its turn while many messages come in.
    pub async fn claim(&self, id: MessageId) -> Result<Claim, SpoolError> {
        self.shared.pace.delivery().await;
        let granted = self.ask(|answer| Operation::Claim { id, answer }).await?;
        let lease = granted.lease;
        let state = granted.state;
        let note = granted.note;
        let read = spawn_blocking(move || granted.record.read()).await;
        let read = read.unwrap_or_else(|e| Err(DamagedBody::Io(id, std::io::Error::other(e))));
        match read {
            Ok((message, body)) => {
                let State { attempts, doubt, .. } = state;
                Ok(Claim { lease, message, body, attempts, doubt, note })
            }
            Err(damaged) if damaged.is_certain() => {
                let reason = damaged.to_string();
                self.settle(lease, Settlement::Quarantine { reason: reason.clone() }).await?;
                Err(SpoolError::Damaged { id, reason })
            }
            Err(unreadable) => {
                Err(SpoolError::Unreadable { lease, doubt: state.doubt, reason: unreadable.to_string() })
            }
        }
    }

    /// Stores the outcome of a message under `lease`. While the spool is unhealthy, this waits.
    pub async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), SpoolError> {
        match settlement {
            Settlement::End { bounce: Some(bounce) } => self.settle_with(lease, vec![*bounce]).await,
            Settlement::Split { parts } => self.settle_with(lease, parts).await,
            settlement => {
                let end = End::with_nothing_new(settlement);
                let settle = |answer| Operation::Settle { lease, end, answer, is_again: false };
                self.ask_whatever_the_health(settle).await
            }
        }
    }

    /// The message leaves, and `entering` enters. If they cannot be stored, it waits.
    async fn settle_with(&self, lease: Lease, mut entering: Vec<NewMessage>) -> Result<(), SpoolError> {
        let Some(last) = entering.pop() else {
            return Box::pin(self.settle(lease, Settlement::End { bounce: None })).await;
        };
        let mut others = Vec::with_capacity(entering.len());
        for new in entering {
            match self.store(new, |answer| Then::Keep { answer }).await {
                Ok(stored) => others.push(stored),
                Err(error) => {
                    let end = End::Later { error, stored: others };
                    let settle = |answer| Operation::Settle { lease, end, answer, is_again: false };
                    return self.ask_whatever_the_health(settle).await;
                }
            }
        }
        self.store(last, |answer| Then::Settle { lease, others, answer }).await
    }

    /// Stores a note on a message under `lease`, until the message leaves or another note is stored. A claim
    /// returns the note. It is on stable storage when this returns.
    pub async fn remember(&self, lease: Lease, note: Option<Note>) -> Result<(), SpoolError> {
        self.ask(|answer| Operation::Remember { lease, note, answer }).await
    }

    /// Keeps a message that waits from being delivered, until it is [released](Self::release). Without a new
    /// reason, one that holds it already stays.
    pub async fn hold(&self, id: MessageId, reason: Option<HoldReason>) -> Result<(), SpoolError> {
        self.alter(id, Alteration::Hold(reason)).await
    }

    /// Makes a message due now that was waiting for its time.
    pub async fn retry(&self, id: MessageId) -> Result<(), SpoolError> {
        self.alter(id, Alteration::Retry).await
    }

    /// Makes a message due now, whether it was held or was waiting for its time.
    pub async fn release(&self, id: MessageId) -> Result<(), SpoolError> {
        self.alter(id, Alteration::Release).await
    }

    /// Removes a message that waits or is held, without telling its sender.
    pub async fn remove(&self, id: MessageId) -> Result<(), SpoolError> {
        self.alter(id, Alteration::Remove).await
    }

    /// Lets `new` take the place of a message that waits or is held: both happen, or neither. While the spool
    /// is unhealthy, this waits.
    pub async fn replace(&self, id: MessageId, new: NewMessage) -> Result<(), SpoolError> {
        self.store(new, |answer| Then::Replace { id, answer }).await
    }

    async fn alter(&self, id: MessageId, alteration: Alteration) -> Result<(), SpoolError> {
        self.ask(|answer| Operation::Alter { id, alteration, answer }).await
    }

    /// Why the spool takes no changes, if it does not.
    pub fn unhealthy(&self) -> Option<Arc<str>> {
        self.shared.health.reason()
    }

    /// Returns when an operation on the store has not come back for `limit`, and gives the part of the store.
    /// Only a new process helps then.
    pub async fn stalled(&self, limit: Duration) -> &'static str {
        // Not through a clone: the threads end when the last one is gone.
        self.shared.stall.long_enough(limit).await
    }

    /// How much waits, by tenant.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.shared.tally
    }

    fn next_id(&self) -> MessageId {
        let floor = u64::from_be_bytes(MessageId::first_at(clock::wall()).to_bytes());
        let next = |last: u64| Some(floor.max(last + 1));
        // The closure never returns None, so the update cannot fail.
        let last = self
            .shared
            .last_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or_else(|last| last);
        MessageId::from_bytes(floor.max(last + 1).to_be_bytes())
    }

    /// Stores the body, and then does what `then` asks.
    async fn store<T>(
        &self,
        mut new: NewMessage,
        then: impl FnOnce(Responder<T>) -> Then,
    ) -> Result<T, SpoolError> {
        new.body.seal(new.id, &new.message).await?;
        let NewMessage { id, message, body } = new;
        let place = BodyPlace { segment: None, offset: 0, len: body.len() };
        let (answer, answered) = oneshot::channel();
        let arrival = Arrival { arriving: Arriving { id, message, body, place }, then: then(answer) };
        self.errands.send(Errand::Store(Box::new(arrival))).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    async fn ask<T>(&self, operation: impl FnOnce(Responder<T>) -> Operation) -> Result<T, SpoolError> {
        match self.unhealthy() {
            Some(reason) => Err(SpoolError::Unhealthy(reason)),
            None => self.ask_whatever_the_health(operation).await,
        }
    }

    async fn ask_whatever_the_health<T>(
        &self,
        operation: impl FnOnce(Responder<T>) -> Operation,
    ) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        self.operations.send(operation(answer)).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)?
    }
}
