//! Mail that is wrong in the ways that real mail is, taken apart by the relay: what the service gets is
//! what was meant.
//!
//! Each file of `real_mail/` is a small message with one fault. With `graph.max_mime` at 64 KiB and a field
//! of 66 KB on top, each goes the way of mail above the limit; a line `PAD-…` stands for 2 MB of base64.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use mail_parser::{MessageParser, MimeHeaders};
use relay_sandbox::{Delivered, Limits};

use crate::harness::{Lab, Setup};

const TO: &str = "b@example.net";

fn lab() -> Lab {
    Lab::with(|setup: &mut Setup| {
        setup.service_limits = Limits { message_bytes: None, ..Limits::unthrottled() };
        setup.more_listeners = "[graph]\nmax_mime = '64KiB'\n".into();
    })
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/end_to_end/real_mail"].iter().collect()
}

fn case(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.eml"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The message as it is sent: larger than the limit.
fn padded(message: &[u8]) -> Vec<u8> {
    if message.starts_with(b"\xEF\xBB\xBF") || message.starts_with(b"From ") {
        // What is wrong is at the very beginning.
        return message.to_vec();
    }
    let Some(at) = message.windows(4).position(|four| four == b"PAD-") else {
        return [format!("X-Bulk: {}\r\n", "x".repeat(900)).repeat(75).as_bytes(), message].concat();
    };
    let end = at + message[at..].iter().position(|octet| *octet == b'\r').unwrap();
    let line = format!("{}\r\n", "QUJD".repeat(19));
    [&message[..at], line.repeat(26_000).as_bytes(), &message[end..]].concat()
}

/// A message as it arrived, decoded.
#[derive(Debug)]
struct Arrived {
    subject: String,
    from: String,
    body: String,
    is_html: bool,
    /// Name, content, whether it is inline.
    attachments: Vec<(String, Vec<u8>, bool)>,
    reply_to: String,
}

impl Arrived {
    fn read(delivered: &Delivered) -> Self {
        let message = MessageParser::default().parse(&delivered.raw).unwrap();
        let is_html = message.html_body.first() == message.text_body.first()
            && message.html_part(0).is_some_and(|part| part.is_text_html());
        let body = if is_html { message.body_html(0) } else { message.body_text(0) };
        let shown = |name: &str| {
            let found = delivered.attachments.iter().find(|attachment| attachment.name == name);
            found.is_some_and(|attachment| attachment.is_inline)
        };
        let attachments = message.attachments().map(|part| {
            let name = part.attachment_name().unwrap_or_default().to_owned();
            let is_inline = shown(&name);
            (name, part.contents().to_vec(), is_inline)
        });
        let name = message.from().and_then(|from| from.first()).and_then(|from| from.name());
        let reply_to = message.reply_to().and_then(|to| to.first()).and_then(|to| to.address());
        Self {
            subject: delivered.subject.clone(),
            from: format!("{} <{}>", name.unwrap_or_default(), delivered.from),
            body: body.unwrap_or_default().into_owned(),
            is_html,
            attachments: attachments.collect(),
            reply_to: reply_to.unwrap_or_default().to_owned(),
        }
    }

    fn attachment(&self, name: &str) -> &[u8] {
        let found = self.attachments.iter().find(|(given, ..)| given == name);
        &found.unwrap_or_else(|| panic!("{name} is not among {:?}", self.names())).1
    }

    fn names(&self) -> Vec<&str> {
        let names = self.attachments.iter().map(|(name, ..)| name.as_str());
        names.filter(|name| *name != "big.pdf").collect()
    }
}

/// What must arrive of a case.
type Judge = fn(&Arrived);

const CASES: &[(&str, Judge)] = &[
    ("alternative-text-attachment-lost", |mail| {
        assert!(mail.is_html && mail.body.contains("<p>see the files</p>"), "{mail:?}");
        assert_eq!(mail.names(), ["log.txt", "report.html"]);
        assert_eq!(mail.attachment("log.txt"), b"line one of the log");
        assert_eq!(mail.attachment("report.html"), b"<p>report</p>");
    }),
    ("report-with-a-sender", |mail| {
        assert_eq!(mail.body.trim(), "an abuse report");
        assert_eq!(mail.attachments.len(), 2, "{mail:?}");
        assert!(String::from_utf8_lossy(&mail.attachments[0].1).contains("Feedback-Type: abuse"));
        assert!(String::from_utf8_lossy(&mail.attachments[1].1).contains("spam"));
    }),
    ("base64-text-with-footer", |mail| {
        assert!(mail.body.starts_with("Grüße aus Köln\r\n"), "{mail:?}");
        assert!(mail.body.contains("\r\nlist mailing list\r\nlist@example.net"), "{mail:?}");
    }),
    ("text-one-bad-octet-utf8", |mail| {
        assert_eq!(mail.body.matches('\u{FFFD}').count(), 1, "{mail:?}");
        for text in ["Grüße aus Köln, ", ": cut here ", "Ä Ö Ü €"] {
            assert!(mail.body.contains(text), "{mail:?}");
        }
    }),
    ("text-us-ascii-but-utf8", |mail| assert_eq!(mail.body.trim(), "Grüße – 5 €")),
    ("subject-char-split-over-words", |mail| assert_eq!(mail.subject, "Grüße")),
    ("encoded-word-base64-unpadded", |mail| {
        assert_eq!(mail.subject, "Hello");
        assert_eq!(mail.from, "Hello <ann@contoso.example>");
    }),
    ("encoded-word-then-text", |mail| assert_eq!(mail.subject, "Grüße. And more")),
    ("filename-words-folded-by-spaces", |mail| {
        assert_eq!(mail.names(), ["quarterly_report_für_2026.pdf".replace('_', " ").as_str()]);
    }),
    ("filename-over-200", |mail| {
        let [name] = mail.names()[..] else { panic!("{mail:?}") };
        assert!(name.chars().count() <= 200 && name.ends_with(".pdf"), "{name}");
    }),
    ("last-delimiter-without-dashes", |mail| assert_eq!(mail.names(), ["a.pdf"])),
    ("reply-to-quoted-then-atom", |mail| {
        assert!(mail.reply_to.contains("carter@contoso.example"), "{mail:?}")
    }),
    ("x-uuencode-attachment", |mail| {
        assert_eq!(mail.attachment("dot.png"), (0..45).collect::<Vec<u8>>());
    }),
    ("multipart-without-boundary", |mail| {
        assert_eq!(mail.body.trim(), "Just text, and the Content-Type is wrong.");
        assert!(mail.attachments.is_empty(), "{mail:?}");
    }),
    ("from-name-and-empty-brackets", |mail| assert_eq!(mail.from, "Scanner <a@contoso.example>")),
    ("from-without-brackets", |mail| assert_eq!(mail.from, "Ann Example <ann@contoso.example>")),
    ("from-obsolete-route", |mail| assert_eq!(mail.from, "Ann <ann@contoso.example>")),
    ("from-unquoted-comma", |mail| assert_eq!(mail.from, "Meyer, Greg <a@contoso.example>")),
    ("from-without-domain", |mail| assert_eq!(mail.from, "Mail Delivery Subsystem <a@contoso.example>")),
    ("to-two-dots-in-local-part", |mail| assert_eq!(mail.body.trim(), "x")),
    ("text-utf7", |mail| assert_eq!(mail.body.trim(), "Grüße")),
    ("subject-encoded-newline", |mail| assert_eq!(mail.subject, "first Bcc: x@example.org")),
    ("cid-image-with-attachment-disposition", |mail| {
        assert_eq!(
            mail.attachments.iter().map(|(name, _, inline)| (name.as_str(), *inline)).collect::<Vec<_>>(),
            [("p.png", true)]
        );
    }),
    ("bom", |mail| assert_eq!(mail.subject, "Monthly report")),
    ("smtp-mbox-from-line", |mail| assert_eq!(mail.subject, "Monthly report")),
    ("large-jis-subject", |mail| {
        assert_eq!((mail.subject.as_str(), mail.from.as_str()), ("日本", "日本 <a@contoso.example>"));
        assert_eq!(mail.body.trim(), "日本");
    }),
    ("large-gb2312-filename", |mail| assert_eq!(mail.names(), ["你好.pdf"])),
    ("large-latin1-raw-subject", |mail| assert_eq!(mail.subject, "Prüfbericht")),
    ("large-related-start", |mail| {
        assert!(mail.is_html && mail.body.contains("Invoice attached"), "{mail:?}");
        assert!(mail.attachments.iter().any(|(_, _, is_inline)| *is_inline), "{mail:?}");
    }),
    ("large-named-inline-body", |mail| {
        assert!(mail.is_html && mail.body.contains("The body"), "{mail:?}");
        assert!(mail.names().is_empty(), "{mail:?}");
    }),
    ("large-missing-semicolon", |mail| assert!(mail.is_html && mail.body.contains("The body"), "{mail:?}")),
    ("large-folded-boundary", |mail| assert_eq!(mail.body.trim(), "hi")),
    ("large-folded-filename", |mail| {
        assert_eq!(
            mail.names(),
            ["Quarterly-report-of-the-northern-sales-region-with-all-appendices-2026.docx"]
        );
    }),
    ("large-unfolded-part-header", |mail| {
        assert_eq!(mail.names(), ["scan.pdf"]);
        assert_eq!(mail.attachment("scan.pdf"), b"%PDF-1.4\n");
    }),
    ("large-part-without-blank-line", |mail| {
        assert!(mail.body.contains("This text has no empty line above it"), "{mail:?}");
    }),
    ("large-alternative-with-empty-related", |mail| {
        assert_eq!(mail.body.trim(), "plain body");
        assert!(mail.names().is_empty(), "{mail:?}");
    }),
];

/// Sends each under a subject of its own in the log: by the Message-ID it is known when it arrives.
fn deliver(lab: &Lab) -> HashMap<usize, Arc<Delivered>> {
    let mut found = HashMap::new();
    for (n, (name, _)) in CASES.iter().enumerate() {
        lab.send(
            "a@contoso.example",
            &[if *name == "to-two-dots-in-local-part" { "bob..smith@example.net" } else { TO }],
            &padded(&case(name)),
        );
        let all = lab.wait_for(n + 1);
        found.insert(n, all[n].clone());
    }
    lab.wait_until_empty();
    found
}

#[test]
fn above_the_limit_it_arrives_as_it_was_meant() {
    let lab = lab();
    let delivered = deliver(&lab);
    let mut wrong = Vec::new();
    for (n, (name, judge)) in CASES.iter().enumerate() {
        let arrived = Arrived::read(&delivered[&n]);
        if std::panic::catch_unwind(|| judge(&arrived)).is_err() {
            wrong.push(*name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_case_is_judged() {
    let mut files: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut judged: Vec<_> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    // By pickup alone.
    judged.push("pickup-dotnet-dot-stuffed".into());
    judged.sort();
    assert_eq!(files, judged);
}
