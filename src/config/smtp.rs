//! `[smtp]` and `[[smtp.listener]]`

use std::{net::SocketAddr, time::Duration};

use super::{
    ByteSize,
    reader::{Item, TableReader},
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
    /// A message that cannot be stored in this time after its end is refused for now. Default 90 seconds, at least 1.
    ///
    /// RFC 5321 section 4.5.3.2.6 has clients wait 10 minutes for that reply. Mail servers do; programs do not: .NET's
    /// SmtpClient gives up after 100 seconds. A message that is accepted after that is sent again by its program, and
    /// arrives twice. Much less than that would refuse mail that a slow disk still takes in time.
    pub reply_within: Duration,
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub address: SocketAddr,
}

impl SmtpConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let listeners = table.or_default("listener", Vec::new(), Listener::read_all);
        let hostname = table.or_else("hostname", read_hostname, machine_hostname);
        let max_message =
            table.or_default("max_message", ByteSize::mb(150), |item| item.size(ByteSize::kib(64)));
        let max_recipients = table.or_default("max_recipients", 1000, |item| item.integer(100..=100_000));
        let max_connections = table.or_default("max_connections", 2000, |item| item.integer(1..=1_000_000));
        let reply_within = table.or_default("reply_within", Duration::from_secs(90), |item| {
            item.duration(Duration::from_secs(1)..=Duration::from_secs(600))
        });
        Some(Self {
            listeners,
            hostname: hostname?,
            max_message,
            max_recipients,
            max_connections,
            reply_within,
        })
    }

    /// Whether other machines can reach a listener.
    pub(super) fn is_reachable(&self) -> bool {
        self.listeners.iter().any(|listener| !listener.address.ip().to_canonical().is_loopback())
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
        table.optional("tls", |item| match item.value.as_str() {
            Some("starttls" | "implicit") => {
                item.fail("this version has no TLS for incoming mail yet: write tls = \"off\"")
            }
            _ => item.choice(&[("off", ())]),
        });
        Some(Self { address: address? })
    }
}
