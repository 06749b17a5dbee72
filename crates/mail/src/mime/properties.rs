//! What the header says, as the properties of a message.

use std::collections::HashSet;

use crate::{AddressList, HeaderBlock, words::one_line};

/// The names of fields that the service takes as they are: five at most.
const MAX_X_HEADERS: usize = 5;
/// RFC 5322 section 2.1.1: a line has 998 octets.
const MAX_VALUE: usize = 900;
/// Of the other fields: more than real mail has, List-Unsubscribe with its long URLs among them.
const MAX_OTHERS: usize = 64;
const MAX_OTHER_VALUE: usize = 4000;

/// Fields that are carried in another way, that a message gets anew on each way, or that would not be true
/// of one that was built again.
const NOT_CARRIED: &[&str] = &[
    "bcc",
    "cc",
    "date",
    "delivered-to",
    "disposition-notification-to",
    "envelope-to",
    "from",
    "importance",
    "in-reply-to",
    "message-id",
    "mime-version",
    "priority",
    "received",
    "references",
    "reply-to",
    "return-path",
    "return-receipt-to",
    "sender",
    "subject",
    "to",
    "x-priority",
];
/// Beginnings of such names. What Exchange writes itself it believes of nobody.
const NOT_CARRIED_FAMILIES: &[&str] = &[
    "arc-",
    "authentication-",
    "content-",
    "dkim-",
    "domainkey-",
    "received-",
    "resent-",
    "x-microsoft-antispam",
    "x-ms-exchange-",
    "x-original-",
];

/// Of a header whose To, Cc and Bcc name the envelope's recipients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub subject: String,
    pub from: Option<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub bcc: Vec<Mailbox>,
    pub importance: Option<Importance>,
    /// With angle brackets.
    pub message_id: Option<String>,
    pub in_reply_to: Option<String>,
    pub references: Option<String>,
    pub wants_read_receipt: bool,
    pub wants_delivery_receipt: bool,
    /// Fields of programs, five at most.
    pub x_headers: Vec<(String, String)>,
    /// Fields that nothing above carries, in their order: List-…, Auto-Submitted, Precedence, more fields of
    /// programs; and Date as X-Original-Date, since the service writes a Date of its own.
    pub others: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub name: Option<String>,
    /// As it was written, if it is not well-formed: the service judges it.
    pub address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    Low,
    Normal,
    High,
}

impl Properties {
    pub fn of(header: &HeaderBlock) -> Self {
        let (x_headers, others) = other_fields(header);
        Self {
            subject: header.named("Subject").next().map(|field| field.text()).unwrap_or_default(),
            from: mailboxes(header, "From").into_iter().next(),
            reply_to: mailboxes(header, "Reply-To"),
            to: mailboxes(header, "To"),
            cc: mailboxes(header, "Cc"),
            bcc: mailboxes(header, "Bcc"),
            importance: importance(header),
            message_id: value(header, "Message-ID"),
            in_reply_to: value(header, "In-Reply-To"),
            references: value(header, "References"),
            wants_read_receipt: header.named("Disposition-Notification-To").next().is_some(),
            wants_delivery_receipt: header.named("Return-Receipt-To").next().is_some(),
            x_headers,
            others,
        }
    }
}

fn mailboxes(header: &HeaderBlock, name: &str) -> Vec<Mailbox> {
    let mut mailboxes = Vec::new();
    for field in header.named(name) {
        for entry in AddressList::parse(field.raw_value()).entries {
            let address = match &entry.address {
                Some(address) => address.as_str().to_owned(),
                None => match likely_address(entry.raw) {
                    Some(address) => address,
                    None => continue,
                },
            };
            mailboxes.push(Mailbox { name: entry.name(), address });
        }
    }
    mailboxes
}

/// A word with an `@` in it, in an entry that is no address by the grammar: `"ann"carter@x.se`.
fn likely_address(entry: &[u8]) -> Option<String> {
    let text = one_line(&String::from_utf8_lossy(entry));
    let text = match (text.find('<'), text.rfind('>')) {
        (Some(open), Some(close)) if open < close => text[open + 1..close].to_owned(),
        _ => text,
    };
    let mut words = text.split_whitespace().filter(|word| word.trim_matches('@').contains('@'));
    words.next().filter(|word| !word.contains(['<', '>', '(', ')', ',', ';'])).map(str::to_owned)
}

fn value(header: &HeaderBlock, name: &str) -> Option<String> {
    let field = header.named(name).next()?;
    let value = one_line(&String::from_utf8_lossy(&field.value()));
    let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    (!value.is_empty()).then_some(value)
}

/// Importance (RFC 2156), or else Priority, or X-Priority, which nobody has defined and everybody writes.
fn importance(header: &HeaderBlock) -> Option<Importance> {
    let said = |name| value(header, name).map(|text| text.to_ascii_lowercase());
    let by_name = |text: String| match text.as_str() {
        "high" | "urgent" => Some(Importance::High),
        "normal" => Some(Importance::Normal),
        "low" | "non-urgent" => Some(Importance::Low),
        _ => None,
    };
    let by_number = |text: String| match text.bytes().next() {
        Some(b'1' | b'2') => Some(Importance::High),
        Some(b'3') => Some(Importance::Normal),
        Some(b'4' | b'5') => Some(Importance::Low),
        _ => None,
    };
    said("Importance")
        .and_then(by_name)
        .or_else(|| said("Priority").and_then(by_name))
        .or_else(|| said("X-Priority").and_then(by_number))
}

type Fields = Vec<(String, String)>;

/// The fields that the service takes as they are, and those that nothing else carries. Of several with one
/// name the first: Exchange keeps each as the property of its name (PS_INTERNET_HEADERS, \[MS-OXPROPS\]),
/// and has room for one. Programs on the way put theirs in front.
fn other_fields(header: &HeaderBlock) -> (Fields, Fields) {
    let mut of_programs = Vec::new();
    let mut others = Vec::new();
    let mut names = HashSet::new();
    for field in header.fields() {
        let name = String::from_utf8_lossy(field.name()).into_owned();
        let lower = name.to_ascii_lowercase();
        let value = field.value();
        let is_plain = value.iter().all(|octet| matches!(octet, b' '..=b'~' | b'\t'));
        if !is_plain || value.is_empty() || value.len() > MAX_OTHER_VALUE {
            continue;
        }
        let value = String::from_utf8_lossy(&value).into_owned();
        let is_carried_otherwise = NOT_CARRIED.contains(&lower.as_str())
            || NOT_CARRIED_FAMILIES.iter().any(|family| lower.starts_with(family));
        if lower == "date" && names.insert("x-original-date".to_owned()) {
            others.push(("X-Original-Date".to_owned(), value));
        } else if !is_carried_otherwise && names.insert(lower.clone()) {
            let is_of_program = lower.starts_with("x-") && value.len() <= MAX_VALUE;
            if is_of_program { &mut of_programs } else { &mut others }.push((name, value));
        }
    }
    // Which program wrote it says least.
    of_programs.sort_by_key(|(name, _)| name.eq_ignore_ascii_case("x-mailer"));
    others.extend(of_programs.split_off(of_programs.len().min(MAX_X_HEADERS)));
    others.truncate(MAX_OTHERS);
    (of_programs, others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeaderScanner;

    fn properties(header: &str) -> Properties {
        Properties::of(&HeaderScanner::split_message(header.as_bytes()).unwrap().header)
    }

    #[test]
    fn fields_become_properties() {
        let found = properties(
            "From: =?utf-8?q?J=C3=BCrgen?= <a@x.se>\r\nSender: s@x.se\r\nReply-To: \"Help, Desk\" <h@x.se>, r@x.se\r\n\
             To: Friends: b@y.se, \"C\" <c@y.se>;\r\nBcc: <d@y.se>\r\nSubject: =?iso-8859-1?Q?Gr=FC=DFe?=\r\n\
             Message-ID: <id@x.se>\r\nIn-Reply-To: <p@x.se>\r\nReferences: <o@x.se>\r\n <p@x.se>\r\n\
             Disposition-Notification-To: a@x.se\r\nX-Priority: 1 (Highest)\r\nX-Mailer: m\r\nX-A: 1\r\nx-b: 2\r\n\
             x-a: 7\r\nX-C: 3\r\nX-D: 4\r\nX-E: 5\r\nX-Original-To: z@y.se\r\n",
        );
        let mailbox = |name: Option<&str>, address: &str| Mailbox {
            name: name.map(str::to_owned),
            address: address.to_owned(),
        };
        assert_eq!(found.from, Some(mailbox(Some("Jürgen"), "a@x.se")));
        assert_eq!(found.reply_to, [mailbox(Some("Help, Desk"), "h@x.se"), mailbox(None, "r@x.se")]);
        assert_eq!(found.to, [mailbox(None, "b@y.se"), mailbox(Some("C"), "c@y.se")]);
        assert_eq!(found.bcc, [mailbox(None, "d@y.se")]);
        assert_eq!(found.subject, "Grüße");
        assert_eq!(found.message_id.as_deref(), Some("<id@x.se>"));
        assert_eq!(found.references.as_deref(), Some("<o@x.se> <p@x.se>"));
        assert_eq!(found.importance, Some(Importance::High));
        assert!(found.wants_read_receipt && !found.wants_delivery_receipt);
        let names: Vec<_> = found.x_headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["X-A", "x-b", "X-C", "X-D", "X-E"]);
        assert_eq!(found.x_headers[0].1, "1");
        assert_eq!(found.others, [("X-Mailer".to_owned(), "m".to_owned())]);
        assert_eq!(properties("From: A\r\n"), Properties::default());
    }

    #[test]
    fn other_fields_are_found_once_each() {
        let found = properties(
            "Received: from x\r\nDKIM-Signature: v=1\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\nDate: again\r\n\
             Sender: s@x.se\r\nList-Unsubscribe: <https://x.se/u>,\r\n <mailto:u@x.se>\r\nList-Id: <l.x.se>\r\n\
             list-id: <m.x.se>\r\nAuto-Submitted: auto-generated\r\nPrecedence: bulk\r\nContent-Type: text/plain\r\n\
             Comments: Gr\u{fc}n\r\nX-MS-Exchange-Organization-SCL: -1\r\nX-Mailer: m\r\nX-1: 1\r\nX-2: 2\r\nX-3: 3\r\n\
             X-4: 4\r\nX-5: 5\r\nX-6: 6\r\nX-Original-To: z@y.se\r\n",
        );
        let names: Vec<_> = found.others.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "X-Original-Date",
                "List-Unsubscribe",
                "List-Id",
                "Auto-Submitted",
                "Precedence",
                "X-6",
                "X-Mailer"
            ]
        );
        assert_eq!(found.others[0].1, "Tue, 24 Nov 2026 09:00:00 +0100");
        assert_eq!(found.others[1].1, "<https://x.se/u>, <mailto:u@x.se>");
        assert_eq!(found.x_headers.len(), 5);
        let many: String = (0..200).map(|n| format!("List-{n}: {n}\r\n")).collect();
        assert_eq!(properties(&many).others.len(), MAX_OTHERS);
    }
}
