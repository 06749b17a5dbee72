//! The same mail by both routes reaches the same people.

use std::collections::BTreeMap;

use relay_sandbox::Delivered;

use super::smtp_route::by_smtp;
use crate::harness::Lab;

const FROM: &str = "a@contoso.example";
const MESSAGES: usize = 500;

/// A message of the corpus.
struct Sample {
    subject: String,
    recipients: Vec<String>,
    content: Vec<u8>,
}

/// A generator of the same numbers each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len() as u64) as usize]
    }
}

const ADDRESSES: [&str; 12] = [
    "b@example.net",
    "B.Bee@Example.NET",
    "c+tag@example.net",
    "d@bücher.example",
    "e@xn--bcher-kva.example",
    "\"f g\"@example.net",
    "h@sub.example.org",
    "o'neill@example.com",
    "list@example.net",
    "i_j@example.net",
    "k-l@example.net",
    "m@example.net",
];

const NAMES: [&str; 6] =
    ["", "Bee", "\"Comma, Then\"", "=?utf-8?Q?Zo=C3=AB?=", "=?iso-8859-1?B?5Q==?= Ring", "(comment) Dee"];

/// Fields with one reading or with several; envelopes that match the header, are larger, or smaller.
fn corpus() -> Vec<Sample> {
    let mut dice = Dice(0x5EED);
    (0..MESSAGES).map(|n| sample(n, &mut dice)).collect()
}

fn sample(n: usize, dice: &mut Dice) -> Sample {
    let subject = format!("sample {n}");
    let mut header = format!("From: A <{FROM}>\r\nSubject: {subject}\r\n");
    let mut envelope: Vec<String> = Vec::new();
    for name in ["To", "Cc", "Bcc"] {
        let count = dice.roll(4);
        let mut written = Vec::new();
        for _ in 0..count {
            let address = dice.pick(&ADDRESSES);
            // Some that the header names are not in the envelope.
            if dice.roll(8) != 0 {
                envelope.push(address.to_owned());
            }
            written.push(match dice.pick(&NAMES) {
                "" if dice.roll(2) == 0 => address.to_owned(),
                display => format!("{display} <{address}>").trim_start().to_owned(),
            });
        }
        if written.is_empty() {
            if dice.roll(6) == 0 {
                header.push_str(&format!("{name}: undisclosed-recipients:;\r\n"));
            }
            continue;
        }
        let list = written.join(dice.pick(&[", ", ",\r\n ", ",", ",\r\n\t"]));
        match dice.roll(6) {
            0 => header.push_str(&format!("{name}: Team: {list};\r\n")),
            _ => header.push_str(&format!("{name}: {list}\r\n")),
        }
    }
    // Some in the envelope that the header does not name.
    for _ in 0..dice.roll(3) {
        envelope.push(format!("hidden{}@example.net", dice.roll(20)));
    }
    if envelope.is_empty() {
        envelope.push("only@example.net".into());
    }
    let header =
        format!("{header}Date: Tue, 24 Nov 2026 09:00:00 +0100\r\nMessage-ID: <{n}@corpus.example>\r\n");
    let content = format!("{header}\r\n.Line {n}\r\n").into_bytes();
    Sample { subject, recipients: envelope, content }
}

/// Who received what, by subject; addresses in one form.
fn reached(lab: &Lab, corpus: &[Sample]) -> BTreeMap<String, Vec<String>> {
    let mut smtp = lab.smtp();
    for Sample { recipients, content, .. } in corpus {
        assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> BODY=8BITMIME SMTPUTF8")).code, 250);
        for recipient in recipients {
            assert_eq!(smtp.rcpt(recipient).code, 250, "{recipient}");
        }
        assert_eq!(smtp.data(content).code, 250);
    }
    let messages = lab.wait_for(corpus.len());
    lab.wait_until_empty();
    let of = |message: &std::sync::Arc<Delivered>| (message.subject.clone(), sorted(&message.recipients));
    messages.iter().map(of).collect()
}

fn sorted(recipients: &[String]) -> Vec<String> {
    let ascii = |address: &String| address.to_lowercase().replace("bücher", "xn--bcher-kva");
    let mut sorted: Vec<String> = recipients.iter().map(ascii).collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

#[test]
fn five_hundred_messages_reach_the_same_people_by_both_routes() {
    let corpus = corpus();
    let wanted: BTreeMap<String, Vec<String>> =
        corpus.iter().map(|sample| (sample.subject.clone(), sorted(&sample.recipients))).collect();
    let graph = reached(&Lab::start(), &corpus);
    let smtp = reached(&Lab::with(by_smtp), &corpus);
    for (subject, wanted) in &wanted {
        assert_eq!(&smtp[subject], wanted, "{subject} by SMTP");
        assert_eq!(&graph[subject], wanted, "{subject} by Graph");
    }
    let auto = reached(&Lab::with(|setup| setup.tenant("contoso").route = "auto".into()), &corpus);
    assert_eq!(auto, wanted);
}
