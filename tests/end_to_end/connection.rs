//! Many messages on one connection, and many commands in one write.

use crate::harness::{Lab, Mail, message};

#[test]
fn ten_messages_on_one_connection_are_ten_deliveries() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    let sent: Vec<_> = (0..10)
        .map(|n| {
            let content = message("a@contoso.example", "b@example.net", &format!("message {n}"));
            smtp.send("a@contoso.example", &["b@example.net"], &content);
            content
        })
        .collect();
    smtp.quit();

    let delivered = lab.wait_for(10);
    lab.wait_until_empty();
    for content in &sent {
        let copies = delivered.iter().filter(|message| message.as_sent() == content).count();
        assert_eq!(copies, 1, "{}", String::from_utf8_lossy(content));
    }
    assert_eq!(lab.metric("m365_relay_received_total", &[("tenant", "contoso"), ("ingress", "smtp")]), 10.0);
    assert_eq!(lab.metric("m365_relay_deliveries_total", &[("outcome", "delivered")]), 10.0);
    assert_eq!(lab.metric("m365_relay_time_in_queue_seconds_count", &[("tenant", "contoso")]), 10.0);
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    let replies = |smtp: &mut crate::harness::Smtp, count| -> Vec<u16> {
        (0..count).map(|_| smtp.reply().code).collect()
    };
    smtp.write(
        b"MAIL FROM:<a@contoso.example>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n",
    );
    assert_eq!(replies(&mut smtp, 4), [250, 250, 250, 354]);
    // The end of one message and the whole envelope of the next.
    let first = message("a@contoso.example", "b@example.net, c@example.net", "first");
    let mut batch = crate::harness::with_end(&first);
    batch.extend_from_slice(
        b"MAIL FROM:<a@contoso.example>\r\nRCPT TO:<no address>\r\nRCPT TO:<d@example.net>\r\nDATA\r\n",
    );
    smtp.write(&batch);
    assert_eq!(replies(&mut smtp, 5), [250, 250, 501, 250, 354]);
    let second = message("a@contoso.example", "d@example.net", "second");
    let mut batch = crate::harness::with_end(&second);
    // All recipients are refused: nothing that follows may be taken for content.
    batch.extend_from_slice(
        b"MAIL FROM:<a@contoso.example>\r\nRCPT TO:<no address>\r\nDATA\r\nRSET\r\nQUIT\r\n",
    );
    smtp.write(&batch);
    assert_eq!(replies(&mut smtp, 6), [250, 250, 501, 554, 250, 221]);

    let mut delivered = lab.wait_for(2);
    delivered.sort_by_key(|message| message.subject.clone());
    assert_eq!(delivered[0].as_sent(), first);
    assert_eq!(delivered[0].recipients, ["b@example.net", "c@example.net"]);
    assert_eq!(delivered[1].as_sent(), second);
    assert_eq!(delivered[1].recipients, ["d@example.net"]);
}

#[test]
fn only_the_real_end_ends_a_message() {
    let lab = Lab::start();
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r\r\n"] {
        let mut smtp = lab.smtp();
        smtp.begin("a@contoso.example", &["b@example.net"]);
        let hidden = format!(
            "From: a@contoso.example\r\n\r\nx{end}MAIL FROM:<evil@contoso.example>\r\nRCPT TO:<c@example.net>"
        );
        let reply = smtp.data(format!("{hidden}\r\nDATA\r\nFrom: evil@contoso.example\r\n").as_bytes());
        assert!(reply.code == 550 && reply.text.starts_with("5.6.11 "), "{end:?}: {reply:?}");
        assert_eq!(smtp.command("NOOP").code, 250);
        smtp.quit();
    }
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 0);
}

#[test]
fn a_message_in_chunks_arrives_as_it_was_sent() {
    let lab = Lab::start();
    let mut content = message("a@contoso.example", "b@example.net", "chunks");
    content.extend_from_slice(b".one\r\n.\r\n..three\r\n");
    let mut smtp = lab.smtp();
    smtp.begin("a@contoso.example", &["b@example.net"]);
    let mut octets = Vec::new();
    for chunk in content.chunks(7) {
        octets.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        octets.extend_from_slice(chunk);
    }
    octets.extend_from_slice(b"BDAT 0 LAST\r\n");
    smtp.write(&octets);
    for _ in 0..=content.chunks(7).count() {
        assert_eq!(smtp.reply().code, 250);
    }
    smtp.quit();
    assert_eq!(lab.wait_for(1)[0].as_sent(), content);
}

#[test]
fn an_address_beyond_ascii_is_delivered_to() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command("MAIL FROM:<a@contoso.example> SMTPUTF8 BODY=8BITMIME").code, 250);
    assert_eq!(smtp.rcpt("j\u{f6}rn@b\u{fc}cher.example").code, 250);
    let content = "From: a@contoso.example\r\nTo: J\u{f6}rn <j\u{f6}rn@b\u{fc}cher.example>\r\nSubject: gr\u{fc}n\r\n\r\nx\r\n";
    assert_eq!(smtp.data(content.as_bytes()).code, 250);
    assert_eq!(lab.wait_for(1)[0].recipients, ["j\u{f6}rn@b\u{fc}cher.example"]);
}
