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
//! A recipient whose sender wants to be told of it in another way than usual is an object: `{ "address": "b@example.net",
//! "notify": "SUCCESS,FAILURE", "orcpt": "rfc822;b@example.org" }`. The envelope has the keys `utf8`, `ret` and `envid` where
//! the client said SMTPUTF8, RET or ENVID.
//!
//! People edit these files, so errors name the key, and a key that nobody knows is an error.

use std::{fmt::Display, str::FromStr};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    message::{BodyKind, Envelope, MailParameters, MailboxAddress, MessageId, Recipient, RecipientWish},
    spool::Message,
    telemetry::Ingress,
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

/// What is wrong in a file. `key` is empty where it is the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}{}{message}", if key.is_empty() { "" } else { ": " })]
pub(super) struct EntryError {
    key: String,
    message: String,
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
        let (ret, envid) = (keys.optional("ret", text)?, keys.optional("envid", text)?);
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

/// A wrong value, as far as it helps.
fn shown(value: &Value) -> String {
    const ENOUGH: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Text that says a `T`.
fn text<T: FromStr<Err: Display>>(value: &Value) -> Result<T, String> {
    let text = value.as_str().ok_or_else(|| format!("is {}; write text in quotes", shown(value)))?;
    text.parse().map_err(|error| format!("{text:?}: {error}"))
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

/// The keys of one object, and which of them were asked for.
struct Keys<'a> {
    path: &'static str,
    map: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    fn new(path: &'static str, value: &'a Value) -> Result<Self, EntryError> {
        let message = || format!("is {}; write an object in braces", shown(value));
        let map = value.as_object().ok_or_else(|| EntryError { key: path.into(), message: message() })?;
        Ok(Self { path, map, asked: Vec::new() })
    }

    fn error(&self, key: &str, message: String) -> EntryError {
        let dot = if self.path.is_empty() { "" } else { "." };
        EntryError { key: format!("{}{dot}{key}", self.path), message }
    }

    fn take(&mut self, key: &'static str) -> Result<&'a Value, EntryError> {
        self.asked.push(key);
        self.map.get(key).ok_or_else(|| self.error(key, "missing".into()))
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<T, EntryError> {
        let value = self.take(key)?;
        read(value).map_err(|message| self.error(key, message))
    }

    fn parse<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Result<T, EntryError> {
        self.read(key, text)
    }

    fn parse_or_null<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>, EntryError> {
        self.read(key, |value| if value.is_null() { Ok(None) } else { text(value).map(Some) })
    }

    fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<Option<T>, EntryError> {
        if self.map.contains_key(key) {
            return self.read(key, read).map(Some);
        }
        self.asked.push(key);
        Ok(None)
    }

    fn one_of<T: Copy, const N: usize>(
        &mut self,
        key: &'static str,
        choices: [T; N],
        name: impl Fn(T) -> &'static str,
    ) -> Result<T, EntryError> {
        self.read(key, |value| {
            let chosen = choices.into_iter().find(|choice| value.as_str() == Some(name(*choice)));
            chosen.ok_or_else(|| {
                let names = choices.map(|choice| format!("{:?}", name(choice)));
                format!("is {}; write {}", shown(value), names.join(" or "))
            })
        })
    }

    /// No key may be left that nobody asked for.
    fn end(&self) -> Result<(), EntryError> {
        match self.map.keys().find(|key| !self.asked.contains(&key.as_str())) {
            Some(key) => {
                Err(self.error(key, format!("unknown key; the keys here are {}", self.asked.join(", "))))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(recipients: usize) -> Entry {
        let recipients = (0..recipients).map(|n| format!("r{n}@example.net").parse().unwrap());
        let sender = Some("Ä\"@contoso.example".replace('"', "").parse().unwrap());
        Entry {
            id: "1M876XD4R0000".parse().unwrap(),
            message: Message {
                tenant: "contoso".parse().unwrap(),
                ingress: Ingress::Pickup,
                envelope: Envelope::new(sender, recipients, BodyKind::EightBitMime).unwrap(),
                author: "\"a b\"@contoso.example".parse().unwrap(),
                bounce_of: None,
            },
            held: false,
            due: Some(Timestamp::from_millis(1_795_000_000_123)),
            attempts: 7,
            in_doubt: true,
            size: 5120,
            crc32: 0xa5c1,
        }
    }

    fn wishful(envelope: &Envelope) -> Envelope {
        let recipients = envelope.recipients().iter().enumerate().map(|(n, address)| {
            let notify = (n % 2 == 0).then(|| "SUCCESS,DELAY".parse().unwrap());
            let original = (n % 3 == 0).then(|| "rfc822;x+2By@x.se".parse().unwrap());
            Recipient { address: address.clone(), wish: RecipientWish { notify, original } }
        });
        let parameters = MailParameters {
            body: envelope.body(),
            utf8: true,
            ret: Some("HDRS".parse().unwrap()),
            envid: Some("id+3D1".parse().unwrap()),
        };
        Envelope::with_parameters(None, parameters, recipients).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            due in proptest::option::of(0..LAST.as_millis()),
            (attempts, in_doubt, size, crc32, bounce) in any::<(u16, bool, u64, u32, Option<u64>)>(),
            recipients in 1_usize..1100,
            wishes: bool,
        ) {
            let mut entry = Entry { attempts, in_doubt, size, crc32, ..entry(recipients) };
            if wishes {
                entry.message.envelope = wishful(&entry.message.envelope);
            }
            entry.due = due.map(Timestamp::from_millis);
            entry.message.bounce_of = bounce.map(|id| MessageId::from_bytes(id.to_be_bytes()));
            prop_assert_eq!(Entry::parse(&entry.to_json()), Ok(entry));
        }

        #[test]
        fn no_text_panics(text: Vec<u8>) {
            let _ = Entry::parse(&text);
        }
    }

    #[test]
    fn a_time_that_cannot_be_written_is_the_last_that_can() {
        let entry = Entry { due: Some(Timestamp::from_millis(u64::MAX)), ..entry(1) };
        assert_eq!(Entry::parse(&entry.to_json()).unwrap().due, Some(LAST));
    }

    #[test]
    fn errors_name_the_key() {
        let good: Value = serde_json::from_slice(&entry(2).to_json()).unwrap();
        for (pointer, wrong, message) in [
            ("/format", Value::from(2), "format: is 2; this version reads format 1"),
            ("/id", "123".into(), "id: \"123\": not a message id: expected 13 characters of 0-9 and A-Z"),
            ("/tenant", "A B".into(), "tenant: \"A B\": a tenant's name is 1 to 64 of"),
            ("/ingress", "fax".into(), "ingress: is \"fax\"; write \"smtp\" or \"pickup\" or \"bounce\""),
            ("/envelope", Value::Null, "envelope: is null; write an object in braces"),
            ("/envelope/sender", "".into(), "envelope.sender: \"\": no @ between"),
            ("/envelope/body", "9bit".into(), "envelope.body: is \"9bit\"; write \"7bit\" or \"8bitmime\""),
            ("/envelope/recipients", "x@y".into(), "envelope.recipients: is \"x@y\"; write a list"),
            (
                "/envelope/recipients",
                Vec::<Value>::new().into(),
                "envelope.recipients: an envelope needs at least",
            ),
            ("/envelope/recipients/1", "x".into(), "envelope.recipients[1]: \"x\": no @ between"),
            ("/envelope/recipients/1", serde_json::json!({}), "envelope.recipients[1]: address: missing"),
            (
                "/envelope/recipients/1",
                serde_json::json!({ "address": "a@b.se", "notify": "maybe" }),
                "envelope.recipients[1]: notify: \"maybe\": NOTIFY is NEVER",
            ),
            ("/author", Value::Null, "author: is null; write text in quotes"),
            ("/bounce_of", 7.into(), "bounce_of: is 7; write text in quotes"),
            ("/state", "leased".into(), "state: is \"leased\"; write \"waiting\""),
            ("/due", "tomorrow".into(), "due: \"tomorrow\": not a time in UTC such as 2026-11-24T09:00:00Z"),
            ("/due", "1960-01-01T00:00:00Z".into(), "due: \"1960-01-01T00:00:00Z\": not a time"),
            ("/attempts", (-1).into(), "attempts: is -1; write a whole number from 0 to 65535"),
            ("/attempts", 65_536.into(), "attempts: is 65536; write a whole number from 0 to 65535"),
            ("/in_doubt", "no".into(), "in_doubt: is \"no\"; write true or false"),
            ("/size", 1.5.into(), "size: is 1.5; write the number of octets"),
            ("/crc32", "+5c1e0f7".into(), "crc32: \"+5c1e0f7\": not a CRC-32 of 8 hexadecimal digits"),
        ] {
            let mut value = good.clone();
            *value.pointer_mut(pointer).unwrap() = wrong;
            let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        for table in ["", "/envelope"] {
            let keys = good.pointer(table).unwrap().as_object().unwrap().keys().cloned();
            let path = if table.is_empty() { "" } else { "envelope." };
            for key in keys {
                let mut value = good.clone();
                value.pointer_mut(table).unwrap().as_object_mut().unwrap().remove(&key);
                let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
                assert_eq!(error, format!("{path}{key}: missing"));
            }
            let mut value = good.clone();
            value.pointer_mut(table).unwrap()["sise"] = 1.into();
            let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{path}sise: unknown key; the keys here are ")), "{error}");
        }
        for (text, message) in [("{", "not JSON: EOF while"), ("[]", "not an object"), ("", "not JSON")] {
            let error = Entry::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
