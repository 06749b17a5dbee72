//! Who is taken for a message's author: other parsers are asked, too.

use std::collections::BTreeSet;

use mail_parser::{Address, MessageParser};

use crate::{
    from_fields::{self, OWN, VICTIM, checked, checked_without_the_check, foreign, repaired, report},
    harness::{Lab, message},
    held,
};

const RANDOM: usize = 100_000;

/// The mailboxes in From, as mail-parser reads them.
fn read_by_mail_parser(value: &[u8]) -> Vec<String> {
    let header = from_fields::header(value);
    let Some(parsed) = MessageParser::default().parse_headers(&header) else { return Vec::new() };
    let from = parsed.from().map(Address::iter).into_iter().flatten();
    from.filter_map(|one| one.address().map(str::to_owned)).collect()
}

#[test]
fn from_fields_have_one_reading() {
    let all: Vec<_> = from_fields::made_by_hand().into_iter().chain(from_fields::random(RANDOM)).collect();
    let mut taken = 0;
    let mut wrong = Vec::new();
    let mut wrong_without = 0;
    for value in &all {
        let read = read_by_mail_parser(value);
        if let Some(checked) = checked(value) {
            taken += 1;
            let foreign = foreign(&read, &checked);
            wrong.extend(foreign.into_iter().map(|read| (value.clone(), read.to_owned())));
        }
        if let Some(checked) = checked_without_the_check(value) {
            wrong_without += usize::from(!foreign(&read, &checked).is_empty());
        }
    }
    println!("{taken} of {} are taken; without the check {wrong_without} would be read otherwise", all.len());
    assert!(wrong.is_empty(), "{}", report(&wrong));
    // The judge finds something where there is something to find, and the check does not refuse all.
    assert!(wrong_without > 50, "{wrong_without}");
    assert!(taken > 100, "{taken}");
    held("From fields judged by other parsers", all.len());
}

/// Each by SMTP: refused, or delivered as what was checked.
#[test]
fn no_message_goes_out_as_the_victims() {
    let lab = Lab::with(|setup| {
        setup.smtp = "max_errors = 10000\nmax_commands = 10000\nmax_messages = 10000".into()
    });
    let all = from_fields::made_by_hand();
    let mut smtp = lab.smtp();
    let mut taken = BTreeSet::new();
    for (number, value) in all.iter().enumerate() {
        smtp.begin(OWN, &["b@example.net"]);
        let rest = format!("\r\nSubject: {number}\r\nTo: b@example.net\r\n\r\nx\r\n");
        let reply = smtp.data(&[b"From: ", &**value, rest.as_bytes()].concat());
        let may = match checked(value) {
            Some(checked) => checked.iter().all(|one| one.domain() == "contoso.example"),
            None => match repaired(value, OWN) {
                Some(one) => one.domain() == "contoso.example",
                None => matches!(value.trim_ascii(), b"" | b"<>"),
            },
        };
        match reply.code {
            250 => assert!(taken.insert(number) && may, "{}", value.escape_ascii()),
            550 => assert!(reply.text.starts_with("5.6.0 ") || reply.text.starts_with("5.7.1 "), "{reply:?}"),
            _ => panic!("{}: {reply:?}", value.escape_ascii()),
        }
    }
    for message in lab.wait_for(taken.len()) {
        assert!(message.mailbox == OWN && !message.from.contains(VICTIM), "{message:?}");
    }
    held("From fields sent by SMTP", all.len());
}

#[test]
fn a_foreign_sender_field() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    let mut tries = 0;
    for (sender, code) in [
        (VICTIM, "5.7.1"),
        ("Boss <ceo@victim.example>", "5.7.1"),
        ("b@fabrikam.example", "5.7.1"),
        ("a@contoso.example, ceo@victim.example", "5.6.0"),
        ("a@contoso.example\r\nSender: ceo@victim.example", "5.6.0"),
        ("<a@contoso.example> ceo@victim.example", "5.6.0"),
        ("ceo@victim.example <a@contoso.example>", "5.6.0"),
        ("=?utf-8?q?ceo=40victim=2Eexample?=", "5.6.0"),
    ] {
        for from in [OWN, "<>"] {
            smtp.begin(OWN, &["b@example.net"]);
            let reply = smtp.data(&message(&format!("{from}\r\nSender: {sender}"), "b@example.net", "x"));
            assert!(reply.code == 550 && reply.text.starts_with(code), "{from} {sender}: {reply:?}");
            tries += 1;
        }
    }
    for sender in ["other@contoso.example", "root", "<>", ""] {
        let from = format!("{OWN}\r\nSender: {sender}");
        smtp.send(OWN, &["b@example.net"], &message(&from, "b@example.net", "welcome"));
    }
    lab.wait_for(4);
    held("A Sender field beside one's own From", tries);
}
