//! The report itself: `multipart/report` with a text for people, `message/delivery-status` for programs, and the header
//! of the message that failed (RFC 3464, RFC 6522).
//!
//! Its size is bounded, since it goes the way of all mail and is dropped where it is too large: below 512 KB for 1000
//! recipients with usual addresses. What the service said of all recipients alike is said once, to people.
//!
//! CRLF everywhere, no line over 998 octets, seven bits but for addresses that are not ASCII themselves (RFC 6532).

use mail_builder::{
    MessageBuilder,
    headers::{address::Address, content_type::ContentType, raw::Raw},
    mime::MimePart,
};

use super::EnhancedStatus;
use crate::{
    clock::Timestamp,
    message::{HeaderBlock, MailboxAddress, MessageId, date, without_bcc},
};

/// A message that was given up for some recipients.
#[derive(Debug, Clone)]
pub struct Failure<'a> {
    pub kind: Kind,
    /// This relay's host name.
    pub reporting_mta: &'a str,
    /// The mailbox that posts the report.
    pub from: &'a MailboxAddress,
    /// The envelope sender of the message.
    pub to: &'a MailboxAddress,
    /// The message. It knows when it was accepted.
    pub id: MessageId,
    /// Never empty.
    pub recipients: Vec<Outcome<'a>>,
    /// The header of the message.
    pub header: &'a HeaderBlock,
    pub now: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused for good.
    Failed,
    /// Tried until `give_up_after`.
    Expired,
}

/// What became of one recipient.
#[derive(Debug, Clone)]
pub struct Outcome<'a> {
    pub address: &'a MailboxAddress,
    pub status: EnhancedStatus,
    pub service: Service,
    /// What the service said, last.
    pub diagnostic: &'a str,
    /// The service's host name, if it was reached.
    pub remote: Option<&'a str>,
}

impl Outcome<'_> {
    fn says_the_same(&self, other: &Self) -> bool {
        (self.status, self.service, self.diagnostic) == (other.status, other.service, other.diagnostic)
    }
}

/// Who said it: the type of the Diagnostic-Code field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Graph,
    Smtp,
}

/// The report as a whole message, to be queued with a null sender for `failure.to`.
pub fn report(failure: &Failure<'_>) -> Vec<u8> {
    let Failure { reporting_mta, from, to, id, header, now, .. } = failure;
    let host = clean(reporting_mta, 255);
    let mut message = MessageBuilder::new()
        .from(Address::new_address(Some("Mail Delivery System"), from.as_str()))
        .to(Address::new_address(None::<&str>, to.as_str()))
        .subject(format!("Undelivered mail: {}", subject(header)))
        .header("Date", Raw::new(date(*now)))
        .message_id(format!("{id}.{}@{}", now.as_millis(), ascii(&host).replace(' ', "-")))
        // RFC 3834, for all who know it, and Exchange's own field: no out-of-office answers to a report.
        .header("Auto-Submitted", Raw::new("auto-replied"))
        .header("X-Auto-Response-Suppress", Raw::new("All"));
    if let Some(original) = message_id(header) {
        message = message.in_reply_to(original.clone()).references(original);
    }
    let parts = vec![
        MimePart::new("text/plain", text_for_people(failure, &host)),
        MimePart::new("message/delivery-status", delivery_status(failure, &host).into_bytes())
            .transfer_encoding("7bit"),
        original_header(header),
    ];
    let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
    let mut bytes = Vec::new();
    message.body(MimePart::new(report, parts)).serialize(&mut bytes);
    bytes
}

fn text_for_people(failure: &Failure<'_>, host: &str) -> String {
    let Failure { kind, id, header, recipients, .. } = failure;
    let what = match kind {
        Kind::Failed => "could not be delivered. It will not be tried again.",
        Kind::Expired => {
            "could not be delivered in time. It has been tried again and again, and will not be any more."
        }
    };
    let accepted = date(id.accepted());
    let subject = subject(header);
    let mut text = format!(
        "This is the mail relay {host}.\r\n\r\n\
         Your message {what}\r\n\r\n\
         Subject:  {subject}\r\n\
         Accepted: {accepted}\r\n\
         Queue id: {id}\r\n"
    );
    let listed = &recipients[..recipients.len().min(MAX_LISTED)];
    let unlisted = match recipients.len() - listed.len() {
        0 => String::new(),
        more => format!("\r\nand {more} more recipients: the attached report names them all.\r\n"),
    };
    match recipients.first().filter(|first| recipients.iter().all(|outcome| outcome.says_the_same(first))) {
        Some(shared) => {
            text.push_str("\r\n");
            for Outcome { address, .. } in listed {
                text.push_str(&format!("<{address}>\r\n"));
            }
            text.push_str(unlisted.trim_start());
            push_said(&mut text, *kind, shared, MAX_SHARED_DIAGNOSTIC);
        }
        None => {
            for outcome in listed {
                text.push_str(&format!("\r\n<{}>\r\n", outcome.address));
                push_said(&mut text, *kind, outcome, MAX_DIAGNOSTIC);
            }
            text.push_str(&unlisted);
        }
    }
    text.push_str(
        "\r\nIf you ask your administrator for help, send this report along, with its attachments.\r\n",
    );
    text
}

/// What was said, and what to do about it.
fn push_said(text: &mut String, kind: Kind, outcome: &Outcome<'_>, longest: usize) {
    let status = outcome.status;
    let said = match outcome.service {
        Service::Graph => "Microsoft 365 said",
        Service::Smtp => "The mail server said",
    };
    let (diagnostic, advice) = (clean(outcome.diagnostic, longest), advice(kind, status));
    text.push_str(&format!("    {said} ({status}): {diagnostic}\r\n    {advice}\r\n"));
}

/// What the reader can do about it.
fn advice(kind: Kind, status: EnhancedStatus) -> &'static str {
    match (kind, status.subject()) {
        (Kind::Expired, _) => {
            "Send the message again if it is still needed, and tell your administrator: other mail may be late too."
        }
        (_, 1) => "Check the address, then send the message again.",
        (_, 2) => "The mailbox cannot take the message. Write to the recipient in another way.",
        (_, 3) => "The message may be too large. Send less, or a link to it.",
        (_, 6) => "The message's form or contents were refused. Send it in another form.",
        (_, 7) => "A permission or a rule stands against it. Your administrator can find out which.",
        _ => "If what was said does not tell you what to do, ask your administrator.",
    }
}

/// RFC 3464 section 2: fields of the message, then a group of fields for each recipient.
fn delivery_status(failure: &Failure<'_>, host: &str) -> String {
    let id = failure.id;
    let mut fields = String::new();
    push_field(&mut fields, "Reporting-MTA", &format!("dns; {host}"));
    push_field(&mut fields, "X-Queue-ID", &id.to_string());
    push_field(&mut fields, "Arrival-Date", &date(id.accepted()));
    let longest = (MAX_DIAGNOSTICS / failure.recipients.len().max(1)).clamp(MIN_DIAGNOSTIC, MAX_DIAGNOSTIC);
    for outcome in &failure.recipients {
        fields.push_str("\r\n");
        push_field(&mut fields, "Final-Recipient", &typed_address(outcome.address));
        push_field(&mut fields, "Action", "failed");
        push_field(&mut fields, "Status", &outcome.status.to_string());
        if let Some(remote) = outcome.remote {
            push_field(&mut fields, "Remote-MTA", &format!("dns; {}", clean(remote, 255)));
        }
        let kind = match outcome.service {
            Service::Graph => "X-Microsoft-Graph",
            Service::Smtp => "smtp",
        };
        let said = clean(outcome.diagnostic, longest);
        push_field(&mut fields, "Diagnostic-Code", &format!("{kind}; {said}"));
    }
    fields
}

/// `rfc822; a@b`, or RFC 6533 section 3 for an address that is not ASCII.
fn typed_address(address: &MailboxAddress) -> String {
    if address.is_ascii() {
        return format!("rfc822; {address}");
    }
    let mut text = "utf-8; ".to_owned();
    for c in address.as_str().chars() {
        match c {
            '!'..='~' if !"\\+=".contains(c) => text.push(c),
            _ => text.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        }
    }
    text
}

/// The header as it was, up to a size, in whole fields.
fn original_header(header: &HeaderBlock) -> MimePart<'static> {
    let header = without_bcc(header);
    let mut bytes = Vec::new();
    for field in header.fields() {
        if bytes.len() + field.raw().len() > MAX_RETURNED {
            break;
        }
        bytes.extend_from_slice(field.raw());
    }
    let plain = bytes.split(|&byte| byte == b'\n').all(|line| line.len() < MAX_LINE)
        && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~'));
    let part = MimePart::new("text/rfc822-headers", bytes);
    // As it is, if it can be; else mail-builder encodes it.
    if plain { part.transfer_encoding("7bit") } else { part }
}

const MAX_RETURNED: usize = 64 * 1024;
/// In characters, where it is said once for all recipients, and where it is said for one.
const MAX_SHARED_DIAGNOSTIC: usize = 1000;
const MAX_DIAGNOSTIC: usize = 500;
/// RFC 3464 has it repeated for each recipient: of very many, each gets less.
const MIN_DIAGNOSTIC: usize = 80;
const MAX_DIAGNOSTICS: usize = 200 * 1024;
/// Recipients in the text for people.
const MAX_LISTED: usize = 100;
const MAX_LINE: usize = 998;

/// The subject, decoded.
fn subject(header: &HeaderBlock) -> String {
    let text = header.named("Subject").next().map(|field| clean(&field.text(), 200)).unwrap_or_default();
    if text.is_empty() { "(no subject)".to_owned() } else { text }
}

/// The Message-ID without its angle brackets, if it is one that can be quoted.
fn message_id(header: &HeaderBlock) -> Option<String> {
    let field = header.named("Message-ID").next()?;
    let value = field.value();
    let id = value.strip_prefix(b"<")?.strip_suffix(b">")?;
    let quotable = id.len() <= 250 && id.iter().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(byte));
    let text = std::str::from_utf8(id).ok().filter(|_| quotable)?;
    Some(text.to_owned())
}

/// On one line, no control characters, at most `longest` characters.
fn clean(text: &str, longest: usize) -> String {
    let mut clean: String =
        text.chars().take(longest).map(|c| if c.is_control() || is_line_end(c) { ' ' } else { c }).collect();
    clean.truncate(clean.trim_end().len());
    clean
}

/// Line ends of Unicode, which `char::is_control` does not know.
fn is_line_end(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

fn ascii(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// Writes a field in ASCII, folded at spaces, and inside of words that are too long for a line.
fn push_field(fields: &mut String, name: &str, value: &str) {
    const WANTED: usize = 76;
    const LONGEST_WORD: usize = 900;
    fields.push_str(name);
    fields.push(':');
    let mut column = name.len() + 1;
    for word in ascii(value).split(' ').filter(|word| !word.is_empty()) {
        for piece in word.as_bytes().chunks(LONGEST_WORD) {
            if column + 1 + piece.len() > WANTED && column > name.len() + 1 {
                fields.push_str("\r\n");
                column = 0;
            }
            fields.push(' ');
            fields.extend(piece.iter().copied().map(char::from));
            column += 1 + piece.len();
        }
    }
    fields.push_str("\r\n");
}
