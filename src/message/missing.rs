//! Fields that every message needs and that simple senders leave out: RFC 6409 section 8.

use mail_builder::headers::{Header, address::Address};

use super::{HeaderBlock, MailboxAddress, MessageId, date};
use crate::clock::Timestamp;

/// Message-ID and Date, those that the header lacks, as fields to be written in front of it or behind it.
///
/// Settled at acceptance and stored with the message, so that every attempt sends the same Message-ID: it is what an
/// unknown outcome is looked up by.
pub fn complete(header: &HeaderBlock, id: MessageId, hostname: &str, at: Timestamp) -> Vec<u8> {
    let mut fields = String::new();
    if header.named("Message-ID").next().is_none() {
        fields.push_str(&format!("Message-ID: <{id}@{hostname}>\r\n"));
    }
    if header.named("Date").next().is_none() {
        fields.push_str(&format!("Date: {}\r\n", date(at)));
    }
    fields.into_bytes()
}

/// A From field, for a message that has none. The name may hold anything: what would break the field becomes a blank.
pub fn from_field(name: Option<&str>, address: &MailboxAddress) -> Vec<u8> {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let name = name.map(|name| name.chars().map(clean).collect::<String>());
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let mut field = b"From: ".to_vec();
    Address::new_address(name, address.as_str()).write_header(&mut field, 6);
    field.truncate(field.trim_ascii_end().len());
    field.extend_from_slice(b"\r\n");
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{HeaderScanner, author};
    use proptest::prelude::*;

    #[test]
    fn a_from_field() {
        let address = "a@x.se".parse().unwrap();
        let field = |name| String::from_utf8(from_field(name, &address)).unwrap();
        assert_eq!(field(None), "From: <a@x.se>\r\n");
        assert_eq!(field(Some("Cron Daemon")), "From: \"Cron Daemon\" <a@x.se>\r\n");
    }

    proptest! {
        #[test]
        fn any_name_makes_one_field_with_that_address(name in ".{0,80}") {
            let address: MailboxAddress = "a@x.se".parse().unwrap();
            let field = from_field(Some(&name), &address);
            let split = HeaderScanner::split_message(&field).unwrap();
            prop_assert!(split.body.is_empty());
            prop_assert_eq!(split.header.fields().count(), 1);
            let author = author(&split.header).unwrap();
            prop_assert_eq!(author.from(), [address]);
        }
    }

    #[test]
    fn only_what_is_missing() {
        let at = Timestamp::from_millis(1_784_793_901_000);
        let complete = |text: &str| {
            let header = HeaderScanner::split_message(text.as_bytes()).unwrap().header;
            String::from_utf8(complete(&header, MessageId::first_at(at), "relay.example.net", at)).unwrap()
        };
        let message_id = "Message-ID: <1KY7039Y80000@relay.example.net>\r\n";
        let date = "Date: Thu, 23 Jul 2026 08:05:01 +0000\r\n";
        assert_eq!(complete("Subject: s\r\n"), format!("{message_id}{date}"));
        assert_eq!(complete("message-id: <a@b>\r\n"), date);
        assert_eq!(complete("DATE : x\r\n"), message_id);
        assert_eq!(complete("Date: x\r\nMessage-Id: <a@b>\r\n"), "");
    }
}
