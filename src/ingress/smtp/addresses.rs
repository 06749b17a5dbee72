//! How many connections each client has: each IPv4 address, and each IPv6 network ([`ClientPrefix`]).

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::config::ClientPrefix;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    /// `None`: no limit.
    limit: Option<NonZeroUsize>,
    prefix: ClientPrefix,
    /// Clients with connections, so there are no more of them than there are connections.
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of a client, until it is dropped.
#[derive(Debug)]
pub(super) struct CountedConnection {
    client: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    pub(super) fn new(limit: Option<NonZeroUsize>, prefix: ClientPrefix) -> Self {
        Self { limit, prefix, open: Arc::default() }
    }

    /// `None`: the client at `address` has as many connections as it may.
    pub(super) fn enter(&self, address: IpAddr) -> Option<CountedConnection> {
        let client = self.prefix.whole_network(address);
        let mut open = lock(&self.open);
        let count = open.get(&client).copied().unwrap_or(0);
        if self.limit.is_some_and(|limit| count >= limit.get()) {
            return None;
        }
        open.insert(client, count + 1);
        Some(CountedConnection { client, open: self.open.clone() })
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        match open.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.client)),
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
    fn each_client_has_places_of_its_own_and_gets_them_back() {
        let addresses = Addresses::new(NonZeroUsize::new(2), ClientPrefix::default());
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
    fn an_ipv6_network_is_one_client() {
        let addresses = Addresses::new(NonZeroUsize::new(3), ClientPrefix::default());
        let of = |address: &str| addresses.enter(address.parse().unwrap());
        let places = ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3"].map(of);
        assert!(places.iter().all(Option::is_some) && of("2001:db8:0:1::4").is_none());
        assert!(of("2001:db8:0:2::1").is_some());
    }

    #[test]
    fn no_limit_is_none() {
        let addresses = Addresses::new(None, ClientPrefix::default());
        let places: Vec<_> = (0..1000).map(|_| addresses.enter([10, 0, 0, 1].into()).unwrap()).collect();
        drop(places);
        assert!(lock(&addresses.open).is_empty());
    }
}
