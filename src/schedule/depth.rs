//! How deep the queues are: written by the scheduler, read by metrics and the API.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use relay_mail::{MessageId, TenantName, Timestamp};

/// By tenant. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Depths(Arc<RwLock<BTreeMap<TenantName, Arc<Depth>>>>);

/// One tenant's messages by state. The figures are stored one by one, so a reader may see a message between
/// two states.
#[derive(Debug, Default)]
pub struct Depth {
    ready: AtomicU64,
    scheduled: AtomicU64,
    leased: AtomicU64,
    held: AtomicU64,
    oldest_millis: AtomicU64,
    blocked: AtomicBool,
}

impl Depths {
    pub fn all(&self) -> Vec<(TenantName, Arc<Depth>)> {
        // Insertion is all that happens under this lock, so a panic elsewhere leaves it whole.
        let depths = self.0.read().unwrap_or_else(|e| e.into_inner());
        depths.iter().map(|(name, depth)| (name.clone(), depth.clone())).collect()
    }

    pub(super) fn tenant(&self, name: &TenantName) -> Arc<Depth> {
        self.0.write().unwrap_or_else(|e| e.into_inner()).entry(name.clone()).or_default().clone()
    }
}

impl Depths {
    /// The tenant is gone, and its mail with it.
    pub(super) fn forget(&self, name: &TenantName) {
        self.0.write().unwrap_or_else(|e| e.into_inner()).remove(name);
    }
}

impl Depth {
    /// Messages by state, as in the metric `queue_messages`.
    pub fn states(&self) -> [(&'static str, u64); 5] {
        let ready = self.ready.load(Ordering::Relaxed);
        let blocked = self.blocked.load(Ordering::Relaxed);
        let when = |is: bool| if is { ready } else { 0 };
        [
            ("ready", when(!blocked)),
            ("scheduled", self.scheduled.load(Ordering::Relaxed)),
            ("leased", self.leased.load(Ordering::Relaxed)),
            ("held", self.held.load(Ordering::Relaxed)),
            ("blocked", when(blocked)),
        ]
    }

    /// When the oldest message was accepted, by the steady clock.
    pub fn oldest(&self) -> Option<Timestamp> {
        match self.oldest_millis.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Timestamp::from_millis(millis)),
        }
    }

    pub(super) fn publish(&self, counts: Counts, oldest: Option<MessageId>) {
        self.ready.store(counts.ready, Ordering::Relaxed);
        self.scheduled.store(counts.scheduled, Ordering::Relaxed);
        self.leased.store(counts.leased, Ordering::Relaxed);
        self.held.store(counts.held, Ordering::Relaxed);
        self.oldest_millis
            .store(oldest.map_or(0, |id| id.accepted().steady().as_millis()), Ordering::Relaxed);
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ready: u64,
    pub(super) scheduled: u64,
    pub(super) leased: u64,
    pub(super) held: u64,
}
