//! What a well-behaved client sees, and one that makes mistakes.

use super::*;
use crate::ingress::testing::{House, MAX_MESSAGE};
use relay_mail::BodyKind;

#[tokio::test]
async fn a_message_is_accepted_and_kept_byte_for_byte() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let reply = client.mail("..dot\r\n\tcaf\u{e9}\0\r\n.\r\n").await;
    let found = house.next().await;
    assert_eq!(reply, format!("250 2.0.0 Ok: queued as {}\r\n", found.id));
    assert!(found.content.ends_with("\r\n\r\n.dot\r\n\tcaf\u{e9}\0\r\n".as_bytes()));
    assert_eq!(found.message.envelope.sender().unwrap().as_str(), "a@contoso.example");
    assert_eq!(found.message.tenant.as_str(), "contoso");
    assert_eq!(found.message.envelope.body(), BodyKind::SevenBit);
    client.script(&[("QUIT", "221 2.0.0")]).await;
    assert_eq!(client.rest().await, "");
    assert_eq!(house.metric("smtp_commands_total{code=\"250\",verb=\"data\"}"), 1.0);
    assert_eq!(house.metric("smtp_commands_total{code=\"354\",verb=\"data\"}"), 1.0);
}

#[tokio::test]
async fn ehlo_announces_what_works_and_nothing_else() {
    let house = House::new();
    let mut client = connect(&house);
    client.reply().await;
    assert_eq!(
        client.say("EHLO client.example").await,
        format!(
            "250-relay.example\r\n250-PIPELINING\r\n250-SIZE {MAX_MESSAGE}\r\n250-8BITMIME\r\n\
             250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n\
             250 LIMITS MAILMAX=10000 RCPTMAX={MAX_RECIPIENTS}\r\n"
        )
    );
    assert_eq!(client.say("HELO client.example").await, "250 relay.example\r\n");
}

#[tokio::test]
async fn small_talk() {
    let house = House::new();
    let mut client = connect(&house);
    client.reply().await;
    client
        .script(&[
            ("NOOP", "250 2.0.0"),
            ("noop hello", "250 2.0.0"),
            ("RSET", "250 2.0.0"),
            ("HELP", "214 2.0.0"),
            ("VRFY someone", "252 2.5.2"),
            ("QUIT", "221 2.0.0"),
        ])
        .await;
}

#[tokio::test]
async fn order_matters() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.reply().await;
    client
        .script(&[
            ("MAIL FROM:<a@contoso.example>", "503 5.5.1"),
            ("RCPT TO:<b@example.net>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("HELO client", "250 relay.example"),
            ("RCPT TO:<b@example.net>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("MAIL FROM:<a@contoso.example>", "250 2.1.0"),
            ("MAIL FROM:<a@contoso.example>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            // Nothing is lost by that.
            ("RCPT TO:<b@example.net>", "250 2.1.5"),
            ("RSET", "250 2.0.0"),
            ("DATA", "503 5.5.1"),
            ("MAIL FROM:<a@contoso.example>", "250 2.1.0"),
            ("RCPT TO:<b@example.net>", "250 2.1.5"),
            // As good as RSET.
            ("EHLO client", "250-relay.example"),
            ("RCPT TO:<b@example.net>", "503 5.5.1"),
        ])
        .await;
    assert!(client.mail(".\r\n").await.starts_with("250 2.0.0"));
    assert_eq!(house.next().await.message.envelope.recipients().len(), 1);
}

#[tokio::test]
async fn each_message_of_a_connection_is_its_own() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    for number in 0..10 {
        let sender = format!("s{number}@contoso.example");
        let recipient = format!("r{number}@example.net");
        client
            .script(&[
                (&format!("MAIL FROM:<{sender}> BODY=8BITMIME SIZE=100"), "250 2.1.0"),
                (&format!("RCPT TO:<{recipient}>"), "250 2.1.5"),
                ("DATA", "354 "),
            ])
            .await;
        client.send(format!("{HEADER}body {number}\r\n.\r\n")).await;
        let reply = client.reply().await;
        let found = house.next().await;
        assert!(reply.contains(&found.id), "{reply}");
        assert_eq!(found.message.envelope.sender().unwrap().as_str(), sender);
        assert_eq!(found.message.envelope.body(), BodyKind::EightBitMime);
        let recipients: Vec<_> = found.message.envelope.recipients().iter().map(|r| r.as_str()).collect();
        assert_eq!(recipients, [recipient]);
        assert!(found.content.ends_with(format!("body {number}\r\n").as_bytes()));
    }
    client.script(&[("DATA", "503 5.5.1"), ("QUIT", "221 2.0.0")]).await;
    assert!(house.is_empty());
}

#[tokio::test]
async fn a_batch_is_answered_in_one_write() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let mail = "MAIL FROM:<a@contoso.example>\r\n";
    let rcpt = "RCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\n";
    client.send(format!("{mail}{rcpt}RCPT TO:<nobody>\r\nDATA\r\n")).await;
    // A pipe gives what is in it, so one read sees the whole write.
    let replies = client.stream.fill_buf().await.unwrap();
    let codes: Vec<_> =
        replies.split_inclusive(|&o| o == b'\n').map(|line| line[..3].escape_ascii().to_string()).collect();
    assert_eq!(codes, ["250", "250", "250", "501", "354"]);
    let len = replies.len();
    client.stream.consume(len);
    // The content, followed by the next transaction.
    client.send(format!("{HEADER}one\r\n.\r\n{mail}{rcpt}DATA\r\n{HEADER}two\r\n.\r\nQUIT\r\n")).await;
    for expected in ["250 2.0.0", "250 2.1.0", "250 2.1.5", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"] {
        let reply = client.reply().await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    for text in ["one\r\n", "two\r\n"] {
        let found = house.next().await;
        assert!(found.content.ends_with(text.as_bytes()));
        assert_eq!(found.message.envelope.recipients().len(), 2);
    }
}

#[tokio::test]
async fn data_in_a_batch_without_recipients() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client
        .script(&[
            ("MAIL FROM:<a@contoso.example>", "250 2.1.0"),
            ("RCPT TO:<nobody>", "501 5.1.3"),
            ("DATA", "554 5.5.1"),
            ("RCPT TO:<b@example.net>", "250 2.1.5"),
            ("DATA", "354 "),
        ])
        .await;
}

#[tokio::test]
async fn mistakes_in_commands() {
    let house = House::new();
    for (line, expected) in [
        ("", "500 5.5.2"),
        ("EHLO", "501 5.5.4"),
        ("MAIL FROM:<nobody>", "501 5.1.7"),
        ("RCPT TO:<nobody>", "501 5.1.3"),
        ("RCPT TO:<postmaster>", "550 5.1.1"),
        ("MAIL FROM:<\u{e9}@contoso.example>", "553 5.6.7"),
        ("MAIL FROM:<a@contoso.example> SMTPUTF8=1", "555 5.5.4"),
        ("MAIL FROM:<a@contoso.example> BODY=BINARYMIME", "504 5.5.4"),
        ("STARTTLS", "502 5.5.1"),
        ("AUTH LOGIN", "502 5.5.1"),
        ("WHATEVER", "500 5.5.2"),
        ("DATA\0", "500 5.5.2"),
    ] {
        let mut client = connect(&house);
        client.hello().await;
        client.script(&[(line, expected), ("NOOP", "250 2.0.0")]).await;
    }
    assert_eq!(house.metric("smtp_commands_total{code=\"502\",verb=\"starttls\"}"), 1.0);
    assert_eq!(house.metric("smtp_commands_total{code=\"500\",verb=\"other\"}"), 3.0);
}

#[tokio::test]
async fn the_null_sender_needs_one_tenant() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.script(&[("MAIL FROM:<>", "550 5.7.1"), ("MAIL FROM:<a@contoso.example>", "250")]).await;
}

#[tokio::test]
async fn the_door_refuses_at_mail() {
    let house = House::with_max_queued(0);
    let stranger: IpAddr = "192.0.2.1".parse().unwrap();
    let (mut client, _) = connect_through(1024, stranger, service(&house));
    // Greeted, so that its administrator sees what is wrong.
    client.hello().await;
    client
        .script(&[("MAIL FROM:<a@contoso.example>", "550 5.7.1"), ("RCPT TO:<b@example.net>", "503")])
        .await;
    let mut client = connect(&house);
    client.hello().await;
    client
        .script(&[
            ("MAIL FROM:<a@elsewhere.example>", "550 5.7.1"),
            (&format!("MAIL FROM:<a@contoso.example> SIZE={}", MAX_MESSAGE + 1), "552 5.3.4"),
            ("MAIL FROM:<a@contoso.example>", "452 4.3.1"),
        ])
        .await;
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"no_tenant\"}"), 2.0);
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"too_large\"}"), 1.0);
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"tenant_full\"}"), 1.0);
}

#[tokio::test]
async fn too_many_recipients() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.script(&[("MAIL FROM:<a@contoso.example>", "250")]).await;
    for number in 0..MAX_RECIPIENTS {
        client.script(&[(&format!("RCPT TO:<r{number}@example.net>"), "250 2.1.5")]).await;
    }
    // Any number more: the client sends to these in another transaction.
    for _ in 0..30 {
        client.script(&[("RCPT TO:<more@example.net>", "452 4.5.3")]).await;
    }
    client.script(&[("DATA", "354")]).await;
    client.send(format!("{HEADER}.\r\n")).await;
    assert!(client.reply().await.starts_with("250 2.0.0"));
    assert_eq!(house.next().await.message.envelope.recipients().len(), MAX_RECIPIENTS);
}

#[tokio::test]
async fn a_refused_message_is_read_to_its_end() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let large = format!("{}.\r\n", "0123456789abcdef\r\n".repeat(MAX_MESSAGE as usize / 16));
    assert!(client.mail(&large).await.starts_with("552 5.3.4"));
    let foreign = format!("From: evil@elsewhere.example\r\n\r\n{}.\r\n", "x\r\n".repeat(1000));
    assert!(client.raw_mail(&foreign).await.starts_with("550 5.7.1"));
    assert!(client.mail("bare\nline feed\r\n.\r\n").await.starts_with("550 5.6.11"));
    assert!(client.mail("bare\rreturn\r\n.\r\n").await.starts_with("550 5.6.11"));
    assert!(client.mail("good\r\n.\r\n").await.starts_with("250 2.0.0"));
    assert!(house.next().await.content.ends_with(b"good\r\n"));
    assert!(house.is_empty());
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"malformed\"}"), 2.0);
}

#[tokio::test]
async fn a_spool_that_cannot_write_is_a_temporary_failure() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    house.store.break_down(relay_spool::Fault::Lost);
    assert!(client.mail("content\r\n.\r\n").await.starts_with("451 4.3.0"));
    client.script(&[("MAIL FROM:<a@contoso.example>", "451 4.3.0")]).await;
}
