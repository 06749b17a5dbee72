//! The memory for what is not yet whole: envelopes and headers that are coming in, over all connections.
//!
//! A body goes to the spool as it comes; an envelope and a header are held until they are complete. Without a
//! limit, many connections with large ones that never end would take up all memory. Together they have
//! `smtp.header_memory`, and shares of it:
//!
//! * A client may hold half as much as is then still free: alone it gets a third of all, and each further one
//!   that takes what it can leaves room for the next. A client that holds little always finds room.
//! * A tenant may hold as much as is then still free: alone it gets half.
//!
//! What exceeds a share is refused, for that client and for now. Others go on.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::IntGauge;

use crate::{config::ClientPrefix, ingress::Refusal, telemetry::Refused};
use relay_mail::{ByteSize, TenantName};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Memory(Arc<Shared>);

struct Shared {
    total: u64,
    prefix: ClientPrefix,
    held: Mutex<Held>,
    gauge: IntGauge,
}

/// In octets.
#[derive(Default)]
struct Held {
    all: u64,
    /// Clients that hold something.
    clients: HashMap<IpAddr, u64>,
    tenants: HashMap<TenantName, u64>,
}

/// What one transaction holds. Given back when it is dropped.
pub(super) struct Holding {
    memory: Memory,
    client: IpAddr,
    tenant: TenantName,
    octets: u64,
}

impl Memory {
    pub(super) fn new(total: ByteSize, prefix: ClientPrefix, gauge: IntGauge) -> Self {
        Self(Arc::new(Shared { total: total.0, prefix, held: Mutex::default(), gauge }))
    }

    /// Holds nothing yet.
    pub(super) fn holding(&self, address: IpAddr, tenant: &TenantName) -> Holding {
        let client = self.0.prefix.whole_network(address);
        Holding { memory: self.clone(), client, tenant: tenant.clone(), octets: 0 }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change is made as a whole.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    /// Makes it hold this many octets from now on. If refused, it holds what it held.
    pub(super) fn hold(&mut self, octets: u64) -> Result<(), Refusal> {
        match octets.checked_sub(self.octets) {
            Some(0) => Ok(()),
            Some(more) => self.take(more),
            None => {
                self.give_back(self.octets - octets);
                Ok(())
            }
        }
    }

    fn take(&mut self, more: u64) -> Result<(), Refusal> {
        let mut held = self.memory.held();
        let after = |held: Option<&u64>| held.copied().unwrap_or(0).saturating_add(more);
        let free = self.memory.0.total.saturating_sub(after(Some(&held.all)));
        let client = after(held.clients.get(&self.client));
        let tenant = after(held.tenants.get(&self.tenant));
        if client.saturating_mul(2) > free || tenant > free {
            let text = "Too much mail is arriving, try again later";
            return Err(Refusal::new(452, "4.3.1", text, Refused::HeaderMemory));
        }
        held.all += more;
        held.clients.insert(self.client, client);
        held.tenants.insert(self.tenant.clone(), tenant);
        self.octets += more;
        self.memory.0.gauge.set(i64::try_from(held.all).unwrap_or(i64::MAX));
        Ok(())
    }

    fn give_back(&mut self, octets: u64) {
        let mut held = self.memory.held();
        held.all = held.all.saturating_sub(octets);
        lower(&mut held.clients, &self.client, octets);
        lower(&mut held.tenants, &self.tenant, octets);
        self.octets -= octets;
        self.memory.0.gauge.set(i64::try_from(held.all).unwrap_or(i64::MAX));
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.octets > 0 {
            self.give_back(self.octets);
        }
    }
}

fn lower<K: Eq + Hash>(held: &mut HashMap<K, u64>, key: &K, octets: u64) {
    match held.get_mut(key) {
        Some(count) if *count > octets => *count -= octets,
        _ => drop(held.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(total: u64) -> Memory {
        Memory::new(ByteSize(total), ClientPrefix::default(), IntGauge::new("held", "x").unwrap())
    }

    fn holding(memory: &Memory, client: &str, tenant: &str) -> Holding {
        memory.holding(client.parse().unwrap(), &tenant.parse().unwrap())
    }

    /// Takes what it can get, an octet at a time.
    fn fill(holding: &mut Holding) -> u64 {
        while holding.hold(holding.octets + 1).is_ok() {}
        holding.octets
    }

    #[test]
    fn nobody_takes_all_and_who_holds_little_finds_room() {
        let memory = memory(3000);
        let mut first = holding(&memory, "2001:db8::1", "a");
        assert_eq!(fill(&mut first), 1000);
        // The same network is the same client.
        assert_eq!(fill(&mut holding(&memory, "2001:db8::2", "b")), 0);
        let mut second = holding(&memory, "192.0.2.2", "b");
        assert_eq!(fill(&mut second), 666);
        let mut hogs: Vec<_> = (0..100).map(|n| holding(&memory, &format!("10.0.0.{n}"), "c")).collect();
        for hog in &mut hogs {
            fill(hog);
        }
        // One tenant, with however many clients, leaves as much free as it holds.
        let by_tenant = memory.held().tenants[&"c".parse::<TenantName>().unwrap()];
        assert!(by_tenant <= 3000 - 1666 - by_tenant, "{by_tenant}");
        assert!(holding(&memory, "192.0.2.3", "d").hold(100).is_ok());
        assert_eq!(holding(&memory, "192.0.2.3", "d").hold(3000).unwrap_err().code, 452);

        assert_eq!(memory.0.gauge.get() as u64, memory.held().all);
        drop((first, second, hogs));
        let held = memory.held();
        assert_eq!((held.all, held.clients.len(), held.tenants.len(), memory.0.gauge.get()), (0, 0, 0, 0));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let memory = memory(300);
        let mut one = holding(&memory, "192.0.2.1", "a");
        one.hold(100).unwrap();
        assert!(one.hold(101).is_err());
        assert_eq!((one.octets, memory.held().all), (100, 100));
        one.hold(10).unwrap();
        assert_eq!(memory.held().all, 10);
    }
}
