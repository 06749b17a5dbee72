//! How many connections each client address has.
//!
//! An IPv6 address counts as itself: the clients of a relay are machines of one network, which share a prefix.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    /// `None`: as many as there are.
    limit: Option<NonZeroUsize>,
    /// Addresses with connections, so there are no more of them than there are connections.
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    pub(super) fn new(limit: Option<NonZeroUsize>) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// `None`: the address has as many connections as it may.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut open = lock(&self.open);
        let count = open.get(&address).copied().unwrap_or(0);
        if self.limit.is_some_and(|limit| count >= limit.get()) {
            return None;
        }
        open.insert(address, count + 1);
        Some(Place { address, open: self.open.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        match open.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.address)),
        }
    }
}

fn lock(open: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    // Each change is one step, so a panic elsewhere leaves the map in order.
    open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_places_of_its_own_and_gets_them_back() {
        let addresses = Addresses::new(NonZeroUsize::new(2));
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let first = addresses.enter(one).unwrap();
        let second = addresses.enter(one).unwrap();
        assert!(addresses.enter(one).is_none());
        let elsewhere = addresses.enter(other).unwrap();
        drop(first);
        let third = addresses.enter(one).unwrap();
        assert!(addresses.enter(one).is_none());
        drop((second, third, elsewhere));
        assert!(lock(&addresses.open).is_empty());
    }

    #[test]
    fn no_limit_is_none() {
        let addresses = Addresses::new(None);
        let places: Vec<_> = (0..1000).map(|_| addresses.enter([10, 0, 0, 1].into()).unwrap()).collect();
        drop(places);
        assert!(lock(&addresses.open).is_empty());
    }
}
