//! The one thread that changes the index.
//!
//! It takes whatever operations wait, at most [`GROUP`] of them, works out the changes, makes them durable
//! together, and only then answers. A single operation is committed at once: nothing waits for others. Bodies
//! are durable before their messages come here.
//!
//! An error from the store latches [`Health`]. What happens then is in [`mending`](super::mending).

mod answers;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::{
    BodyPlace, Change, Event, FailedAttempt, FailedAttempts, Found, HoldReason, Lane, Lease, Phase,
    Remembered, SpoolError, State, Store, StoreError, Tally, Waiting,
    accepted::Announcer,
    bodies::Errand,
    health::Health,
    lane::Lanes,
    observer::{Observer, TellOnPanic},
    operation::{Alteration, End, Granted, Operation, StoredMessage},
    stall::Stall,
    store::{Moved, guarded},
};
use crate::{clock, threads};
use relay_mail::{MessageId, Timestamp};

/// The most operations committed together.
pub(super) const GROUP: usize = 512;
/// When a damaged message that could not be quarantined is tried again, or one whose bounce could not be
/// stored.
const LATER: Duration = Duration::from_secs(60);

/// What the committer reports to while it works.
pub(super) struct Context {
    pub(super) announcer: Arc<Announcer>,
    pub(super) operations: mpsc::WeakSender<Operation>,
    pub(super) errands: mpsc::WeakSender<Errand>,
    pub(super) health: Arc<Health>,
    pub(super) tally: Arc<Tally>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) stall: Arc<Stall>,
    /// The longest that a message is told to wait.
    pub(super) longest_wait: Duration,
}

impl Context {
    /// When a message is due that was stored as due at `stored`. A time beyond the longest wait was stored by
    /// a clock that was ahead, or when waits could be longer.
    ///
    /// A message that was never tried waits for nothing: it is due from its acceptance.
    pub(super) fn credible_due(&self, stored: Timestamp, state: &State, now: Timestamp) -> Timestamp {
        let is_untried = state.attempts == 0 && state.doubt.is_none();
        stored.min(if is_untried { now } else { now + self.longest_wait })
    }
}

/// The thread's name for people.
const PART: &str = "the spool's committer";
const THREAD: &str = "spool-commit";

pub(super) struct Committer {
    pub(super) store: Box<dyn Store>,
    pub(super) context: Context,
    pub(super) lanes: Lanes,
    /// What is remembered of messages, where there is something.
    pub(super) remembered: HashMap<MessageId, Remembered>,
    /// Leases that workers of this process have.
    pub(super) leases: HashMap<MessageId, u32>,
    /// Settlements and unwindings that wait for the disk to work again.
    pub(super) unsettled: Vec<Operation>,
    /// The index was rebuilt from the bodies while some were on their way here, so it may have their messages
    /// already.
    pub(super) is_rescued: bool,
    /// Stored bodies of messages that were refused although the index may have them. They are held back.
    pub(super) refused: Vec<(MessageId, BodyPlace)>,
    /// Bodies that a failed group has released or taken over, if it is durable all the same; and whether the
    /// message has then ended.
    pub(super) in_question: BTreeMap<(MessageId, BodyPlace), bool>,
}

/// What to tell once a group is durable.
enum Effect {
    Accepted(Waiting, u64),
    /// It was rebuilt from its body, and announced then.
    Known(Waiting),
    Unwound(Arc<Lane>, u64),
    Found(HashMap<MessageId, Found>),
    Claimed(Granted),
    Settled {
        lane: Arc<Lane>,
        /// Octets that left, if the message did.
        left: Option<u64>,
        /// What becomes of the message, unless it left.
        then: Option<Event>,
        entering: Vec<(Waiting, u64)>,
        /// Why the settlement is not the one that was asked for.
        because: Option<SpoolError>,
    },
    Altered {
        event: Event,
        /// The tenant's octets that left.
        left: Option<(Arc<Lane>, u64)>,
        /// What has entered in its place.
        entering: Option<(Waiting, u64)>,
    },
    Nothing,
}

/// The changes of one group, as they are worked out.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    /// States as this group leaves them; `None` for a message that leaves.
    states: HashMap<MessageId, Option<State>>,
    /// What is remembered, as this group leaves it.
    remembered: HashMap<MessageId, Remembered>,
    /// Copies that their messages do not need.
    useless: Vec<(MessageId, BodyPlace)>,
}

impl Committer {
    /// Loads the store, releases the leases of a dead process, and starts the thread. Returns the last id in
    /// use.
    pub(super) fn start(
        store: Box<dyn Store>,
        context: Context,
        operations: mpsc::Receiver<Operation>,
    ) -> Result<MessageId, StoreError> {
        let mut committer = Self {
            store,
            context,
            lanes: Lanes::default(),
            remembered: HashMap::new(),
            leases: HashMap::new(),
            unsettled: Vec::new(),
            is_rescued: false,
            refused: Vec::new(),
            in_question: BTreeMap::new(),
        };
        let last = committer.recover_at_start()?;
        let observer = committer.context.observer.clone();
        let tell = TellOnPanic { observer: observer.clone(), part: PART };
        threads::watched(
            THREAD,
            move || committer.run(operations, tell),
            move |why| observer.ended(PART, why),
        )
        .map_err(|source| StoreError::Io { what: "cannot start the committer thread", source })?;
        Ok(last)
    }

    fn run(mut self, mut operations: mpsc::Receiver<Operation>, tell: TellOnPanic) {
        // A local is dropped before the arguments, and so before the store.
        let _tell = tell;
        let mut group = Vec::with_capacity(GROUP);
        while let Some(first) = operations.blocking_recv() {
            group.push(first);
            while group.len() < GROUP
                && let Ok(operation) = operations.try_recv()
            {
                group.push(operation);
            }
            self.commit(&mut group);
            self.context.observer.turned(THREAD);
            if self.context.health.reason().is_some() && !self.mend(&mut operations) {
                return;
            }
            self.compact();
        }
    }

    pub(super) fn commit(&mut self, operations: &mut Vec<Operation>) {
        let mut began = Instant::now();
        let mut group = Group::default();
        let mut effects = Vec::with_capacity(operations.len());
        for operation in &*operations {
            if let Operation::Accept { new, .. } = operation {
                began = began.min(new.since);
            }
            effects.push(self.plan(operation, &mut group));
        }
        let committed = match self.context.health.reason() {
            Some(reason) => Err(SpoolError::Unhealthy(reason)),
            None if group.changes.is_empty() => Ok(()),
            None => {
                let stall = self.context.stall.clone();
                let committed = stall.index.during(|| guarded(|| self.store.commit(&group.changes)));
                committed.map_err(|error| {
                    self.question(&group.changes);
                    self.latch(&error)
                })
            }
        };
        self.context.observer.committed(operations.len(), began.elapsed());
        for (operation, effect) in operations.drain(..).zip(effects) {
            match &committed {
                Ok(()) => self.answer(operation, effect),
                Err(error) => self.refuse(operation, error),
            }
        }
        if committed.is_ok() {
            for (id, remembered) in group.remembered {
                if remembered.is_empty() {
                    self.remembered.remove(&id);
                } else {
                    self.remembered.insert(id, remembered);
                }
            }
            group.useless.iter().for_each(|(id, place)| self.store.discard(*id, *place, false));
        }
    }

    fn latch(&self, error: &StoreError) -> SpoolError {
        self.context.health.latch(&error.to_string())
    }

    /// Gives a sparse segment to the other thread, unless that thread is busy with mail.
    fn compact(&mut self) {
        if let Some(errands) = self.context.errands.upgrade()
            && let Ok(place) = errands.try_reserve()
            && let Some(segment) = self.store.sparse_segment()
        {
            place.send(Errand::Compact(segment));
        }
    }

    // === working out the changes ===

    fn plan(&mut self, operation: &Operation, group: &mut Group) -> Result<Effect, SpoolError> {
        match operation {
            Operation::Accept { new, .. } => match self.insert(new, group) {
                Some((waiting, len)) => Ok(Effect::Accepted(waiting, len)),
                None => {
                    let (_, lane) = self.state(new.id, group)?;
                    Ok(Effect::Known(Waiting { id: new.id, lane, due: clock::now() }))
                }
            },
            Operation::Unwind { accepted, is_again, .. } => match self.unwind(accepted.id(), group) {
                // The first time it was stored, after all.
                Err(SpoolError::NoSuchMessage(_)) if *is_again => Ok(Effect::Nothing),
                unwound => unwound,
            },
            Operation::Find { ids, .. } => {
                let found = ids.iter().filter_map(|id| self.find(*id, group).transpose());
                found.collect::<Result<_, _>>().map(Effect::Found)
            }
            Operation::Claim { id, .. } => self.claim(*id, group).map(Effect::Claimed),
            Operation::Settle { lease, end, is_again, .. } => match self.leased(*lease, group) {
                Ok((state, lane)) => Ok(self.settle(lease.id, state, lane, end, group)),
                // The first time it was stored, after all.
                Err(SpoolError::NoSuchMessage(_) | SpoolError::StaleLease(_)) if *is_again => {
                    group.leave_out(end);
                    Ok(Effect::Nothing)
                }
                Err(error) => Err(error),
            },
            Operation::Remember { lease, note, .. } => {
                self.leased(*lease, group)?;
                let was = self.remembered(lease.id, group);
                let now = Remembered { note: note.clone(), ..was.clone() };
                group.remember(lease.id, was, now);
                Ok(Effect::Nothing)
            }
            Operation::Alter { id, alteration, .. } => self.alter(*id, alteration, group),
            Operation::Replace { id, new, is_again, .. } => match self.replace(*id, new, group) {
                // The first time it was stored, after all.
                Err(SpoolError::NoSuchMessage(_)) if *is_again => Ok(Effect::Nothing),
                Err(error) => {
                    group.useless.push((new.id, new.place));
                    Err(error)
                }
                replaced => replaced,
            },
            Operation::Moved(moved) => {
                moved.iter().try_for_each(|moved| self.follow(moved, group))?;
                Ok(Effect::Nothing)
            }
            Operation::TellAgain { .. } | Operation::Mend => Ok(Effect::Nothing),
        }
    }

    /// Returns `None` if the index has the message already.
    fn insert(&mut self, new: &StoredMessage, group: &mut Group) -> Option<(Waiting, u64)> {
        if self.is_rescued && self.state(new.id, group).is_ok() {
            return None;
        }
        let (lane_id, lane) = self.lanes.enter_new(&new.lane, &mut group.changes);
        // Ids never go back, but the clock may. A message is due when it arrives.
        let due = new.id.accepted().steady().min(clock::now());
        let state = State {
            lane: lane_id,
            phase: Phase::Waiting { due },
            epoch: 0,
            attempts: 0,
            doubt: None,
            body: new.place,
        };
        group.states.insert(new.id, Some(state));
        group.changes.push(Change::Insert { id: new.id, state });
        Some((Waiting { id: new.id, lane, due }, new.place.len))
    }

    fn claim(&mut self, id: MessageId, group: &mut Group) -> Result<Granted, SpoolError> {
        let (was, lane) = self.state(id, group)?;
        match was.phase {
            Phase::Waiting { .. } => {}
            Phase::Leased => return Err(SpoolError::StaleLease(id)),
            Phase::Held => return Err(SpoolError::Held(id)),
        }
        let state = State { phase: Phase::Leased, epoch: was.epoch.wrapping_add(1), ..was };
        group.update(id, was, state);
        let lease = Lease { id, epoch: state.epoch };
        let record = self.store.record(id, state.body);
        let Remembered { note, .. } = self.remembered(id, group);
        Ok(Granted { lease, state, lane, record, note })
    }

    fn remembered(&self, id: MessageId, group: &Group) -> Remembered {
        group.remembered.get(&id).or_else(|| self.remembered.get(&id)).cloned().unwrap_or_default()
    }

    /// Lets a held message say why it is held, and any other say nothing about that.
    fn explain(&self, id: MessageId, reason: Option<HoldReason>, group: &mut Group) {
        let was = self.remembered(id, group);
        if was.held != reason {
            let now = Remembered { held: reason, ..was.clone() };
            group.remember(id, was, now);
        }
    }

    fn leased(&self, lease: Lease, group: &Group) -> Result<(State, Arc<Lane>), SpoolError> {
        let (state, lane) = self.state(lease.id, group)?;
        if state.phase != Phase::Leased || state.epoch != lease.epoch {
            return Err(SpoolError::StaleLease(lease.id));
        }
        Ok((state, lane))
    }

    fn settle(&mut self, id: MessageId, was: State, lane: Arc<Lane>, end: &End, group: &mut Group) -> Effect {
        let later = End::Wait { due: clock::now() + LATER, counted: false, doubt: was.doubt, attempt: None };
        let mut because = None;
        let end = match end {
            End::Quarantine { reason } => match self.store.put_aside(id, was.body, reason) {
                Ok(()) => {
                    warn!(%id, reason, "damaged message quarantined");
                    self.context.observer.quarantined();
                    &End::Leave { entering: Vec::new() }
                }
                Err(error) => {
                    warn!(%id, reason, %error, "quarantine of a damaged message failed");
                    &later
                }
            },
            End::Later { error, .. } => {
                because = Some(error.clone());
                group.leave_out(end);
                &later
            }
            end => end,
        };
        let mut then = None;
        let mut left = None;
        let mut entered = Vec::new();
        match end {
            End::Wait { due, counted, doubt, attempt } => {
                let attempts = was.attempts.saturating_add(u16::from(*counted));
                let phase = Phase::Waiting { due: *due };
                let state = State { phase, attempts, doubt: *doubt, ..was };
                group.update_after(id, was, state, self.with(id, attempt.as_ref()));
                then = Some(Event::Waiting(Waiting { id, lane: lane.clone(), due: *due }));
            }
            End::Hold { reason, doubt, attempt } => {
                let state = State { phase: Phase::Held, doubt: *doubt, ..was };
                group.update_after(id, was, state, self.with(id, attempt.as_ref()));
                self.explain(id, Some(reason.clone()), group);
                then = Some(Event::Held { id, lane: lane.clone(), reason: Some(reason.clone()) });
            }
            End::Leave { entering } => {
                self.remove(id, was, group);
                left = Some(was.body.len);
                entered = entering.iter().filter_map(|new| self.insert(new, group)).collect();
            }
            End::Quarantine { .. } | End::Later { .. } => {}
        }
        Effect::Settled { lane, left, then, entering: entered, because }
    }

    /// The message's failed attempts with one more, if there is one more. They are a comfort: if the earlier
    /// ones cannot be read, the settlement is stored all the same.
    fn with(&self, id: MessageId, attempt: Option<&FailedAttempt>) -> Option<FailedAttempts> {
        let attempt = attempt?.clone();
        let earlier = self.context.stall.index.during(|| guarded(|| self.store.attempts(id)));
        Some(earlier.unwrap_or_default().with(attempt))
    }

    fn alter(
        &mut self,
        id: MessageId,
        alteration: &Alteration,
        group: &mut Group,
    ) -> Result<Effect, SpoolError> {
        let (was, lane) = self.state(id, group)?;
        if was.phase == Phase::Leased {
            return Err(SpoolError::InDelivery(id));
        }
        let mut left = None;
        let entering = None;
        let event = match alteration {
            Alteration::Hold(reason) => {
                group.update(id, was, State { phase: Phase::Held, ..was });
                if reason.is_some() {
                    self.explain(id, reason.clone(), group);
                }
                Event::Held { id, lane, reason: self.remembered(id, group).held }
            }
            Alteration::Retry if was.phase == Phase::Held => return Err(SpoolError::Held(id)),
            Alteration::Retry | Alteration::Release => {
                let due = clock::now();
                group.update(id, was, State { phase: Phase::Waiting { due }, ..was });
                self.explain(id, None, group);
                Event::Waiting(Waiting { id, lane, due })
            }
            Alteration::Remove => {
                self.remove(id, was, group);
                left = Some((lane.clone(), was.body.len));
                Event::Left { id, lane }
            }
        };
        Ok(Effect::Altered { event, left, entering })
    }

    fn replace(
        &mut self,
        id: MessageId,
        new: &StoredMessage,
        group: &mut Group,
    ) -> Result<Effect, SpoolError> {
        let (was, lane) = self.state(id, group)?;
        if was.phase == Phase::Leased {
            return Err(SpoolError::InDelivery(id));
        }
        self.remove(id, was, group);
        let left = Some((lane.clone(), was.body.len));
        let entering = self.insert(new, group);
        Ok(Effect::Altered { event: Event::Left { id, lane }, left, entering })
    }

    fn find(&self, id: MessageId, group: &Group) -> Result<Option<(MessageId, Found)>, SpoolError> {
        let (state, lane) = match self.state(id, group) {
            Ok(found) => found,
            Err(SpoolError::NoSuchMessage(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let failed = self.context.stall.index.during(|| guarded(|| self.store.attempts(id)));
        let failed = failed.map_err(|error| self.latch(&error))?;
        let held = self.remembered(id, group).held;
        Ok(Some((id, Found::new(lane, state, held, failed, self.store.record(id, state.body)))))
    }

    fn unwind(&mut self, id: MessageId, group: &mut Group) -> Result<Effect, SpoolError> {
        let (was, lane) = self.state(id, group)?;
        if was.phase == Phase::Leased {
            return Err(SpoolError::InDelivery(id));
        }
        self.remove(id, was, group);
        Ok(Effect::Unwound(lane, was.body.len))
    }

    /// Lets the message refer to the copy of its body, unless it has ended or moved meanwhile.
    fn follow(&mut self, moved: &Moved, group: &mut Group) -> Result<(), SpoolError> {
        match self.state(moved.id, group) {
            Ok((was, _)) if was.body == moved.from => {
                group.update(moved.id, was, State { body: moved.to, ..was });
            }
            Ok(_) | Err(SpoolError::NoSuchMessage(_)) => group.useless.push((moved.id, moved.to)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn remove(&mut self, id: MessageId, was: State, group: &mut Group) {
        let remembered = self.remembered(id, group);
        if !remembered.is_empty() {
            group.remember(id, remembered, Remembered::default());
        }
        group.states.insert(id, None);
        group.changes.push(Change::Remove { id, was });
        self.lanes.leave(was.lane, &mut group.changes);
    }

    fn state(&self, id: MessageId, group: &Group) -> Result<(State, Arc<Lane>), SpoolError> {
        let state = match group.states.get(&id) {
            Some(state) => *state,
            None => {
                let state = || guarded(|| self.store.state(id));
                self.context.stall.index.during(state).map_err(|e| self.latch(&e))?
            }
        };
        let state = state.ok_or(SpoolError::NoSuchMessage(id))?;
        // The start has made sure that every message's lane is there, and lanes in use stay.
        let lane = self.lanes.lane(state.lane).ok_or(SpoolError::NoSuchMessage(id))?;
        Ok((state, lane))
    }
}

impl Group {
    /// Discards what would have entered, had the rest of it been stored.
    fn leave_out(&mut self, end: &End) {
        if let End::Later { stored, .. } = end {
            self.useless.extend(stored.iter().map(|new| (new.id, new.place)));
        }
    }

    fn remember(&mut self, id: MessageId, was: Remembered, now: Remembered) {
        self.remembered.insert(id, now.clone());
        self.changes.push(Change::Remember { id, was, now });
    }

    fn update(&mut self, id: MessageId, was: State, state: State) {
        self.update_after(id, was, state, None);
    }

    /// `attempts`: those that are kept from now on, if they are others than before.
    fn update_after(&mut self, id: MessageId, was: State, state: State, attempts: Option<FailedAttempts>) {
        self.states.insert(id, Some(state));
        self.changes.push(Change::Update { id, was, state, attempts });
    }
}
