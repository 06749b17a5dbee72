//! Connections that are kept: for each mailbox of each tenant, those that are logged in as it.
//!
//! * At most [`MOST`] per mailbox, in use and idle together (Microsoft, "Exchange Online limits": SMTP AUTH
//!   connections).
//! * The one that was used last is used next, so that those which are not needed grow old.
//! * A connection that was idle for [`IDLE`] is closed, before the service closes it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::connection::{Connection, Destination};
use crate::identity::AccessToken;
use relay_mail::{MailboxAddress, TenantName};

const MOST: usize = 3;
/// Far below the five minutes after which Exchange closes a connection that says nothing.
const IDLE: Duration = Duration::from_secs(30);
const SWEEP_EVERY: Duration = Duration::from_secs(5);
const QUIT: Duration = Duration::from_secs(5);

/// The first pause of a mailbox that has too much in flight; it doubles.
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long it is remembered that the mailbox had too much in flight.
const BUSY: Duration = Duration::from_secs(1800);

type Key = (TenantName, MailboxAddress);

#[derive(Default)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    is_swept: AtomicBool,
}

/// One mailbox.
struct Slot {
    /// For connections in use. An idle one has none; a new one is made only when there is no idle one, so
    /// that there are never more than the permits.
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last one is the youngest.
    idle: Vec<(Connection, Instant)>,
    /// How often in a row the mailbox had too much in flight, and when it last had.
    busy: Option<(u32, Instant)>,
}

/// The right to use one connection of a mailbox.
pub(super) struct Berth {
    slot: Arc<Slot>,
    shared: Weak<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Waits while the mailbox has as many connections in use as it may.
    pub(super) async fn berth(&self, tenant: &TenantName, mailbox: &MailboxAddress) -> Berth {
        let slot = self.0.slots().entry((tenant.clone(), mailbox.clone())).or_default().clone();
        // It is never closed.
        let permit = slot.permits.clone().acquire_owned().await.expect("the semaphore is open");
        Berth { slot, shared: Arc::downgrade(&self.0), _permit: permit }
    }

    /// The token was refused: connections that are logged in with it are of no more use.
    pub(super) fn forget(&self, tenant: &TenantName, token: &AccessToken) {
        for (_, slot) in self.0.slots().iter().filter(|((name, _), _)| name == tenant) {
            slot.state().idle.retain(|(connection, _)| !connection.has_token(token));
        }
    }
}

impl Berth {
    /// Takes the youngest connection that is fit. Those that are not are closed.
    pub(super) fn take(&self, place: &Destination) -> Option<Connection> {
        let mut state = self.slot.state();
        while let Some((mut connection, since)) = state.idle.pop() {
            if since.elapsed() < IDLE && connection.is_fit(place) {
                return Some(connection);
            }
        }
        None
    }

    /// A connection that was kept turned out to be closed, and so are others.
    pub(super) fn clear(&self) {
        self.slot.state().idle.clear();
    }

    /// Keeps the connection for the next message.
    pub(super) fn keep(self, connection: Connection) {
        self.slot.state().idle.push((connection, Instant::now()));
        if let Some(shared) = self.shared.upgrade()
            && !shared.is_swept.swap(true, Ordering::AcqRel)
        {
            tokio::spawn(sweep(Arc::downgrade(&shared)));
        }
    }

    /// The mailbox has too much in flight. Returns how long it must be left alone.
    pub(super) fn busy(&self) -> Duration {
        let mut state = self.slot.state();
        let before = state.busy.filter(|(_, at)| at.elapsed() < BUSY).map_or(0, |(times, _)| times);
        state.busy = Some((before + 1, Instant::now()));
        (PAUSE * 2u32.pow(before.min(10))).min(LONGEST_PAUSE)
    }

    pub(super) fn went_well(&self) {
        self.slot.state().busy = None;
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(MOST)), state: Mutex::default() }
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest idle connection, if its time is over, and the permit to use it.
    fn expired(&self) -> Option<(Connection, OwnedSemaphorePermit)> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let mut state = self.state();
        if state.idle.first()?.1.elapsed() < IDLE {
            return None;
        }
        Some((state.idle.remove(0).0, permit))
    }

    fn is_forgotten(&self) -> bool {
        let state = self.state();
        state.idle.is_empty() && state.busy.is_none_or(|(_, at)| at.elapsed() >= BUSY)
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that have been idle for too long. Ends when there is nothing left to watch.
async fn sweep(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut slots = shared.slots();
        for slot in slots.values() {
            while let Some((connection, permit)) = slot.expired() {
                // A mailbox that is forgotten meanwhile would be allowed as many connections again.
                let slot = slot.clone();
                tokio::spawn(async move {
                    connection.quit(QUIT).await;
                    drop((permit, slot));
                });
            }
        }
        // Nobody can reach a slot while all are locked.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_forgotten());
        if slots.is_empty() {
            shared.is_swept.store(false, Ordering::Release);
            return;
        }
    }
}
