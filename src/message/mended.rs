//! What a submission server mends in a header, and nothing else: RFC 6409 section 8.

use super::{Field, HeaderBlock, MailboxAddress, MessageId, date};
use crate::clock::Timestamp;

/// Hops before a message is taken for one that goes in circles (RFC 5321 section 6.3).
pub const MAX_HOPS: usize = 50;

/// What is written into a header that lacks it.
#[derive(Debug, Clone, Copy)]
pub struct Mending<'a> {
    pub id: MessageId,
    pub hostname: &'a str,
    pub at: Timestamp,
    /// The From field, if the header has none.
    pub from: Option<&'a MailboxAddress>,
}

/// The header with Message-ID and Date, and with From where it is given, and without:
///
/// - Bcc and Resent-Bcc: who receives is in the envelope, and those in Bcc were not to be seen;
/// - Return-Path, which only the last server writes (RFC 5321 section 4.4);
/// - a Message-ID, Date or From without a value, which another takes the place of.
///
/// All other fields stay as they are, byte for byte and in their order.
///
/// Settled at acceptance and stored with the message, so that every attempt sends the same Message-ID: it is what an
/// unknown outcome is looked up by.
pub fn mend(header: &HeaderBlock, mending: &Mending<'_>, out: &mut Vec<u8>) {
    let Mending { id, hostname, at, from } = *mending;
    let (mut has_id, mut has_date) = (false, false);
    for field in header.fields() {
        let keep = match () {
            () if field.is("Message-ID") => has_value(&field, &mut has_id),
            () if field.is("Date") => has_value(&field, &mut has_date),
            () if field.is("From") => from.is_none(),
            () => !["Bcc", "Resent-Bcc", "Return-Path"].into_iter().any(|name| field.is(name)),
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
    if let Some(from) = from {
        out.extend_from_slice(format!("From: <{from}>\r\n").as_bytes());
    }
}

fn has_value(field: &Field<'_>, found: &mut bool) -> bool {
    let has = !field.value().is_empty();
    *found |= has;
    has
}

/// How many servers the message has passed.
pub fn hops(header: &HeaderBlock) -> usize {
    header.named("Received").count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HeaderScanner;
    use proptest::prelude::*;

    fn header(text: &str) -> HeaderBlock {
        HeaderScanner::split_message(text.as_bytes()).unwrap().header
    }

    fn mended(text: &str, from: Option<&str>) -> String {
        let at = Timestamp::from_millis(1_784_793_901_000);
        let from = from.map(|text| text.parse().unwrap());
        let mending =
            Mending { id: MessageId::first_at(at), hostname: "relay.example.net", at, from: from.as_ref() };
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
    fn hops_are_counted() {
        assert_eq!(hops(&header(&format!("{}X-Received: x\r\n", "received: x\r\n".repeat(51)))), 51);
    }

    proptest! {
        #[test]
        fn a_whole_header_stays_byte_for_byte(fields in prop::collection::vec("(X-[a-z]{1,9}|To|Subject|Received|From): ?[ -~]{0,50}(\r\n [a-z])?", 0..10)) {
            let text: String = ["Date: d".to_owned(), "Message-ID: <a@b>".to_owned()]
                .into_iter().chain(fields).map(|field| field + "\r\n").collect();
            prop_assert_eq!(mended(&text, None), String::from_utf8(header(&text).into_bytes()).unwrap());
        }
    }
}
