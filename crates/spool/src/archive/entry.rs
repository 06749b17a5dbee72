//! `ID.json`: what an export states of a message, besides its octets.
//!
//! ```json
//! {
//!   "format": 1,
//!   "id": "1M876XD4R0000",
//!   "tenant": "contoso",
//!   "ingress": "smtp",
//!   "envelope": { "sender": "a@contoso.com", "recipients": ["b@example.net"], "body": "7bit" },
//!   "author": "a@contoso.com",
//!   "bounce_of": null,
//!   "state": "waiting",
//!   "due": "2026-11-24T09:00:00.000Z",
//!   "attempts": 0,
//!   "in_doubt": false,
//!   "size": 5120,
//!   "crc32": "a5c1e0f7"
//! }
//! ```
//!
//! If the sender wants other reports on a recipient than the usual ones, that recipient is an object: `{
//! "address": "b@example.net", "notify": "SUCCESS,FAILURE", "orcpt": "rfc822;b@example.org" }`. The envelope
//! has the keys `utf8`, `ret` and `envid` if the client said SMTPUTF8, RET or ENVID.
//!
//! People edit these files, so errors name the key, and a key that nobody knows is an error.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::text;
use crate::{HoldReason, Message};
use relay_mail::{
    BodyKind, Envelope, EnvelopeId, Ingress, MailParameters, MailboxAddress, MessageId, Notify,
    OriginalRecipient, Recipient, RecipientWish, Return, TenantName, Timestamp,
};

/// The last time that RFC 3339 can express: the end of the year 9999.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// A message that waits or is held, without the octets of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) message: Message,
    pub(super) standing: ExportedState,
    pub(super) attempts: u16,
    pub(super) in_doubt: bool,
    /// Octets of the body.
    pub(super) size: u64,
    /// Checksum of the body.
    pub(super) crc32: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExportedState {
    /// `None`: due at once.
    Waiting {
        due: Option<Timestamp>,
    },
    Held {
        reason: Option<HoldReason>,
    },
}

/// What is wrong in a file: the key, if it is about one, and the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct InvalidEntry(String);

/// Read before all else: with another number, the keys have another meaning.
#[derive(Deserialize)]
#[serde(expecting = "an object in braces")]
struct Versioned {
    #[serde(rename = "format")]
    _format: Format,
}

/// The file: keys in this order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object in braces")]
struct Document {
    format: Format,
    #[serde(with = "text")]
    id: MessageId,
    #[serde(with = "text")]
    tenant: TenantName,
    #[serde(with = "IngressName")]
    ingress: Ingress,
    envelope: EnvelopeDocument,
    #[serde(with = "text")]
    author: MailboxAddress,
    #[serde(with = "text::nullable")]
    bounce_of: Option<MessageId>,
    state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_because: Option<String>,
    #[serde(with = "text::nullable")]
    due: Option<Due>,
    attempts: u16,
    in_doubt: bool,
    size: u64,
    #[serde(with = "text")]
    crc32: Crc,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object in braces")]
struct EnvelopeDocument {
    #[serde(with = "text::nullable")]
    sender: Option<MailboxAddress>,
    recipients: Vec<RecipientDocument>,
    #[serde(with = "BodyName")]
    body: BodyKind,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    utf8: bool,
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    ret: Option<Return>,
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    envid: Option<EnvelopeId>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RecipientDocument {
    Usual(#[serde(with = "text")] MailboxAddress),
    Wished(WishedRecipient),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WishedRecipient {
    #[serde(with = "text")]
    address: MailboxAddress,
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    notify: Option<Notify>,
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    orcpt: Option<OriginalRecipient>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
struct Format;

impl Format {
    const NUMBER: u64 = 1;
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ingress", rename_all = "lowercase")]
enum IngressName {
    Smtp,
    Pickup,
    Bounce,
}

/// As in `BODY=` of RFC 6152, in lower case.
#[derive(Serialize, Deserialize)]
#[serde(remote = "BodyKind")]
enum BodyName {
    #[serde(rename = "7bit")]
    SevenBit,
    #[serde(rename = "8bitmime")]
    EightBitMime,
}

/// A leased message is exported as the next start finds it: waiting.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Waiting,
    Held,
}

struct Due(Timestamp);

struct Crc(u32);

impl Entry {
    /// JSON for people: one key a line.
    pub(super) fn to_json(&self) -> Vec<u8> {
        // Text, numbers and lists of them: JSON has a form for all of them.
        let mut text = serde_json::to_vec_pretty(&Document::from(self)).expect("an entry can be written");
        text.push(b'\n');
        text
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, InvalidEntry> {
        let Versioned { .. } = parse(text)?;
        parse::<Document>(text)?.try_into()
    }
}

/// An error says where it is: serde_json gives the line, and the path gives the key.
fn parse<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, InvalidEntry> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let document = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let key = error.path().to_string();
        // Where it is about the file as a whole, or cannot be told.
        let is_about_a_key = !matches!(key.as_str(), "." | "?");
        let place = if is_about_a_key { format!("{key}: ") } else { String::new() };
        InvalidEntry(format!("{place}{}", error.inner()))
    })?;
    json.end().map_err(|error| InvalidEntry(error.to_string()))?;
    Ok(document)
}

impl From<&Entry> for Document {
    fn from(entry: &Entry) -> Self {
        let Message { tenant, ingress, envelope, author, bounce_of } = &entry.message;
        let (state, due, reason) = match &entry.standing {
            ExportedState::Waiting { due } => (State::Waiting, *due, None),
            ExportedState::Held { reason } => (State::Held, None, reason.as_ref()),
        };
        Self {
            format: Format,
            id: entry.id,
            tenant: tenant.clone(),
            ingress: *ingress,
            envelope: EnvelopeDocument {
                sender: envelope.sender().cloned(),
                recipients: envelope.wishes().map(RecipientDocument::from).collect(),
                body: envelope.body(),
                utf8: envelope.utf8(),
                ret: envelope.ret(),
                envid: envelope.envid().cloned(),
            },
            author: author.clone(),
            bounce_of: *bounce_of,
            state,
            held_because: reason.map(ToString::to_string),
            due: due.map(Due),
            attempts: entry.attempts,
            in_doubt: entry.in_doubt,
            size: entry.size,
            crc32: Crc(entry.crc32),
        }
    }
}

impl TryFrom<Document> for Entry {
    type Error = InvalidEntry;

    fn try_from(document: Document) -> Result<Self, InvalidEntry> {
        let Document { tenant, ingress, envelope, author, bounce_of, .. } = document;
        let EnvelopeDocument { sender, recipients, body, utf8, ret, envid } = envelope;
        let parameters = MailParameters { body, utf8, ret, envid };
        let recipients = recipients.into_iter().map(Recipient::from);
        let envelope = Envelope::with_parameters(sender, parameters, recipients)
            .map_err(|error| InvalidEntry(format!("envelope.recipients: {error}")))?;
        Ok(Self {
            id: document.id,
            message: Message { tenant, ingress, envelope, author, bounce_of },
            standing: match document.state {
                // Whoever releases a message in its file need not remove the reason.
                State::Waiting => ExportedState::Waiting { due: document.due.map(|Due(due)| due) },
                State::Held => {
                    ExportedState::Held { reason: document.held_because.as_deref().map(HoldReason::new) }
                }
            },
            attempts: document.attempts,
            in_doubt: document.in_doubt,
            size: document.size,
            crc32: document.crc32.0,
        })
    }
}

impl From<(&MailboxAddress, RecipientWish)> for RecipientDocument {
    fn from((address, RecipientWish { notify, original }): (&MailboxAddress, RecipientWish)) -> Self {
        let address = address.clone();
        match (&notify, &original) {
            (None, None) => Self::Usual(address),
            _ => Self::Wished(WishedRecipient { address, notify, orcpt: original }),
        }
    }
}

impl From<RecipientDocument> for Recipient {
    fn from(document: RecipientDocument) -> Self {
        match document {
            RecipientDocument::Usual(address) => address.into(),
            RecipientDocument::Wished(WishedRecipient { address, notify, orcpt }) => {
                Self { address, wish: RecipientWish { notify, original: orcpt } }
            }
        }
    }
}

/// By hand, since the error of an untagged enum says nothing about what is wrong.
impl<'de> Deserialize<'de> for RecipientDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RecipientDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address in quotes, or an object with one")
            }

            fn visit_str<E: serde::de::Error>(self, address: &str) -> Result<Self::Value, E> {
                text::parse(address).map(RecipientDocument::Usual)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                WishedRecipient::deserialize(MapAccessDeserializer::new(map)).map(RecipientDocument::Wished)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl TryFrom<u64> for Format {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match number {
            Self::NUMBER => Ok(Self),
            _ => Err(format!("is {number}; this version reads format {}", Self::NUMBER)),
        }
    }
}

impl From<Format> for u64 {
    fn from(_: Format) -> Self {
        Format::NUMBER
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.0.min(LAST).as_system_time()).fmt(f)
    }
}

impl FromStr for Due {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a time in UTC such as 2026-11-24T09:00:00Z";
        let time = humantime::parse_rfc3339(text).map_err(|_| wrong)?;
        let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong)?;
        Ok(Self(Timestamp::from_millis(u64::try_from(since.as_millis()).map_err(|_| wrong)?)))
    }
}

impl fmt::Display for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Crc {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let crc = u32::from_str_radix(text, 16).ok().filter(|_| is_hex);
        crc.map(Self).ok_or("not a CRC-32 of 8 hexadecimal digits")
    }
}

#[cfg(test)]
mod tests;
