//! What is corrected in a message, and what is refused.

use super::*;
use crate::{
    config::{BareNewlines, WhileSuspended},
    ingress::testing::{Changed, House},
};

async fn stored(house: &mut House, sender: &str, content: &str) -> Result<String, String> {
    let mut client = connect(house);
    client.hello().await;
    client
        .script(&[
            (&format!("MAIL FROM:<{sender}>"), "250"),
            ("RCPT TO:<b@example.net>", "250"),
            ("DATA", "354"),
        ])
        .await;
    client.send(format!("{content}.\r\n")).await;
    let reply = client.reply().await;
    if reply.starts_with("250") {
        Ok(String::from_utf8(house.next().await.content).unwrap())
    } else {
        Err(reply)
    }
}

/// One tenant that has a default sender.
fn with_default_sender() -> House {
    House::changed(Changed { default_sender: Some("scanner@contoso.example"), ..Changed::default() })
}

#[tokio::test]
async fn a_missing_from_is_the_envelope_sender() {
    let mut house = with_default_sender();
    for header in ["Subject: scan\r\n", "Subject: scan\r\nFrom:\r\n", "Subject: scan\r\nFrom: <>\r\n"] {
        let found = stored(&mut house, "a@contoso.example", &format!("{header}\r\nx\r\n")).await.unwrap();
        assert!(
            found.contains("\r\nSubject: scan\r\n") && found.contains("\r\nFrom: <a@contoso.example>\r\n"),
            "{found}"
        );
        assert_eq!(found.matches("From:").count(), 1, "{found}");
    }
}

#[tokio::test]
async fn a_missing_from_under_a_null_sender_is_the_default_sender() {
    let mut house = with_default_sender();
    let found = stored(&mut house, "", "Subject: scan\r\n\r\nx\r\n").await.unwrap();
    assert!(found.contains("\r\nFrom: <scanner@contoso.example>\r\n"), "{found}");
    let mut house = House::changed(Changed::default());
    let refused = stored(&mut house, "", "Subject: scan\r\n\r\nx\r\n").await.unwrap_err();
    assert!(
        refused.starts_with("550 5.6.0 Cannot determine the author of the message: the header has no From"),
        "{refused}"
    );
}

#[tokio::test]
async fn nothing_but_what_has_to_be_is_touched() {
    let mut house = House::new();
    let kept = "Date: Mon, 23 Nov 2026 09:00:00 +0100\r\nX-Odd :  two  blanks \r\nFrom: \"A\" <a@contoso.example>\r\n\
                To: undisclosed-recipients:;\r\nMessage-ID: <x@y>\r\nSubject: =?x?=\r\n\tfolded\r\n";
    let content = format!(
        "Return-Path: <r@contoso.example>\r\nBcc: hidden@example.net\r\n{kept}\r\n.. \t\r\nBcc: text\r\n"
    );
    let found = stored(&mut house, "a@contoso.example", &content).await.unwrap();
    let (trace, rest) = found.split_at(found.find("Date:").unwrap());
    assert!(
        trace.starts_with("Received: from client.example ([127.0.0.1])\r\n")
            && trace.matches("\r\n").count() == 3
    );
    assert_eq!(rest, format!("{kept}\r\n. \t\r\nBcc: text\r\n"));
}

#[tokio::test]
async fn a_message_that_goes_in_circles_is_refused() {
    let mut house = House::new();
    let content = |hops| format!("{}{HEADER}x\r\n", "Received: from x by y; z\r\n".repeat(hops));
    stored(&mut house, "a@contoso.example", &content(50)).await.unwrap();
    let refused = stored(&mut house, "a@contoso.example", &content(51)).await.unwrap_err();
    assert!(refused.starts_with("554 5.4.6"), "{refused}");
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"loop\"}"), 1.0);
}

#[tokio::test]
async fn bare_newlines_can_be_mended_and_end_nothing() {
    let mut house = House::new();
    let limits = SessionLimits { bare_newlines: BareNewlines::Fix, ..SessionLimits::default() };
    let mut client = connect_limited(&house, limits);
    client.hello().await;
    let inner = "MAIL FROM:<x@contoso.example>\r\nRCPT TO:<y@example.net>\r\nDATA\r\n";
    for (end, mended) in [
        ("\n.\n", "\r\n.\r\n"),
        ("\n.\r\n", "\r\n.\r\n"),
        ("\r.\r\n", "\r\n.\r\n"),
        ("\r\n.\n", "\r\n\r\n"),
        ("\r\n.\r\r\n", "\r\n\r\n"),
        ("\r.\r", "\r\n.\r\n"),
    ] {
        let reply = client.mail(format!("outer{end}{inner}.\r\n")).await;
        assert!(reply.starts_with("250 2.0.0 Ok: queued"), "{end:?}: {reply}");
        client.script(&[("NOOP", "250 2.0.0 Ok\r\n")]).await;
        let found = String::from_utf8(house.next().await.content).unwrap();
        assert!(found.ends_with(&format!("\r\n\r\nouter{mended}{inner}")), "{end:?}: {found}");
        assert!(house.is_empty());
    }
}

#[tokio::test]
async fn a_suspended_tenant_takes_mail_unless_told_otherwise() {
    let suspended = |how| House::changed(Changed { suspended: Some(how), ..Changed::default() });
    let mut house = suspended(WhileSuspended::Accept);
    stored(&mut house, "a@contoso.example", &format!("{HEADER}x\r\n")).await.unwrap();
    let house = suspended(WhileSuspended::Refuse);
    let mut client = connect(&house);
    client.hello().await;
    client.script(&[("MAIL FROM:<a@contoso.example>", "450 4.7.1")]).await;
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"suspended\"}"), 1.0);
}

#[tokio::test]
async fn commands_without_a_message_run_out() {
    let house = House::new();
    let mut client = connect_limited(&house, SessionLimits { max_commands: 20, ..SessionLimits::default() });
    client.hello().await;
    client.script(&[("NOOP", "250"); 15]).await;
    // MAIL counts; RCPT and the message itself do not, and the count starts again.
    assert!(client.mail("x\r\n.\r\n").await.starts_with("250 2.0.0"));
    client.script(&[("NOOP", "250"); 20]).await;
    assert_eq!(client.reply().await, "421 4.7.0 Too many commands without a message, closing\r\n");
    assert_eq!(client.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_connection_runs_out() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    for _ in 0..14 {
        tokio::time::advance(std::time::Duration::from_secs(250)).await;
        client.script(&[("NOOP", "250")]).await;
    }
    tokio::time::advance(std::time::Duration::from_secs(250)).await;
    client.script(&[("NOOP", "250")]).await;
    assert_eq!(client.reply().await, "421 4.7.0 Session time limit reached, closing\r\n");
    assert_eq!(client.rest().await, "");
}

/// Whatever a client sends a bit at a time, and after what: it has the hour of its connection and no more.
async fn trickles_until_hung_up_on(begin: &[(&str, &str)], pieces: &[&str]) {
    let house = House::new();
    let mut client = connect(&house);
    // Some of the hour is over by then.
    tokio::time::advance(Duration::from_secs(250)).await;
    client.hello().await;
    client.script(begin).await;
    let began = tokio::time::Instant::now();
    for piece in pieces.iter().cycle() {
        if client.stream.write_all(piece.as_bytes()).await.is_err() || began.elapsed().as_secs() > 4000 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    let heard = client.rest().await;
    let last = heard.lines().next_back();
    assert_eq!(last, Some("421 4.7.0 Session time limit reached, closing"), "{begin:?}");
    assert!((3300..3500).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"session_timeout\"}"), 1.0);
    assert!(house.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_trickles_has_the_time_of_its_connection() {
    const MAIL: (&str, &str) = ("MAIL FROM:<a@contoso.example>", "250");
    const RCPT: (&str, &str) = ("RCPT TO:<b@example.net>", "250");
    let data = [MAIL, RCPT, ("DATA", "354")];
    for (begin, pieces) in [
        (&[][..], &["NO", "OP\r\n"][..]),
        (&data[..1], &["NO", "OP\r\n"]),
        (&data[..2], &["RCPT TO:<b@", "example.net>\r\n"]),
        (&data[..3], &["x"]),
        (&data[..2], &["BDAT 1\r\n", "x"]),
        (&data[..2], &["BDAT 0\r\n"]),
    ] {
        trickles_until_hung_up_on(begin, pieces).await;
    }
    // Inside one large chunk.
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.script(&data[..2]).await;
    client.send("BDAT 100000\r\n").await;
    let began = tokio::time::Instant::now();
    while began.elapsed().as_secs() < 4000 && client.stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    assert_eq!(client.rest().await, "421 4.7.0 Session time limit reached, closing\r\n");
    assert!(house.is_empty());
}
