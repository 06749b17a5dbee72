//! Reads a submitted MIME message the way Exchange does: author and recipients, from its headers alone.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mail_parser::{Addr, Address, Group, Header, HeaderName, HeaderValue, MessageParser};

use super::{delivered::DeliveredAttachment, errors::GraphError};
use relay_mail::MailboxAddress;

/// A message that is ready to be judged and delivered.
pub(super) struct Submission {
    pub(super) from: MailboxAddress,
    /// As given in JSON. For MIME, Graph sets it by itself.
    pub(super) sender: Option<MailboxAddress>,
    pub(super) to: Vec<MailboxAddress>,
    pub(super) cc: Vec<MailboxAddress>,
    pub(super) bcc: Vec<MailboxAddress>,
    pub(super) subject: String,
    /// With angle brackets; empty if there is none.
    pub(super) message_id: String,
    pub(super) raw: Bytes,
    /// Octets of the message, including everything that was left out of `raw`.
    pub(super) size: usize,
    /// The attachments of a message made from JSON.
    pub(super) attachments: Vec<DeliveredAttachment>,
}

/// Decodes the base64 of a `text/plain` request body. Line breaks are allowed, as in Microsoft's sample;
/// anything else outside the alphabet, and wrong padding, is not.
pub(super) fn decode(body: &Bytes) -> Result<Bytes, GraphError> {
    let decoded = if memchr::memchr2(b'\r', b'\n', body).is_none() {
        BASE64_STANDARD.decode(body)
    } else {
        let joined: Vec<u8> = body.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        BASE64_STANDARD.decode(joined)
    };
    match decoded {
        Ok(raw) if !raw.is_empty() => Ok(raw.into()),
        _ => Err(GraphError::bad(
            "ErrorMimeContentInvalidBase64String",
            "Invalid base64 string for MIME content.",
        )),
    }
}

/// What SMTP checks in the header of a message.
pub(super) struct Head {
    pub(super) from: MailboxAddress,
    pub(super) subject: String,
    /// With angle brackets; empty if there is none.
    pub(super) message_id: String,
}

/// `None`: there is no header, or not exactly one author.
pub(super) fn head(raw: &[u8]) -> Option<Head> {
    let message = MessageParser::default().parse_headers(raw)?;
    let mut authors = addresses(message.headers(), &HeaderName::From);
    let (Some(from), None) = (authors.next(), authors.next()) else { return None };
    let from = address(from).ok()?;
    drop(authors);
    Some(Head {
        from,
        subject: message.subject().unwrap_or_default().to_owned(),
        message_id: message.message_id().map(|id| format!("<{id}>")).unwrap_or_default(),
    })
}

pub(super) fn read(raw: Bytes) -> Result<Submission, GraphError> {
    let invalid = |why: &'static str| GraphError::bad("ErrorMimeContentInvalid", why);
    let message = MessageParser::default()
        .parse_headers(&*raw)
        .ok_or_else(|| invalid("The MIME content is invalid: it has no header."))?;
    let headers = message.headers();
    // Several From addresses need a Sender, which Graph sets by itself (bounces 5.7.512 and 5.1.20 say the
    // rest).
    let mut authors = addresses(headers, &HeaderName::From);
    let (Some(from), None) = (authors.next(), authors.next()) else {
        return Err(invalid("The MIME content is invalid: it needs exactly one From address."));
    };
    let from = address(from).map_err(|_| invalid("The MIME content is invalid: From is not an address."))?;
    drop(authors);
    Ok(Submission {
        from,
        sender: None,
        to: recipients(headers, HeaderName::To)?,
        cc: recipients(headers, HeaderName::Cc)?,
        bcc: recipients(headers, HeaderName::Bcc)?,
        subject: message.subject().unwrap_or_default().to_owned(),
        message_id: message.message_id().map(|id| format!("<{id}>")).unwrap_or_default(),
        size: raw.len(),
        raw: raw.clone(),
        attachments: Vec::new(),
    })
}

/// Whether any line ends in LF alone.
pub(super) fn has_bare_lf(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r')
}

/// An address as a recipient or author; `ErrorInvalidRecipients` if it is not an address.
pub(super) fn parse_address(text: &str) -> Result<MailboxAddress, GraphError> {
    text.parse().map_err(|_| unresolved(text))
}

/// The answer that does not say which.
pub(super) fn invalid_recipients() -> GraphError {
    GraphError::bad("ErrorInvalidRecipients", "At least one recipient is not valid.")
}

pub(super) fn unresolved(text: &str) -> GraphError {
    let message = format!(
        "At least one recipient is not valid., Recipient '{text}' is not resolved. All recipients must be resolved \
         before a message can be submitted."
    );
    GraphError::bad("ErrorInvalidRecipients", message)
}

fn address(addr: &Addr<'_>) -> Result<MailboxAddress, GraphError> {
    match (&addr.address, &addr.name) {
        // The parser takes the quoted local part of "two words"@example.net for a name.
        (Some(domain), Some(local)) if domain.starts_with('@') => {
            let local = local.replace('\\', "\\\\").replace('"', "\\\"");
            parse_address(&format!("\"{local}\"{domain}"))
        }
        (Some(text), _) => parse_address(text),
        (None, name) => parse_address(name.as_deref().unwrap_or_default()),
    }
}

fn recipients(headers: &[Header<'_>], name: HeaderName<'_>) -> Result<Vec<MailboxAddress>, GraphError> {
    for value in address_headers(headers, &name) {
        // RFC 5322 allows the semicolon only at the end of a group; with it between addresses, Exchange
        // resolves neither.
        if let Address::Group(groups) = value {
            let unnamed = |group: &Group<'_>| group.name.is_none();
            if groups.iter().all(unnamed) || groups.windows(2).any(|pair| pair.iter().all(unnamed)) {
                let list: Vec<&str> =
                    groups.iter().flat_map(|g| &g.addresses).filter_map(|a| a.address.as_deref()).collect();
                return Err(unresolved(&list.join("; ")));
            }
        }
    }
    addresses(headers, &name).map(address).collect()
}

/// Every address in every header of that name, with groups expanded.
fn addresses<'a>(headers: &'a [Header<'a>], name: &'a HeaderName<'a>) -> impl Iterator<Item = &'a Addr<'a>> {
    address_headers(headers, name).flat_map(|value| -> Box<dyn Iterator<Item = &'a Addr<'a>>> {
        match value {
            Address::List(list) => Box::new(list.iter()),
            Address::Group(groups) => Box::new(groups.iter().flat_map(|group| &group.addresses)),
        }
    })
}

fn address_headers<'a>(
    headers: &'a [Header<'a>],
    name: &'a HeaderName<'a>,
) -> impl Iterator<Item = &'a Address<'a>> {
    headers.iter().filter(move |header| header.name == *name).filter_map(|header| match &header.value {
        HeaderValue::Address(address) => Some(address),
        _ => None,
    })
}
