//! Listeners, limits, and the end of it all, over real sockets.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use super::*;
use crate::{
    config::{ClientPrefix, Listener, ListenerTls, LockoutConfig, SessionLimits, SmtpConfig},
    ingress::{
        smtp::Server,
        testing::{House, MAX_MESSAGE},
    },
    vital::Vital,
};
use relay_mail::ByteSize;

pub(super) struct Running {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl Running {
    pub(super) async fn ended(self) {
        self.served.await.unwrap();
    }
}

pub(super) fn listener(address: SocketAddr) -> Listener {
    Listener { address, trusted: false, tls: ListenerTls::Off, proxies: Vec::new() }
}

pub(super) fn config(max_connections: usize) -> SmtpConfig {
    let any = listener("127.0.0.1:0".parse().unwrap());
    SmtpConfig {
        listeners: vec![any.clone(), any],
        hostname: "relay.example".into(),
        max_message: ByteSize(MAX_MESSAGE),
        max_recipients: MAX_RECIPIENTS,
        max_connections,
        max_connections_per_address: None,
        client_prefix: ClientPrefix::default(),
        header_memory: HEADER_MEMORY,
        session: SessionLimits::default(),
        trusted_networks: Vec::new(),
        lockout: LockoutConfig::default(),
    }
}

async fn serve(house: &House, max_connections: usize) -> Running {
    serve_as(house, &config(max_connections)).await
}

pub(super) async fn serve_as(house: &House, config: &SmtpConfig) -> Running {
    let server = Server::bind(config).await.unwrap();
    let addresses = server.addresses();
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(server.serve(
        house.door.clone(),
        house.logins(LockoutConfig::default()),
        house.metrics.clone(),
        Vital::unwatched(),
        shutdown.clone(),
    ));
    Running { addresses, shutdown, served }
}

pub(super) async fn dial(address: SocketAddr) -> Client<TcpStream> {
    Client::new(TcpStream::connect(address).await.unwrap())
}

#[tokio::test]
async fn every_listener_serves() {
    let mut house = House::new();
    let running = serve(&house, 10).await;
    assert_ne!(running.addresses[0], running.addresses[1]);
    for address in &running.addresses {
        let mut client = dial(*address).await;
        client.hello().await;
        assert!(client.mail("content\r\n.\r\n").await.starts_with("250 2.0.0"));
        client.script(&[("QUIT", "221")]).await;
        assert_eq!(client.rest().await, "");
        house.next().await;
    }
}

/// Mail comes in as files, then.
#[tokio::test(start_paused = true)]
async fn a_server_without_listeners_ends_when_it_is_told_to() {
    let house = House::new();
    let server = Server::bind(&SmtpConfig { listeners: Vec::new(), ..config(10) }).await.unwrap();
    let shutdown = CancellationToken::new();
    let mut served = tokio::spawn(server.serve(
        house.door.clone(),
        house.logins(LockoutConfig::default()),
        house.metrics.clone(),
        Vital::unwatched(),
        shutdown.clone(),
    ));
    assert!(tokio::time::timeout(Duration::from_secs(3600), &mut served).await.is_err());
    shutdown.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = Server::bind(&config(10)).await.unwrap();
    let taken = server.addresses()[0];
    let config = SmtpConfig { listeners: vec![listener(taken)], ..config(10) };
    let error = Server::bind(&config).await.err().unwrap();
    assert_eq!(error.address, taken);
    assert!(error.to_string().starts_with(&format!("cannot listen on {taken}: ")));
}

#[tokio::test]
async fn connections_in_excess_are_told_so() {
    let house = House::new();
    let running = serve(&house, 2).await;
    let mut first = dial(running.addresses[0]).await;
    let mut second = dial(running.addresses[1]).await;
    first.hello().await;
    second.hello().await;
    assert_eq!(house.metric("smtp_connections"), 2.0);
    let mut third = dial(running.addresses[0]).await;
    assert!(third.rest().await.starts_with("421 4.3.2 "));
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"connections\"}"), 1.0);
    first.script(&[("QUIT", "221")]).await;
    assert_eq!(first.rest().await, "");
    drop(first);
    // The slot is free once the session has seen the connection end.
    loop {
        let mut again = dial(running.addresses[0]).await;
        if again.reply().await.starts_with("220 ") {
            break;
        }
    }
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_lets_messages_finish() {
    let mut house = House::new();
    let running = serve(&house, 10).await;
    let mut idle = dial(running.addresses[0]).await;
    let mut between = dial(running.addresses[1]).await;
    let mut sending = dial(running.addresses[0]).await;
    for client in [&mut idle, &mut between, &mut sending] {
        client.hello().await;
    }
    let envelope = [("MAIL FROM:<a@contoso.example>", "250"), ("RCPT TO:<b@example.net>", "250")];
    between.script(&envelope).await;
    sending.script(&envelope).await;
    sending.script(&[("DATA", "354")]).await;
    running.shutdown.cancel();
    for client in [&mut idle, &mut between] {
        assert_eq!(client.rest().await, "421 4.3.2 Shutting down, closing\r\n");
    }
    drop((idle, between));
    sending.send(format!("{HEADER}content\r\n.\r\n")).await;
    assert!(sending.reply().await.starts_with("250 2.0.0"));
    assert_eq!(sending.rest().await, "421 4.3.2 Shutting down, closing\r\n");
    drop(sending);
    running.served.await.unwrap();
    assert!(house.next().await.content.ends_with(b"content\r\n"));
    assert_eq!(house.metric("smtp_connections"), 0.0);
    assert!(TcpStream::connect(running.addresses[0]).await.is_err());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let house = House::new();
    let running = serve(&house, 10).await;
    let mut client = dial(running.addresses[0]).await;
    client.hello().await;
    client.begin_data().await;
    tokio::time::pause();
    let began = Instant::now();
    running.shutdown.cancel();
    running.served.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), Duration::from_secs(10).as_secs());
    assert_eq!(house.metric("smtp_connections"), 0.0);
    assert!(house.is_empty());
}

#[tokio::test]
async fn the_end_of_one_session_is_not_the_end_of_another() {
    let mut house = House::new();
    let running = serve(&house, 100).await;
    let mut steady = dial(running.addresses[0]).await;
    steady.hello().await;
    for _ in 0..20 {
        let mut client = dial(running.addresses[0]).await;
        client.hello().await;
        client.send("MAIL FROM:<a@contoso.example>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nhalf a mess").await;
        drop(client);
    }
    assert!(steady.mail("whole\r\n.\r\n").await.starts_with("250 2.0.0"));
    assert!(house.next().await.content.ends_with(b"whole\r\n"));
}
