//! Addresses in the log as pseudonyms: `log.addresses = "hashed"`.
//!
//! Whatever looks like an address in a finished line is replaced, wherever it stands: in a field, in a text
//! that a service has sent, in a Message-ID. The same address always has the same pseudonym, so lines about
//! one person can still be found together. It is no anonymity: who knows an address can look for it.

use std::fmt::Write;

use ring::digest::{SHA256, digest};

/// Octets of the hash that are shown.
const SHOWN: usize = 6;

/// The line with a pseudonym in place of each address.
pub(super) fn without_addresses(line: &str) -> String {
    let mut made = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('@') {
        let start = rest[..at]
            .rfind(|c| !is_of_address(c))
            .map_or(0, |before| before + rest[before..].chars().next().map_or(1, char::len_utf8));
        let start = start + field_name(&rest[start..at]);
        let end = rest[at + 1..].find(|c| !is_of_address(c)).map_or(rest.len(), |after| at + 1 + after);
        let address = &rest[start..end];
        made.push_str(&rest[..start]);
        if start == at || end == at + 1 {
            made.push_str(address);
        } else {
            made.push_str(&pseudonym(address));
        }
        rest = &rest[end..];
    }
    made.push_str(rest);
    made
}

/// How long the field's name before the address is, with its equals sign, as in `mailbox=ann@example.net`.
fn field_name(text: &str) -> usize {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    text.split_once('=').filter(|(name, _)| is_name(name)).map_or(0, |(name, _)| name.len() + 1)
}

/// `address:` and the first twelve digits of the SHA-256 of the address in lower case, without a dot at its
/// end.
fn pseudonym(address: &str) -> String {
    let dots = address.len() - address.trim_end_matches('.').len();
    let (address, end) = address.split_at(address.len() - dots);
    let hash = digest(&SHA256, address.to_lowercase().as_bytes());
    let mut shown = "address:".to_owned();
    for octet in &hash.as_ref()[..SHOWN] {
        // Writing to a String cannot fail.
        let _ = write!(shown, "{octet:02x}");
    }
    shown + end
}

/// What an address consists of, but for quotes, and what separates it from other text does not.
fn is_of_address(c: char) -> bool {
    c == '@' || c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_wherever_they_stand() {
        // printf ann@example.net | sha256sum
        let ann = pseudonym("ann@example.net");
        assert_eq!(ann.len(), "address:".len() + 12);
        for (line, expected) in [
            (
                "sender=Ann@Example.NET recipients=[\"ann@example.net\"]",
                format!("sender={ann} recipients=[\"{ann}\"]"),
            ),
            (
                "550 5.1.1 <ann@example.net>: unknown, ann@example.net.",
                format!("550 5.1.1 <{ann}>: unknown, {ann}."),
            ),
            ("no address @ all, and @contoso.com", "no address @ all, and @contoso.com".to_owned()),
        ] {
            let found = without_addresses(line);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn json_stays_json() {
        let line = "{\"sender\":\"ann@example.net\",\"why\":\"\\\"ann@example.net\\\"\"}\n";
        let read: serde_json::Value = serde_json::from_str(&without_addresses(line)).unwrap();
        assert_eq!(read["sender"], pseudonym("ann@example.net").as_str());
    }
}
