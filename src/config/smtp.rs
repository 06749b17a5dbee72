//! `[smtp]` and `[[smtp.listener]]`

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Certificate, ClientPrefix, LockoutConfig,
    reader::{Item, TableReader},
    tenant_table::read_network,
    value::is_domain,
};
use relay_mail::ByteSize;

#[derive(Debug, Clone, PartialEq)]
pub struct SmtpConfig {
    pub listeners: Vec<Listener>,
    /// What the relay calls itself in the greeting, in `Received` and in bounces. Default: the machine's host
    /// name.
    pub hostname: String,
    /// Largest message accepted, announced as SIZE. Default 150 MB.
    pub max_message: ByteSize,
    /// Recipients of one message. Default 1000; at least 100 (RFC 5321 section 4.5.3.1.8).
    pub max_recipients: usize,
    /// Connections at a time, over all listeners. Default 2000.
    pub max_connections: usize,
    /// Connections of one client address at a time, over all listeners; `None` is no limit. Default 50: a
    /// well-behaved mail server opens 20, and one misbehaving device cannot take all of `max_connections`.
    pub max_connections_per_address: Option<NonZeroUsize>,
    /// Which IPv6 addresses are one client. Default 64.
    pub client_prefix: ClientPrefix,
    /// For envelopes and headers that are being received, over all connections. Default 64 MiB, at least 1.
    pub header_memory: ByteSize,
    pub session: SessionLimits,
    /// Clients that may log in without encryption. Default: none.
    pub trusted_networks: Vec<IpNet>,
    pub lockout: LockoutConfig,
}

/// What one connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    pub bare_newlines: BareNewlines,
    /// Messages on one connection, announced to clients (RFC 9422). Default 10,000.
    pub max_messages: u32,
    /// Permanent refusals between two accepted messages. Default 20.
    pub max_errors: u32,
    /// Commands that bring no message nearer, between two accepted messages. Default 10,000.
    pub max_commands: u32,
    /// The time until the next command. Default 5 minutes (RFC 5321 section 4.5.3.2.7).
    pub idle_timeout: Duration,
    /// For a connection as a whole, whatever is in progress on it. Default 1 hour.
    pub session_timeout: Duration,
    /// A message that cannot be stored in this time after its end is refused for now. Default 90 seconds, at
    /// least 1.
    ///
    /// RFC 5321 section 4.5.3.2.6 has clients wait 10 minutes for that reply. Mail servers do; programs do
    /// not: .NET's SmtpClient gives up after 100 seconds. A message that is accepted after that is sent again
    /// by its program, and arrives twice. Much less than that would refuse mail that a slow disk still takes
    /// in time.
    pub reply_within: Duration,
}

/// A CR or LF in a message that is not part of a CR LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareNewlines {
    /// The message is refused.
    Refuse,
    /// It becomes CR LF. It still ends no message.
    Fix,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            bare_newlines: BareNewlines::Refuse,
            max_messages: 10_000,
            max_errors: 20,
            max_commands: 10_000,
            idle_timeout: Duration::from_secs(5 * 60),
            session_timeout: Duration::from_secs(60 * 60),
            reply_within: Duration::from_secs(90),
        }
    }
}

impl SessionLimits {
    fn read(table: &mut TableReader<'_>) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let default = Self::default();
        Self {
            bare_newlines: table.or_default("bare_newlines", default.bare_newlines, |item| {
                item.choice(&[("refuse", BareNewlines::Refuse), ("fix", BareNewlines::Fix)])
            }),
            max_messages: table
                .or_default("max_messages", default.max_messages, |item| item.integer(1..=1_000_000_000)),
            max_errors: table
                .or_default("max_errors", default.max_errors, |item| item.integer(1..=1_000_000)),
            max_commands: table
                .or_default("max_commands", default.max_commands, |item| item.integer(10..=1_000_000_000)),
            idle_timeout: table.or_default("idle_timeout", default.idle_timeout, |item| {
                item.duration(Duration::from_secs(10)..=DAY)
            }),
            session_timeout: table
                .or_default("session_timeout", default.session_timeout, |item| item.duration(MINUTE..=DAY)),
            reply_within: table.or_default("reply_within", default.reply_within, |item| {
                item.duration(Duration::from_secs(1)..=Duration::from_secs(600))
            }),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub address: SocketAddr,
    /// Its clients may log in without encryption. Default false.
    pub trusted: bool,
    pub tls: ListenerTls,
    /// Peers that speak PROXY protocol before anything else. Other peers are served as themselves.
    pub proxies: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerTls {
    Off,
    /// RFC 3207: a connection begins unencrypted, and the client may ask for TLS.
    StartTls(Certificate),
    /// RFC 8314 section 3: a connection begins with TLS.
    Implicit(Certificate),
}

impl SmtpConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let listeners = table.or_default("listener", Vec::new(), Listener::read_all);
        let hostname = table.or_else("hostname", read_hostname, machine_hostname);
        let max_message = Self::read_max_message(table);
        let max_recipients = table.or_default("max_recipients", 1000, |item| item.integer(100..=100_000));
        let max_connections = table.or_default("max_connections", 2000, |item| item.integer(1..=1_000_000));
        let session = SessionLimits::read(table);
        let trusted_networks = table.or_default("trusted_networks", Vec::new(), read_trusted);
        let lockout =
            table.table("lockout", |lockout| Some(LockoutConfig::read(lockout))).unwrap_or_default();
        let per_address =
            table.or_default("max_connections_per_address", 50, |item| item.integer(0..=1_000_000));
        let client_prefix =
            table.or_default("ipv6_client_prefix", ClientPrefix::default(), ClientPrefix::read);
        let header_memory =
            table.or_default("header_memory", ByteSize::mib(64), |item| item.size(ByteSize::mib(1)));
        Some(Self {
            listeners,
            hostname: hostname?,
            max_message,
            max_recipients,
            max_connections,
            max_connections_per_address: NonZeroUsize::new(per_address),
            client_prefix,
            header_memory,
            session,
            trusted_networks,
            lockout,
        })
    }

    /// Whether there are clients that may log in: passwords are not sent unencrypted, except where that was
    /// allowed.
    pub(super) fn takes_logins(&self) -> bool {
        let takes = |listener: &Listener| listener.trusted || listener.tls != ListenerTls::Off;
        !self.trusted_networks.is_empty() || self.listeners.iter().any(takes)
    }

    /// Whether a client at `address` may send a password unencrypted to any listener.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_networks.iter().any(|network| network.contains(&address))
    }

    pub(super) fn read_max_message(table: &mut TableReader<'_>) -> ByteSize {
        table.or_default("max_message", ByteSize::mb(150), |item| item.size(ByteSize::kib(64)))
    }

    /// Whether other machines can reach a listener, even if through a proxy on this one.
    pub(super) fn is_reachable(&self) -> bool {
        let reachable = |l: &Listener| !l.address.ip().to_canonical().is_loopback() || !l.proxies.is_empty();
        self.listeners.iter().any(reachable)
    }
}

fn read_trusted(item: &Item<'_>) -> Option<Vec<IpNet>> {
    let read = |element: &Item<'_>| {
        let network = read_network(element)?;
        if network.prefix_len() == 0 {
            element.warn("anybody on the internet may send passwords unencrypted: narrow it");
        }
        Some(network)
    };
    // All elements are read before the first bad one ends it.
    let networks: Vec<_> = item.elements(r#"["10.1.0.0/16"]"#)?.iter().map(read).collect();
    networks.into_iter().collect()
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
        let trusted = table.or_default("trusted", false, Item::boolean);
        Some(Self { address: address?, trusted, tls: tls?, proxies })
    }

    /// Whether the peer at `address`, which is canonical, must speak PROXY protocol.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }
}

fn read_proxy(item: &Item<'_>) -> Option<IpNet> {
    let network = read_network(item)?;
    if network.prefix_len() > 0 {
        return Some(network);
    }
    item.fail("anybody could claim to be any client: name the addresses of the proxies")
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
