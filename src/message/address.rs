//! Mailbox addresses: RFC 5321 `Mailbox`, with RFC 6531's UTF-8.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// RFC 5321 section 4.5.3.1: 64 octets of local part, 255 of domain.
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

/// `local@domain`, well-formed, as it was written.
///
/// Two addresses are equal when they differ in case only: Exchange ignores the case of local parts too, and every
/// mailbox that this relay sends from is in Exchange.
#[derive(Clone)]
pub struct MailboxAddress {
    text: Box<str>,
    at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    #[error("no @ between local part and domain")]
    NoAt,
    #[error("the local part is empty, over {MAX_LOCAL} octets long, or has a character that needs quotes")]
    LocalPart,
    #[error("the domain is empty, over {MAX_DOMAIN} octets long, or not a host name or address literal")]
    Domain,
}

impl MailboxAddress {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Left of the @, quotes included if it was written with quotes.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// Right of the @.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether the address needs SMTPUTF8 (RFC 6531) to be written in an envelope.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

fn valid_local(local: &str) -> bool {
    if local.is_empty() || local.len() > MAX_LOCAL {
        return false;
    }
    if let Some(quoted) = local.strip_prefix('"') {
        return valid_quoted(quoted);
    }
    !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local
            .chars()
            .all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c))
}

/// RFC 5321 `Quoted-string` after its opening quote: printable, with backslash before `"` and `\`.
fn valid_quoted(rest: &str) -> bool {
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return chars.as_str().is_empty() && rest.len() > 1,
            '\\' => match chars.next() {
                Some(' '..='~') => {}
                _ => return false,
            },
            c if c.is_control() => return false,
            _ => {}
        }
    }
    false
}

fn valid_domain(domain: &str) -> bool {
    if domain.is_empty() || domain.len() > MAX_DOMAIN {
        return false;
    }
    if let Some(literal) = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')) {
        let v6 = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        return match v6 {
            Some(tag) => literal[tag.len()..].parse::<std::net::Ipv6Addr>().is_ok(),
            None => literal.parse::<std::net::Ipv4Addr>().is_ok(),
        };
    }
    // Underscores are not host names, but devices and internal domains have them.
    domain.split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| {
                if c.is_ascii() {
                    c.is_ascii_alphanumeric() || c == '-' || c == '_'
                } else {
                    c.is_alphanumeric()
                }
            })
    })
}

impl FromStr for MailboxAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        // The last @ divides: a quoted local part may hold another.
        let at = text.rfind('@').ok_or(InvalidAddress::NoAt)?;
        if !valid_local(&text[..at]) {
            return Err(InvalidAddress::LocalPart);
        }
        if !valid_domain(&text[at + 1..]) {
            return Err(InvalidAddress::Domain);
        }
        Ok(Self { text: text.into(), at })
    }
}

fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().flat_map(char::to_lowercase)
}

impl PartialEq for MailboxAddress {
    fn eq(&self, other: &Self) -> bool {
        if self.text.is_ascii() && other.text.is_ascii() {
            return self.text.eq_ignore_ascii_case(&other.text);
        }
        folded(&self.text).eq(folded(&other.text))
    }
}

impl Eq for MailboxAddress {}

impl Hash for MailboxAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        folded(&self.text).for_each(|c| c.hash(state));
    }
}

impl fmt::Display for MailboxAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MailboxAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

impl Serialize for MailboxAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for MailboxAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
