//! `smtp.ipv6_client_prefix`: what counts as one client wherever clients are counted.
//!
//! A site that has one address of an IPv6 network has all of it (RFC 6177: a site gets a /64 at least, most
//! get a /56 or /48), and could be a new client with each connection. So an IPv6 client is its network. An
//! IPv4 client is its address.

use std::net::{IpAddr, Ipv6Addr};

use super::reader::Item;

/// The length of an IPv6 prefix that one client has, 48 to 128. Default 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPrefix(u8);

impl Default for ClientPrefix {
    fn default() -> Self {
        Self(64)
    }
}

impl ClientPrefix {
    pub(super) fn read(item: &Item<'_>) -> Option<Self> {
        item.integer(48..=128).map(Self)
    }

    /// The client that `address` belongs to, as the first address of its network. An IPv4 address within IPv6
    /// (`::ffff:192.0.2.1`) is that IPv4 address.
    pub fn whole_network(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let mask = u128::MAX << (128 - u32::from(self.0));
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_network() {
        for (prefix, address, network) in [
            (64, "192.0.2.1", "192.0.2.1"),
            (64, "::ffff:192.0.2.1", "192.0.2.1"),
            (64, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            (56, "2001:db8:1:2ff:3:4:5:6", "2001:db8:1:200::"),
            (48, "2001:db8:1:2ff:3:4:5:6", "2001:db8:1::"),
            (128, "2001:db8::1", "2001:db8::1"),
            (64, "::1", "::"),
        ] {
            let whole = ClientPrefix(prefix).whole_network(address.parse().unwrap());
            assert_eq!(whole.to_string(), network, "{address}/{prefix}");
        }
    }
}
