//! `[smtp]` and `[[smtp.listener]]`

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
};

use ipnet::IpNet;

use super::{
    ByteSize, Certificate,
    reader::{Item, TableReader},
    tenant_table::read_network,
    value::is_domain,
};

#[derive(Debug, Clone)]
pub struct SmtpConfig {
    pub listeners: Vec<Listener>,
    /// What the relay calls itself in the greeting, in `Received` and in bounces. Default: the machine's host name.
    pub hostname: String,
    /// Largest message accepted, announced as SIZE. Default 150 MB.
    pub max_message: ByteSize,
    /// Recipients of one message. Default 1000; at least 100 (RFC 5321 section 4.5.3.1.8).
    pub max_recipients: usize,
    /// Connections at a time, over all listeners. Default 2000.
    pub max_connections: usize,
    /// Connections of one client address at a time, over all listeners; `None` is no limit. Default 50: a mail server that
    /// behaves opens 20, and one device that does not cannot take all of `max_connections`.
    pub max_connections_per_address: Option<NonZeroUsize>,
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: ListenerTls,
    /// Peers that speak PROXY protocol before anything else. Others are served as who they are.
    pub proxies: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerTls {
    Off,
    /// RFC 3207: a connection begins in clear, and the client may ask for TLS.
    StartTls(Certificate),
    /// RFC 8314 section 3: a connection begins with TLS.
    Implicit(Certificate),
}

impl SmtpConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let listeners = table.or_default("listener", Vec::new(), Listener::read_all);
        let hostname = table.or_else("hostname", read_hostname, machine_hostname);
        let max_message =
            table.or_default("max_message", ByteSize::mb(150), |item| item.size(ByteSize::kib(64)));
        let max_recipients = table.or_default("max_recipients", 1000, |item| item.integer(100..=100_000));
        let max_connections = table.or_default("max_connections", 2000, |item| item.integer(1..=1_000_000));
        let per_address =
            table.or_default("max_connections_per_address", 50, |item| item.integer(0..=1_000_000));
        Some(Self {
            listeners,
            hostname: hostname?,
            max_message,
            max_recipients,
            max_connections,
            max_connections_per_address: NonZeroUsize::new(per_address),
        })
    }

    /// Whether other machines can reach a listener, be it through a proxy on this one.
    pub(super) fn is_reachable(&self) -> bool {
        let reachable = |l: &Listener| !l.address.ip().to_canonical().is_loopback() || !l.proxies.is_empty();
        self.listeners.iter().any(reachable)
    }
}

fn read_hostname(item: &Item<'_>) -> Option<String> {
    let name = item.text(r#""relay.example.net""#)?;
    if is_domain(name) {
        return Some(name.to_owned());
    }
    item.fail(format!("{name:?} is not a host name: write one such as \"relay.example.net\""))
}

fn machine_hostname(table: &TableReader<'_>) -> Option<String> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    if is_domain(&name) {
        return Some(name.into_owned());
    }
    table.fail_at(
        "hostname",
        format!(
            "missing, and this machine's own name {name:?} cannot be used: write hostname = \"relay.example.net\""
        ),
    )
}

impl Listener {
    fn read_all(item: &Item<'_>) -> Option<Vec<Self>> {
        let mut listeners: Vec<Self> = Vec::new();
        for element in item.elements(r#"[[smtp.listener]]"#)? {
            let Some(listener) = element.table(Self::read) else { continue };
            // Port 0 is any free port, and can be asked for twice.
            if listener.address.port() != 0 && listeners.iter().any(|l| l.address == listener.address) {
                element.fail::<()>(format!("{} is listed twice: remove one", listener.address));
            }
            listeners.push(listener);
        }
        Some(listeners)
    }

    fn read(table: &mut TableReader<'_>) -> Option<Self> {
        const EXAMPLE: &str = r#""127.0.0.1:2525""#;
        let address = table.required("address", EXAMPLE, |item| item.socket_address(EXAMPLE));
        let tls = ListenerTls::read(table);
        let proxies = table.or_default("proxies", Vec::new(), |item| {
            let networks: Vec<_> = item.elements(r#"["10.1.2.3"]"#)?.iter().map(read_proxy).collect();
            networks.into_iter().collect()
        });
        Some(Self { address: address?, tls: tls?, proxies })
    }

    /// Whether the peer at `address`, which is canonical, has to speak PROXY protocol.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }
}

fn read_proxy(item: &Item<'_>) -> Option<IpNet> {
    let network = read_network(item)?;
    if network.prefix_len() > 0 {
        return Some(network);
    }
    item.fail("everybody could claim to be any client: name the addresses of the proxies")
}

impl ListenerTls {
    /// `None`: there is an error, which is noted.
    fn read(table: &mut TableReader<'_>) -> Option<Self> {
        type With = fn(Certificate) -> ListenerTls;
        let choices: [(&str, Option<With>); 3] =
            [("off", None), ("starttls", Some(Self::StartTls)), ("implicit", Some(Self::Implicit))];
        let kind = table.or_else("tls", |item| item.choice(&choices), |_| Some(None));
        match kind {
            Some(None) => {
                Certificate::refuse_keys(table);
                Some(Self::Off)
            }
            Some(Some(with)) => Certificate::read_keys(table).map(with),
            None => {
                table.optional("certificate", |item| item.path());
                table.optional("key", |item| item.path());
                None
            }
        }
    }
}
