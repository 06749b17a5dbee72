//! Scripted dialogues.

mod auth;
mod dialogues;
mod encrypted;
mod extensions;
mod held;
mod hostile;
mod late;
mod lifetime;
mod mended;
mod proxied;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    io::{
        AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, duplex,
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    conversation::{Peer, Service},
    memory::Memory,
    outdated::Outdated,
    session::Session,
    tls::Handshakes,
};
use crate::{
    config::{ClientPrefix, LockoutConfig, SessionLimits},
    ingress::testing::House,
};
use relay_mail::ByteSize;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HEADER: &str = "From: a@contoso.example\r\n\r\n";
/// Small, so that a test can reach it.
const MAX_RECIPIENTS: usize = 25;
const HEADER_MEMORY: ByteSize = ByteSize::mib(64);
const REPLY_WITHIN: Duration = Duration::from_secs(90);

struct Client<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// One reply, with all of its lines.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            assert!(self.stream.read_line(&mut reply).await.unwrap() > 0, "closed after {reply:?}");
            assert!(reply.ends_with("\r\n"));
            if reply.as_bytes()[start + 3] == b' ' {
                return reply;
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Says each line and checks how the reply to it begins.
    async fn script(&mut self, lines: &[(&str, &str)]) {
        for (line, expected) in lines {
            let reply = self.say(line).await;
            assert!(reply.starts_with(expected), "{line}: {reply}");
        }
    }

    /// From after the greeting to after EHLO.
    async fn hello(&mut self) {
        assert!(self.reply().await.starts_with("220 relay.example"));
        self.script(&[("EHLO client.example", "250-relay.example")]).await;
    }

    /// A message from contoso with that body, which is sent as it is.
    async fn mail(&mut self, body: impl AsRef<[u8]>) -> String {
        self.raw_mail([HEADER.as_bytes(), body.as_ref()].concat()).await
    }

    /// A transaction from contoso, up to where its content begins.
    async fn begin_data(&mut self) {
        self.script(&[
            ("MAIL FROM:<a@contoso.example>", "250 2.1.0"),
            ("RCPT TO:<b@example.net>", "250 2.1.5"),
            ("DATA", "354 "),
        ])
        .await;
    }

    /// A transaction from contoso with that content, which is sent as it is.
    async fn raw_mail(&mut self, content: impl AsRef<[u8]>) -> String {
        self.begin_data().await;
        self.send(content).await;
        self.reply().await
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

fn service(house: &House) -> Arc<Service> {
    limited(house, SessionLimits::default())
}

fn limited(house: &House, limits: SessionLimits) -> Arc<Service> {
    remembering(house, limits, HEADER_MEMORY)
}

fn remembering(house: &House, limits: SessionLimits, header_memory: ByteSize) -> Arc<Service> {
    Arc::new(Service {
        hostname: "relay.example".into(),
        max_recipients: MAX_RECIPIENTS,
        limits,
        memory: Memory::new(
            header_memory,
            ClientPrefix::default(),
            house.metrics.smtp_header_bytes().clone(),
        ),
        handshakes: Handshakes::default(),
        outdated: Outdated::default(),
        door: house.door.clone(),
        logins: house.logins(LockoutConfig::default()),
        metrics: house.metrics.clone(),
        shutdown: CancellationToken::new(),
        sessions: AtomicU64::new(0),
    })
}

/// A session at the other end of a pipe that holds `pipe` octets each way.
fn connect_through(
    pipe: usize,
    peer: impl Into<Peer>,
    service: Arc<Service>,
) -> (Client<DuplexStream>, JoinHandle<std::io::Result<()>>) {
    let (near, far) = duplex(pipe);
    let peer = peer.into();
    let session = tokio::spawn(async move { Session::new(far, peer, service).run().await.map(drop) });
    (Client::new(near), session)
}

fn connect_limited(house: &House, limits: SessionLimits) -> Client<DuplexStream> {
    connect_through(64 * 1024, LOOPBACK, limited(house, limits)).0
}

fn connect(house: &House) -> Client<DuplexStream> {
    connect_through(64 * 1024, LOOPBACK, service(house)).0
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self::new(address, false)
    }
}
