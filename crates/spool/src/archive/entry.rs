//! `ID.json`: what an export says of a message, beside its octets.
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
//! A recipient whose sender wants to be told of it in another way than usual is an object:
//! `{ "address": "b@example.net", "notify": "SUCCESS,FAILURE", "orcpt": "rfc822;b@example.org" }`. The
//! envelope has the keys `utf8`, `ret` and `envid` where the client said SMTPUTF8, RET or ENVID.
//!
//! People edit these files, so errors name the key, and a key that nobody knows is an error.

use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use super::keys::{EntryError, Keys, shown, text};
use crate::Message;
use relay_mail::{
    BodyKind, Envelope, Ingress, MailParameters, MailboxAddress, MessageId, Recipient, RecipientWish,
    Timestamp,
};

/// Of the files. Another number is another meaning of the keys.
const FORMAT: u64 = 1;
/// The last time that RFC 3339 can say: the end of the year 9999.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// A message that waits or is held, without the octets of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) message: Message,
    /// By an operator.
    pub(super) held: bool,
    /// `None`: at once.
    pub(super) due: Option<Timestamp>,
    pub(super) attempts: u16,
    pub(super) in_doubt: bool,
    /// Octets of the body.
    pub(super) size: u64,
    /// Of the body.
    pub(super) crc32: u32,
}

/// As it is written: keys in this order.
#[derive(Serialize)]
struct Written<'a> {
    format: u64,
    id: String,
    tenant: &'a str,
    ingress: &'static str,
    envelope: WrittenEnvelope<'a>,
    author: &'a MailboxAddress,
    bounce_of: Option<String>,
    state: &'static str,
    due: Option<String>,
    attempts: u16,
    in_doubt: bool,
    size: u64,
    crc32: String,
}

#[derive(Serialize)]
struct WrittenEnvelope<'a> {
    sender: Option<&'a MailboxAddress>,
    recipients: Vec<WrittenRecipient<'a>>,
    body: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    utf8: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envid: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WrittenRecipient<'a> {
    Usual(&'a MailboxAddress),
    Wished {
        address: &'a MailboxAddress,
        #[serde(skip_serializing_if = "Option::is_none")]
        notify: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        orcpt: Option<String>,
    },
}

impl<'a> From<(&'a MailboxAddress, RecipientWish)> for WrittenRecipient<'a> {
    fn from((address, RecipientWish { notify, original }): (&'a MailboxAddress, RecipientWish)) -> Self {
        match (notify, original) {
            (None, None) => Self::Usual(address),
            (notify, original) => Self::Wished {
                address,
                notify: notify.map(|notify| notify.to_string()),
                orcpt: original.map(|original| original.to_string()),
            },
        }
    }
}

/// A leased message is exported as the next start finds it: waiting.
fn state(held: bool) -> &'static str {
    if held { "held" } else { "waiting" }
}

const INGRESSES: [Ingress; 3] = [Ingress::Smtp, Ingress::Pickup, Ingress::Bounce];
const BODY_KINDS: [BodyKind; 2] = [BodyKind::SevenBit, BodyKind::EightBitMime];

/// As in `BODY=` of RFC 6152, in lower case.
fn body_kind(kind: BodyKind) -> &'static str {
    match kind {
        BodyKind::SevenBit => "7bit",
        BodyKind::EightBitMime => "8bitmime",
    }
}

impl Entry {
    /// JSON for people: a key a line.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let Message { tenant, ingress, envelope, author, bounce_of } = &self.message;
        let due = self.due.map(|due| humantime::format_rfc3339_millis(due.min(LAST).as_system_time()));
        let written = Written {
            format: FORMAT,
            id: self.id.to_string(),
            tenant: tenant.as_str(),
            ingress: ingress.as_str(),
            envelope: WrittenEnvelope {
                sender: envelope.sender(),
                recipients: envelope.wishes().map(WrittenRecipient::from).collect(),
                body: body_kind(envelope.body()),
                utf8: envelope.utf8(),
                ret: envelope.ret().map(|ret| ret.to_string()),
                envid: envelope.envid().map(|envid| envid.to_string()),
            },
            author,
            bounce_of: bounce_of.map(|id| id.to_string()),
            state: state(self.held),
            due: due.map(|due| due.to_string()),
            attempts: self.attempts,
            in_doubt: self.in_doubt,
            size: self.size,
            crc32: format!("{:08x}", self.crc32),
        };
        // Text, numbers and lists of them: there is nothing that JSON has no form for.
        let mut text = serde_json::to_vec_pretty(&written).expect("an entry can be written");
        text.push(b'\n');
        text
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, EntryError> {
        let whole = |message: String| EntryError { key: String::new(), message };
        let value: Value = serde_json::from_slice(text).map_err(|e| whole(format!("not JSON: {e}")))?;
        let mut keys = Keys::new("", &value).map_err(|_| whole("not an object in JSON".into()))?;
        keys.read("format", |value| match value.as_u64() {
            Some(FORMAT) => Ok(()),
            _ => Err(format!("is {}; this version reads format {FORMAT}", shown(value))),
        })?;
        let id = keys.parse("id")?;
        let message = Message {
            tenant: keys.parse("tenant")?,
            ingress: keys.one_of("ingress", INGRESSES, Ingress::as_str)?,
            envelope: Self::parse_envelope(keys.take("envelope")?)?,
            author: keys.parse("author")?,
            bounce_of: keys.parse_or_null("bounce_of")?,
        };
        let entry = Self {
            id,
            message,
            held: keys.one_of("state", [false, true], state)?,
            due: keys.parse_or_null::<Due>("due")?.map(|due| due.0),
            attempts: keys.read("attempts", |value| {
                let number = value.as_u64().and_then(|number| number.try_into().ok());
                number.ok_or_else(|| {
                    format!("is {}; write a whole number from 0 to {}", shown(value), u16::MAX)
                })
            })?,
            in_doubt: keys.read("in_doubt", |value| {
                value.as_bool().ok_or_else(|| format!("is {}; write true or false", shown(value)))
            })?,
            size: keys.read("size", |value| {
                value.as_u64().ok_or_else(|| {
                    format!("is {}; write the number of octets in the .eml file", shown(value))
                })
            })?,
            crc32: keys.parse::<Crc>("crc32")?.0,
        };
        keys.end()?;
        Ok(entry)
    }

    fn parse_envelope(value: &Value) -> Result<Envelope, EntryError> {
        let mut keys = Keys::new("envelope", value)?;
        let sender = keys.parse_or_null("sender")?;
        let body = keys.one_of("body", BODY_KINDS, body_kind)?;
        let utf8 = keys.optional("utf8", |value| {
            value.as_bool().ok_or_else(|| format!("is {}; write true or false", shown(value)))
        })?;
        let ret = keys.optional("ret", text)?;
        let envid = keys.optional("envid", text)?;
        let list = keys.read("recipients", |value| {
            value.as_array().ok_or_else(|| format!("is {}; write a list of addresses", shown(value)))
        })?;
        keys.end()?;
        let recipient = |(n, value)| {
            parse_recipient(value).map_err(|message| keys.error(&format!("recipients[{n}]"), message))
        };
        let recipients: Vec<Recipient> = list.iter().enumerate().map(recipient).collect::<Result<_, _>>()?;
        let parameters = MailParameters { body, utf8: utf8.unwrap_or_default(), ret, envid };
        Envelope::with_parameters(sender, parameters, recipients)
            .map_err(|e| keys.error("recipients", e.to_string()))
    }
}

/// An address, or an object with one and what is to be told of it.
fn parse_recipient(value: &Value) -> Result<Recipient, String> {
    if !value.is_object() {
        return text::<MailboxAddress>(value).map(Recipient::from);
    }
    let mut keys = Keys::new("", value).map_err(|e| e.to_string())?;
    let mut read = || {
        let address = keys.parse("address")?;
        let wish =
            RecipientWish { notify: keys.optional("notify", text)?, original: keys.optional("orcpt", text)? };
        keys.end()?;
        Ok(Recipient { address, wish })
    };
    read().map_err(|error: EntryError| error.to_string())
}

struct Due(Timestamp);

impl FromStr for Due {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a time in UTC such as 2026-11-24T09:00:00Z";
        let time = humantime::parse_rfc3339(text).map_err(|_| wrong)?;
        let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong)?;
        Ok(Self(Timestamp::from_millis(u64::try_from(since.as_millis()).map_err(|_| wrong)?)))
    }
}

struct Crc(u32);

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
