//! How much waits, by tenant: kept as messages come and go, never counted by a scan.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::config::TenantName;

/// Counters by tenant. Written by the committer, read by anybody.
#[derive(Debug, Default)]
pub struct Tally {
    tenants: RwLock<BTreeMap<TenantName, Arc<TenantTally>>>,
}

#[derive(Debug, Default)]
pub struct TenantTally {
    messages: AtomicU64,
    leased: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// The counters of one tenant, zero if it never had a message.
    pub fn tenant(&self, name: &TenantName) -> Arc<TenantTally> {
        // Counters stay right even if another thread panicked while it held the lock: it only inserts.
        if let Some(tally) = self.tenants.read().unwrap_or_else(|e| e.into_inner()).get(name) {
            return tally.clone();
        }
        let mut tenants = self.tenants.write().unwrap_or_else(|e| e.into_inner());
        tenants.entry(name.clone()).or_default().clone()
    }

    /// Counts from zero.
    pub(super) fn clear(&self) {
        for (_, tenant) in self.tenants() {
            for counter in [&tenant.messages, &tenant.leased, &tenant.bytes] {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Every tenant that has or had messages.
    pub fn tenants(&self) -> Vec<(TenantName, Arc<TenantTally>)> {
        let tenants = self.tenants.read().unwrap_or_else(|e| e.into_inner());
        tenants.iter().map(|(name, tally)| (name.clone(), tally.clone())).collect()
    }
}

impl TenantTally {
    /// Messages in the spool, leased ones included.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Messages that a worker has.
    pub fn leased(&self) -> u64 {
        self.leased.load(Ordering::Relaxed)
    }

    /// Octets of their bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self, bytes: u64) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn leave(&self, bytes: u64) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn lease(&self) {
        self.leased.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn release(&self) {
        self.leased.fetch_sub(1, Ordering::Relaxed);
    }
}
