//! Failed logins slow a client down, and then lock it out.
//!
//! Failures are counted by address and by name. An address with too many may not log in for a time, whatever
//! the name. A name with too many is closed too; otherwise a botnet could try one password from each of its
//! addresses. It is not closed to addresses that have recently logged in with that name, nor to the networks
//! of its tenant: a stranger cannot lock out a customer's printer. Failures from those count for their
//! address alone.
//!
//! An IPv6 client counts as its network ([`ClientPrefix`]). A login that succeeds clears the count of its
//! address but not that of its name; otherwise a guesser could go on for as long as the printer does.
//!
//! Pure except for its memory; the time comes from outside. What is remembered is bounded: the least recently
//! used entry is dropped.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

use crate::config::{ClientPrefix, LockoutConfig};

/// Entries of each kind; an entry is some tens of octets.
const MOST: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();
/// How long an address is known for a name after it has logged in with it.
const KNOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// The wait after the first failure; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

pub(super) struct Lockout {
    config: LockoutConfig,
    prefix: ClientPrefix,
    hasher: RandomState,
    memory: Mutex<Memory>,
}

struct Memory {
    addresses: LruCache<IpAddr, Count>,
    names: LruCache<Name, Count>,
    /// When an address last logged in with a name.
    good: LruCache<(Name, IpAddr), Instant>,
}

/// A name's hash: eight octets, however long the name is.
type Name = u64;

/// A client that wants to log in.
pub(super) struct Client {
    address: IpAddr,
    name: Name,
}

/// Failures since `since`.
struct Count {
    failures: u32,
    since: Instant,
    locked_until: Option<Instant>,
}

/// What a failure led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// How long the client must wait for its answer.
    pub(super) wait: Duration,
    /// This failure has locked its address out.
    pub(super) address_locked: bool,
    /// This failure has closed its name to strangers.
    pub(super) name_locked: bool,
}

impl Lockout {
    pub(super) fn new(config: LockoutConfig, prefix: ClientPrefix) -> Self {
        let memory =
            Memory { addresses: LruCache::new(MOST), names: LruCache::new(MOST), good: LruCache::new(MOST) };
        Self { config, prefix, hasher: RandomState::new(), memory: Mutex::new(memory) }
    }

    pub(super) fn client(&self, address: IpAddr, name: &str) -> Client {
        Client { address: self.prefix.whole_network(address), name: self.hasher.hash_one(name) }
    }

    /// Whether `client` may not log in now. `at_home`: it is in a network of the user's tenant.
    pub(super) fn is_locked(&self, client: &Client, at_home: bool, now: Instant) -> bool {
        if self.config.failures.is_none() {
            return false;
        }
        let memory = &mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let locked = |count: &Count| count.locked_until.is_some_and(|until| now < until);
        memory.addresses.get(&client.address).is_some_and(locked)
            || memory.names.get(&client.name).is_some_and(locked) && !at_home && !memory.knows(client, now)
    }

    pub(super) fn succeeded(&self, client: &Client, now: Instant) {
        let memory = &mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.addresses.pop(&client.address);
        memory.good.put((client.name, client.address), now);
    }

    pub(super) fn failed(&self, client: &Client, at_home: bool, now: Instant) -> Failed {
        let memory = &mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = at_home || memory.knows(client, now);
        let begin = || Count { failures: 0, since: now, locked_until: None };
        let by_address = memory.addresses.get_or_insert_mut(client.address, begin);
        let address_locked = by_address.add(&self.config, now);
        let doubled = by_address.failures.saturating_sub(1).min(10);
        let wait = (FIRST_WAIT * (1 << doubled)).min(LONGEST_WAIT);
        let name_locked =
            !is_known && memory.names.get_or_insert_mut(client.name, begin).add(&self.config, now);
        Failed { wait, address_locked, name_locked }
    }
}

impl Memory {
    fn knows(&mut self, client: &Client, now: Instant) -> bool {
        let last = self.good.get(&(client.name, client.address));
        last.is_some_and(|&last| now.duration_since(last) < KNOWN_FOR)
    }
}

impl Count {
    /// Counts one more failure. Returns whether it is the one that locks.
    fn add(&mut self, config: &LockoutConfig, now: Instant) -> bool {
        let is_over = match self.locked_until {
            Some(until) => until <= now,
            None => now.duration_since(self.since) >= config.within,
        };
        if is_over {
            *self = Self { failures: 0, since: now, locked_until: None };
        }
        self.failures = self.failures.saturating_add(1);
        let locks = self.locked_until.is_none()
            && config.failures.is_some_and(|failures| self.failures >= failures.get());
        if locks {
            self.locked_until = Some(now + config.duration);
        }
        locks
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A lockout and a clock.
    struct Scene {
        lockout: Lockout,
        now: Instant,
    }

    impl Scene {
        fn new(failures: u32) -> Self {
            let config = LockoutConfig {
                failures: NonZeroU32::new(failures),
                within: 10 * MINUTE,
                duration: 15 * MINUTE,
            };
            Self { lockout: Lockout::new(config, ClientPrefix::default()), now: Instant::now() }
        }

        fn client(&self, address: &str, name: &str) -> Client {
            self.lockout.client(address.parse().unwrap(), name)
        }

        fn fails(&self, address: &str, name: &str) -> Failed {
            self.lockout.failed(&self.client(address, name), false, self.now)
        }

        fn succeeds(&self, address: &str, name: &str) {
            self.lockout.succeeded(&self.client(address, name), self.now);
        }

        fn is_locked(&self, address: &str, name: &str) -> bool {
            self.lockout.is_locked(&self.client(address, name), false, self.now)
        }
    }

    #[test]
    fn an_address_is_locked_out_for_a_time() {
        let mut scene = Scene::new(3);
        assert!(!scene.fails("192.0.2.1", "a").address_locked);
        assert!(!scene.fails("192.0.2.1", "b").address_locked);
        assert!(!scene.is_locked("192.0.2.1", "c"));
        assert!(scene.fails("::ffff:192.0.2.1", "c").address_locked);
        assert!(scene.is_locked("192.0.2.1", "d") && !scene.is_locked("192.0.2.2", "a"));
        // A login that was in progress at that time makes the lockout neither longer nor shorter.
        scene.now += 12 * MINUTE;
        assert!(!scene.fails("192.0.2.1", "e").address_locked);
        scene.now += 3 * MINUTE - Duration::from_millis(1);
        assert!(scene.is_locked("192.0.2.1", "a"));
        scene.now += Duration::from_millis(1);
        assert!(!scene.is_locked("192.0.2.1", "a"));
        // And everything starts again.
        assert_eq!(scene.fails("192.0.2.1", "a").wait, FIRST_WAIT);
        assert!(!scene.is_locked("192.0.2.1", "a"));
    }

    #[test]
    fn old_failures_do_not_count() {
        let mut scene = Scene::new(3);
        scene.fails("192.0.2.1", "a");
        scene.fails("192.0.2.1", "a");
        scene.now += 10 * MINUTE;
        scene.fails("192.0.2.1", "a");
        scene.fails("192.0.2.1", "a");
        assert!(!scene.is_locked("192.0.2.1", "a"));
    }

    #[test]
    fn a_login_clears_its_address() {
        let scene = Scene::new(3);
        for n in 0..10 {
            let name = format!("{n}");
            scene.fails("192.0.2.1", &name);
            scene.fails("192.0.2.1", &name);
            scene.succeeds("192.0.2.1", "good");
        }
        assert!(!scene.is_locked("192.0.2.1", "a"));
        assert_eq!(scene.fails("192.0.2.1", "a").wait, FIRST_WAIT);
    }

    #[test]
    fn a_name_is_closed_to_strangers_alone() {
        let mut scene = Scene::new(3);
        scene.succeeds("10.0.0.1", "printer");
        for n in 1..=2 {
            assert!(!scene.fails(&format!("192.0.2.{n}"), "printer").name_locked);
            // The printer keeps logging in, which clears nothing for strangers.
            scene.succeeds("10.0.0.1", "printer");
        }
        assert!(scene.fails("192.0.2.3", "printer").name_locked);
        assert!(scene.is_locked("192.0.2.99", "printer") && !scene.is_locked("192.0.2.99", "other"));
        assert!(!scene.is_locked("10.0.0.1", "printer"));
        let at_home = scene.client("10.0.0.2", "printer");
        assert!(!scene.lockout.is_locked(&at_home, true, scene.now));
        assert!(scene.lockout.is_locked(&at_home, false, scene.now));
        scene.now += 15 * MINUTE;
        assert!(!scene.is_locked("192.0.2.99", "printer"));
    }

    #[test]
    fn failures_of_known_addresses_close_no_name() {
        let scene = Scene::new(3);
        scene.succeeds("10.0.0.1", "printer");
        for _ in 0..3 {
            scene.fails("10.0.0.1", "printer");
            scene.lockout.failed(&scene.client("10.0.0.2", "printer"), true, scene.now);
        }
        assert!(!scene.is_locked("10.0.0.3", "printer"));
        // They may guess no more often than others.
        assert!(scene.is_locked("10.0.0.1", "printer") && scene.is_locked("10.0.0.2", "printer"));
    }

    #[test]
    fn an_address_is_known_for_a_week() {
        let mut scene = Scene::new(1);
        scene.succeeds("10.0.0.1", "printer");
        scene.now += KNOWN_FOR;
        scene.fails("192.0.2.1", "printer");
        assert!(scene.is_locked("10.0.0.1", "printer"));
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let scene = Scene::new(2);
        scene.fails("2001:db8:0:1::1", "a");
        scene.fails("2001:db8:0:1:ffff::2", "b");
        assert!(scene.is_locked("2001:db8:0:1::3", "c") && !scene.is_locked("2001:db8:0:2::1", "c"));
    }

    #[test]
    fn each_failure_costs_more_up_to_a_bound() {
        let scene = Scene::new(0);
        let waits: Vec<_> = (0..100).map(|_| scene.fails("192.0.2.1", "a").wait.as_millis()).collect();
        assert_eq!(waits[..7], [250, 500, 1000, 2000, 4000, 8000, 8000]);
        assert_eq!(waits[99], 8000);
        // Zero in the configuration locks nobody out.
        assert!(!scene.is_locked("192.0.2.1", "a"));
    }

    #[test]
    fn memory_is_bounded_under_a_flood() {
        let scene = Scene::new(1);
        for n in 0..u32::try_from(MOST.get()).unwrap() + 1000 {
            let address = IpAddr::V4(n.into());
            let client = scene.lockout.client(address, &n.to_string());
            scene.lockout.failed(&client, false, scene.now);
            scene
                .lockout
                .succeeded(&scene.lockout.client(IpAddr::V4((n + 1_000_000).into()), "a"), scene.now);
        }
        let memory = scene.lockout.memory.lock().unwrap();
        let sizes = [memory.addresses.len(), memory.names.len(), memory.good.len()];
        assert_eq!(sizes, [MOST.get(); 3]);
    }
}
