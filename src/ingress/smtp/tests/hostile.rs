//! Clients that are broken, or mean.

use super::*;
use crate::ingress::testing::House;

const DIALOGUE: &str = "EHLO client\r\nMAIL FROM:<a@contoso.example>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n\
                        From: a@contoso.example\r\n\r\n..body\r\n.\r\nQUIT\r\n";

#[tokio::test]
async fn one_octet_at_a_time() {
    let mut house = House::new();
    // A pipe of one octet: every read and every write of the server is cut, too.
    let (client, session) = connect_through(1, LOOPBACK, service(&house));
    let (mut replies, mut sender) = tokio::io::split(client.stream.into_inner());
    let send = tokio::spawn(async move { sender.write_all(DIALOGUE.as_bytes()).await.unwrap() });
    let mut heard = String::new();
    replies.read_to_string(&mut heard).await.unwrap();
    send.await.unwrap();
    assert!(heard.ends_with("221 2.0.0 Bye\r\n"), "{heard}");
    assert!(house.next().await.content.ends_with(b".body\r\n"));
    drop(replies);
    session.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_at_any_octet_leaves_nothing() {
    let mut house = House::new();
    let service = service(&house);
    let accepted_from = DIALOGUE.find(".\r\nQUIT").unwrap() + 3;
    for cut in 0..=DIALOGUE.len() {
        // A client that hangs up, and one that only stops sending and reads what comes.
        for listens in [false, true] {
            let (mut client, session) = connect_through(4096, LOOPBACK, service.clone());
            client.send(&DIALOGUE[..cut]).await;
            if listens {
                client.stream.shutdown().await.unwrap();
                client.rest().await;
            }
            drop(client);
            // It ends, with an error or without; it does not panic and does not wait.
            let _ = session.await.unwrap();
            if listens && cut >= accepted_from {
                house.next().await;
            }
            assert!(house.is_empty(), "accepted at octet {cut}");
        }
    }
}

#[tokio::test]
async fn a_line_of_10_megabytes() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.send("RCPT TO:<").await;
    for _ in 0..10_000 {
        client.send([b'x'; 1000]).await;
    }
    client.send("\r\nNOOP\r\n").await;
    assert_eq!(client.reply().await, "500 5.5.2 Line too long\r\n");
    assert!(client.reply().await.starts_with("250 2.0.0"));
    // The longest line that is read, and one octet more.
    let noop = |len: usize| format!("NOOP {}", "x".repeat(len - 7));
    client.script(&[(&noop(2048), "250 2.0.0"), (&noop(2049), "500 5.5.2"), ("NOOP", "250")]).await;
}

#[tokio::test]
async fn content_with_a_line_of_many_octets() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let line = "x".repeat(150_000);
    assert!(client.mail(format!("{line}\r\n.\r\n")).await.starts_with("250 2.0.0"));
    assert!(house.next().await.content.ends_with(format!("{line}\r\n").as_bytes()));
}

#[tokio::test]
async fn smuggled_transactions_stay_content() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r\n.\r\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\r.\r",
    ] {
        let content = format!(
            "outer{end}MAIL FROM:<x@contoso.example>\r\nRCPT TO:<y@example.net>\r\nDATA\r\ninner\r\n.\r\n"
        );
        let reply = client.mail(content).await;
        assert!(
            reply.starts_with("550 5.6.11") || reply.starts_with("250 2.0.0 Ok: queued"),
            "{end:?}: {reply}"
        );
        // One reply to all of it: nothing of it was a command.
        client.script(&[("NOOP", "250 2.0.0")]).await;
    }
}

#[tokio::test]
async fn a_chunk_is_no_command() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let chunk = "MAIL FROM:<a@contoso.example>\r\nRCPT TO:<b@example.net>\r\n".repeat(200);
    client.send(format!("BDAT {} LAST\r\n{chunk}RCPT TO:<b@example.net>\r\n", chunk.len())).await;
    assert!(client.reply().await.starts_with("503 5.5.1"));
    assert!(client.reply().await.starts_with("503 5.5.1"));
}

#[tokio::test]
async fn a_browser_is_hung_up_on() {
    let house = House::new();
    let mut client = connect(&house);
    client.reply().await;
    client.send("POST / HTTP/1.1\r\nHost: relay\r\n\r\nHELO x\r\nMAIL FROM:<a@contoso.example>\r\n").await;
    assert!(client.reply().await.starts_with("421 4.7.0"));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn twenty_errors_are_enough() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    for _ in 0..19 {
        client.script(&[("NONSENSE", "500 5.5.2")]).await;
    }
    // A client that gets a message through has its nineteen back.
    assert!(client.mail("content\r\n.\r\n").await.starts_with("250 2.0.0"));
    for _ in 0..19 {
        client.script(&[("\u{fffd}\0\u{80}", "500 5.5.2")]).await;
    }
    client.script(&[("RCPT TO:<x>", "501 5.1.3")]).await;
    assert_eq!(client.reply().await, "421 4.7.0 Too many errors, closing\r\n");
    assert_eq!(client.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_hung_up_on() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let began = tokio::time::Instant::now();
    // Octets that do not complete a line do not count as talking.
    client.send("NOO").await;
    assert_eq!(client.reply().await, "421 4.4.2 Timeout, closing\r\n");
    assert_eq!(began.elapsed().as_secs(), 300);
    assert_eq!(client.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_in_its_message_is_hung_up_on() {
    let house = House::new();
    let (mut client, session) = connect_through(4096, LOOPBACK, service(&house));
    client.hello().await;
    client.begin_data().await;
    client.send("Subject: never to be fini").await;
    let began = tokio::time::Instant::now();
    assert_eq!(client.reply().await, "421 4.4.2 Timeout, closing\r\n");
    assert_eq!(began.elapsed().as_secs(), 180);
    session.await.unwrap().unwrap();
    assert!(house.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_hung_up_on() {
    let house = House::new();
    let (mut client, session) = connect_through(1024, LOOPBACK, service(&house));
    let began = tokio::time::Instant::now();
    let nothing_is_read = async { while client.stream.write_all(b"NOOP\r\n").await.is_ok() {} };
    let (_, ended) = tokio::join!(nothing_is_read, session);
    assert_eq!(ended.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 60);
}

/// How often one client can say the same, a minute apart, before it is hung up on.
async fn minutes_until_hung_up_on(octets: &[u8], begin: &[(&str, &str)]) -> usize {
    let house = House::new();
    let (mut client, session) = connect_through(64 * 1024, LOOPBACK, service(&house));
    client.hello().await;
    client.script(begin).await;
    let (mut replies, mut sender) = tokio::io::split(client.stream.into_inner());
    let listen = tokio::spawn(async move {
        let mut heard = String::new();
        replies.read_to_string(&mut heard).await.unwrap();
        heard
    });
    let mut times = 0;
    while sender.write_all(octets).await.is_ok() {
        times += 1;
        assert!(times < 1000, "it would go on for ever");
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
    }
    session.await.unwrap().unwrap();
    let heard = listen.await.unwrap();
    assert!(heard.ends_with("421 4.7.0 Session time limit reached, closing\r\n"), "{heard}");
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"session_timeout\"}"), 1.0);
    assert!(house.is_empty());
    times
}

#[tokio::test(start_paused = true)]
async fn a_message_without_end_has_an_hour() {
    const DATA: [(&str, &str); 3] =
        [("MAIL FROM:<a@contoso.example>", "250"), ("RCPT TO:<b@example.net>", "250"), ("DATA", "354")];
    let line = [&[b'x'; 70_000][..], b"\r\n"].concat();
    assert!((60..64).contains(&minutes_until_hung_up_on(&line, &DATA).await));
    // In chunks of nothing.
    assert!((60..64).contains(&minutes_until_hung_up_on(b"BDAT 0\r\n", &DATA[..2]).await));
}

#[tokio::test]
async fn recipients_without_end_are_enough() {
    let house = House::new();
    let limits = SessionLimits { max_commands: 1000, ..SessionLimits::default() };
    let mut client = connect_limited(&house, limits);
    client.hello().await;
    client.say("MAIL FROM:<a@contoso.example>").await;
    for _ in 0..MAX_RECIPIENTS {
        client.script(&[("RCPT TO:<b@example.net>", "250 2.1.5")]).await;
    }
    // With EHLO and MAIL, there are more than a thousand.
    for _ in 0..999 {
        client.script(&[("RCPT TO:<b@example.net>", "452 4.5.3")]).await;
    }
    assert_eq!(client.reply().await, "421 4.7.0 Too many commands without a message, closing\r\n");
}
