//! Whose connection it is, until a login or a sender says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Roster;
use relay_mail::TenantName;

/// One of those that share what connections cost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// By login, by the sender of a message, or because the client is in no other tenant's networks.
    Tenant(TenantName),
    /// A client network that more than one tenant trusts. By its first address.
    Shared(IpAddr),
    /// A client network that no tenant trusts. By its first address.
    Stranger(IpAddr),
    /// All of them together.
    Strangers,
}

impl Party {
    /// The party of a client that has just connected.
    pub(super) fn at(roster: &Roster, address: IpAddr) -> Self {
        let mut trusting = roster.neighbours_of(address);
        let Some(tenant) = trusting.next() else { return Self::Stranger(network(address)) };
        if trusting.all(|other| other.name == tenant.name) {
            Self::Tenant(tenant.name.clone())
        } else {
            Self::Shared(network(address))
        }
    }
}

/// The network that one organisation usually has, at least: a /24 or a /48.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 80)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Cloud, Tenant};

    #[test]
    fn a_client_is_its_only_tenants_or_its_networks() {
        let tenant = |name: &str, networks: &[&str]| {
            let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
            let tenant = Tenant { networks, ..Tenant::sample(name, Cloud::loopback("http://127.0.0.1:1")) };
            (tenant.name.clone(), Arc::new(tenant))
        };
        let roster = Roster::new(
            [tenant("a", &["10.1.0.0/16", "10.1.2.0/24"]), tenant("b", &["10.1.3.0/24", "2001:db8::/32"])]
                .into(),
        );
        let at = |address: &str| Party::at(&roster, address.parse().unwrap());
        assert_eq!(at("10.1.2.3"), Party::Tenant("a".parse().unwrap()));
        assert_eq!(at("::ffff:10.1.3.4"), Party::Shared("10.1.3.0".parse().unwrap()));
        assert_eq!(at("2001:db8:1::1"), Party::Tenant("b".parse().unwrap()));
        assert_eq!(at("192.0.2.77"), Party::Stranger("192.0.2.0".parse().unwrap()));
        assert_eq!(at("2001:db9:1:2:3::4"), Party::Stranger("2001:db9:1::".parse().unwrap()));
    }
}
