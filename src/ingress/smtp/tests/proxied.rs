//! Clients behind a proxy, and connections by address, over real sockets.

use std::{net::SocketAddr, num::NonZeroUsize};

use tokio::net::TcpStream;

use super::{
    lifetime::{Running, config, dial, serve_as},
    *,
};

/// The first listener takes PROXY headers from loopback, the second takes none.
async fn serve(house: &House, per_address: usize) -> Running {
    let mut config = config(10);
    config.listeners[0].proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.max_connections_per_address = NonZeroUsize::new(per_address);
    serve_as(house, &config).await
}

async fn dial_for(address: SocketAddr, client: &str) -> Client<TcpStream> {
    let mut connection = dial(address).await;
    connection.send(format!("PROXY TCP4 {client} 10.0.0.1 4711 25\r\n")).await;
    connection
}

const ALLOWED: &str = "127.0.0.9";
const REFUSED: &str = "10.9.9.9";

#[tokio::test]
async fn the_client_is_who_the_header_names() {
    let mut house = House::new();
    let running = serve(&house, 0).await;
    // A client may have spoken already.
    let mut client = dial(running.addresses[0]).await;
    client.send(format!("PROXY TCP4 {ALLOWED} 10.0.0.1 4711 25\r\nEHLO early.example\r\n")).await;
    assert!(client.reply().await.starts_with("220 "));
    assert!(client.reply().await.starts_with("250-"));
    assert!(client.mail("content\r\n.\r\n").await.starts_with("250 "));
    let content = String::from_utf8(house.next().await.content).unwrap();
    assert!(content.starts_with("Received: from early.example ([127.0.0.9])\r\n"), "{content}");

    let mut client = dial_for(running.addresses[0], REFUSED).await;
    client.hello().await;
    let reply = client.say("MAIL FROM:<a@contoso.example>").await;
    assert_eq!(reply, "550 5.7.1 Client 10.9.9.9 is in no tenant's networks\r\n");

    let mut unknown = dial(running.addresses[0]).await;
    unknown.send("PROXY UNKNOWN\r\n").await;
    unknown.hello().await;
    unknown.script(&[("MAIL FROM:<a@contoso.example>", "250")]).await;
}

#[tokio::test]
async fn a_header_from_nobody_is_no_header() {
    let house = House::new();
    let running = serve(&house, 0).await;
    let mut client = dial_for(running.addresses[1], REFUSED).await;
    assert!(client.reply().await.starts_with("220 "));
    assert!(client.reply().await.starts_with("500 5.5.2"));
    client.script(&[("EHLO x", "250-"), ("MAIL FROM:<a@contoso.example>", "250")]).await;
}

#[tokio::test]
async fn a_bad_header_ends_the_connection_without_a_word() {
    let house = House::new();
    let running = serve(&house, 0).await;
    for bad in ["EHLO client.example\r\n", "PROXY TCP4 1 2 3 4\r\n", "\r\n\r\n\0\r\nQUIT\n\x23\x11\0\0"] {
        let mut client = dial(running.addresses[0]).await;
        client.send(bad).await;
        // A reset, where octets were left unread.
        let mut said = Vec::new();
        let _ = client.stream.read_to_end(&mut said).await;
        assert_eq!(said, b"", "{bad:?}");
    }
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"proxy_header\"}"), 3.0);
}

#[tokio::test]
async fn a_slow_header_ends_the_connection() {
    let house = House::new();
    let running = serve(&house, 0).await;
    // The five seconds begin with the connection, and the clock is paused some time after that.
    let began = tokio::time::Instant::now();
    let mut client = dial(running.addresses[0]).await;
    client.send("PROXY TCP4 ").await;
    while house.metric("smtp_connections") < 1.0 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    assert_eq!(client.rest().await, "");
    assert!((5..60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(house.metric("smtp_connections"), 0.0);
}

#[tokio::test]
async fn connections_are_counted_by_the_address_of_the_client() {
    let house = House::new();
    let running = serve(&house, 2).await;
    let [proxied, direct] = running.addresses[..] else { panic!("two listeners") };
    const TOO_MANY: &str = "421 4.7.0 Too many connections from your address, try again later\r\n";
    let mut open = Vec::new();
    for client in [ALLOWED, ALLOWED, REFUSED, REFUSED] {
        let mut connection = dial_for(proxied, client).await;
        connection.hello().await;
        open.push(connection);
    }
    assert_eq!(dial_for(proxied, ALLOWED).await.rest().await, TOO_MANY);
    // The proxy's own connections have no limit of their own, and do not count as those of its address
    // without a proxy.
    for _ in 0..3 {
        let mut connection = dial(proxied).await;
        connection.send("PROXY UNKNOWN\r\n").await;
        connection.hello().await;
        open.push(connection);
    }
    for _ in 0..2 {
        let mut connection = dial(direct).await;
        connection.hello().await;
        open.push(connection);
    }
    assert_eq!(dial(direct).await.rest().await, TOO_MANY);
    let series = "refused_total{ingress=\"smtp\",reason=\"connections_per_address\"}";
    assert_eq!(house.metric(series), 2.0);
    drop(open.remove(0));
    loop {
        let mut again = dial_for(proxied, ALLOWED).await;
        if again.reply().await.starts_with("220 ") {
            break;
        }
    }
}

#[tokio::test]
async fn who_sends_no_header_counts_against_all_connections() {
    let house = House::new();
    let running = serve(&house, 1).await;
    let mut silent = Vec::new();
    // All but the last one, of ten.
    for _ in 0..9 {
        silent.push(dial(running.addresses[0]).await);
    }
    while house.metric("smtp_connections") < 9.0 {
        tokio::task::yield_now().await;
    }
    assert!(dial(running.addresses[0]).await.rest().await.starts_with("421 4.7.0 "));
}
