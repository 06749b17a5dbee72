//! STARTTLS, TLS from the start, and certificates that change.

use std::{fs, io, path::Path};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio::sync::watch;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    lifetime::{config, serve_as},
    *,
};
use crate::{
    config::{Certificate, ListenerTls, SmtpConfig},
    ingress::smtp::{
        connection::converse,
        tls::{self, Current, Offer},
    },
};

/// A new pair at the same place.
fn make_certificate(folder: &Path) -> (Certificate, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let files = Certificate { chain: folder.join("relay.pem"), key: folder.join("relay.key") };
    fs::write(&files.chain, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

struct Secured {
    current: Current,
    root: CertificateDer<'static>,
    _sender: watch::Sender<Arc<ServerConfig>>,
}

fn secured() -> Secured {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = make_certificate(folder.path());
    let (sender, current) = watch::channel(tls::server_config(&files.read().unwrap()).unwrap());
    Secured { current, root, _sender: sender }
}

fn talk(
    house: &House,
    secured: &Secured,
    tls: fn(Current) -> Offer,
) -> (Client<DuplexStream>, JoinHandle<io::Result<()>>) {
    let (near, far) = duplex(64 * 1024);
    let talk = converse(far, LOOPBACK.into(), None, tls(secured.current.clone()), service(house));
    (Client::new(near), tokio::spawn(talk))
}

/// The handshake, from the client's side.
async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    client: Client<S>,
    root: &CertificateDer<'static>,
) -> io::Result<Client<TlsStream<S>>> {
    assert!(client.stream.buffer().is_empty());
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("relay.example").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, client.stream.into_inner()).await?;
    Ok(Client::new(stream))
}

async fn start_tls(
    mut client: Client<DuplexStream>,
    root: &CertificateDer<'static>,
) -> Client<TlsStream<DuplexStream>> {
    client.script(&[("STARTTLS", "220 2.0.0 ")]).await;
    shake(client, root).await.unwrap()
}

/// A record of the largest size, which begins a hello of the largest size that TLS allows.
fn endless_hello() -> Vec<u8> {
    let mut octets = Vec::new();
    for n in 0..8 {
        octets.extend_from_slice(&[0x16, 3, 1, 0x40, 0]);
        // A ClientHello of 65535 octets.
        octets.extend_from_slice(if n == 0 { &[1, 0, 0xff, 0xff] } else { &[0; 4] });
        octets.extend_from_slice(&[0; (1 << 14) - 4]);
    }
    octets
}

#[tokio::test]
async fn a_hello_without_end_is_not_kept() {
    let house = House::new();
    let secured = secured();
    let (mut client, session) = talk(&house, &secured, Offer::Implicit);
    let _ = client.stream.write_all(&endless_hello()).await;
    session.await.unwrap().unwrap();
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"tls_handshake\"}"), 1.0);
}

/// A handshake that waits for its client keeps no turn: there are fewer turns than such handshakes.
#[tokio::test]
async fn handshakes_that_wait_hold_nobody_up() {
    let house = House::new();
    let secured = secured();
    let service = service(&house);
    let mut waiting = Vec::new();
    for n in 0..200 {
        let (near, far) = duplex(64 * 1024);
        let tls = Offer::Implicit(secured.current.clone());
        tokio::spawn(converse(far, LOOPBACK.into(), None, tls, service.clone()));
        let mut client = Client::new(near);
        // Some say nothing, some begin a hello.
        client.send(&endless_hello()[..n % 100]).await;
        waiting.push(client);
    }
    tokio::task::yield_now().await;
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(converse(far, LOOPBACK.into(), None, Offer::Implicit(secured.current.clone()), service));
    let mut client = shake(Client::new(near), &secured.root).await.unwrap();
    client.hello().await;
    assert!(client.mail("over TLS\r\n.\r\n").await.starts_with("250 "));
}

#[tokio::test(start_paused = true)]
async fn starttls_gives_no_more_time() {
    let house = House::new();
    let secured = secured();
    let (mut client, _session) = talk(&house, &secured, Offer::StartTls);
    client.hello().await;
    for _ in 0..13 {
        tokio::time::advance(Duration::from_secs(250)).await;
        client.script(&[("NOOP", "250")]).await;
    }
    let mut client = start_tls(client, &secured.root).await;
    tokio::time::advance(Duration::from_secs(250)).await;
    client.script(&[("NOOP", "250")]).await;
    tokio::time::advance(Duration::from_secs(101)).await;
    assert_eq!(client.reply().await, "421 4.7.0 Session time limit reached, closing\r\n");
}

#[tokio::test]
async fn starttls_is_offered_in_clear_and_mail_goes_over_tls() {
    let mut house = House::new();
    let secured = secured();
    let (mut client, session) = talk(&house, &secured, Offer::StartTls);
    client.reply().await;
    assert!(client.say("EHLO client.example").await.contains("STARTTLS\r\n"));
    assert!(client.mail("in clear\r\n.\r\n").await.starts_with("250 "));
    let received = String::from_utf8(house.next().await.content).unwrap();
    assert!(received.contains(" with ESMTP id ") && !received.contains("TLS"), "{received}");

    let mut client = start_tls(client, &secured.root).await;
    assert!(!client.say("EHLO client.example").await.contains("STARTTLS"));
    client.script(&[("STARTTLS", "503 5.5.1")]).await;
    assert!(client.mail("over TLS\r\n.\r\n").await.starts_with("250 "));
    client.script(&[("QUIT", "221")]).await;
    assert_eq!(client.rest().await, "");
    drop(client);
    session.await.unwrap().unwrap();
    let received = String::from_utf8(house.next().await.content).unwrap();
    assert!(received.contains("\r\n\t(using TLSv1.3 with cipher TLS_"), "{received}");
    assert!(received.contains(" with ESMTPS id "), "{received}");
}

#[tokio::test]
async fn nothing_is_remembered_over_starttls() {
    let house = House::new();
    let secured = secured();
    let (mut client, _session) = talk(&house, &secured, Offer::StartTls);
    client.hello().await;
    client.script(&[("MAIL FROM:<a@contoso.example>", "250"), ("RCPT TO:<b@example.net>", "250")]).await;
    let mut client = start_tls(client, &secured.root).await;
    client
        .script(&[
            ("DATA", "503 5.5.1 MAIL first"),
            ("RCPT TO:<b@example.net>", "503 5.5.1 MAIL first"),
            ("EHLO client.example", "250-"),
            ("RCPT TO:<b@example.net>", "503 5.5.1 MAIL first"),
        ])
        .await;
}

/// A device that does not say EHLO again is served all the same.
#[tokio::test]
async fn mail_comes_without_a_second_ehlo() {
    let mut house = House::new();
    let secured = secured();
    let (mut client, _session) = talk(&house, &secured, Offer::StartTls);
    client.hello().await;
    let mut client = start_tls(client, &secured.root).await;
    assert!(client.mail("Subject: s\r\nFrom: a@contoso.example\r\n\r\nx\r\n.\r\n").await.starts_with("250 "));
    let received = String::from_utf8(house.next().await.content).unwrap();
    assert!(received.contains("from unknown (") && received.contains(" with ESMTPS id "), "{received}");
}

#[tokio::test]
async fn what_is_sent_behind_starttls_is_no_command() {
    let house = House::new();
    let secured = secured();
    for behind in [
        "EHLO evil.example\r\nMAIL FROM:<a@contoso.example>\r\nRCPT TO:<evil@example.net>\r\n",
        "QUIT\r\n",
        "half a line",
        "\n",
    ] {
        let (mut client, session) = talk(&house, &secured, Offer::StartTls);
        client.hello().await;
        client.send(format!("STARTTLS\r\n{behind}")).await;
        assert!(client.reply().await.starts_with("501 5.5.4 "));
        assert_eq!(client.rest().await, "", "{behind}");
        drop(client);
        session.await.unwrap().unwrap();
    }
    // What comes a moment later is not a handshake.
    let (mut client, session) = talk(&house, &secured, Offer::StartTls);
    client.hello().await;
    client.script(&[("STARTTLS", "220 ")]).await;
    client.send("MAIL FROM:<a@contoso.example>\r\n").await;
    let mut alert = Vec::new();
    client.stream.read_to_end(&mut alert).await.unwrap();
    assert!(!alert.starts_with(b"250") && !alert.starts_with(b"5"), "{alert:?}");
    session.await.unwrap().unwrap();
    assert_eq!(house.metric("smtp_commands_total{code=\"250\",verb=\"mail\"}"), 0.0);
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"tls_handshake\"}"), 1.0);
    assert!(house.is_empty());
}

#[tokio::test]
async fn starttls_in_the_wrong_place_or_form() {
    let house = House::new();
    let secured = secured();
    let (mut client, _session) = talk(&house, &secured, Offer::StartTls);
    client.hello().await;
    client.script(&[("STARTTLS now", "501 5.5.4"), ("NOOP", "250")]).await;
    let (mut client, _session) = talk(&house, &secured, |_| Offer::Nothing);
    client.reply().await;
    assert!(!client.say("EHLO client.example").await.contains("STARTTLS"));
    client.script(&[("STARTTLS", "502 5.5.1"), ("NOOP", "250")]).await;
}

#[tokio::test]
async fn implicit_tls_speaks_first_when_it_is_safe() {
    let mut house = House::new();
    let secured = secured();
    let (client, _session) = talk(&house, &secured, Offer::Implicit);
    let mut client = shake(client, &secured.root).await.unwrap();
    client.hello().await;
    client.script(&[("STARTTLS", "503 5.5.1")]).await;
    assert!(client.mail("over TLS\r\n.\r\n").await.starts_with("250 "));
    let received = String::from_utf8(house.next().await.content).unwrap();
    assert!(received.contains(" with ESMTPS id "), "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_come_ends_the_connection() {
    let house = House::new();
    let secured = secured();
    let (mut client, session) = talk(&house, &secured, Offer::Implicit);
    let began = tokio::time::Instant::now();
    client.send("\x16\x03").await;
    session.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 60);
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"tls_handshake\"}"), 1.0);
}

fn implicit(files: &Certificate) -> SmtpConfig {
    let mut config = config(10);
    config.listeners[0].tls = ListenerTls::Implicit(files.clone());
    config.listeners[1].tls = ListenerTls::StartTls(files.clone());
    config
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
    let house = House::new();
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = make_certificate(folder.path());
    let running = serve_as(&house, &implicit(&files)).await;
    let _silent = lifetime::dial(running.addresses[0]).await;
    let mut talking = shake(lifetime::dial(running.addresses[0]).await, &root).await.unwrap();
    talking.hello().await;
    while house.metric("smtp_connections") < 2.0 {
        tokio::task::yield_now().await;
    }
    running.shutdown.cancel();
    assert!(talking.rest().await.ends_with("421 4.3.2 Shutting down, closing\r\n"));
    drop(talking);
    running.ended().await;
    assert_eq!(house.metric("smtp_connections"), 0.0);
}

#[tokio::test]
async fn a_changed_certificate_is_for_new_connections() {
    let house = House::new();
    let folder = tempfile::tempdir().unwrap();
    let (files, old) = make_certificate(folder.path());
    let running = serve_as(&house, &implicit(&files)).await;
    let dial = async |root: &CertificateDer<'static>| {
        shake(lifetime::dial(running.addresses[0]).await, root).await.is_ok()
    };
    let mut open = shake(lifetime::dial(running.addresses[0]).await, &old).await.unwrap();
    open.hello().await;
    let expiry = format!("certificate_expiry_timestamp_seconds{{listener=\"{}\"}}", running.addresses[1]);
    assert_eq!(house.metric(&expiry), 67_090_118_400.0);

    let (_, new) = make_certificate(folder.path());
    while !dial(&new).await {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!dial(&old).await);
    open.script(&[("NOOP", "250")]).await;
}
