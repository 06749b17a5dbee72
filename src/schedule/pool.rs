//! One tenant's pool: its mailbox queues, whose turn it is, and whether the tenant can deliver at all.
//!
//! Bookkeeping only: no I/O, no spawning. The scheduler asks [`Pool::next`] for the next message and says how
//! it went.

mod adoption;
mod credential;
mod expiry;
mod inspection;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    depth::{Counts, Depth},
    queue::{Queue, QueueState},
    ramp::Ramp,
    report::Ended,
    turn::{QueueId, Turn},
};
use crate::limits::{MailboxLimits, TokioClock};
use crate::{
    clock,
    config::{Suspension, Tenant},
    telemetry::{LimitKind, Metrics},
};
use relay_mail::{MailboxAddress, MessageId, Timestamp, share::Share};
use relay_spool::{HoldReason, Lane, Waiting};

pub(super) use adoption::Adopted;
pub(super) use credential::Credential;
pub(super) use expiry::Expiry;

pub(super) struct Pool {
    pub(super) tenant: Arc<Tenant>,
    pub(super) credential: Credential,
    pub(super) in_flight: usize,
    /// After a block.
    pub(super) ramp: Ramp,
    /// Whether the scheduler has it among the pools that may have something to do.
    pub(super) is_runnable: bool,
    /// Whether the credential has been asked for.
    pub(super) is_preparing: bool,
    /// Since when the tenant has not been in the configuration: all its mail is held.
    retired: Option<Timestamp>,
    /// Since when the tenant, or one of its mailboxes, has been suspended.
    suspended: Option<Timestamp>,
    /// Its mail was held until a moment ago: nothing expires before this time.
    spared_until: Timestamp,
    messages: BTreeMap<MessageId, Entry>,
    leased: HashMap<MessageId, Leased>,
    /// Messages that wait for something to be fixed, though their queues do not.
    refused: HashSet<MessageId>,
    /// Why messages are held, where somebody said so.
    held_because: HashMap<MessageId, HoldReason>,
    queues: HashMap<QueueId, Queue>,
    by_mailbox: HashMap<MailboxAddress, QueueId>,
    pub(super) last_queue: QueueId,
    turn: VecDeque<QueueId>,
    counts: Counts,
    depth: Arc<Depth>,
    metrics: Metrics,
    clock: TokioClock,
}

/// How long a suspended mailbox sleeps at a time. A changed suspension wakes it in any case.
const SUSPENDED: Duration = Duration::from_secs(24 * 3600);

/// Since when something of the tenant is suspended, by the steady clock.
fn suspended_since(tenant: &Tenant) -> Option<Timestamp> {
    let all = tenant.suspended.iter().chain(tenant.suspended_mailboxes.values());
    all.map(|suspension| suspension.since.map_or_else(clock::now, Timestamp::steady)).min()
}

/// No queue has this number.
pub(super) const NO_QUEUE: QueueId = 0;

/// All that is kept of a waiting message: sixteen octets, since a million may wait.
struct Entry {
    /// Ready: since when. Scheduled: until when.
    at: Timestamp,
    queue: QueueId,
    state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    Ready,
    Scheduled,
    /// With a worker; more in [`Leased`].
    Leased,
    /// Held until an operator releases it. It is in neither part of its queue.
    Held,
}

struct Leased {
    /// Tells one claim of a message from the next.
    lease: u64,
    /// The spool has already said that the message waits again, and the worker has not yet said how it went.
    then: Option<(Arc<Lane>, Timestamp)>,
}

const _: () = assert!(size_of::<Entry>() <= 16);

/// What [`Pool::next`] finds.
pub(super) enum Next {
    Take(Turn),
    /// This queue sleeps until then; others may still have something.
    Sleep(QueueId, Instant),
    Nothing,
}

impl Pool {
    /// `last_queue`: the highest number that a queue of the tenant has had.
    pub(super) fn new(
        tenant: Arc<Tenant>,
        last_queue: QueueId,
        depth: Arc<Depth>,
        metrics: Metrics,
        clock: TokioClock,
    ) -> Self {
        let suspended = suspended_since(&tenant);
        Self {
            tenant,
            suspended,
            credential: Credential::Unknown,
            in_flight: 0,
            ramp: Ramp::default(),
            is_runnable: false,
            is_preparing: false,
            retired: None,
            spared_until: Timestamp::default(),
            messages: BTreeMap::new(),
            leased: HashMap::new(),
            refused: HashSet::new(),
            held_because: HashMap::new(),
            queues: HashMap::new(),
            by_mailbox: HashMap::new(),
            last_queue,
            turn: VecDeque::new(),
            counts: Counts::default(),
            depth,
            metrics,
            clock,
        }
    }

    /// Whether the tenant may have one more of the `free` slots.
    pub(super) fn has_share(&self, free: usize) -> bool {
        Share::BRIEF.allows(self.in_flight as u64, 1, free as u64)
    }

    /// Takes in a message that waits. Returns when to [promote](Pool::promote) its queue, if the message is
    /// not due yet and nothing of that queue is due earlier.
    ///
    /// The spool may say that a message waits again before its worker says why. The message is not handed out
    /// before that: the verdict may put its mailbox to sleep.
    pub(super) fn add(&mut self, waiting: Waiting) -> Option<(QueueId, Instant)> {
        let Waiting { id, lane, due } = waiting;
        if let Some(leased) = self.leased.get_mut(&id) {
            leased.then = Some((lane, due));
            return None;
        }
        let queue_id = self.queue_for(&lane);
        self.put_in(id, queue_id, due)
    }

    fn put_in(&mut self, id: MessageId, queue_id: QueueId, due: Timestamp) -> Option<(QueueId, Instant)> {
        let now = clock::now();
        let (at, state) = if due <= now { (now, EntryState::Ready) } else { (due, EntryState::Scheduled) };
        let entry = Entry { at, queue: queue_id, state };
        if let Some(before) = self.messages.insert(id, entry) {
            self.replaced(&before);
            self.held_because.remove(&id);
            if before.state == state && before.queue == queue_id && (due <= now || before.at == due) {
                // Announced again, and nothing is new.
                self.count(state);
                return None;
            }
        }
        self.count(state);
        let queue = self.queues.get_mut(&queue_id)?;
        queue.last_used = Instant::now();
        if due <= now {
            queue.ready.push_back(id);
            self.put_in_turn(queue_id);
            return None;
        }
        queue.scheduled.insert((due, id));
        let at = clock::instant_of(due);
        if queue.promote_at.is_some_and(|earlier| earlier <= at) {
            return None;
        }
        queue.promote_at = Some(at);
        Some((queue_id, at))
    }

    /// The message is held back from delivery. A worker that is about to claim it will not get it.
    pub(super) fn hold(&mut self, id: MessageId, lane: &Lane, reason: Option<HoldReason>) {
        self.leased.remove(&id);
        match reason {
            Some(reason) => drop(self.held_because.insert(id, reason)),
            None => drop(self.held_because.remove(&id)),
        }
        let queue = self.queue_for(lane);
        let held = Entry { at: Timestamp::default(), queue, state: EntryState::Held };
        let before = self.messages.insert(id, held);
        if let Some(before) = before {
            self.replaced(&before);
        }
        self.count(EntryState::Held);
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.held += 1;
        }
    }

    /// The message has left without having been handed out.
    pub(super) fn forget(&mut self, id: MessageId) {
        self.leased.remove(&id);
        self.refused.remove(&id);
        self.held_because.remove(&id);
        let before = self.messages.remove(&id);
        if let Some(before) = before {
            self.replaced(&before);
        }
    }

    /// Moves what is due now to the ready part. Returns when to do so again. `at` is the time that this call
    /// was asked for: a call that an earlier one has replaced does nothing.
    pub(super) fn promote(&mut self, queue_id: QueueId, at: Instant) -> Option<Instant> {
        let now = clock::now();
        let queue = self.queues.get_mut(&queue_id)?;
        if queue.promote_at != Some(at) {
            return None;
        }
        let mut due_now = Vec::new();
        while let Some(&(due, id)) = queue.scheduled.first()
            && due <= now
        {
            queue.scheduled.pop_first();
            due_now.push((due, id));
        }
        // Due times are whole milliseconds, timers are not: never the same instant again.
        let later = Instant::now() + Duration::from_millis(1);
        let next = queue.scheduled.first().map(|(due, _)| clock::instant_of(*due).max(later));
        queue.promote_at = next;
        for (due, id) in due_now {
            // An entry that has been announced again since then is elsewhere.
            let is_it = |entry: &&mut Entry| entry.state == EntryState::Scheduled && entry.at == due;
            let Some(entry) = self.messages.get_mut(&id).filter(is_it) else { continue };
            (entry.at, entry.state) = (now, EntryState::Ready);
            self.counts.scheduled -= 1;
            self.counts.ready += 1;
            if let Some(queue) = self.queues.get_mut(&queue_id) {
                queue.ready.push_back(id);
            }
        }
        self.put_in_turn(queue_id);
        next
    }

    /// The next message that its limits allow, and its permit with it.
    pub(super) fn next(&mut self, lease: u64) -> Next {
        while let Some(queue_id) = self.turn.pop_front() {
            let Some(queue) = self.queues.get_mut(&queue_id) else { continue };
            queue.has_number = false;
            if queue.standing != QueueState::InTurn {
                // The queue was put to sleep meanwhile.
                continue;
            }
            queue.standing = QueueState::Idle;
            if let Some(Suspension { why, until, .. }) = self.tenant.suspended_mailboxes.get(&queue.mailbox) {
                let left = until.map_or(SUSPENDED, |until| until.since(clock::wall()));
                let until = Instant::now() + left.max(Duration::from_secs(1));
                self.sleep(queue_id, until, LimitKind::Suspended, why.clone());
                return Next::Sleep(queue_id, until);
            }
            let messages = &self.messages;
            let is_ready = |id: &MessageId| {
                messages.get(id).is_some_and(|e| e.state == EntryState::Ready && e.queue == queue_id)
            };
            while queue.ready.front().is_some_and(|id| !is_ready(id)) {
                queue.ready.pop_front();
            }
            let Some(&id) = queue.ready.front() else { continue };
            if !queue.has_slot() {
                self.stand(queue_id, QueueState::Full);
                continue;
            }
            if let Err(wait) = queue.limits.take() {
                let until = Instant::now() + wait;
                let why = format!("mailbox {} has reached its messages a minute", queue.mailbox);
                self.sleep(queue_id, until, LimitKind::MessagesPerMinute, why);
                return Next::Sleep(queue_id, until);
            }
            queue.ready.pop_front();
            queue.in_flight += 1;
            queue.last_used = Instant::now();
            let mailbox = queue.mailbox.clone();
            self.put_in_turn(queue_id);
            self.lease(id, lease);
            return Next::Take(Turn { id, queue: queue_id, mailbox });
        }
        Next::Nothing
    }

    /// A worker is done with a message, and its verdict has been applied. If the message still waits, the
    /// spool has said so or will; returns the same as [`add`](Pool::add).
    pub(super) fn release(&mut self, ended: &Ended) -> Option<(QueueId, Instant)> {
        let id = ended.turn.id;
        let queue_id = ended.turn.queue;
        let lease = ended.lease;
        let mut again = None;
        if let Some(leased) = self.leased.get_mut(&id)
            && leased.lease == lease
        {
            again = leased.then.take();
            self.forget(id);
        }
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.in_flight -= 1;
            if ended.is_well {
                queue.ramp.climb(queue.limits.concurrent());
            }
            if queue.standing == QueueState::Full {
                self.stand(queue_id, QueueState::Idle);
            }
        }
        self.put_in_turn(queue_id);
        let (lane, due) = again?;
        // Not always the queue that it was in: the tenant's mailboxes may have changed meanwhile.
        let queue_id = self.queue_for(&lane);
        self.put_in(id, queue_id, due)
    }

    /// The service may still be working on a call of this queue. Returns whether the slot is kept until
    /// [`free_slot`](Pool::free_slot).
    pub(super) fn keep_slot(&mut self, queue_id: QueueId) -> bool {
        match self.queues.get_mut(&queue_id) {
            Some(queue) if queue.limits.concurrent().is_some() => {
                queue.kept += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn free_slot(&mut self, queue_id: QueueId) {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        queue.kept -= 1;
        if queue.standing == QueueState::Full {
            self.stand(queue_id, QueueState::Idle);
        }
        self.put_in_turn(queue_id);
    }

    /// Puts a queue to sleep, unless it already sleeps longer.
    pub(super) fn sleep(&mut self, queue_id: QueueId, until: Instant, limit: LimitKind, why: String) {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        if matches!(queue.standing, QueueState::Asleep { until: longer, .. } if longer >= until) {
            return;
        }
        queue.asleep_because = why;
        queue.is_throttled |= limit == LimitKind::Service;
        if limit != LimitKind::Suspended {
            self.metrics.throttled(&self.tenant.name, limit);
        }
        self.stand(queue_id, QueueState::Asleep { until, limit });
    }

    /// A queue's sleep may be over. Returns until when it sleeps on, if it does.
    pub(super) fn wake(&mut self, queue_id: QueueId) -> Option<Instant> {
        let queue = self.queues.get_mut(&queue_id)?;
        match queue.standing {
            QueueState::Asleep { until, .. } if until > Instant::now() => Some(until),
            QueueState::Asleep { .. } => {
                if std::mem::take(&mut queue.is_throttled) {
                    queue.ramp.begin();
                }
                self.stand(queue_id, QueueState::Idle);
                self.put_in_turn(queue_id);
                None
            }
            _ => None,
        }
    }

    pub(super) fn has_turn(&self) -> bool {
        // Queues whose mail has expired may still be in the turn.
        !self.turn.is_empty() && self.counts.ready > 0 && self.retired.is_none()
    }

    pub(super) fn publish(&self) {
        let Counts { ready, scheduled, leased, held } = self.counts;
        let shown = if self.retired.is_some() {
            Counts { leased, held: ready + scheduled + held, ..Counts::default() }
        } else {
            self.counts
        };
        self.depth.publish(shown, self.messages.keys().next().copied());
    }

    pub(super) fn forget_idle_queues(&mut self) {
        let now = Instant::now();
        if self.counts.ready == 0 {
            // What is left in them has expired.
            self.turn.clear();
            for queue in self.queues.values_mut() {
                queue.ready.clear();
                queue.has_number = false;
                if queue.standing == QueueState::InTurn {
                    queue.standing = QueueState::Idle;
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_forgettable(now));
        self.by_mailbox.retain(|_, id| self.queues.contains_key(id));
    }

    fn queue_for(&mut self, lane: &Lane) -> QueueId {
        let mailbox = self.tenant.mailbox_for(&lane.author);
        if let Some(id) = self.by_mailbox.get(mailbox) {
            return *id;
        }
        self.last_queue += 1;
        let limits = MailboxLimits::new(&self.tenant.limits, self.clock);
        self.queues.insert(self.last_queue, Queue::new(mailbox.clone(), limits));
        self.by_mailbox.insert(mailbox.clone(), self.last_queue);
        self.last_queue
    }

    fn put_in_turn(&mut self, queue_id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&queue_id)
            && queue.standing == QueueState::Idle
            && !queue.ready.is_empty()
        {
            queue.standing = QueueState::InTurn;
            if !std::mem::replace(&mut queue.has_number, true) {
                self.turn.push_back(queue_id);
            }
        }
    }

    fn stand(&mut self, queue_id: QueueId, standing: QueueState) {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        let before = queue.waits_for();
        queue.standing = standing;
        let after = queue.waits_for();
        if before != after {
            let gauge = |limit| self.metrics.waiting_for(&self.tenant.name, limit);
            if let Some(limit) = before {
                gauge(limit).dec();
            }
            if let Some(limit) = after {
                gauge(limit).inc();
            }
        }
    }

    fn lease(&mut self, id: MessageId, lease: u64) {
        self.refused.remove(&id);
        if let Some(entry) = self.messages.get_mut(&id) {
            let before = std::mem::replace(&mut entry.state, EntryState::Leased);
            self.uncount(before);
            self.count(EntryState::Leased);
            self.leased.insert(id, Leased { lease, then: None });
        }
    }

    /// It is no longer in the pool, or another entry has taken its place.
    fn replaced(&mut self, entry: &Entry) {
        self.uncount(entry.state);
        if entry.state == EntryState::Held
            && let Some(queue) = self.queues.get_mut(&entry.queue)
        {
            queue.held -= 1;
        }
    }

    fn count(&mut self, state: EntryState) {
        *self.counts.of(state) += 1;
    }

    fn uncount(&mut self, state: EntryState) {
        *self.counts.of(state) -= 1;
    }
}

impl Counts {
    fn of(&mut self, state: EntryState) -> &mut u64 {
        match state {
            EntryState::Ready => &mut self.ready,
            EntryState::Scheduled => &mut self.scheduled,
            EntryState::Leased => &mut self.leased,
            EntryState::Held => &mut self.held,
        }
    }
}
