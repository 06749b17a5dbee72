//! What a submission server corrects in a header, and nothing else: RFC 6409 section 8.

use mail_builder::headers::{Header, address::Address};

use super::{Field, HeaderBlock, MailboxAddress, MessageId, date};
use crate::Timestamp;

/// Hops before a message is taken to be in a loop (RFC 5321 section 6.3).
pub const MAX_HOPS: usize = 50;

/// What is written into a header that lacks it.
#[derive(Debug, Clone, Copy)]
pub struct Mending<'a> {
    pub id: MessageId,
    pub hostname: &'a str,
    pub at: Timestamp,
    /// The From field, if the header has none, or none that can stay as it is.
    pub from: Option<NewFrom<'a>>,
    /// Whether the header keeps its Sender field.
    pub keeps_sender: bool,
}

/// A From field that the relay writes.
#[derive(Debug, Clone, Copy)]
pub struct NewFrom<'a> {
    pub name: Option<&'a str>,
    pub address: &'a MailboxAddress,
}

/// Writes the header with Message-ID and Date, and with From if it is given, and without:
///
/// - Bcc and Resent-Bcc: the recipients are in the envelope, and those in Bcc must not be seen;
/// - Return-Path, which only the last server writes (RFC 5321 section 4.4);
/// - a Message-ID, Date or From without a value, which is replaced;
/// - Sender, if it does not stay.
///
/// All other fields stay as they are, byte for byte and in their order.
///
/// This is done at acceptance, and the result is stored with the message. So every attempt sends the same
/// Message-ID, by which an unknown outcome is looked up.
pub fn mend(header: &HeaderBlock, mending: &Mending<'_>, out: &mut Vec<u8>) {
    let Mending { id, hostname, at, from, keeps_sender } = *mending;
    let mut has_id = false;
    let mut has_date = false;
    for field in header.fields() {
        let keep = if field.is("Message-ID") {
            has_value(&field, &mut has_id)
        } else if field.is("Date") {
            has_value(&field, &mut has_date)
        } else if field.is("From") {
            from.is_none()
        } else if field.is("Sender") {
            keeps_sender
        } else {
            !["Bcc", "Resent-Bcc", "Return-Path"].into_iter().any(|name| field.is(name))
        };
        if keep {
            out.extend_from_slice(field.raw());
        }
    }
    if !has_id {
        out.extend_from_slice(format!("Message-ID: <{id}@{hostname}>\r\n").as_bytes());
    }
    if !has_date {
        out.extend_from_slice(format!("Date: {}\r\n", date(at)).as_bytes());
    }
    if let Some(NewFrom { name, address }) = from {
        out.extend_from_slice(&from_field(name, address));
    }
}

fn has_value(field: &Field<'_>, found: &mut bool) -> bool {
    let has = !field.value().is_empty();
    *found |= has;
    has
}

/// A From field, for a message that has none. The name may contain anything: what would break the field
/// becomes a blank.
pub fn from_field(name: Option<&str>, address: &MailboxAddress) -> Vec<u8> {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let name = name.map(|name| name.chars().map(clean).collect::<String>());
    // It is written as encoded words, and an address in those is not believed.
    let name = name.map(|name| if name.is_ascii() { name } else { name.replace('@', " at ") });
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let mut field = b"From: ".to_vec();
    Address::new_address(name, address.as_str()).write_header(&mut field, 6);
    field.truncate(field.trim_ascii_end().len());
    field.extend_from_slice(b"\r\n");
    field
}

/// How many servers the message has passed.
pub fn hops(header: &HeaderBlock) -> usize {
    header.named("Received").count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeaderScanner, author};
    use proptest::prelude::*;

    fn header(text: &str) -> HeaderBlock {
        HeaderScanner::split_message(text.as_bytes()).unwrap().header
    }

    fn mended(text: &str, from: Option<&str>) -> String {
        let at = Timestamp::from_millis(1_784_793_901_000);
        let from: Option<MailboxAddress> = from.map(|text| text.parse().unwrap());
        let from = from.as_ref().map(|address| NewFrom { name: None, address });
        let hostname = "relay.example.net";
        let mending = Mending { id: MessageId::first_at(at), hostname, at, from, keeps_sender: true };
        let mut out = Vec::new();
        mend(&header(text), &mending, &mut out);
        String::from_utf8(out).unwrap()
    }

    const ID: &str = "Message-ID: <1KY7039Y80000@relay.example.net>\r\n";
    const DATE: &str = "Date: Thu, 23 Jul 2026 08:05:01 +0000\r\n";

    #[test]
    fn what_is_missing_is_added() {
        assert_eq!(mended("Subject: s\r\n", None), format!("Subject: s\r\n{ID}{DATE}"));
        assert_eq!(mended("message-id: <a@b>\r\n", None), format!("message-id: <a@b>\r\n{DATE}"));
        assert_eq!(mended("DATE : x\r\n", None), format!("DATE : x\r\n{ID}"));
        assert_eq!(
            mended("Message-ID: \r\nDate:\r\n\t\r\nTo: b@y.se\r\n", Some("a@x.se")),
            format!("To: b@y.se\r\n{ID}{DATE}From: <a@x.se>\r\n")
        );
        assert_eq!(mended("From:\r\n", Some("a@x.se")), format!("{ID}{DATE}From: <a@x.se>\r\n"));
    }

    #[test]
    fn what_is_not_to_be_there_is_taken_out() {
        let kept = "Date: x\r\nReceived: r\r\nFrom: a@x.se\r\nX:\r\nMessage-Id: <a@b>\r\nTo: b@y.se\r\n";
        let text = format!(
            "Return-Path: <x@y.se>\r\nBcc: c@y.se,\r\n d@y.se\r\n{kept}RESENT-bcc: e@y.se\r\nbcc:\r\n"
        );
        assert_eq!(mended(&text, None), kept);
    }

    #[test]
    fn a_from_field() {
        let address = "a@x.se".parse().unwrap();
        let field = |name| String::from_utf8(from_field(name, &address)).unwrap();
        assert_eq!(field(None), "From: <a@x.se>\r\n");
        assert_eq!(field(Some("Cron Daemon")), "From: \"Cron Daemon\" <a@x.se>\r\n");
    }

    #[test]
    fn hops_are_counted() {
        assert_eq!(hops(&header(&format!("{}X-Received: x\r\n", "received: x\r\n".repeat(51)))), 51);
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

        #[test]
        fn a_whole_header_stays_byte_for_byte(fields in prop::collection::vec("(X-[a-z]{1,9}|To|Subject|Received|From): ?[ -~]{0,50}(\r\n [a-z])?", 0..10)) {
            let text: String = ["Date: d".to_owned(), "Message-ID: <a@b>".to_owned()]
                .into_iter().chain(fields).map(|field| field + "\r\n").collect();
            prop_assert_eq!(mended(&text, None), String::from_utf8(header(&text).into_bytes()).unwrap());
        }
    }
}
