//! CHUNKING, DSN, SMTPUTF8 and LIMITS: what EHLO announces works.

use super::*;
use crate::ingress::testing::{House, MAX_MESSAGE};
use relay_mail::{Notify, Return};

const ENVELOPE: [(&str, &str); 2] =
    [("MAIL FROM:<a@contoso.example>", "250 2.1.0"), ("RCPT TO:<b@example.net>", "250 2.1.5")];

#[tokio::test]
async fn a_message_in_chunks() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.script(&ENVELOPE).await;
    let first = format!("{HEADER}.one\r\n.\r");
    let second = "\n..two\r\n";
    client.send(format!("BDAT {}\r\n{first}", first.len())).await;
    assert_eq!(client.reply().await, format!("250 2.0.0 {} octets received\r\n", first.len()));
    // An empty chunk, and the rest in one write with what follows.
    client.send(format!("bdat 0\r\nBDAT {}\r\n{second}BDAT 0 last\r\nNOOP\r\n", second.len())).await;
    assert!(client.reply().await.starts_with("250 2.0.0 0 octets"));
    assert!(client.reply().await.starts_with("250 2.0.0 8 octets"));
    let reply = client.reply().await;
    assert!(client.reply().await.starts_with("250 2.0.0 Ok\r\n"));
    let found = house.next().await;
    assert_eq!(reply, format!("250 2.0.0 Ok: queued as {}\r\n", found.id));
    // No dot is stuffing, and no dot ends the message.
    assert!(found.content.ends_with(b"\r\n\r\n.one\r\n.\r\n..two\r\n"));
}

#[tokio::test]
async fn chunks_and_the_other_commands() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.script(&ENVELOPE).await;
    client.send("BDAT 5\r\nFrom:").await;
    client.reply().await;
    client
        .script(&[
            ("DATA", "503 5.5.1"),
            ("MAIL FROM:<a@contoso.example>", "503 5.5.1"),
            ("RCPT TO:<c@example.net>", "503 5.5.1"),
            ("NOOP", "250 2.0.0"),
        ])
        .await;
    let rest = " a@contoso.example\r\n\r\nx\r\n";
    client.send(format!("BDAT {} LAST\r\n{rest}", rest.len())).await;
    assert!(client.reply().await.starts_with("250 2.0.0 Ok: queued"));
    assert!(house.next().await.content.ends_with(b"\r\nx\r\n"));

    // RSET and EHLO forget what was begun.
    for forget in ["RSET", "EHLO again"] {
        client.script(&ENVELOPE).await;
        client.send("BDAT 5\r\nFrom:").await;
        client.reply().await;
        client.script(&[(forget, "250"), ("DATA", "503 5.5.1")]).await;
        client.send(format!("BDAT {} LAST\r\n{rest}", rest.len())).await;
        assert!(client.reply().await.starts_with("503 5.5.1"));
    }
    assert!(house.is_empty());
}

#[tokio::test]
async fn a_chunk_that_is_refused_ends_the_message() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    for (content, expected) in [
        (format!("{HEADER}bare\nnewline\r\n"), "550 5.6.11"),
        ("From: evil@elsewhere.example\r\n\r\n".to_owned(), "550 5.7.1"),
        (format!("{HEADER}{}", "x".repeat(MAX_MESSAGE as usize)), "552 5.3.4"),
    ] {
        client.script(&ENVELOPE).await;
        // All in one write, as clients with PIPELINING do.
        let len = content.len();
        client.send(format!("BDAT {len}\r\n{content}BDAT 3\r\nx\r\nBDAT 0 LAST\r\n")).await;
        for expected in [expected, "503 5.5.1", "503 5.5.1"] {
            let reply = client.reply().await;
            assert!(reply.starts_with(expected), "{reply}");
        }
    }
    // A CR at the end waits for its LF, which does not come.
    client.script(&ENVELOPE).await;
    client.send(format!("BDAT {} LAST\r\n{HEADER}x\r", HEADER.len() + 2)).await;
    assert!(client.reply().await.starts_with("550 5.6.11"));
    assert!(client.mail("good\r\n.\r\n").await.starts_with("250 2.0.0"));
    assert!(house.next().await.content.ends_with(b"good\r\n"));
    assert!(house.is_empty());
}

#[tokio::test]
async fn a_chunk_without_a_size_ends_the_connection() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.script(&ENVELOPE).await;
    client.send("BDAT many LAST\r\nMAIL FROM:<a@contoso.example>\r\n").await;
    assert!(client.reply().await.starts_with("501 5.5.4"));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn what_a_client_wants_to_be_told_is_kept() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client
        .script(&[
            ("MAIL FROM:<a@contoso.example> RET=HDRS ENVID=QQ+2B1", "250 2.1.0"),
            ("RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B+2Bb@example.org", "250 2.1.5"),
            ("RCPT TO:<c@example.net> NOTIFY=NEVER", "250 2.1.5"),
            ("RCPT TO:<d@example.net> NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("RCPT TO:<d@example.net>", "250 2.1.5"),
            ("DATA", "354"),
        ])
        .await;
    client.send(format!("{HEADER}.\r\n")).await;
    client.reply().await;
    let envelope = house.next().await.message.envelope.clone();
    assert_eq!(envelope.ret(), Some(Return::Headers));
    assert_eq!(envelope.envid().unwrap().decoded(), "QQ+1");
    let wishes: Vec<_> = envelope.wishes().collect();
    assert_eq!(wishes[0].1.notify, Some(Notify::On { success: true, failure: false, delay: true }));
    assert_eq!(wishes[0].1.original.as_ref().unwrap().address(), "B+b@example.org");
    assert_eq!(wishes[1].1.notify, Some(Notify::Never));
    assert_eq!((wishes[2].0.as_str(), wishes[2].1.notify), ("d@example.net", None));
}

#[tokio::test]
async fn addresses_beyond_ascii() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client
        .script(&[
            ("MAIL FROM:<j\u{f6}rn@contoso.example>", "553 5.6.7"),
            ("MAIL FROM:<a@contoso.example>", "250 2.1.0"),
            ("RCPT TO:<\u{e9}@example.net>", "553 5.6.7"),
            ("RSET", "250"),
            ("MAIL FROM:<j\u{f6}rn@contoso.example> SMTPUTF8 BODY=8BITMIME", "250 2.1.0"),
            ("RCPT TO:<\u{e9}@b\u{fc}cher.example>", "250 2.1.5"),
            ("DATA", "354"),
        ])
        .await;
    client.send("From: j\u{f6}rn@contoso.example\r\nSubject: gr\u{fc}n\r\n\r\n.\r\n").await;
    assert!(client.reply().await.starts_with("250 2.0.0"));
    let found = house.next().await;
    assert!(found.message.envelope.utf8());
    assert_eq!(found.message.envelope.recipients()[0].as_str(), "\u{e9}@b\u{fc}cher.example");
    assert_eq!(found.message.author.as_str(), "j\u{f6}rn@contoso.example");
    // Octets that are not UTF-8 are not an address.
    client.send(b"MAIL FROM:<\xe9@contoso.example> SMTPUTF8\r\n").await;
    assert!(client.reply().await.starts_with("553 5.6.7"));
}

#[tokio::test]
async fn so_many_messages_on_one_connection() {
    let mut house = House::new();
    let mut client = connect_limited(&house, SessionLimits { max_messages: 2, ..SessionLimits::default() });
    client.reply().await;
    assert!(client.say("EHLO client").await.contains("250 LIMITS MAILMAX=2 RCPTMAX=25\r\n"));
    for _ in 0..2 {
        assert!(client.mail("x\r\n.\r\n").await.starts_with("250 2.0.0"));
        house.next().await;
    }
    client.script(&[("MAIL FROM:<a@contoso.example>", "452 4.5.3"), ("RSET", "421 4.5.3")]).await;
    assert_eq!(client.rest().await, "");
}
