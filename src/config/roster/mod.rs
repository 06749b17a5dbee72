//! All tenants of one configuration, found by what mail says about itself.
//!
//! A [`Roster`] never changes. A reload makes a new one and puts it in the place of the old, at once for all
//! holders of a [`LiveRoster`]; work that began with the old one keeps it until that work ends.

mod logins;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use tokio::sync::watch;

use super::{Aliases, Invalid, SenderRule, Tenant};
pub use logins::User;
use logins::UserIndex;
use relay_mail::MailboxAddress;
use relay_mail::TenantName;

#[derive(Default)]
pub struct Roster {
    tenants: BTreeMap<TenantName, Arc<Tenant>>,
    invalid: Arc<Invalid>,
    aliases: Arc<Aliases>,
    senders: SenderIndex,
    networks: NetworkIndex,
    users: UserIndex,
}

/// Tenants by whom they may send as. A message's sender is looked up three times, however many tenants there
/// are.
#[derive(Default)]
struct SenderIndex {
    /// In lower case.
    domains: HashMap<String, Vec<Arc<Tenant>>>,
    addresses: HashMap<MailboxAddress, Vec<Arc<Tenant>>>,
    /// They may send as anybody.
    any: Vec<Arc<Tenant>>,
    /// They take mail from anybody, and send it as somebody.
    forced: Vec<Arc<Tenant>>,
}

/// Tenants by the clients that they trust. A client is looked up by each length of prefix that there is,
/// however many networks have that length.
#[derive(Default)]
struct NetworkIndex {
    lengths: BTreeSet<(bool, u8)>,
    /// Each network once.
    networks: HashMap<IpNet, Vec<Arc<Tenant>>>,
}

/// The roster of this moment. Cheap to clone; all clones see a new one at the same time.
#[derive(Clone)]
pub struct LiveRoster(watch::Receiver<Arc<Roster>>);

/// Puts a new roster in the place of the old.
pub struct RosterKeeper(watch::Sender<Arc<Roster>>);

impl Roster {
    pub fn new(tenants: BTreeMap<TenantName, Arc<Tenant>>) -> Self {
        let mut networks = NetworkIndex::default();
        let mut senders = SenderIndex::default();
        for tenant in tenants.values() {
            senders.add(tenant);
            tenant.networks.iter().for_each(|network| networks.add(network.trunc(), tenant));
        }
        let users = UserIndex::new(tenants.values());
        Self { tenants, invalid: Arc::default(), aliases: Arc::default(), senders, networks, users }
    }

    /// With tenants that are meant to be in it, and in whose configuration there are mistakes.
    #[must_use]
    pub fn with_invalid(self, invalid: Arc<Invalid>) -> Self {
        Self { invalid, ..self }
    }

    #[must_use]
    pub fn with_aliases(self, aliases: Arc<Aliases>) -> Self {
        Self { aliases, ..self }
    }

    /// Of all tenants.
    pub fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Tenants in whose configuration there are mistakes. Some may run as before.
    pub fn invalid(&self) -> &Invalid {
        &self.invalid
    }

    pub fn tenants(&self) -> &BTreeMap<TenantName, Arc<Tenant>> {
        &self.tenants
    }

    pub fn tenant(&self, name: &TenantName) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    /// Tenants whose `senders` allow `address`, or whose `from_map` replaces it, each once.
    pub fn senders_of(&self, address: &MailboxAddress) -> impl Iterator<Item = &Arc<Tenant>> {
        let SenderIndex { domains, addresses, any, .. } = &self.senders;
        let by_domain = domains.get(&address.domain().to_ascii_lowercase()).into_iter().flatten();
        by_domain.chain(addresses.get(address).into_iter().flatten()).chain(any)
    }

    /// Tenants that take mail from anybody, since they have `force_from`.
    pub fn takers_of_all(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.senders.forced.iter()
    }

    /// Tenants whose `networks` contain a client at `address`, each at least once.
    pub fn neighbours_of(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Tenant>> {
        // A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        let NetworkIndex { lengths, networks } = &self.networks;
        let of_its_kind = lengths.iter().filter(move |(is_ipv4, _)| *is_ipv4 == address.is_ipv4());
        let around = of_its_kind.filter_map(move |(_, length)| IpNet::new(address, *length).ok());
        around.filter_map(|network| networks.get(&network.trunc())).flatten()
    }
}

impl NetworkIndex {
    fn add(&mut self, network: IpNet, tenant: &Arc<Tenant>) {
        self.lengths.insert((network.addr().is_ipv4(), network.prefix_len()));
        let trusting = self.networks.entry(network).or_default();
        // Two networks of one tenant can be the same.
        if trusting.last().is_none_or(|last| !Arc::ptr_eq(last, tenant)) {
            trusting.push(tenant.clone());
        }
    }
}

impl SenderIndex {
    /// Adds the tenant under each of its rules that no other of them covers.
    fn add(&mut self, tenant: &Arc<Tenant>) {
        self.forced.extend(tenant.from_rules.forced().map(|_| tenant.clone()));
        if tenant.senders.contains(&SenderRule::Any) {
            return self.any.push(tenant.clone());
        }
        let put = |tenants: &mut Vec<Arc<Tenant>>| {
            // Two rules of one tenant can be the same.
            if tenants.last().is_none_or(|last| !Arc::ptr_eq(last, tenant)) {
                tenants.push(tenant.clone());
            }
        };
        let mapped = tenant.from_rules.mapped().filter(|address| !tenant.may_send_as(address));
        for address in mapped {
            put(self.addresses.entry(address.clone()).or_default());
        }
        for rule in &tenant.senders {
            match rule {
                SenderRule::Any => {}
                SenderRule::Domain(domain) => {
                    put(self.domains.entry(domain.to_ascii_lowercase()).or_default());
                }
                SenderRule::Address(address) => {
                    let has =
                        |rule: &SenderRule| matches!(rule, SenderRule::Domain(_)) && rule.allows(address);
                    if !tenant.senders.iter().any(has) {
                        put(self.addresses.entry(address.clone()).or_default());
                    }
                }
            }
        }
    }
}

impl RosterKeeper {
    pub fn new(roster: Roster) -> (Self, LiveRoster) {
        let (keeper, live) = watch::channel(Arc::new(roster));
        (Self(keeper), LiveRoster(live))
    }

    pub fn replace(&self, roster: Arc<Roster>) {
        self.0.send_replace(roster);
    }
}

impl LiveRoster {
    pub fn now(&self) -> Arc<Roster> {
        self.0.borrow().clone()
    }

    /// The next roster, once there is one that this handle has not returned yet. Never returns once the
    /// keeper is gone.
    pub async fn next(&mut self) -> Arc<Roster> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}
