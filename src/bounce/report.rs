//! The report itself: `multipart/report` with a text for people, `message/delivery-status` for programs, and
//! the header of the message, or all of it if its sender asked for that (RFC 3464, RFC 6522).
//!
//! Its size is bounded, since it takes the way of all mail and is dropped where it is too large: below 512 KB
//! for 1000 recipients with usual addresses, and below 1 MB with a message that is returned in full. What the
//! service said of all recipients alike is given once, in the text for people.
//!
//! CRLF everywhere, no line over 998 octets, seven bits except for addresses that are not ASCII themselves
//! (RFC 6532).

use mail_builder::{
    MessageBuilder,
    headers::{address::Address, content_type::ContentType, raw::Raw},
    mime::MimePart,
};

use super::EnhancedStatus;
use relay_mail::{
    EnvelopeId, HeaderBlock, MailboxAddress, MessageId, OriginalRecipient, RecipientWish, Timestamp, date,
    outside::one_line, without_bcc,
};

/// The outcome of a message, for its sender.
#[derive(Debug, Clone)]
pub struct Notification<'a> {
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
    pub recipients: Vec<RecipientReport<'a>>,
    /// RFC 3461: the sender's own name for the message.
    pub envid: Option<&'a EnvelopeId>,
    /// The header of the message.
    pub header: &'a HeaderBlock,
    /// Its body, to be returned in full. It is left out all the same if it is over [`MAX_RETURNED_BODY`] or
    /// has lines that do not pass everywhere.
    pub body: Option<&'a [u8]>,
    pub now: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused for good.
    Failed,
    /// Tried until `give_up_after`.
    Expired,
    /// Handed over to a service that reports no outcome (RFC 3461 section 6.2.3).
    Relayed,
}

impl Kind {
    /// As in the metrics, and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Relayed => "relayed",
        }
    }

    /// Whether the sender wants to be told this about a recipient.
    pub fn is_wished(self, wish: &RecipientWish) -> bool {
        match self {
            Self::Failed | Self::Expired => wish.on_failure(),
            Self::Relayed => wish.on_success(),
        }
    }
}

/// The outcome for one recipient.
#[derive(Debug, Clone)]
pub struct RecipientReport<'a> {
    pub address: &'a MailboxAddress,
    /// RFC 3461: whom the sender had written to, if a server before this one replaced the address.
    pub original: Option<OriginalRecipient>,
    pub status: EnhancedStatus,
    pub service: Service,
    /// What the service said last.
    pub diagnostic: &'a str,
    /// The service's host name, if it was reached.
    pub remote: Option<&'a str>,
}

impl RecipientReport<'_> {
    fn says_the_same(&self, other: &Self) -> bool {
        (self.status, self.service, self.diagnostic) == (other.status, other.service, other.diagnostic)
    }
}

/// Who said it: the type of the Diagnostic-Code field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Graph,
    Smtp,
    /// This relay itself.
    Relay,
}

/// The report as a whole message, to be queued with a null sender for `told.to`.
pub fn report(told: &Notification<'_>) -> Vec<u8> {
    let Notification { reporting_mta, from, to, id, header, now, .. } = told;
    let host = one_line(reporting_mta, 255);
    let mut message = MessageBuilder::new()
        .from(Address::new_address(Some("Mail Delivery System"), from.as_str()))
        .to(Address::new_address(None::<&str>, to.as_str()))
        .subject(format!("{}: {}", title(told.kind), subject(header)))
        .header("Date", Raw::new(date(*now)))
        .message_id(format!("{id}.{}@{}", now.as_millis(), ascii(&host).replace(' ', "-")))
        // RFC 3834, for every system that knows it, and Exchange's own field: no out-of-office answers to a
        // report.
        .header("Auto-Submitted", Raw::new("auto-replied"))
        .header("X-Auto-Response-Suppress", Raw::new("All"));
    if let Some(original) = message_id(header) {
        message = message.in_reply_to(original.clone()).references(original);
    }
    let parts = vec![
        MimePart::new("text/plain", text_for_people(told, &host)),
        MimePart::new("message/delivery-status", delivery_status(told, &host).into_bytes())
            .transfer_encoding("7bit"),
        told.body.and_then(|body| original_message(header, body)).unwrap_or_else(|| original_header(header)),
    ];
    let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
    let mut bytes = Vec::new();
    message.body(MimePart::new(report, parts)).serialize(&mut bytes);
    bytes
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed | Kind::Expired => "Undelivered mail",
        Kind::Relayed => "Mail handed over",
    }
}

fn text_for_people(told: &Notification<'_>, host: &str) -> String {
    let Notification { kind, id, header, recipients, .. } = told;
    let told_apart = *kind != Kind::Relayed;
    let what = match kind {
        Kind::Failed => "could not be delivered. It will not be tried again.",
        Kind::Expired => "could not be delivered in time. Every attempt failed, and no more will be made.",
        Kind::Relayed => {
            "was handed over to Microsoft 365. You asked for this notice. Microsoft 365 does not tell this \
             relay what happens to the message next."
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
            for RecipientReport { address, .. } in listed {
                text.push_str(&format!("<{address}>\r\n"));
            }
            text.push_str(unlisted.trim_start());
            if told_apart {
                push_said(&mut text, *kind, shared, MAX_SHARED_DIAGNOSTIC);
            }
        }
        None => {
            for outcome in listed {
                text.push_str(&format!("\r\n<{}>\r\n", outcome.address));
                push_said(&mut text, *kind, outcome, MAX_DIAGNOSTIC);
            }
            text.push_str(&unlisted);
        }
    }
    if told_apart {
        text.push_str(
            "\r\nIf you ask your administrator for help, forward this report with its attachments.\r\n",
        );
    }
    text
}

/// What was said, and what to do about it.
fn push_said(text: &mut String, kind: Kind, outcome: &RecipientReport<'_>, longest: usize) {
    let status = outcome.status;
    let said = match outcome.service {
        Service::Graph => "Microsoft 365 said",
        Service::Smtp => "The mail server said",
        Service::Relay => "This relay said",
    };
    let diagnostic = one_line(outcome.diagnostic, longest);
    let advice = advice(kind, status);
    text.push_str(&format!("    {said} ({status}): {diagnostic}\r\n    {advice}\r\n"));
}

/// What the reader can do about it.
fn advice(kind: Kind, status: EnhancedStatus) -> &'static str {
    match (kind, status.subject()) {
        (Kind::Expired, _) => {
            "Send the message again if it is still needed, and tell your administrator: other mail may be late too."
        }
        (Kind::Relayed, _) => "",
        (_, 1) => "Check the address, then send the message again.",
        (_, 2) => "The mailbox cannot take the message. Contact the recipient in another way.",
        (_, 3) => "The message may be too large. Send less, or a link to it.",
        (_, 6) => "The form or the content of the message was refused. Send it in another form.",
        (_, 7) => "A permission or a rule forbids it. Your administrator can find out which.",
        _ => "If that answer does not tell you what to do, ask your administrator.",
    }
}

/// RFC 3464 section 2: fields of the message, then a group of fields for each recipient.
fn delivery_status(told: &Notification<'_>, host: &str) -> String {
    let id = told.id;
    let action = match told.kind {
        Kind::Failed | Kind::Expired => "failed",
        Kind::Relayed => "relayed",
    };
    let mut fields = String::new();
    if let Some(envid) = told.envid {
        push_field(&mut fields, "Original-Envelope-Id", &envid.decoded());
    }
    push_field(&mut fields, "Reporting-MTA", &format!("dns; {host}"));
    push_field(&mut fields, "X-Queue-ID", &id.to_string());
    push_field(&mut fields, "Arrival-Date", &date(id.accepted()));
    let longest = (MAX_DIAGNOSTICS / told.recipients.len().max(1)).clamp(MIN_DIAGNOSTIC, MAX_DIAGNOSTIC);
    for outcome in &told.recipients {
        fields.push_str("\r\n");
        if let Some(original) = &outcome.original {
            let original = format!("{}; {}", original.kind(), original.address());
            push_field(&mut fields, "Original-Recipient", &original);
        }
        push_field(&mut fields, "Final-Recipient", &typed_address(outcome.address));
        push_field(&mut fields, "Action", action);
        push_field(&mut fields, "Status", &outcome.status.to_string());
        if let Some(remote) = outcome.remote {
            push_field(&mut fields, "Remote-MTA", &format!("dns; {}", one_line(remote, 255)));
        }
        // RFC 3464 section 2.3.6: the field is for what went wrong.
        if told.kind == Kind::Relayed {
            continue;
        }
        let kind = match outcome.service {
            Service::Graph => "X-Microsoft-Graph",
            Service::Smtp => "smtp",
            Service::Relay => "X-M365-Relay",
        };
        let said = one_line(outcome.diagnostic, longest);
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
    // mail-builder takes a NUL for text that needs no encoding.
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|nul| *nul = b'?');
    let plain = bytes.split(|&byte| byte == b'\n').all(|line| line.len() < MAX_LINE)
        && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~'));
    let part = MimePart::new("text/rfc822-headers", bytes);
    // As it is if possible; else mail-builder encodes it.
    if plain { part.transfer_encoding("7bit") } else { part }
}

/// The whole message, if it passes through as it is: a part of type `message/rfc822` cannot be encoded (RFC
/// 2046 section 5.2.1).
fn original_message(header: &HeaderBlock, body: &[u8]) -> Option<MimePart<'static>> {
    let header = without_bcc(header);
    let message = [header.as_bytes(), b"\r\n", body].concat();
    let fits = |line: &[u8]| line.len() < MAX_LINE && memchr::memchr(0, line).is_none();
    if body.len() > MAX_RETURNED_BODY || !message.split(|&byte| byte == b'\n').all(fits) {
        return None;
    }
    let encoding = if message.is_ascii() { "7bit" } else { "8bit" };
    Some(MimePart::new("message/rfc822", message).transfer_encoding(encoding))
}

const MAX_RETURNED: usize = 64 * 1024;
/// The most octets of a body that is returned because its sender asked for it.
pub const MAX_RETURNED_BODY: usize = 128 * 1024;
/// In characters, for a text that is given once for all recipients, and for one recipient's.
const MAX_SHARED_DIAGNOSTIC: usize = 1000;
const MAX_DIAGNOSTIC: usize = 500;
/// RFC 3464 has it repeated for each recipient: with very many, each gets less.
const MIN_DIAGNOSTIC: usize = 80;
const MAX_DIAGNOSTICS: usize = 200 * 1024;
/// Recipients in the text for people.
const MAX_LISTED: usize = 100;
const MAX_LINE: usize = 998;

/// The subject, decoded.
fn subject(header: &HeaderBlock) -> String {
    let text = header.named("Subject").next().map(|field| one_line(&field.text(), 200)).unwrap_or_default();
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
