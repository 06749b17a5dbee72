//! Mail is delivered to all of the envelope's recipients, and to nobody else.

use std::sync::Arc;

use relay_sandbox::Delivered;

use crate::harness::{Lab, Mail};

const FROM: &str = "a@contoso.example";

/// Sends a message with these header lines, and returns what arrives.
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

/// Header, envelope. Exactly the envelope's recipients get the message.
const TABLE: [(&str, &[&str]); 16] = [
    // Ordinary headers.
    ("To: b@example.net\r\nCc: c@example.net\r\n", &["b@example.net", "c@example.net"]),
    // Display names with commas, comments, encoded words.
    (
        "To: \"Bee, B.\" <b@example.net>, =?utf-8?q?C=C3=A9?= <c@example.net>\r\nCc: d@example.net (Dee (the \"D\"))\r\n",
        &["b@example.net", "c@example.net", "d@example.net"],
    ),
    // Groups.
    (
        "To: Friends: b@example.net, C <c@example.net>;, d@example.net\r\n",
        &["b@example.net", "c@example.net", "d@example.net"],
    ),
    ("To: undisclosed-recipients:;\r\n", &["b@example.net", "c@example.net"]),
    // Folded, in upper case, twice.
    (
        "TO:\r\n Bee\r\n\t<B@EXAMPLE.NET>,\r\n b@example.net\r\ncc: Bee <b@example.net>\r\n",
        &["b@example.net"],
    ),
    // International domains in either form.
    ("To: b@m\u{fc}nchen.example\r\n", &["b@xn--mnchen-3ya.example"]),
    ("To: b@xn--mnchen-3ya.example\r\n", &["b@xn--mnchen-3ya.example"]),
    // Quoted local parts, needed and not.
    (
        "To: \"two words\"@example.net, \"plain\"@example.net\r\n",
        &["\"two words\"@example.net", "plain@example.net"],
    ),
    // No recipient in the header, or none of the envelope's.
    ("Subject: none\r\n", &["b@example.net"]),
    ("To: other@example.net\r\n", &["b@example.net"]),
    // Redirected (RFC 5322 section 3.6.6), and through a mailing list.
    (
        "Resent-To: b@example.net\r\nResent-From: a@contoso.example\r\nTo: first@example.net\r\n",
        &["b@example.net"],
    ),
    (
        "To: list@lists.example\r\nList-Id: <list.lists.example>\r\nSender: list-bounces@lists.example\r\n",
        &["b@example.net", "c@example.net", "d@example.net"],
    ),
    // Bcc: for those in the envelope, and visible to nobody.
    ("To: b@example.net\r\nBcc: secret@example.net\r\n", &["b@example.net", "c@example.net"]),
    // Separated by semicolons; text that is not an address.
    ("To: b@example.net; c@example.net\r\n", &["b@example.net", "c@example.net"]),
    ("To: not an address, b@example.net\r\n", &["b@example.net"]),
    // Several fields.
    ("To: b@example.net\r\nTo: c@example.net, d@example.net\r\n", &["b@example.net", "c@example.net"]),
];

fn addresses(list: &[impl AsRef<str>]) -> Vec<relay_mail::MailboxAddress> {
    let mut addresses: Vec<relay_mail::MailboxAddress> =
        list.iter().map(|text| text.as_ref().parse().unwrap()).collect();
    addresses.sort_by_key(|address| address.as_str().to_lowercase());
    addresses
}

/// By `sendMail`, by a draft of MIME, and by a draft taken apart.
#[test]
fn on_every_path_the_envelope_decides() {
    for (confirm, filler) in [("off", 0), ("draft", 0), ("off", 2_400_000)] {
        let lab = Lab::with(|setup| {
            setup.tenant("contoso").confirm = confirm.into();
            setup.tenant("contoso").senders = "['@contoso.example', 'list-bounces@lists.example']".into();
        });
        let filler = format!("{}\r\n", "x".repeat(76)).repeat(filler / 78);
        for (n, (header, envelope)) in TABLE.iter().enumerate() {
            let mail = format!(
                "From: a@contoso.example\r\n{header}Date: Tue, 24 Nov 2026 09:00:00 +0100\r\nMessage-ID: <{n}@x.se>\r\n\
                 MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHello.\r\n--b\r\n\
                 Content-Type: text/csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\n{filler}--b--\r\n"
            );
            lab.send(FROM, envelope, mail.as_bytes());
            let delivered = lab.wait_for(n + 1).remove(n);
            assert_eq!(addresses(&delivered.recipients), addresses(envelope), "{confirm} {header:?}");
            // The service decides what recipients see of Bcc in MIME; a draft has none in its text.
            let is_apart = !filler.is_empty();
            assert!(!is_apart || delivered.fields("Bcc").is_empty(), "{header:?}");
            assert!(!delivered.text().contains("secret@example.net"), "{header:?}");
        }
        lab.wait_until_empty();
        assert_eq!(lab.service.drafts(), 0);
    }
}

#[test]
fn a_tenant_may_refuse_what_names_others() {
    let lab = Lab::with(|setup| setup.tenant("contoso").more = "envelope_mismatch = 'refuse'".into());
    let mail = |to: &str| crate::harness::message(FROM, to, "mismatch");
    let mut smtp = lab.smtp();
    smtp.send(FROM, &["b@example.net", "hidden@example.net"], &mail("b@example.net"));
    smtp.begin(FROM, &["b@example.net"]);
    let reply = smtp.data(&mail("b@example.net, other@example.net"));
    assert_eq!(reply.code, 550);
    assert!(reply.text.contains("envelope_mismatch"), "{reply:?}");
    lab.wait_for(1);
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "mismatch")]), 1.0);
}

#[test]
fn an_alias_goes_out_of_its_mailbox() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more =
            "[tenants.contoso.mailboxes]\n'sales@contoso.example' = 'team@contoso.example'".into();
    });
    // The mailbox may not use it: the sender is told which permission is missing.
    lab.send(
        "sales@contoso.example",
        &["b@example.net"],
        &crate::harness::message("sales@contoso.example", "b@example.net", "alias"),
    );
    let bounce = lab.wait_for(1).remove(0);
    assert!(bounce.text().contains("Send As"), "{}", bounce.text());
    assert!(bounce.text().contains("team@contoso.example"), "{}", bounce.text());
}
