//! Hosts that are this machine: what is sent there never reaches a network.

use std::net::IpAddr;

/// Whether a host of a URL or of a Host field is loopback.
pub fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
