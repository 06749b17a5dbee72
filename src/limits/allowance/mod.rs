//! What each mailbox may still ask of the service, by Microsoft's figures.
//!
//! # Contract
//!
//! * Charged by the route, after the claim and before each call. What the scheduler permits (messages a
//!   minute, calls at a time) is not counted here.
//! * Recipients of a day, calls of ten minutes and octets of five are counted by rolling windows: no stretch
//!   of that length has more than the figure. Only a message or a body that is larger than the whole figure
//!   is sent all the same, alone, or it would wait for ever.
//! * The calls of one application over all its tenants go through a token bucket:
//!   [`AppCeiling`](ceiling::AppCeiling).
//! * The day's recipients survive the end of the process, of any kind: see [`ledger`]. The rest begins again
//!   with each start.
//! * Memory: some hundred octets for each mailbox that was used within a day; a mailbox with no window open
//!   is forgotten.
//!
//! Why not token buckets: one that holds the figure lets twice as much through in its first stretch, and one
//! that holds a tenth of it spreads a morning's mailing over the whole day.

mod ceiling;
mod ledger;
mod record;
mod window;
mod windows;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

use tracing::error;

use crate::{
    clock,
    config::{AppLimit, Tenant},
    telemetry::{LimitKind, Metrics},
    vital::Vital,
};
use ceiling::Ceilings;
use ledger::{Ledger, LedgerError, Remembered};
use record::{Hour, Key};
use relay_mail::{MailboxAddress, TenantName, Timestamp};
use windows::{Now, Windows};

/// How often to look for mailboxes that can be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// The allowances of all mailboxes. One for the relay; cheap to clone.
#[derive(Clone)]
pub struct Allowances(Arc<Shared>);

struct Shared {
    metrics: Metrics,
    ceilings: Ceilings,
    ledger: Option<Ledger>,
    /// The beginning that the steps of the short windows are counted from.
    started: Instant,
    mailboxes: Mutex<Mailboxes>,
}

struct Mailboxes {
    known: HashMap<Key, Arc<Allowance>>,
    /// From the ledger, of mailboxes that nobody has asked for since.
    remembered: Remembered,
    swept: Instant,
}

/// The allowance of one mailbox.
pub struct Allowance {
    key: Key,
    tenant: TenantName,
    app: Option<Arc<ceiling::AppCeiling>>,
    shared: std::sync::Weak<Shared>,
    metrics: Metrics,
    started: Instant,
    windows: Mutex<Windows>,
    /// Waiting calls take their turns in order.
    turn: Semaphore,
    new_connection: AtomicBool,
    large: Semaphore,
}

/// Recipients that were taken. Dropping it keeps them taken.
#[must_use = "a message that the service refuses gives its recipients back"]
pub struct Taken {
    allowance: Arc<Allowance>,
    count: u32,
    hour: Hour,
}

/// Nothing is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    pub limit: LimitKind,
    /// When there will be room, if nobody else takes it.
    pub until: Instant,
}

impl Allowances {
    /// `ledger` is the folder in which the day's recipients are written down, and where to report that the
    /// thread for it has ended; `None`: they are not written down. Nor are they if the folder cannot be used,
    /// which stops no mail. Reads files, so it is called where that may block.
    pub fn new(app: AppLimit, metrics: Metrics, ledger: Option<(&Path, &Vital)>) -> Self {
        let damaged = || metrics.quarantined();
        let opened = ledger.and_then(|(folder, vital)| {
            let opened = Ledger::open(folder, hour_of(clock::now()), vital, &damaged);
            let complain = |error: &LedgerError| {
                damaged();
                error!(%error, "daily recipient ledger not started: a restart will forget the recipients");
            };
            opened.inspect_err(complain).ok()
        });
        let (ledger, remembered) = opened.unzip();
        let now = Instant::now();
        Self(Arc::new(Shared {
            metrics,
            ceilings: Ceilings::new(app),
            ledger,
            started: now,
            mailboxes: Mutex::new(Mailboxes {
                known: HashMap::new(),
                remembered: remembered.unwrap_or_default(),
                swept: now,
            }),
        }))
    }

    pub fn of(&self, tenant: &Tenant, mailbox: &MailboxAddress) -> Arc<Allowance> {
        let key = Key::of(&tenant.name, mailbox);
        let now = self.0.now();
        let mut mailboxes = lock(&self.0.mailboxes);
        mailboxes.sweep(now);
        let Mailboxes { known, remembered, .. } = &mut *mailboxes;
        let make = || {
            let mut windows = Windows::new(&tenant.limits);
            for (hour, count) in remembered.remove(&key).unwrap_or_default() {
                windows.recipients.iter_mut().for_each(|window| window.add(count, hour));
            }
            Arc::new(Allowance {
                key,
                tenant: tenant.name.clone(),
                app: self.0.ceilings.of(tenant),
                shared: Arc::downgrade(&self.0),
                metrics: self.0.metrics.clone(),
                started: self.0.started,
                windows: Mutex::new(windows),
                turn: Semaphore::new(1),
                new_connection: AtomicBool::new(false),
                large: Semaphore::new(1),
            })
        };
        let allowance = known.entry(key).or_insert_with(make).clone();
        drop(mailboxes);
        // A reload may have changed the tenant's limits.
        lock(&allowance.windows).follow(&tenant.limits);
        allowance
    }
}

impl Shared {
    fn now(&self) -> Now {
        Now::since(self.started)
    }
}

impl Mailboxes {
    /// Forgets mailboxes that nobody uses and of which nothing counts any more.
    fn sweep(&mut self, now: Now) {
        if self.swept.elapsed() < SWEEP_EVERY {
            return;
        }
        self.swept = Instant::now();
        let is_idle = |allowance: &Arc<Allowance>| {
            // Nobody else can reach it while all of them are locked.
            Arc::strong_count(allowance) == 1 && lock(&allowance.windows).is_empty(now)
        };
        self.known.retain(|_, allowance| !is_idle(allowance));
        self.remembered.retain(|_, hours| hours.keys().any(|hour| hour + ledger::DAY >= now.hour));
    }
}

impl Allowance {
    /// Takes `count` of today's recipients.
    pub fn take_recipients(self: &Arc<Self>, count: u32) -> Result<Taken, Exhausted> {
        let now = self.now();
        {
            let mut windows = lock(&self.windows);
            windows.take_recipients(count.into(), now)?;
            // Without a limit nobody asks for the sum.
            if windows.recipients.is_none() {
                return Ok(Taken { allowance: self.clone(), count: 0, hour: now.hour });
            }
        }
        self.note(i64::from(count), now.hour, now);
        Ok(Taken { allowance: self.clone(), count, hour: now.hour })
    }

    /// Takes one call with a body of `octets`.
    pub fn take_call(&self, octets: u64) -> Result<(), Exhausted> {
        let now = self.now();
        let mut windows = lock(&self.windows);
        windows.room_for_call(octets, now, self.started)?;
        // Last, since it takes what it permits.
        if let Some(app) = &self.app {
            app.take()?;
        }
        windows.add_call(octets, now);
        Ok(())
    }

    /// The same, but waits until it is allowed. Meanwhile the mailbox shows in the gauge `waiting_for_limit`.
    pub async fn take_call_when_allowed(&self, octets: u64) {
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        while let Err(Exhausted { limit, until }) = self.take_call(octets) {
            let _waits = Waits::new(&self.metrics, &self.tenant, limit);
            sleep_until(until).await;
        }
    }

    /// The turn of one large message. A mailbox sends them one after the other, so that one that waits for
    /// its limits does not hold up those of other mailboxes.
    pub async fn large_turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.large.acquire().await.ok()
    }

    /// After a 503: the next call of this mailbox must use a new connection.
    pub fn avoid_connection(&self) {
        self.new_connection.store(true, Ordering::Relaxed);
    }

    /// Whether a call must use a new connection. Says so once.
    pub fn wants_new_connection(&self) -> bool {
        self.new_connection.swap(false, Ordering::Relaxed)
    }

    fn now(&self) -> Now {
        Now::since(self.started)
    }

    fn note(&self, count: i64, hour: Hour, now: Now) {
        let count = count.clamp(i32::MIN.into(), i32::MAX.into());
        let Ok(count) = i32::try_from(count) else { return };
        if count != 0
            && let Some(shared) = self.shared.upgrade()
            && let Some(ledger) = &shared.ledger
        {
            ledger.note(self.key, hour, count, now.hour);
        }
    }
}

impl Taken {
    /// The service has refused the message, so it does not count.
    pub fn give_back(self) {
        let Self { allowance, count, hour } = self;
        lock(&allowance.windows).give_back_recipients(count.into(), hour);
        allowance.note(-i64::from(count), hour, allowance.now());
    }
}

/// A mailbox that waits, in the gauge for as long as this lives: a call that is given up meanwhile waits no
/// more. Only one call of a mailbox waits at the limit; the others wait behind it.
struct Waits(prometheus::IntGauge);

impl Waits {
    fn new(metrics: &Metrics, tenant: &TenantName, limit: LimitKind) -> Self {
        let gauge = metrics.waiting_for(tenant, limit);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn hour_of(at: Timestamp) -> Hour {
    at.as_millis() / 3_600_000
}

/// Nothing that is done under these locks leaves a value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
