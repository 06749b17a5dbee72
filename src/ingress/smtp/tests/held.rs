//! The memory of envelopes and headers, and of handshakes.

use std::net::Ipv4Addr;

use super::*;

fn client_of(service: &Arc<Service>, n: u8) -> Client<DuplexStream> {
    connect_through(64 * 1024, IpAddr::from(Ipv4Addr::new(127, 0, 0, n)), service.clone()).0
}

/// This many octets of a header, in whole lines.
fn header(octets: usize) -> String {
    let line = format!("X-Long: {}\r\n", "x".repeat(90));
    format!("From: a@contoso.example\r\n{}", line.repeat(octets / line.len()))
}

fn held(house: &House) -> f64 {
    house.metric("smtp_header_bytes")
}

#[tokio::test]
async fn unfinished_headers_are_bounded_over_all_connections() {
    let mut house = House::new();
    let service = remembering(&house, SessionLimits::default(), ByteSize::mib(1));
    let mut hogs = Vec::new();
    for _ in 0..10 {
        let mut hog = client_of(&service, 1);
        hog.hello().await;
        hog.begin_data().await;
        hog.send(header(120_000)).await;
        hogs.push(hog);
    }
    // Half as much as is free: a third.
    while held(&house) < 100_000.0 {
        tokio::task::yield_now().await;
    }
    // Another client goes on. Of the first client's transactions, those that want more than its share do not.
    let mut other = client_of(&service, 2);
    other.hello().await;
    assert!(other.mail("content\r\n.\r\n").await.starts_with("250 2.0.0"));
    house.next().await;
    let mut refused = 0;
    for hog in &mut hogs {
        hog.send("\r\n.\r\n").await;
        let reply = hog.reply().await;
        assert!(held(&house) < f64::from(1 << 20) / 3.0);
        match &reply[..9] {
            "452 4.3.1" => refused += 1,
            other => assert_eq!(other, "250 2.0.0"),
        }
    }
    assert!((7..10).contains(&refused), "{refused}");
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"header_memory\"}"), f64::from(refused));
    // What was refused then is taken now.
    assert!(hogs[9].raw_mail(header(120_000) + "\r\n.\r\n").await.starts_with("250 2.0.0"));
    drop(hogs);
    assert_eq!(held(&house), 0.0);
}

#[tokio::test]
async fn envelopes_count_and_a_recipient_in_excess_is_for_another_time() {
    let house = House::new();
    let service = Arc::new(Service {
        max_recipients: 100_000,
        ..Arc::into_inner(remembering(&house, SessionLimits::default(), ByteSize::mib(1))).unwrap()
    });
    let mut client = client_of(&service, 1);
    client.hello().await;
    client.script(&[("MAIL FROM:<a@contoso.example>", "250")]).await;
    let mut taken = 0;
    let reply = loop {
        let reply = client.say(&format!("RCPT TO:<{}{taken}@example.net>", "b".repeat(50))).await;
        if !reply.starts_with("250") {
            break reply;
        }
        taken += 1;
    };
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    assert!((500..3000).contains(&taken), "{taken}");
    // Those that were taken get the message.
    client.script(&[("DATA", "354")]).await;
    client.send("From: a@contoso.example\r\n\r\n.\r\n").await;
    assert!(client.reply().await.starts_with("250 2.0.0"));
    assert_eq!(held(&house), 0.0);
    // What a transaction held is given back, however it ends.
    for end in ["RSET", "EHLO x", "QUIT"] {
        client.script(&[("MAIL FROM:<a@contoso.example>", "250"), ("RCPT TO:<b@example.net>", "250")]).await;
        assert!(held(&house) > 0.0);
        client.say(end).await;
        while held(&house) > 0.0 {
            tokio::task::yield_now().await;
        }
    }
}
