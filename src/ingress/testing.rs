//! A door, a spool in memory and two tenants, for the tests of this room.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Door, login::Logins};
use crate::{
    config::{
        ClientPrefix, Cloud, LiveRoster, LockoutConfig, PasswordHash, Roster, RosterKeeper, SenderRule,
        Suspension, Tenant, Users, WhileSuspended,
    },
    telemetry::Metrics,
};
use relay_mail::{ByteSize, TenantName};
use relay_spool::{Event, Floor, FreeSpace, Lease, MemoryStore, Message, Settlement, Spool, Waiting};

pub(super) const MAX_MESSAGE: u64 = 200_000;

pub(super) struct House {
    pub(super) door: Door,
    pub(super) store: MemoryStore,
    pub(super) metrics: Metrics,
    roster: LiveRoster,
    keeper: RosterKeeper,
    waiting: UnboundedReceiver<Event>,
}

/// What a test changes about `contoso`, which is then the only tenant.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) default_sender: Option<&'static str>,
    pub(super) suspended: Option<WhileSuspended>,
}

/// A message as the scheduler would find it.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) message: Arc<Message>,
    pub(super) content: Vec<u8>,
    lease: Lease,
}

impl House {
    /// Tenants `contoso` (sends from `@contoso.example`) and `fabrikam` (from `@fabrikam.example`), each with
    /// clients on loopback.
    pub(super) fn new() -> Self {
        Self::with_max_queued(1_000_000)
    }

    pub(super) fn with_max_queued(max_queued: u64) -> Self {
        let free_space = FreeSpace::of(&std::env::temp_dir(), Floor { octets: 0, inodes: 0 }).unwrap();
        Self::build(MemoryStore::default(), max_queued, free_space, MAX_MESSAGE, &[])
    }

    /// Each of `users` is name, tenant and password.
    pub(super) fn with_users(users: &[(&str, &str, &str)]) -> Self {
        let free_space = FreeSpace::of(&std::env::temp_dir(), Floor { octets: 0, inodes: 0 }).unwrap();
        Self::build(MemoryStore::default(), 1_000_000, free_space, MAX_MESSAGE, users)
    }

    /// `contoso` alone, with these users.
    pub(super) fn with_hashes(users: &[(&str, PasswordHash)]) -> Self {
        let free_space = FreeSpace::of(&std::env::temp_dir(), Floor { octets: 0, inodes: 0 }).unwrap();
        let users = users.iter().map(|(name, hash)| (name.parse().unwrap(), hash.clone())).collect();
        let contoso = Tenant { users, ..tenant("contoso", 1_000_000) };
        Self::of(MemoryStore::default(), [contoso], free_space, MAX_MESSAGE)
    }

    pub(super) fn logins(&self, lockout: LockoutConfig) -> Logins {
        Logins::new(self.roster.clone(), lockout, ClientPrefix::default(), self.metrics.clone())
    }

    pub(super) fn roster(&self) -> LiveRoster {
        self.roster.clone()
    }

    /// A reload takes the tenant away.
    pub(super) fn take_away(&self, name: &str) {
        let mut tenants = self.roster.now().tenants().clone();
        tenants.remove(name);
        self.keeper.replace(Arc::new(Roster::new(tenants)));
    }

    pub(super) fn changed(change: Changed) -> Self {
        let mut contoso = tenant("contoso", 1_000_000);
        contoso.default_sender = change.default_sender.map(|text| text.parse().unwrap());
        if let Some(how) = change.suspended {
            contoso.suspended = Some(Suspension::configured());
            contoso.while_suspended = how;
        }
        let free_space = FreeSpace::of(&std::env::temp_dir(), Floor { octets: 0, inodes: 0 }).unwrap();
        Self::of(MemoryStore::default(), [contoso], free_space, MAX_MESSAGE)
    }

    /// What the next process finds. This one must be gone.
    pub(super) fn on_store(store: MemoryStore) -> Self {
        let free_space = FreeSpace::of(&std::env::temp_dir(), Floor { octets: 0, inodes: 0 }).unwrap();
        Self::build(store, 1_000_000, free_space, MAX_MESSAGE, &[])
    }

    /// On a disk of the test's own.
    pub(super) fn on(free_space: FreeSpace, max_message: u64) -> Self {
        Self::build(MemoryStore::default(), 1_000_000, free_space, max_message, &[])
    }

    fn build(
        store: MemoryStore,
        max_queued: u64,
        free_space: FreeSpace,
        max_message: u64,
        users: &[(&str, &str, &str)],
    ) -> Self {
        let tenant = |name| Tenant { users: users_of(name, users), ..tenant(name, max_queued) };
        Self::of(store, ["contoso", "fabrikam"].map(tenant), free_space, max_message)
    }

    fn of<const N: usize>(
        store: MemoryStore,
        tenants: [Tenant; N],
        free_space: FreeSpace,
        max_message: u64,
    ) -> Self {
        let metrics = Metrics::new();
        let (spool, waiting) = Spool::start(store.clone(), ()).unwrap();
        let tenants: BTreeMap<_, _> = tenants.map(|tenant| (tenant.name.clone(), Arc::new(tenant))).into();
        let (keeper, roster) = RosterKeeper::new(Roster::new(tenants));
        let door = Door::new(roster.clone(), spool, free_space, ByteSize(max_message));
        Self { door, store, metrics, roster, keeper, waiting }
    }

    /// The next message that the spool took, in the order of acceptance.
    pub(super) async fn next(&mut self) -> Found {
        let waiting = self.waiting.recv().await.unwrap().waiting().unwrap();
        self.found(waiting).await
    }

    /// The message leaves the spool, which makes room for another.
    pub(super) async fn end(&self, found: Found) {
        self.door.spool().settle(found.lease, Settlement::End { bounce: None }).await.unwrap();
    }

    /// Whether everything that the spool took has been looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    async fn found(&self, waiting: Waiting) -> Found {
        let claim = self.door.spool().claim(waiting.id).await.unwrap();
        let mut body = claim.body.open().await.unwrap();
        let mut content = Vec::new();
        while let Some(chunk) = body.next().await.unwrap() {
            content.extend_from_slice(&chunk);
        }
        Found { id: waiting.id.to_string(), message: claim.message, content, lease: claim.lease }
    }

    /// The value of one series, such as `smtp_commands_total{code="250",verb="mail"}`, zero if there is none.
    pub(super) fn metric(&self, series: &str) -> f64 {
        let text = self.metrics.render().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("m365_relay_")?.strip_prefix(series));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

pub(super) fn name(name: &str) -> TenantName {
    name.parse().unwrap()
}

fn users_of(of: &str, users: &[(&str, &str, &str)]) -> Users {
    let of_tenant = users.iter().filter(|(_, tenant, _)| *tenant == of);
    of_tenant.map(|(name, _, password)| (name.parse().unwrap(), PasswordHash::cheap(password))).collect()
}

fn tenant(of: &str, max_queued: u64) -> Tenant {
    Tenant {
        senders: vec![SenderRule::Domain(format!("{of}.example"))],
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        max_queued,
        ..Tenant::sample(of, Cloud::loopback("http://127.0.0.1:1"))
    }
}
