use super::*;

fn raw(lab: &Lab) -> Vec<u8> {
    lab.service.messages().pop().expect("a message").raw.to_vec()
}

#[tokio::test]
async fn only_a_dot_between_line_ends_ends_a_message() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    let sent = "..\r\n...\r\n..x\r\n.x\r\na\n.\nb\r.\rc\r\n.\n.\r\r\nd\n.\r\n.\re\r\n";
    let meant = ".\r\n..\r\n.x\r\nx\r\na\n.\nb\r.\rc\r\n\n.\r\r\nd\n.\r\n\re\r\n";
    assert!(client.send(&format!("{MAIL}{sent}")).await.starts_with("250"));
    assert_eq!(String::from_utf8_lossy(&raw(&lab)), format!("{MAIL}{meant}"));
    assert!(lab.service.messages()[0].bare_lf);
    // In pieces of one octet each.
    client.dialogue(&[(FROM, "250"), (TO, "250"), ("DATA", "354")]).await;
    for octet in format!("{MAIL}{sent}.\r\n").as_bytes() {
        client.write([*octet]).await;
    }
    assert!(client.reply().await.starts_with("250"));
    assert_eq!(String::from_utf8_lossy(&raw(&lab)), format!("{MAIL}{meant}"));
}

#[tokio::test]
async fn all_at_once() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    client.write(format!("{FROM}\r\n{TO}\r\nRCPT TO:<bad>\r\nDATA\r\n")).await;
    for expected in ["250 2.1.0", "250 2.1.5", "501 5.1.3", "354"] {
        assert!(client.reply().await.starts_with(expected), "{expected}");
    }
    client
        .write(format!(
            "{MAIL}.\r\n{FROM}\r\n{TO}\r\nBDAT {}\r\n{MAIL}BDAT 3 LAST\r\nx\r\nQUIT\r\n",
            MAIL.len()
        ))
        .await;
    for expected in ["250 2.0.0", "250 2.1.0", "250 2.1.5", "250 2.6.0", "250 2.0.0", "221", ""] {
        assert!(client.reply().await.starts_with(expected), "{expected}");
    }
    let messages = lab.service.messages();
    assert_eq!((&*messages[0].raw, messages[0].bare_lf), (MAIL.as_bytes(), false));
    assert_eq!(*messages[1].raw, *format!("{MAIL}x\r\n").as_bytes());
    let chunking: Vec<bool> =
        messages.iter().map(|m| m.envelope.as_ref().is_some_and(|e| e.chunking)).collect();
    assert_eq!(chunking, [false, true]);
}

#[tokio::test]
async fn chunks_are_taken_as_they_are() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    let mut content = MAIL.as_bytes().to_vec();
    content.extend_from_slice(b"\r\n.\r\n..\r\n\0\xff\n\r");
    client.dialogue(&[(&format!("{FROM} BODY=BINARYMIME"), "250"), (TO, "250"), ("DATA", "503 5.5.1")]).await;
    let (first, rest) = content.split_at(MAIL.len() - 1);
    client.write(format!("BDAT {}\r\n", first.len())).await;
    client.write(first).await;
    assert!(client.reply().await.starts_with("250 2.6.0 CHUNK received OK"));
    client.dialogue(&[("DATA", "503 5.5.1"), ("RCPT TO:<late@example.net>", "503 5.5.1")]).await;
    client.write(format!("BDAT {}\r\n", rest.len())).await;
    client.write(rest).await;
    assert!(client.reply().await.starts_with("250 2.6.0"));
    client.dialogue(&[("bdat 0 last", "250 2.0.0 OK")]).await;
    assert_eq!(raw(&lab), content);
    let envelope = lab.service.messages()[0].envelope.clone().expect("an envelope");
    assert_eq!(
        (envelope.chunking, envelope.parameter("BODY"), envelope.eight_bit),
        (true, Some("BINARYMIME"), true)
    );
}

#[tokio::test]
async fn the_octets_of_a_refused_chunk_are_no_commands() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    let chunk = "BDAT 6 LAST\r\nQUIT";
    client
        .dialogue(&[
            (chunk, "503 5.5.2 Need mail command"),
            (FROM, "250"),
            (chunk, "503 5.5.2 Need rcpt command"),
        ])
        .await;
    client.dialogue(&[("NOOP", "250"), ("BDAT x", "501 5.5.4")]).await;
    assert_eq!(client.reply().await, "", "nobody knows how many octets follow");
    for wrong in ["BDAT", "BDAT -1", "BDAT 5 FIRST", "BDAT 5 LAST 1"] {
        lab.submitter(MAILBOX).await.dialogue(&[(wrong, "501 5.5.4")]).await;
    }
}

#[tokio::test]
async fn three_megabytes() {
    let lab = Lab::smtp().await;
    let mut client = lab.submitter(MAILBOX).await;
    let line = format!(".{}\r\n", "x".repeat(75));
    let content = format!("{MAIL}{}", line.repeat(3_000_000 / line.len()));
    assert!(client.send(&content.replace("\r\n.", "\r\n..")).await.starts_with("250"));
    assert!(raw(&lab) == content.as_bytes());
    client.dialogue(&[(FROM, "250"), (TO, "250")]).await;
    let halves = content.split_at(content.len() / 2);
    client
        .write(format!("BDAT {}\r\n{}BDAT {} LAST\r\n{}", halves.0.len(), halves.0, halves.1.len(), halves.1))
        .await;
    assert!(client.reply().await.starts_with("250 2.6.0"));
    assert!(client.reply().await.starts_with("250 2.0.0"));
    assert!(raw(&lab) == content.as_bytes());
    assert_eq!(lab.service.counts().message_bytes, 2 * content.len() as u64);
}

#[tokio::test]
async fn sizes_are_limited() {
    let mut options = smtp_options();
    options.limits.message_bytes = Some(300_000);
    let lab = Lab::start_smtp(options).await;
    let mut client = lab.submitter(MAILBOX).await;
    let long = |octets: usize| format!("{}\r\n", "x".repeat(70)).repeat(octets / 72);
    // The mailbox's limit is not known before the content.
    client.dialogue(&[(&format!("{FROM} SIZE=400000"), "250"), ("RSET", "250")]).await;
    assert!(client.send(&format!("{MAIL}{}", long(299_000))).await.starts_with("250"));
    assert_eq!(
        client.send(&format!("{MAIL}{}", long(400_000))).await,
        "552 5.3.4 Message size exceeds fixed maximum message size"
    );
    let header = format!("X-Long: {}", long(270_000).replace("\r\n", "\r\n "));
    let reply = client.send(&MAIL.replace("Subject:", &format!("{}\r\nSubject:", header.trim_end()))).await;
    assert_eq!(reply, "552 5.3.4 Header size exceeds fixed maximum size");
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn a_client_that_gives_up_does_not_stop_the_delivery() {
    let lab = Lab::smtp().await;
    for chunked in [false, true] {
        let delay = Action::Delay(Duration::from_millis(200));
        lab.service.inject(Fault::new(On::SmtpContent, delay).times(1));
        let mut client = lab.submitter(MAILBOX).await;
        client.dialogue(&[(FROM, "250"), (TO, "250")]).await;
        if chunked {
            client.write(format!("BDAT {} LAST\r\n{MAIL}", MAIL.len())).await;
        } else {
            client.dialogue(&[("DATA", "354")]).await;
            client.write(format!("{MAIL}.\r\n")).await;
        }
        drop(client);
    }
    assert_eq!(lab.service.wait_for(2, PATIENCE).await.len(), 2);
}

#[tokio::test]
async fn half_a_message_is_none() {
    let lab = Lab::smtp().await;
    for content in [
        format!("DATA\r\n{MAIL}"),
        format!("BDAT 5000 LAST\r\n{MAIL}"),
        format!("BDAT {}\r\n{MAIL}", MAIL.len()),
    ] {
        let mut client = lab.submitter(MAILBOX).await;
        client.write(format!("{FROM}\r\n{TO}\r\n{content}")).await;
        let number = lab.service.smtp_sessions().connections;
        drop(client);
        while !lab.heard(number).iter().any(|line| line.ends_with("(the connection ends)")) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(lab.delivered(), 0);
}
