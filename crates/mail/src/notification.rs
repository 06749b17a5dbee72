//! What a client wants to be told of its message: NOTIFY, ORCPT, RET and ENVID of RFC 3461.
//!
//! The parameters are kept as they were written, in xtext, so that they can be handed on;
//! [`decoded`](EnvelopeId::decoded) gives the form for a report.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::outside::is_hidden;

/// When to report on a recipient. RFC 3461 section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notify {
    Never,
    On { success: bool, failure: bool, delay: bool },
}

/// How much of a message its failure report returns. RFC 3461 section 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Return {
    Full,
    Headers,
}

/// RFC 3461 section 4.4: at most 100 characters, in xtext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeId(Box<str>);

/// RFC 3461 section 4.2: `rfc822;` or another type, and an address in xtext; at most 500 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalRecipient(Box<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNotification {
    #[error("NOTIFY must be NEVER, or a list of SUCCESS, FAILURE and DELAY")]
    Notify,
    #[error("RET must be FULL or HDRS")]
    Return,
    #[error("ENVID must be at most 100 characters of xtext")]
    EnvelopeId,
    #[error("ORCPT must be a type, a semicolon and an address in xtext, at most 500 characters")]
    OriginalRecipient,
}

/// One recipient of an envelope, with what its sender wants to be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub address: super::MailboxAddress,
    pub wish: RecipientWish,
}

/// What the sender wants to be told of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecipientWish {
    /// `None`: the default, which is on failure.
    pub notify: Option<Notify>,
    pub original: Option<OriginalRecipient>,
}

impl RecipientWish {
    pub fn on_success(&self) -> bool {
        matches!(self.notify, Some(Notify::On { success: true, .. }))
    }

    /// RFC 3461 section 4.1: without NOTIFY, failures are reported.
    pub fn on_failure(&self) -> bool {
        matches!(self.notify, None | Some(Notify::On { failure: true, .. }))
    }

    pub(super) fn is_none(&self) -> bool {
        self.notify.is_none() && self.original.is_none()
    }
}

impl Recipient {
    /// About how many octets of memory it takes up in a list.
    pub fn held(&self) -> usize {
        let original = self.wish.original.as_ref().map_or(0, OriginalRecipient::held);
        // A list that grows has room for as many again.
        2 * size_of::<Self>() + self.address.as_str().len() + original
    }
}

impl From<super::MailboxAddress> for Recipient {
    fn from(address: super::MailboxAddress) -> Self {
        Self { address, wish: RecipientWish::default() }
    }
}

impl FromStr for Notify {
    type Err = InvalidNotification;

    fn from_str(text: &str) -> Result<Self, InvalidNotification> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Ok(Self::Never);
        }
        let mut success = false;
        let mut failure = false;
        let mut delay = false;
        for word in text.split(',') {
            let kinds = [("SUCCESS", &mut success), ("FAILURE", &mut failure), ("DELAY", &mut delay)];
            let kind = kinds.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
            *kind.ok_or(InvalidNotification::Notify)?.1 = true;
        }
        Ok(Self::On { success, failure, delay })
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::On { success, failure, delay } = *self else { return f.write_str("NEVER") };
        let kinds = [("SUCCESS", success), ("FAILURE", failure), ("DELAY", delay)];
        let names: Vec<_> = kinds.into_iter().filter(|kind| kind.1).map(|kind| kind.0).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Return {
    type Err = InvalidNotification;

    fn from_str(text: &str) -> Result<Self, InvalidNotification> {
        match text {
            _ if text.eq_ignore_ascii_case("FULL") => Ok(Self::Full),
            _ if text.eq_ignore_ascii_case("HDRS") => Ok(Self::Headers),
            _ => Err(InvalidNotification::Return),
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

impl EnvelopeId {
    /// The text that it stands for.
    pub fn decoded(&self) -> String {
        decode(&self.0).unwrap_or_default()
    }
}

impl FromStr for EnvelopeId {
    type Err = InvalidNotification;

    fn from_str(text: &str) -> Result<Self, InvalidNotification> {
        let fits = |decoded: String| (1..=100).contains(&decoded.len());
        if decode(text).is_some_and(fits) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidNotification::EnvelopeId)
        }
    }
}

impl OriginalRecipient {
    fn held(&self) -> usize {
        self.0.len()
    }

    /// Such as `rfc822`.
    pub fn kind(&self) -> &str {
        self.0.split(';').next().unwrap_or_default()
    }

    /// The address, decoded. One of type `utf-8` keeps its own encoding (RFC 6533 section 3), which reports
    /// use too.
    pub fn address(&self) -> String {
        let (kind, address) = self.0.split_once(';').unwrap_or_default();
        if is_utf8_kind(kind) { address.to_owned() } else { decode(address).unwrap_or_default() }
    }
}

impl FromStr for OriginalRecipient {
    type Err = InvalidNotification;

    fn from_str(text: &str) -> Result<Self, InvalidNotification> {
        let is_atom = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let valid = |(kind, address): (&str, &str)| {
            let has_address = if is_utf8_kind(kind) {
                // RFC 6533 section 3: with SMTPUTF8 it may be the address itself; without, it is `\x{…}` in
                // ASCII.
                !address.is_empty() && !address.chars().any(|c| is_hidden(c) || c.is_whitespace())
            } else {
                decode(address).is_some_and(|address| !address.is_empty())
            };
            is_atom(kind) && has_address
        };
        if text.len() <= 500 && text.split_once(';').is_some_and(valid) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidNotification::OriginalRecipient)
        }
    }
}

fn is_utf8_kind(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("utf-8")
}

macro_rules! as_written {
    ($($kind:ty)+) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

as_written! { EnvelopeId OriginalRecipient }

/// RFC 3461 section 4: `+` and two upper-case hexadecimal digits for what must not appear as it is. `None`:
/// not xtext, or not printable ASCII once it is decoded, as sections 4.2 and 4.4 require.
fn decode(xtext: &str) -> Option<String> {
    let mut decoded = String::with_capacity(xtext.len());
    let mut rest = xtext;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '+' => {
                let digits = rest.get(..2)?;
                // Lower case is not xtext, but has one reading only.
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                let octet = u8::from_str_radix(digits, 16).ok()?;
                decoded.push(char::from(octet));
                rest = &rest[2..];
            }
            '!'..='~' if c != '=' => decoded.push(c),
            _ => return None,
        }
    }
    decoded.bytes().all(|b| matches!(b, b' '..=b'~')).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notify() {
        assert_eq!("never".parse(), Ok(Notify::Never));
        let on = |success, failure, delay| Ok(Notify::On { success, failure, delay });
        assert_eq!("SUCCESS".parse(), on(true, false, false));
        assert_eq!("failure,Delay,FAILURE".parse(), on(false, true, true));
        for wrong in ["", "NEVER,SUCCESS", "SUCCESS,", "ALWAYS"] {
            assert_eq!(wrong.parse::<Notify>(), Err(InvalidNotification::Notify), "{wrong}");
        }
        assert_eq!("DELAY,success".parse::<Notify>().unwrap().to_string(), "SUCCESS,DELAY");
    }

    #[test]
    fn wishes() {
        let wish = |text: &str| RecipientWish { notify: Some(text.parse().unwrap()), original: None };
        assert!(RecipientWish::default().on_failure() && !RecipientWish::default().on_success());
        assert!(!wish("NEVER").on_failure() && !wish("SUCCESS").on_failure() && wish("SUCCESS").on_success());
        assert!(wish("DELAY,FAILURE").on_failure());
    }

    #[test]
    fn xtext() {
        let id = |text: &str| text.parse::<EnvelopeId>().map(|id| id.decoded());
        assert_eq!(id("QQ314159"), Ok("QQ314159".into()));
        assert_eq!(id("a+3Db+2B"), Ok("a=b+".into()));
        for wrong in ["", "a=b", "a b", "a+", "a+3", "a+zz", "a+0A", "é", &"x".repeat(101)] {
            assert_eq!(id(wrong), Err(InvalidNotification::EnvelopeId), "{wrong}");
        }
        let original =
            |text: &str| text.parse::<OriginalRecipient>().map(|o| (o.kind().to_owned(), o.address()));
        assert_eq!(original("rfc822;a+2Bb@c.example"), Ok(("rfc822".into(), "a+b@c.example".into())));
        assert_eq!(original("utf-8;\\x{E9}@c.example"), Ok(("utf-8".into(), "\\x{E9}@c.example".into())));
        for wrong in ["a@b.example", ";a@b", "rfc822;", "rfc822;a b", "rf c;a", "rfc822;a\r\nb"] {
            assert_eq!(original(wrong), Err(InvalidNotification::OriginalRecipient), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_decoded_is_one_line(text in "(rfc822;|utf-8;)?(\\PC|\\+[0-9A-F]{2}|\\+|\r|\n){0,40}") {
            if let Ok(original) = text.parse::<OriginalRecipient>() {
                prop_assert!(!original.address().chars().any(char::is_control));
            }
            if let Ok(id) = text.parse::<EnvelopeId>() {
                prop_assert!(!id.decoded().chars().any(char::is_control));
            }
            let _ = (text.parse::<Notify>(), text.parse::<Return>());
        }
    }
}
