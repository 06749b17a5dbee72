use mail_parser::{Message, MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::*;
use relay_mail::{BodyKind, HeaderBlock, HeaderScanner, MailboxAddress, MessageId, Timestamp};

fn header(text: &str) -> HeaderBlock {
    HeaderScanner::split_message(text.as_bytes()).unwrap().header
}

fn address(text: &str) -> MailboxAddress {
    text.parse().unwrap()
}

fn status(text: &str) -> EnhancedStatus {
    text.parse().unwrap()
}

fn id() -> MessageId {
    MessageId::first_at(Timestamp::from_millis(1_784_793_901_000))
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_784_797_501_123)
}

const ORIGINAL: &str = "From: A <a@x.se>\r\nSubject: =?utf-8?Q?Rechnung_f=C3=BCr?=\r\n Juli\r\nMessage-ID: <1@x.se>\r\n\
                        Bcc: hidden@y.se\r\n";

fn a_report(kind: Kind) -> Vec<u8> {
    let from = address("scanner@x.se");
    let to = address("a@x.se");
    let bee = address("b@y.se");
    let unicode = address("j\u{f6}rn@y.se");
    let outcome = |address, code, service, diagnostic, remote| RecipientReport {
        address,
        original: None,
        status: status(code),
        service,
        diagnostic,
        remote,
    };
    report(&Notification {
        kind,
        reporting_mta: "relay.example.net",
        from: &from,
        to: &to,
        id: id(),
        recipients: vec![
            outcome(
                &bee,
                "5.7.60",
                Service::Graph,
                "ErrorSendAsDenied: no right",
                Some("graph.microsoft.com"),
            ),
            outcome(&unicode, "5.1.1", Service::Smtp, "550 5.1.1\r\nunk\u{f6}nown", None),
        ],
        envid: None,
        header: &header(ORIGINAL),
        body: None,
        now: now(),
    })
}

fn parse(bytes: &[u8]) -> Message<'_> {
    MessageParser::new().parse(bytes).unwrap()
}

#[test]
fn a_program_can_read_it() {
    let bytes = a_report(Kind::Failed);
    let message = parse(&bytes);
    assert_eq!(message.from().unwrap().first().unwrap().name(), Some("Mail Delivery System"));
    assert_eq!(message.from().unwrap().first().unwrap().address(), Some("scanner@x.se"));
    assert_eq!(message.to().unwrap().first().unwrap().address(), Some("a@x.se"));
    assert_eq!(message.subject(), Some("Undelivered mail: Rechnung f\u{fc}r Juli"));
    assert_eq!(message.date().unwrap().to_rfc822(), "Thu, 23 Jul 2026 09:05:01 +0000");
    assert_eq!(message.message_id().unwrap(), "1KY7039Y80000.1784797501123@relay.example.net");
    assert_eq!(message.in_reply_to().as_text(), Some("1@x.se"));
    assert_eq!(message.references().as_text(), Some("1@x.se"));
    let own = HeaderScanner::split_message(&bytes).unwrap().header;
    let value = |name| own.named(name).next().unwrap().value().into_owned();
    assert_eq!(value("Auto-Submitted"), b"auto-replied");
    assert_eq!(value("X-Auto-Response-Suppress"), b"All");

    let kind = message.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let kinds: Vec<_> = message.parts[1..]
        .iter()
        .map(|part| {
            let kind = part.content_type().unwrap();
            format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
        })
        .collect();
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
}

#[test]
fn the_delivery_status_is_that_of_rfc_3464() {
    let bytes = a_report(Kind::Failed);
    let message = parse(&bytes);
    assert_eq!(
        String::from_utf8_lossy(message.parts[2].contents()),
        "Reporting-MTA: dns; relay.example.net\r\n\
         X-Queue-ID: 1KY7039Y80000\r\n\
         Arrival-Date: Thu, 23 Jul 2026 08:05:01 +0000\r\n\
         \r\n\
         Final-Recipient: rfc822; b@y.se\r\n\
         Action: failed\r\n\
         Status: 5.7.60\r\n\
         Remote-MTA: dns; graph.microsoft.com\r\n\
         Diagnostic-Code: X-Microsoft-Graph; ErrorSendAsDenied: no right\r\n\
         \r\n\
         Final-Recipient: utf-8; j\\x{F6}rn@y.se\r\n\
         Action: failed\r\n\
         Status: 5.1.1\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 unk?nown\r\n"
    );
}

/// To one recipient, as a client with wishes asked for it.
fn a_wished_report(kind: Kind, body: &[u8]) -> Vec<u8> {
    let from = address("scanner@x.se");
    let to = address("a@x.se");
    let bee = address("b@y.se");
    let envid = "id+3D1".parse().unwrap();
    report(&Notification {
        kind,
        reporting_mta: "relay.example.net",
        from: &from,
        to: &to,
        id: id(),
        recipients: vec![RecipientReport {
            address: &bee,
            original: Some("rfc822;first+2Bone@y.se".parse().unwrap()),
            status: if kind == Kind::Relayed { EnhancedStatus::RELAYED } else { status("5.1.1") },
            service: Service::Graph,
            diagnostic: "no",
            remote: None,
        }],
        envid: Some(&envid),
        header: &header(ORIGINAL),
        body: Some(body),
        now: now(),
    })
}

#[test]
fn a_report_says_what_its_message_was_known_by() {
    let bytes = a_wished_report(Kind::Relayed, b"body\r\n");
    let message = parse(&bytes);
    assert_eq!(message.subject(), Some("Mail handed over: Rechnung f\u{fc}r Juli"));
    assert!(message.body_text(0).unwrap().contains("handed over to Microsoft 365"));
    assert_eq!(
        String::from_utf8_lossy(message.parts[2].contents()),
        "Original-Envelope-Id: id=1\r\n\
         Reporting-MTA: dns; relay.example.net\r\n\
         X-Queue-ID: 1KY7039Y80000\r\n\
         Arrival-Date: Thu, 23 Jul 2026 08:05:01 +0000\r\n\
         \r\n\
         Original-Recipient: rfc822; first+one@y.se\r\n\
         Final-Recipient: rfc822; b@y.se\r\n\
         Action: relayed\r\n\
         Status: 2.0.0\r\n"
    );
}

#[test]
fn a_message_is_returned_in_full_if_it_passes_as_it_is() {
    let bytes = a_wished_report(Kind::Failed, "gr\u{fc}n\r\n".as_bytes());
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("message/rfc822") && text.contains("gr\u{fc}n\r\n") && !text.contains("hidden@y.se")
    );
    for unfit in ["x".repeat(1200).into_bytes(), b"a\0b".to_vec(), b"x\r\n".repeat(MAX_RETURNED_BODY / 3 + 1)]
    {
        let bytes = a_wished_report(Kind::Failed, &unfit);
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("message/rfc822\"") && text.contains("text/rfc822-headers"));
        assert!(bytes.len() < 10_000);
    }
}

#[test]
fn a_person_can_read_it() {
    let bytes = a_report(Kind::Failed);
    let message = parse(&bytes);
    let text = message.body_text(0).unwrap();
    for part in [
        "It will not be tried again",
        "Rechnung f\u{fc}r Juli",
        "<b@y.se>",
        "Microsoft 365 said (5.7.60): ErrorSendAsDenied: no right",
        "A permission",
        "The mail server said (5.1.1): 550 5.1.1 unk\u{f6}nown",
        "Check the address",
        "1KY7039Y80000",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let bytes = a_report(Kind::Expired);
    assert!(parse(&bytes).body_text(0).unwrap().contains("in time"));
}

fn a_report_for(count: usize, diagnostic: impl Fn(usize) -> String) -> Vec<u8> {
    let from = address("scanner@x.se");
    let to = address("a@x.se");
    let addresses: Vec<_> = (0..count).map(|n| address(&format!("recipient.{n}@example.net"))).collect();
    let said: Vec<_> = (0..count).map(diagnostic).collect();
    let outcome = |(address, diagnostic)| RecipientReport {
        address,
        original: None,
        status: status("5.1.3"),
        service: Service::Graph,
        diagnostic,
        remote: Some("graph.microsoft.com"),
    };
    report(&Notification {
        kind: Kind::Failed,
        reporting_mta: "relay.example.net",
        from: &from,
        to: &to,
        id: id(),
        recipients: addresses.iter().zip(said.iter().map(String::as_str)).map(outcome).collect(),
        envid: None,
        header: &header(ORIGINAL),
        body: None,
        now: now(),
    })
}

#[test]
fn what_is_said_of_all_recipients_is_said_once() {
    let bytes = a_report_for(3, |_| "At least one recipient is not valid".into());
    let text = parse(&bytes).body_text(0).unwrap().into_owned();
    let expected = "<recipient.0@example.net>\r\n<recipient.1@example.net>\r\n<recipient.2@example.net>\r\n    \
                    Microsoft 365 said (5.1.3): At least one recipient is not valid\r\n    Check the address";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_report_for_many_recipients_stays_small() {
    let words = "At least one recipient is not valid. ".repeat(100);
    for length in [300, 700, 3000] {
        for all_alike in [true, false] {
            let bytes = a_report_for(1000, |n| {
                let mut said = words[..length].to_owned();
                said.insert_str(0, if all_alike { "" } else { ["one ", "two "][n % 2] });
                said
            });
            assert!(bytes.len() < 512 * 1000, "{length} {all_alike}: {}", bytes.len());
            let message = parse(&bytes);
            let text = message.body_text(0).unwrap();
            assert!(text.contains("<recipient.99@") && !text.contains("<recipient.100@"), "{text}");
            assert!(text.contains("and 900 more recipients: the attached report"), "{text}");
            // Programs learn all of them.
            let fields = String::from_utf8_lossy(message.parts[2].contents());
            assert_eq!(fields.matches("Diagnostic-Code: X-Microsoft-Graph; ").count(), 1000);
            assert!(fields.contains("recipient.999@example.net"));
        }
    }
}

#[test]
fn the_header_is_returned_without_bcc() {
    let bytes = a_report(Kind::Failed);
    let message = parse(&bytes);
    let returned = String::from_utf8_lossy(message.parts[3].contents()).into_owned();
    assert_eq!(returned.trim_end(), ORIGINAL.replace("Bcc: hidden@y.se\r\n", "").trim_end());
    assert!(!String::from_utf8_lossy(&bytes).contains("hidden@y.se"));
}

fn a_report_that_returns(header: &HeaderBlock) -> Vec<u8> {
    let from = address("a@x.se");
    let to = address("b@x.se");
    report(&Notification {
        kind: Kind::Expired,
        reporting_mta: "r",
        from: &from,
        to: &to,
        id: id(),
        recipients: vec![],
        envid: None,
        header,
        body: None,
        now: now(),
    })
}

#[test]
fn a_header_with_nul_is_returned_without() {
    let mut text = b"X: \0\r\nSubject: \0\r\n".to_vec();
    text.extend_from_slice(ORIGINAL.as_bytes());
    let header = HeaderScanner::split_message(&text).unwrap().header;
    let bytes = a_report_that_returns(&header);
    assert!(!bytes.contains(&0));
}

#[test]
fn a_long_header_is_cut_between_fields() {
    let long = format!("Subject: s\r\nX: {}\r\n", "x".repeat(900)).repeat(100);
    let bytes = a_report_that_returns(&header(&long));
    assert!((60_000..70_000).contains(&bytes.len()), "{}", bytes.len());
}

#[test]
fn who_is_told() {
    let config = |to| BouncesConfig { mailbox: None, to };
    let envelope = |sender: Option<&str>| {
        Envelope::new(sender.map(address), [address("b@y.se")], BodyKind::SevenBit).unwrap()
    };
    let sender = envelope(Some("a@x.se"));
    assert!(wants_bounce(&sender, &config(BounceTo::Mailbox)));
    assert!(!wants_bounce(&sender, &config(BounceTo::None)));
    assert!(!wants_bounce(&envelope(None), &config(BounceTo::Mailbox)));
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "(\\PC|\r|\n|\r\n|\0|\u{2028}|\u{85}| |\t|:|--|Bcc: x@y\\.se){0,60}",
        "\\PC{0,20}".prop_map(|text| text.repeat(100)),
        "[ -~]{0,3}".prop_map(|text| text.repeat(1000)),
    ]
}

proptest! {
    #[test]
    fn nothing_gets_through(
        fields in prop::collection::vec(("(Subject|Message-ID|X)", hostile()), 0..4),
        raw in prop::collection::vec(any::<u8>(), 0..200),
        diagnostic in hostile(),
        remote in prop::option::of(hostile()),
        host in hostile(),
    ) {
        let mut text: Vec<u8> = b"X: ".to_vec();
        text.extend(raw);
        for (name, value) in fields {
            text.extend(format!("\r\n{name}: {value}").into_bytes());
        }
        text.retain(|&byte| byte != b'\r');
        let header = HeaderScanner::split_message(&text).unwrap().header;
        let from = address("scanner@x.se");
        let to = address("a@x.se");
        let bee = address("\"b b\"@y.se");
        let bytes = report(&Notification {
            kind: Kind::Failed,
            reporting_mta: &host,
            from: &from,
            to: &to,
            id: id(),
            recipients: vec![RecipientReport {
                address: &bee,
                original: None,
                status: status("5.1.1"),
                service: Service::Smtp,
                diagnostic: &diagnostic,
                remote: remote.as_deref(),
            }],
            envid: None,
            header: &header,
            body: None,
            now: now(),
        });
        prop_assert!(bytes.is_ascii());
        prop_assert!(bytes.ends_with(b"\r\n"));
        for line in bytes.strip_suffix(b"\r\n").unwrap().split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            prop_assert!(line.len() <= 998);
            prop_assert!(!line.contains(&b'\r') && !line.contains(&0));
        }
        prop_assert_eq!(
            memchr::memchr_iter(b'\n', &bytes).count(),
            memchr::memmem::find_iter(&bytes, b"\r\n").count()
        );
        // The fields are ours, whatever was quoted in them.
        let own = HeaderScanner::split_message(&bytes).unwrap().header;
        let known = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress",
            "In-Reply-To", "References", "MIME-Version", "Content-Type"];
        for name in own.fields().map(|field| String::from_utf8_lossy(field.name()).into_owned()) {
            prop_assert!(known.contains(&name.as_str()), "{}", name);
        }
        let message = parse(&bytes);
        prop_assert_eq!(message.parts.len(), 4);
        let status_fields = String::from_utf8_lossy(message.parts[2].contents()).into_owned();
        prop_assert_eq!(status_fields.matches("\r\nFinal-Recipient:").count(), 1);
        prop_assert!(!status_fields.contains("\nBcc"));
    }
}
