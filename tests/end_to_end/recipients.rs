//! Delivery goes to the envelope's recipients, to all of them, and to nobody else.

use std::sync::Arc;

use m365_relay::sandbox::Delivered;

use crate::harness::{Lab, Mail};

const FROM: &str = "a@contoso.example";

/// Sends a message with these lines of header, and answers what arrives.
fn delivered(header: &str, recipients: &[&str]) -> Arc<Delivered> {
    let lab = Lab::start();
    let rest = "Date: Tue, 24 Nov 2026 09:00:00 +0100\r\nMessage-ID: <x@client.example>\r\n";
    lab.send(FROM, recipients, format!("{header}{rest}\r\nHello.\r\n").as_bytes());
    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    let reached: Vec<String> = delivered.recipients.iter().map(|address| address.to_lowercase()).collect();
    assert_eq!(sorted(&reached), sorted(recipients));
    assert!(delivered.text().contains(rest) && delivered.text().ends_with("\r\n\r\nHello.\r\n"));
    delivered
}

fn sorted<T: AsRef<str>>(list: &[T]) -> Vec<String> {
    let mut sorted: Vec<String> = list.iter().map(|text| text.as_ref().to_owned()).collect();
    sorted.sort();
    sorted
}

#[test]
fn a_recipient_that_no_header_names_gets_it_as_bcc() {
    let message = delivered(
        "From: a@contoso.example\r\nTo: b@example.net\r\n",
        &["b@example.net", "hidden@example.net", "hidden2@example.net"],
    );
    assert_eq!(message.fields("To"), ["b@example.net"]);
    assert_eq!(message.fields("Bcc"), ["<hidden@example.net>, <hidden2@example.net>"]);
    assert_eq!(message.fields("X-Original-To"), [""; 0]);
}

#[test]
fn a_message_without_any_recipient_in_its_header_arrives() {
    let message = delivered("From: a@contoso.example\r\n", &["b@example.net"]);
    assert_eq!(message.fields("Bcc"), ["<b@example.net>"]);
}

#[test]
fn a_header_recipient_outside_the_envelope_gets_nothing() {
    let message = delivered(
        "From: a@contoso.example\r\nTo: \"Bee\" <b@example.net>, Not There <not@example.net>\r\n\
         Cc: neither@example.net\r\n",
        &["b@example.net"],
    );
    assert_eq!(message.fields("To"), ["\"Bee\" <b@example.net>"]);
    assert_eq!(message.fields("X-Original-To"), ["\"Bee\" <b@example.net>, Not There <not@example.net>"]);
    assert_eq!(message.fields("Cc"), [""; 0]);
    assert_eq!(message.fields("X-Original-Cc"), ["neither@example.net"]);
    assert_eq!(message.fields("Bcc"), [""; 0]);
}

#[test]
fn a_bcc_of_the_client_goes_to_the_envelope_only() {
    let message = delivered(
        "From: a@contoso.example\r\nBcc: c@example.net, secret@example.net\r\nTo: b@example.net\r\n",
        &["b@example.net", "c@example.net"],
    );
    assert_eq!(message.fields("Bcc"), ["<c@example.net>"]);
    assert!(!message.text().contains("secret@example.net"), "{}", message.text());
}

#[test]
fn a_recipient_with_a_name_in_other_case_or_twice_is_not_repeated() {
    let message = delivered(
        "From: a@contoso.example\r\nTo: \"Bee, B.\" <B@Example.NET>, b@example.net\r\nCc: c@example.net, Bee <b@EXAMPLE.net>\r\n",
        &["b@example.net", "c@example.net"],
    );
    assert_eq!(message.fields("To"), ["\"Bee, B.\" <B@Example.NET>, b@example.net"]);
    assert_eq!(message.fields("Cc"), ["c@example.net, Bee <b@EXAMPLE.net>"]);
    assert_eq!(message.fields("Bcc"), [""; 0]);
}

#[test]
fn a_folded_from_and_a_folded_to_are_read() {
    let header = "From: \"A. Long\r\n Name\"\r\n\t<a@contoso.example>\r\nTo: Bee\r\n <b@example.net>,\r\n\tc@example.net\r\n";
    let message = delivered(header, &["b@example.net", "c@example.net"]);
    assert_eq!(message.mailbox, FROM);
    assert!(String::from_utf8_lossy(message.as_sent()).starts_with(header), "{}", message.text());
    assert_eq!(message.fields("Bcc"), [""; 0]);
}

#[test]
fn a_hundred_hidden_recipients_all_get_it() {
    let hidden: Vec<String> = (0..100).map(|n| format!("hidden{n}@example.net")).collect();
    let recipients: Vec<&str> = hidden.iter().map(String::as_str).collect();
    let message = delivered("From: a@contoso.example\r\nTo: list@example.net\r\n", &recipients);
    assert!(message.raw.split(|&octet| octet == b'\n').all(|line| line.len() < 999));
}
