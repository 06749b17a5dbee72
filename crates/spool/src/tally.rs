//! How much waits, by tenant: kept as messages come and go, never counted by a scan.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_mail::TenantName;

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
    arriving: AtomicU64,
    put_aside: AtomicU64,
}

/// Octets of a message that is on its way in. They count until this is dropped, for whatever reason.
#[derive(Debug)]
pub struct ArrivingBytes {
    tally: Arc<TenantTally>,
    bytes: u64,
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

    /// Starts to count what is stored from zero again.
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

    /// Octets that the tenant takes up on the disk, or is about to: stored bodies, messages on their way in,
    /// and what is quarantined.
    pub fn occupied(&self) -> u64 {
        let parts = [&self.bytes, &self.arriving, &self.put_aside].map(|part| part.load(Ordering::Relaxed));
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Begins to count a message that comes in.
    pub fn arriving(self: &Arc<Self>) -> ArrivingBytes {
        ArrivingBytes { tally: self.clone(), bytes: 0 }
    }

    /// Octets in quarantine.
    pub fn put_aside(&self) -> u64 {
        self.put_aside.load(Ordering::Relaxed)
    }

    pub(super) fn set_put_aside(&self, bytes: u64) {
        self.put_aside.store(bytes, Ordering::Relaxed);
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

impl ArrivingBytes {
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.tally.arriving.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Octets of this message so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What else the tenant [takes up](TenantTally::occupied).
    pub fn others(&self) -> u64 {
        self.tally.occupied().saturating_sub(self.bytes)
    }
}

impl Drop for ArrivingBytes {
    fn drop(&mut self) {
        self.tally.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_counts_until_it_is_dropped() {
        let tally = Tally::default();
        let tenant = tally.tenant(&"contoso".parse().unwrap());
        tenant.enter(100);
        let mut one = tenant.arriving();
        let mut other = tenant.arriving();
        one.add(10);
        other.add(5);
        other.add(5);
        assert_eq!((tenant.occupied(), one.others(), other.bytes()), (120, 110, 10));
        // The index is read again while messages come in.
        tally.clear();
        assert_eq!((tenant.bytes(), tenant.occupied()), (0, 20));
        drop((one, other));
        assert_eq!(tenant.occupied(), 0);
    }
}
