//! The one thread that changes the store.
//!
//! It takes whatever operations wait, at most [`GROUP`] of them, works out the changes, makes them durable together, and
//! only then answers. A lone operation is committed at once: nothing waits for company.
//!
//! An error from the store latches [`Health`]: the group's callers and everybody after them are told that the spool is
//! unhealthy. What was acknowledged before is safe; what was in the group is either wholly durable or wholly absent,
//! which the next start finds out.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    BodyPlace, Change, Claim, Lane, Lease, NewMessage, Phase, Settlement, SpoolError, State, Store,
    StoreError, Tally, Waiting, lane::Lanes,
};
use crate::{clock, message::MessageId, telemetry::Metrics};

/// Operations committed together at most.
const GROUP: usize = 512;
/// When a damaged message that could not be put aside is tried again.
const QUARANTINE_AGAIN: Duration = Duration::from_secs(60);
/// No retry waits longer. A due time beyond it was stored by a clock that was ahead.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Why the spool takes no changes. Latched: set once, for the life of the process.
#[derive(Debug, Default)]
pub(super) struct Health(OnceLock<&'static str>);

impl Health {
    pub(super) fn reason(&self) -> Option<&'static str> {
        self.0.get().copied()
    }

    fn latch(&self, reason: &'static str) {
        // The first reason stays.
        let _ = self.0.set(reason);
    }
}

struct LatchOnPanic(Arc<Health>);

impl Drop for LatchOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.latch("the committer thread broke off");
        }
    }
}

pub(super) enum Operation {
    Accept { message: Box<NewMessage>, answer: oneshot::Sender<Result<(), SpoolError>> },
    Claim { id: MessageId, answer: oneshot::Sender<Result<Claim, SpoolError>> },
    Settle { lease: Lease, settlement: Settlement, answer: oneshot::Sender<Result<(), SpoolError>> },
}

/// What the committer reports to while it works.
pub(super) struct Context {
    pub(super) events: mpsc::UnboundedSender<Waiting>,
    pub(super) health: Arc<Health>,
    pub(super) tally: Arc<Tally>,
    pub(super) metrics: Metrics,
    pub(super) settle_after: Duration,
}

pub(super) struct Committer {
    store: Box<dyn Store>,
    context: Context,
    lanes: Lanes,
}

/// What to do and to tell once a group is durable.
enum Done {
    Accepted {
        waiting: Waiting,
        len: u64,
        answer: oneshot::Sender<Result<(), SpoolError>>,
    },
    Claimed {
        claim: Claim,
        lane: Arc<Lane>,
        answer: oneshot::Sender<Result<Claim, SpoolError>>,
    },
    Settled {
        lane: Arc<Lane>,
        /// Octets that left, if the message did.
        left: Option<u64>,
        waiting: Option<Waiting>,
        bounce: Option<(Waiting, u64)>,
        answer: oneshot::Sender<Result<(), SpoolError>>,
    },
}

/// The changes of one group as they are worked out.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    done: Vec<Done>,
    /// States as this group leaves them; `None` for a message that leaves.
    states: HashMap<MessageId, Option<State>>,
}

impl Committer {
    /// Loads the store, releases the leases of a dead process, and starts the thread. Answers the last id in use.
    pub(super) fn start(
        store: Box<dyn Store>,
        context: Context,
        operations: mpsc::Receiver<Operation>,
    ) -> Result<MessageId, StoreError> {
        let mut committer = Self { store, context, lanes: Lanes::default() };
        let last = committer.recover()?;
        thread::Builder::new()
            .name("spool-commit".into())
            .spawn(move || committer.run(operations))
            .map_err(|source| StoreError::Io { what: "cannot start the committer thread", source })?;
        Ok(last)
    }

    fn run(mut self, mut operations: mpsc::Receiver<Operation>) {
        // Whoever asks for health is to learn that nobody answers any more.
        let _latch = LatchOnPanic(self.context.health.clone());
        let mut waiting = Vec::with_capacity(GROUP);
        while let Some(first) = operations.blocking_recv() {
            waiting.push(first);
            while waiting.len() < GROUP
                && let Ok(operation) = operations.try_recv()
            {
                waiting.push(operation);
            }
            self.commit(waiting.drain(..));
        }
    }

    fn commit(&mut self, operations: impl ExactSizeIterator<Item = Operation>) {
        let started = Instant::now();
        let count = operations.len();
        let mut group = Group::default();
        for operation in operations {
            self.plan(operation, &mut group);
        }
        let committed = match self.context.health.reason() {
            Some(reason) => Err(SpoolError::Unhealthy(reason)),
            None if group.changes.is_empty() => Ok(()),
            None => self.store.commit(&mut group.changes).map_err(|e| self.latch(e)),
        };
        self.context.metrics.committed(count, started.elapsed());
        for done in group.done {
            match &committed {
                Ok(()) => self.answer(done),
                Err(e) => done.fail(e.clone()),
            }
        }
    }

    fn latch(&self, error: StoreError) -> SpoolError {
        let reason = match error {
            StoreError::Unwritten { what, source } => {
                warn!(what, error = %source, "a group of changes was not made; its callers will try again");
                return SpoolError::Body(Arc::new(source));
            }
            StoreError::Io { what, .. } => what,
            StoreError::Index(_) => "the index fails",
        };
        error!(%error, "the spool cannot write; no mail is accepted or delivered until it is opened anew");
        self.context.health.latch(reason);
        SpoolError::Unhealthy(reason)
    }

    // === working out the changes ===

    fn plan(&mut self, operation: Operation, group: &mut Group) {
        match operation {
            Operation::Accept { message, answer } => {
                let len = message.body.len();
                let waiting = self.insert(*message, group);
                group.done.push(Done::Accepted { waiting, len, answer });
            }
            Operation::Claim { id, answer } => match self.claim(id, group) {
                Ok((claim, lane)) => group.done.push(Done::Claimed { claim, lane, answer }),
                Err(e) => drop(answer.send(Err(e))),
            },
            Operation::Settle { lease, settlement, answer } => match self.leased(lease, group) {
                Ok((state, lane)) => self.settle(lease.id, state, lane, settlement, answer, group),
                Err(e) => drop(answer.send(Err(e))),
            },
        }
    }

    fn insert(&mut self, new: NewMessage, group: &mut Group) -> Waiting {
        let NewMessage { id, message, body } = new;
        let lane = Lane { tenant: message.tenant.clone(), author: message.author.clone() };
        let (lane_id, lane) = self.lanes.enter_new(lane, &mut group.changes);
        // Ids never go back, the clock may: a message is due when it comes.
        let due = id.accepted().min(clock::now());
        let state = State {
            lane: lane_id,
            phase: Phase::Waiting { due },
            epoch: 0,
            attempts: 0,
            in_doubt: false,
            body: BodyPlace { segment: None, offset: 0, len: body.len() },
        };
        group.changes.push(Change::Insert { id, message, state, body });
        Waiting { id, lane, due }
    }

    fn claim(&mut self, id: MessageId, group: &mut Group) -> Result<(Claim, Arc<Lane>), SpoolError> {
        let mut state = self.state(id, group)?;
        if state.phase == Phase::Leased {
            return Err(SpoolError::StaleLease(id));
        }
        let damaged = |reason: &str| SpoolError::Damaged { id, reason: reason.into() };
        let lane = self.lanes.lane(state.lane).ok_or_else(|| damaged("its lane is unknown"))?;
        let message = self.store.message(id, state.body).map_err(|e| self.latch(e))?;
        let Some(message) = message else {
            let error = damaged("its envelope is unreadable");
            self.store
                .put_aside(id, state.body, &error.to_string())
                .map_err(|e| SpoolError::Body(Arc::new(e)))?;
            self.remove(id, state, group);
            self.context.metrics.quarantined();
            self.context.tally.tenant(&lane.tenant).leave(state.body.len);
            warn!(%id, %error, "a damaged message is put aside");
            return Err(error);
        };
        state.phase = Phase::Leased;
        state.epoch = state.epoch.wrapping_add(1);
        group.update(id, state);
        let claim = Claim {
            lease: Lease { id, epoch: state.epoch },
            message: Arc::new(message),
            body: self.store.body(id, state.body),
            attempts: state.attempts,
            in_doubt: state.in_doubt,
        };
        Ok((claim, lane))
    }

    fn leased(&self, lease: Lease, group: &Group) -> Result<(State, Arc<Lane>), SpoolError> {
        let state = self.state(lease.id, group)?;
        if state.phase != Phase::Leased || state.epoch != lease.epoch {
            return Err(SpoolError::StaleLease(lease.id));
        }
        // A lease is given with its lane only, and lanes in use stay.
        let lane = self.lanes.lane(state.lane).ok_or(SpoolError::NoSuchMessage(lease.id))?;
        Ok((state, lane))
    }

    fn settle(
        &mut self,
        id: MessageId,
        mut state: State,
        lane: Arc<Lane>,
        settlement: Settlement,
        answer: oneshot::Sender<Result<(), SpoolError>>,
        group: &mut Group,
    ) {
        let (mut waiting, mut left, mut bounced) = (None, None, None);
        let settlement = match settlement {
            Settlement::Quarantine { reason } => self.quarantine(id, state, reason),
            settlement => settlement,
        };
        match settlement {
            Settlement::End { bounce } => {
                self.remove(id, state, group);
                left = Some(state.body.len);
                bounced = bounce.map(|bounce| {
                    let len = bounce.body.len();
                    (self.insert(*bounce, group), len)
                });
            }
            Settlement::Wait { due, counted, in_doubt } => {
                state.phase = Phase::Waiting { due };
                state.attempts = state.attempts.saturating_add(u16::from(counted));
                state.in_doubt = in_doubt;
                group.update(id, state);
                waiting = Some(Waiting { id, lane: lane.clone(), due });
            }
            Settlement::Quarantine { .. } => {}
        }
        group.done.push(Done::Settled { lane, left, waiting, bounce: bounced, answer });
    }

    /// Puts a damaged message aside, after which it can end; or else it waits.
    fn quarantine(&mut self, id: MessageId, state: State, reason: String) -> Settlement {
        match self.store.put_aside(id, state.body, &reason) {
            Ok(()) => {
                warn!(%id, reason, "a damaged message is put aside");
                self.context.metrics.quarantined();
                Settlement::End { bounce: None }
            }
            Err(error) => {
                warn!(%id, reason, %error, "a damaged message cannot be put aside now");
                let due = clock::now() + QUARANTINE_AGAIN;
                Settlement::Wait { due, counted: false, in_doubt: state.in_doubt }
            }
        }
    }

    fn remove(&mut self, id: MessageId, state: State, group: &mut Group) {
        group.states.insert(id, None);
        group.changes.push(Change::Remove { id, body: state.body });
        self.lanes.leave(state.lane, &mut group.changes);
    }

    fn state(&self, id: MessageId, group: &Group) -> Result<State, SpoolError> {
        let state = match group.states.get(&id) {
            Some(state) => *state,
            None => self.store.state(id).map_err(|e| self.latch(e))?,
        };
        state.ok_or(SpoolError::NoSuchMessage(id))
    }

    // === after the commit ===

    fn answer(&self, done: Done) {
        let tally = &self.context.tally;
        match done {
            Done::Accepted { waiting, len, answer } => {
                tally.tenant(&waiting.lane.tenant).enter(len);
                // Somebody who no longer waits for the answer has the message in the spool all the same.
                let _ = answer.send(Ok(()));
                self.announce(waiting);
            }
            Done::Claimed { claim, lane, answer } => {
                tally.tenant(&lane.tenant).lease();
                let _ = answer.send(Ok(claim));
            }
            Done::Settled { lane, left, waiting, bounce, answer } => {
                let tenant = tally.tenant(&lane.tenant);
                tenant.release();
                if let Some(len) = left {
                    tenant.leave(len);
                }
                let bounce = bounce.map(|(waiting, len)| {
                    tally.tenant(&waiting.lane.tenant).enter(len);
                    waiting
                });
                let _ = answer.send(Ok(()));
                waiting.into_iter().chain(bounce).for_each(|waiting| self.announce(waiting));
            }
        }
    }

    fn announce(&self, waiting: Waiting) {
        // Nobody listens while the relay stops: the next start finds the message in the store.
        let _ = self.context.events.send(waiting);
    }

    // === the start ===

    fn recover(&mut self) -> Result<MessageId, StoreError> {
        let started = Instant::now();
        for (id, lane) in self.store.lanes()? {
            self.lanes.add(id, Arc::new(lane));
        }
        let mut found = Vec::new();
        let damaged = self.store.load(&mut |id, state| found.push((id, state)))?;
        (0..damaged).for_each(|_| self.context.metrics.quarantined());

        let now = clock::now();
        let retry_at = now + self.context.settle_after;
        let mut changes = Vec::new();
        let last = found.last().map_or(MessageId::first_at(clock::Timestamp::default()), |(id, _)| *id);
        let (count, mut in_doubt) = (found.len(), 0);
        for (id, mut state) in found {
            let Some(lane) = self.lanes.lane(state.lane) else {
                let put_aside = self.store.put_aside(id, state.body, "its lane is unknown");
                warn!(%id, ?put_aside, "a damaged message is put aside: its lane is unknown");
                self.context.metrics.quarantined();
                if put_aside.is_ok() {
                    changes.push(Change::Remove { id, body: state.body });
                }
                continue;
            };
            self.lanes.enter(state.lane);
            let due = match state.phase {
                Phase::Waiting { due } => due.min(now + LONGEST_WAIT),
                Phase::Leased => {
                    in_doubt += 1;
                    // The attempt had begun, so it counts, and it may have gone out.
                    state.attempts = state.attempts.saturating_add(1);
                    state.in_doubt = true;
                    state.phase = Phase::Waiting { due: retry_at };
                    changes.push(Change::Update { id, state });
                    retry_at
                }
            };
            self.context.tally.tenant(&lane.tenant).enter(state.body.len);
            self.announce(Waiting { id, lane, due });
        }
        self.lanes.drop_unused(&mut changes);
        if !changes.is_empty() {
            self.store.commit(&mut changes)?;
        }
        let took = started.elapsed();
        info!(messages = count, in_doubt, damaged, ?took, "the spool is open");
        Ok(last)
    }
}

impl Done {
    fn fail(self, error: SpoolError) {
        // The callers may have gone away, which changes nothing.
        match self {
            Self::Accepted { answer, .. } | Self::Settled { answer, .. } => drop(answer.send(Err(error))),
            Self::Claimed { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

impl Group {
    fn update(&mut self, id: MessageId, state: State) {
        self.states.insert(id, Some(state));
        self.changes.push(Change::Update { id, state });
    }
}
