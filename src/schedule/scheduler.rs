//! The task that owns all pools.
//!
//! Woken by five things: a message that waits (from the spool), a job that has ended, a credential that is
//! ready or not, an order from outside, and a timer. Whichever woke it, it looks at all five, and then hands
//! out whatever can be handed out, pool by pool, queue by queue, one message a turn.
//!
//! `max_in_flight` is shared by need ([`Share`](relay_mail::share::Share)): one tenant alone gets eight
//! ninths; however many slow tenants there are, some slots stay free for the one that wakes up next, who then
//! gets its share at once.

mod adoption;
mod handing_out;
mod inspection;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Blocked, Courier, Depths, GRACE, Task, Verdict,
    depth::Counts,
    inspector::Questions,
    pool::{Expiry, NO_QUEUE, Pool},
    report::{Ended, Report},
    turn::QueueId,
};
use crate::limits::TokioClock;
use crate::{
    clock,
    config::{Roster, Tenant},
    telemetry::{Metrics, seconds},
};
use relay_mail::{MessageId, TenantName, Timestamp};
use relay_spool::{Event, Spool, Waiting};

/// How often messages that have waited too long are looked for, and idle queues forgotten.
const ROUND: Duration = Duration::from_secs(15);
/// What one turn takes from one source: a start with a million messages begins to deliver at once.
const AT_ONCE: usize = 1000;
/// The same of the questions, of which each may take a millisecond.
const QUESTIONS_AT_ONCE: usize = 4;
/// No slot is kept for longer: a service no longer counts a call that it has worked on for so long.
const KEPT_AT_MOST: Duration = Duration::from_secs(24 * 3600);

pub struct Settings {
    pub roster: Arc<Roster>,
    pub max_in_flight: usize,
    pub give_up_after: Duration,
}

/// What the scheduler hears of.
pub struct Inbox {
    /// From the spool.
    pub events: mpsc::UnboundedReceiver<Event>,
    pub questions: Questions,
    pub orders: mpsc::UnboundedReceiver<Order>,
}

/// What the scheduler is told from outside.
pub enum Order {
    /// These are the tenants from now on.
    Adopt(Arc<Roster>),
    /// Whatever blocks this tenant, or one of its mailboxes, may have been fixed.
    LookAgain(TenantName),
    /// This tenant's login does not work, or may not: without mail, nothing else would show that.
    TryLogin(TenantName),
    /// What Microsoft 365 refused may have been granted, to all tenants but these.
    AskServices { except: HashSet<TenantName> },
}

pub struct Scheduler<C> {
    settings: Settings,
    courier: Arc<C>,
    spool: Spool,
    metrics: Metrics,
    depths: Depths,
    clock: TokioClock,
    pools: HashMap<TenantName, Pool>,
    /// Pools that may have something to hand out, in turn.
    runnable: VecDeque<TenantName>,
    /// Pools that have their share of slots: the next free slot makes them runnable.
    starved: Vec<TenantName>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    in_flight: usize,
    last_lease: u64,
    /// The highest number of a queue in any pool that is gone.
    last_queue: QueueId,
    /// Messages of tenants that the configuration does not have.
    unknown: BTreeMap<TenantName, BTreeSet<MessageId>>,
    started: Timestamp,
    /// Ends the tasks that ask for credentials.
    stopping: CancellationToken,
    reports: mpsc::UnboundedSender<Report>,
    jobs: TaskTracker,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Promote(TenantName, QueueId),
    /// A slot that was kept after the end of its job is free.
    Slot(TenantName, QueueId),
    Wake(TenantName, QueueId),
    Prepare(TenantName),
    Round,
}

impl<C: Courier> Scheduler<C> {
    /// Runs until `shutdown`, then waits for the jobs in flight.
    pub async fn run(
        settings: Settings,
        courier: Arc<C>,
        spool: Spool,
        metrics: Metrics,
        depths: Depths,
        inbox: Inbox,
        shutdown: CancellationToken,
    ) {
        let Inbox { mut events, questions: Questions(mut questions), mut orders } = inbox;
        let (reports, mut reported) = mpsc::unbounded_channel();
        let mut scheduler = Self {
            settings,
            courier,
            spool,
            metrics,
            depths,
            clock: TokioClock::start(),
            pools: HashMap::new(),
            runnable: VecDeque::new(),
            starved: Vec::new(),
            timers: BinaryHeap::new(),
            in_flight: 0,
            last_lease: 0,
            last_queue: NO_QUEUE,
            unknown: BTreeMap::new(),
            started: clock::now(),
            stopping: shutdown.clone(),
            reports,
            jobs: TaskTracker::new(),
        };
        scheduler.timers.push(Reverse((Instant::now() + ROUND, Timer::Round)));
        loop {
            let mut asked = None;
            let timer = scheduler.timers.peek().map_or_else(Instant::now, |Reverse((at, _))| *at);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(report) = reported.recv() => scheduler.take(report),
                Some(question) = questions.recv() => asked = Some(question),
                Some(order) = orders.recv() => scheduler.obey(order),
                Some(event) = events.recv() => scheduler.hear(event),
                () = tokio::time::sleep_until(timer) => {}
            }
            // Under load one of them is always ready. Each turn takes from all, so that none must wait until
            // another falls silent.
            for_some(|| reported.try_recv(), |report| scheduler.take(report));
            for_some(|| orders.try_recv(), |order| scheduler.obey(order));
            for_some(|| events.try_recv(), |event| scheduler.hear(event));
            // After the events: a message that waits again is in no queue between the end of its job and the
            // word of the spool.
            for _ in 0..QUESTIONS_AT_ONCE {
                let Some(question) = asked.take().or_else(|| questions.try_recv().ok()) else { break };
                scheduler.answer(question);
            }
            scheduler.fire_timers();
            scheduler.hand_out();
        }
        scheduler.jobs.close();
        scheduler.jobs.wait().await;
    }

    // === what happens ===

    fn hear(&mut self, event: Event) {
        let lane = match &event {
            Event::Waiting(waiting) => waiting.lane.clone(),
            Event::Held { lane, .. } | Event::Left { lane, .. } => lane.clone(),
        };
        let name = &lane.tenant;
        let Some(pool) = self.pool_for(name) else { return self.without_tenant(name.clone(), event) };
        match event {
            Event::Waiting(waiting) => {
                if let Some((queue, at)) = pool.add(waiting) {
                    self.timers.push(Reverse((at, Timer::Promote(name.clone(), queue))));
                }
            }
            Event::Held { id, reason, .. } => pool.hold(id, &lane, reason),
            Event::Left { id, .. } => pool.forget(id),
        }
        self.changed(name);
    }

    fn pool_for(&mut self, name: &TenantName) -> Option<&mut Pool> {
        if !self.pools.contains_key(name) {
            let tenant = self.settings.roster.tenant(name)?;
            let depth = self.depths.tenant(name);
            let pool = Pool::new(tenant.clone(), self.last_queue, depth, self.metrics.clone(), self.clock);
            self.pools.insert(name.clone(), pool);
        }
        self.pools.get_mut(name)
    }

    /// Mail of a tenant that is not configured, or in whose configuration there is a mistake, stays where it
    /// is until a configuration has the tenant again.
    fn without_tenant(&mut self, name: TenantName, event: Event) {
        let ids = self.unknown.entry(name.clone()).or_insert_with(|| {
            match self.settings.roster.invalid().first_of(name.as_str()) {
                None => warn!(tenant = %name, "mail held: its tenant is not in the configuration"),
                Some(problem) => {
                    warn!(tenant = %name, %problem, "mail held: its tenant's configuration has a mistake");
                }
            }
            BTreeSet::new()
        });
        match event {
            Event::Waiting(Waiting { id, .. }) | Event::Held { id, .. } => ids.insert(id),
            Event::Left { id, .. } => ids.remove(&id),
        };
        if ids.is_empty() {
            self.unknown.remove(&name);
            return self.forget(&[name]);
        }
        let counts = Counts { held: ids.len() as u64, ..Counts::default() };
        self.depths.tenant(&name).publish(counts, ids.first().copied());
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Prepared(tenant, result) => self.prepared(&tenant, result),
            Report::Ended(ended) => self.ended(ended),
            Report::Early(tenant, queue, verdict) => {
                self.heed(&tenant, queue, verdict);
                self.changed(&tenant.name);
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let name = ended.tenant.name.clone();
        let queue = ended.turn.queue;
        self.in_flight -= 1;
        let Some(pool) = self.pools.get_mut(&name) else { return };
        pool.in_flight -= 1;
        self.metrics.in_flight(&name).dec();
        if ended.is_well {
            pool.ramp.climb(None);
        }
        if !ended.keep.is_zero() && pool.keep_slot(queue) {
            let at = Instant::now() + ended.keep.min(KEPT_AT_MOST);
            self.timers.push(Reverse((at, Timer::Slot(name.clone(), queue))));
        }
        self.heed(&ended.tenant, queue, ended.verdict.clone());
        let again = self.pools.get_mut(&name).and_then(|pool| {
            let again = pool.release(&ended);
            if ended.verdict == Verdict::Refused {
                pool.note_refused(ended.turn.id);
            }
            again
        });
        if let Some((queue, at)) = again {
            self.timers.push(Reverse((at, Timer::Promote(name.clone(), queue))));
        }
        self.changed(&name);
        self.runnable.extend(self.starved.drain(..));
    }

    fn heed(&mut self, tenant: &Arc<Tenant>, queue: QueueId, verdict: Verdict) {
        let name = &tenant.name;
        match verdict {
            Verdict::MailboxAsleep { until, limit, why } => {
                let Some(pool) = self.pools.get_mut(name) else { return };
                pool.sleep(queue, until, limit, why);
                self.timers.push(Reverse((until, Timer::Wake(name.clone(), queue))));
            }
            // What stopped the job was fixed while the job was in progress.
            Verdict::TenantBlocked(_) if !self.is_as_now(tenant) => {}
            Verdict::TenantBlocked(because) => self.block(name, because),
            Verdict::Done | Verdict::Refused | Verdict::SpoolUnhealthy => {}
        }
    }

    fn block(&mut self, name: &TenantName, because: Blocked) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        // Logged once, not for each of the jobs in flight, nor each time that it is looked at again.
        if !pool.is_blocked_by(because.reason) {
            warn!(tenant = %name, why = because.why, retry_after = seconds(because.retry_after), "tenant blocked");
        }
        let until = pool.block(because);
        self.timers.push(Reverse((until, Timer::Prepare(name.clone()))));
    }

    fn prepared(&mut self, tenant: &Arc<Tenant>, result: Result<Instant, Blocked>) {
        let name = &tenant.name;
        let is_as_now = self.is_as_now(tenant);
        let Some(pool) = self.pools.get_mut(name) else { return };
        pool.is_preparing = false;
        match result {
            // It was asked for with a credential that is no longer current.
            _ if !is_as_now => {}
            Ok(until) => pool.unblock(until),
            Err(because) => self.block(name, because),
        }
        self.changed(name);
    }

    /// Whether the tenant's configuration is still this one.
    fn is_as_now(&self, tenant: &Arc<Tenant>) -> bool {
        let is_as_now = |pool: &Pool| Arc::ptr_eq(&pool.tenant, tenant) && !pool.is_retired();
        self.pools.get(&tenant.name).is_some_and(is_as_now)
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::Promote(name, queue) => {
                    let again = self.pools.get_mut(&name).and_then(|pool| pool.promote(queue, at));
                    if let Some(next) = again {
                        self.timers.push(Reverse((next, Timer::Promote(name.clone(), queue))));
                    }
                    self.changed(&name);
                }
                Timer::Wake(name, queue) => {
                    // A queue that was put to sleep for longer since then has a timer for that.
                    self.pools.get_mut(&name).map(|pool| pool.wake(queue));
                    self.changed(&name);
                }
                Timer::Slot(name, queue) => {
                    if let Some(pool) = self.pools.get_mut(&name) {
                        pool.free_slot(queue);
                    }
                    self.changed(&name);
                }
                Timer::Prepare(name) => self.changed(&name),
                Timer::Round => {
                    self.round();
                    self.timers.push(Reverse((now + ROUND, Timer::Round)));
                }
            }
        }
    }

    /// Expires what has waited too long behind a limit or a block. A message that is merely retried expires
    /// with its last attempt.
    fn round(&mut self) {
        let mut names: Vec<_> = self.pools.keys().cloned().collect();
        for name in &names {
            self.expire(name);
            if self.pools.get(name).is_some_and(Pool::is_blocked_without_mail) {
                self.has_credential(name);
            }
            if let Some(pool) = self.pools.get_mut(name) {
                pool.forget_idle_queues();
                pool.publish();
            }
        }
        names.retain(|name| self.drop_if_over(name));
        self.forget(&names);
    }

    fn expire(&mut self, name: &TenantName) {
        let Settings { max_in_flight, give_up_after, .. } = self.settings;
        if self.spool.unhealthy().is_some() {
            return;
        }
        let not_before = self.started + GRACE.min(give_up_after);
        let expiry = Expiry { give_up_after, not_before, last_chance: ROUND };
        let Some(pool) = self.pools.get(name) else { return };
        for (id, why) in pool.expired(&expiry, max_in_flight - self.in_flight) {
            let lease = self.next_lease();
            let free = max_in_flight - self.in_flight;
            let Some(pool) = self.pools.get_mut(name).filter(|pool| pool.has_share(free)) else {
                return;
            };
            let Some(turn) = pool.take_expired(id, lease) else { continue };
            self.hand_to_worker(name, turn, lease, Task::Expire { why });
        }
    }

    /// Notes that this pool may have something to hand out.
    fn changed(&mut self, name: &TenantName) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        pool.publish();
        if !pool.is_runnable && pool.has_turn() {
            pool.is_runnable = true;
            self.runnable.push_back(name.clone());
        }
    }
}

/// Takes what has come, up to [`AT_ONCE`].
fn for_some<T>(mut next: impl FnMut() -> Result<T, mpsc::error::TryRecvError>, mut take: impl FnMut(T)) {
    for _ in 0..AT_ONCE {
        match next() {
            Ok(one) => take(one),
            Err(_) => break,
        }
    }
}
