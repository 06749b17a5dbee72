//! What a client sends is what arrives, octet for octet, below one Received field.

use crate::harness::{Lab, Mail, base64_mail, fields, message};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Sends it and compares.
fn passes_unchanged(content: &[u8]) {
    let lab = Lab::start();
    lab.send(FROM, &[TO], content);

    let delivered = lab.wait_for(1);
    // Not assert_eq!, which would print megabytes.
    let same = delivered[0].as_sent() == content;
    assert!(same, "{} octets sent, {} octets arrived", content.len(), delivered[0].as_sent().len());
    assert_eq!(delivered[0].recipients, [TO]);
    assert_eq!(delivered[0].mailbox, FROM);
    lab.wait_until_empty();
}

#[test]
fn dots_eight_bit_and_long_lines_arrive_as_they_were_sent() {
    let mut content = message(FROM, TO, "plain");
    content.extend_from_slice(b".\r\n..\r\n...\r\n.a dot\r\n..a two\r\n. \r\n\r\n.\r\n");
    content.extend_from_slice("Grüße aus Österreich, 日本 ✓\r\n".as_bytes());
    content.extend_from_slice(b"latin-1: \xe4\xf6\xfc \xff\x80, controls: \x01\x0b\x0c\x7f, tab:\t.\r\n");
    content.extend_from_slice(b"   blanks at both ends   \r\n\r\n\r\n");
    // Longer than SMTP allows, and a dot where a buffer may end.
    for length in [998, 1024, 4096, 32 * 1024] {
        content.extend(std::iter::repeat_n(b'x', length));
        content.extend_from_slice(b"\r\n.");
    }
    content.extend_from_slice(b"\r\n");
    passes_unchanged(&content);
}

#[test]
fn an_odd_header_arrives_as_it_was_sent() {
    let header = "From: =?utf-8?q?J=C3=BCrgen?= <a@contoso.example>\r\nTo:b@example.net\r\nSUBJECT:\t räksmörgås \r\n\
                  X-Empty:\r\nX-Folded: one\r\n\t two\r\n   three\r\nX-Same: 1\r\nX-Same: 2\r\nDate: yesterday\r\n\
                  Message-Id: <no way>\r\n\r\n";
    passes_unchanged(header.as_bytes());
}

#[test]
fn the_largest_header_that_is_accepted_is_delivered() {
    // Received, Message-ID and Date are added to it.
    let mut header = format!("From: {FROM}\r\nTo: {TO}\r\nSubject: large header\r\n");
    while header.len() < 256 * 1024 {
        // A remainder too small for a field is added to one of them.
        let left = 256 * 1024 - header.len();
        let length = if left < 200 { left } else { 100 };
        header.push_str(&format!("X-F: {}\r\n", "y".repeat(length - 7)));
    }
    assert_eq!(header.len(), 256 * 1024);
    let lab = Lab::start();
    lab.send(FROM, &[TO], format!("{header}\r\nHello.\r\n").as_bytes());
    let delivered = lab.wait_for(1);
    assert_eq!(delivered[0].fields("Message-ID").len(), 1);
    lab.wait_until_empty();

    let mut smtp = lab.smtp();
    smtp.begin(FROM, &[TO]);
    assert_eq!(smtp.command("DATA").code, 354);
    smtp.write(&crate::harness::with_end(format!("X: {header}\r\nHello.\r\n").as_bytes()));
    assert_eq!(smtp.reply().code, 552);
}

#[test]
fn a_message_of_300_kilobytes_arrives_as_it_was_sent() {
    passes_unchanged(&base64_mail(FROM, TO, "large", 300_000 / 4 * 3));
}

#[test]
fn a_message_of_2_megabytes_arrives_as_it_was_sent() {
    passes_unchanged(&base64_mail(FROM, TO, "very large", 2_000_000 / 4 * 3));
}

#[test]
fn what_a_simple_sender_leaves_out_is_added() {
    let lab = Lab::start();
    let id = lab.smtp().send(FROM, &[TO], b"From: a@contoso.example\r\nTo: b@example.net\r\n\r\nHello.\r\n");

    let delivered = lab.wait_for(1);
    let [message_id] = &delivered[0].fields("Message-ID")[..] else { panic!("{}", delivered[0].text()) };
    assert_eq!(*message_id, format!("<{id}@relay.example>"));
    assert_eq!(delivered[0].fields("Date").len(), 1);
    assert_eq!(fields(delivered[0].as_sent(), "Received"), [""; 0]);
    assert!(delivered[0].text().ends_with("\r\n\r\nHello.\r\n"));
}
