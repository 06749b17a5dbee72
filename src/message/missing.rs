//! Fields that every message needs and that simple senders leave out: RFC 6409 section 8.

use super::{HeaderBlock, MessageId, date};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HeaderScanner;

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
