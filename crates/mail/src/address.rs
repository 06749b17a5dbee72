//! Mailbox addresses: RFC 5321 `Mailbox`, with RFC 6531's UTF-8.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::outside::is_hidden;

/// RFC 5321 section 4.5.3.1: 64 octets of local part, 255 of domain.
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

/// `local@domain`, well-formed, as it was written. `a..b@x.se` is taken as `"a..b"@x.se`, which the grammar
/// wants, and `b@x.se.` as `b@x.se`.
///
/// Two addresses that are written differently are equal if they mean the same. They may differ in case
/// (Exchange ignores the case of local parts too, and every mailbox that this relay sends from is in
/// Exchange), in quotes that the local part does not need, and in whether an international domain has its
/// ASCII form or its own letters (RFC 5890).
///
/// ```
/// # use m365_relay_mail as relay_mail;
/// use relay_mail::{InvalidAddress, MailboxAddress};
///
/// let ann: MailboxAddress = "Ann.Lee@Contoso.com".parse()?;
/// assert_eq!((ann.local(), ann.domain()), ("Ann.Lee", "Contoso.com"));
/// assert_eq!(ann, "ann.lee@contoso.com".parse()?);
/// assert_eq!("ann".parse::<MailboxAddress>(), Err(InvalidAddress::NoAt));
/// # Ok::<(), InvalidAddress>(())
/// ```
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
    #[error("it has an invisible character, or one that changes the direction of the text")]
    Hidden,
}

impl MailboxAddress {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part left of the @, including its quotes if it was written with them.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// The part right of the @.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether the address can be written in an envelope without SMTPUTF8 (RFC 6531).
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
    // Host names have no underscores, but devices and internal domains do.
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
        let address = Self::well_formed(text).or_else(|error| Self::repaired(text).ok_or(error))?;
        if text.contains(is_refused) { Err(InvalidAddress::Hidden) } else { Ok(address) }
    }
}

/// Whether no address needs the character, and it makes one address look like another or commands a terminal.
/// The two joiners are allowed: some scripts are written with them.
fn is_refused(c: char) -> bool {
    is_hidden(c) && !matches!(c, '\u{200c}' | '\u{200d}')
}

impl MailboxAddress {
    fn well_formed(text: &str) -> Result<Self, InvalidAddress> {
        // The last @ divides: a quoted local part may contain another.
        let at = text.rfind('@').ok_or(InvalidAddress::NoAt)?;
        if !valid_local(&text[..at]) {
            return Err(InvalidAddress::LocalPart);
        }
        if !valid_domain(&text[at + 1..]) {
            return Err(InvalidAddress::Domain);
        }
        Ok(Self { text: text.into(), at })
    }

    /// Two things that the grammar refuses and that addresses of real mailboxes have: dots at the ends of
    /// the local part or side by side, which need quotes (RFC 5321 section 4.1.2), and the dot at the end
    /// of a domain.
    fn repaired(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let without_dots = local.replace('.', "");
        let needs_quotes = !valid_local(local) && valid_local(&without_dots) && !local.contains('"');
        let repaired =
            if needs_quotes { format!("\"{local}\"@{domain}") } else { format!("{local}@{domain}") };
        Self::well_formed(&repaired).ok()
    }

    /// Whether the address can be written differently only in case, as is true of nearly all.
    fn is_plain(&self) -> bool {
        let has_xn = |text: &[u8]| text.windows(4).any(|four| four.eq_ignore_ascii_case(b"xn--"));
        self.text.is_ascii() && !self.text.starts_with('"') && !has_xn(self.domain().as_bytes())
    }

    /// The one form that all equal addresses share.
    fn canonical(&self) -> String {
        let mut text = unquoted(self.local());
        text.push('@');
        match idna::domain_to_ascii(self.domain()) {
            Ok(ascii) => text.push_str(&ascii),
            // Address literals, and names with underscores, are not domain names of the DNS.
            Err(_) => text.push_str(self.domain()),
        }
        text.chars().flat_map(char::to_lowercase).collect()
    }
}

/// The local part without quotes and backslashes, if it is the same without them.
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    if valid_local(&plain) && !plain.starts_with('"') {
        return plain;
    }
    // It needs its quotes, with as few backslashes as possible.
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

impl PartialEq for MailboxAddress {
    fn eq(&self, other: &Self) -> bool {
        match (self.is_plain(), other.is_plain()) {
            (true, true) => self.text.eq_ignore_ascii_case(&other.text),
            _ => self.canonical() == other.canonical(),
        }
    }
}

impl Eq for MailboxAddress {}

impl Hash for MailboxAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut octets = |text: &str| {
            text.bytes().for_each(|octet| state.write_u8(octet.to_ascii_lowercase()));
            state.write_u8(0xff);
        };
        // A canonical form is in lower case.
        if self.is_plain() { octets(&self.text) } else { octets(&self.canonical()) }
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
        // What is in the spool has been accepted, perhaps by a version that allowed more.
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::well_formed(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use proptest::prelude::*;

    use super::*;

    fn are_equal(a: &str, b: &str) -> bool {
        let (a, b): (MailboxAddress, MailboxAddress) = (a.parse().unwrap(), b.parse().unwrap());
        let hashes = RandomState::new();
        assert!(
            a != b || hashes.hash_one(&a) == hashes.hash_one(&b),
            "{a} and {b} are equal and hash differently"
        );
        a == b
    }

    #[test]
    fn what_means_the_same_is_equal() {
        for (a, b) in [
            ("John@X.se", "john@x.SE"),
            (r#""john"@x.se"#, "john@x.se"),
            (r#""j\\ohn"@x.se"#, "JOHN@x.se"),
            (r#""two words"@x.se"#, r#""two\\ words"@x.se"#),
            ("a@münchen.de", "a@xn--mnchen-3ya.de"),
            ("a@MÜNCHEN.de", "a@XN--mnchen-3ya.DE"),
            ("JÜRGEN@x.se", "jürgen@x.se"),
            ("a@under_score.local", "A@under_score.local"),
            ("a@[192.0.2.1]", "A@[192.0.2.1]"),
        ] {
            let a = a.replace("\\\\", "\\");
            let b = b.replace("\\\\", "\\");
            assert!(are_equal(&a, &b), "{a} {b}");
        }
        for (a, b) in [
            ("a@x.se", "b@x.se"),
            (r#""a b"@x.se"#, "ab@x.se"),
            (r#""a..b"@x.se"#, r#""a.b"@x.se"#),
            ("a@münchen.de", "a@munchen.de"),
            ("a@x.se", "a@x.se.example"),
        ] {
            assert!(!are_equal(a, b), "{a} {b}");
        }
    }

    #[test]
    fn what_hides_is_refused_and_what_is_in_the_spool_stays_readable() {
        let hidden = "\u{1}\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{200b}\u{200e}\u{2028}\u{202e}\u{2066}\u{feff}\u{e0041}";
        for c in hidden.chars() {
            for text in [format!("a{c}b@x.se"), format!("\"a{c}b\"@x.se"), format!("\"a\\{c}b\"@x.se")] {
                assert!(text.parse::<MailboxAddress>().is_err(), "{text:?}");
            }
            assert!(format!("a@x{c}y.se").parse::<MailboxAddress>().is_err(), "{c:?}");
        }
        assert!("a@x\u{3164}.se".parse::<MailboxAddress>().is_err());
        assert!("a\u{200c}b@x.se".parse::<MailboxAddress>().is_ok());
        let stored = postcard::to_stdvec("a\u{202e}b@x.se").unwrap();
        assert_eq!(postcard::from_bytes::<MailboxAddress>(&stored).unwrap().as_str(), "a\u{202e}b@x.se");
    }

    proptest! {
        #[test]
        fn equal_addresses_hash_equal(local in "[a-zA-Z\"ü.\\\\]{1,6}", domain in "(xn--)?[a-zü]{1,5}\\.[a-z]{2}") {
            let text = format!("{local}@{domain}");
            if text.parse::<MailboxAddress>().is_ok() {
                are_equal(&text, &text.to_uppercase().replace("XN--", "xn--"));
                prop_assert!(are_equal(&text, &text));
            }
        }
    }
}
