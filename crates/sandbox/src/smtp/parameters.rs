//! The parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152, RFC 3030), SMTPUTF8 (RFC 6531), DSN (RFC
//! 3461), and AUTH (RFC 4954 section 5), which has no effect here.

use std::collections::HashSet;

use super::replies;

/// What a server must know of them. All are kept as they were written.
#[derive(Debug, Default)]
pub(super) struct MailParameters {
    pub(super) size: Option<u64>,
    pub(super) binary: bool,
    pub(super) smtputf8: bool,
}

impl MailParameters {
    /// The error is the reply that says what is wrong.
    pub(super) fn parse(words: &[&str]) -> Result<Self, &'static str> {
        let mut parameters = Self::default();
        for (name, value) in pairs(words)? {
            let valid = match (name.as_str(), value) {
                ("SIZE", Some(digits)) => {
                    parameters.size = decimal(digits);
                    parameters.size.is_some()
                }
                ("BODY", Some(kind)) => {
                    parameters.binary = kind.eq_ignore_ascii_case("BINARYMIME");
                    one_of(kind, &["7BIT", "8BITMIME", "BINARYMIME"])
                }
                ("SMTPUTF8", None) => {
                    parameters.smtputf8 = true;
                    true
                }
                ("RET", Some(what)) => one_of(what, &["FULL", "HDRS"]),
                ("ENVID", Some(id)) => !id.is_empty() && id.len() <= 100 && is_xtext(id),
                ("AUTH", Some(who)) => who == "<>" || is_xtext(who),
                _ => false,
            };
            if !valid {
                return Err(replies::ARGUMENTS);
            }
        }
        Ok(parameters)
    }
}

/// Whether the parameters of RCPT are right.
pub(super) fn check_rcpt(words: &[&str]) -> Result<(), &'static str> {
    let valid = pairs(words)?.iter().all(|(name, value)| match (name.as_str(), value) {
        ("NOTIFY", Some(when)) => {
            when.eq_ignore_ascii_case("NEVER")
                || when.split(',').all(|one| one_of(one, &["SUCCESS", "FAILURE", "DELAY"]))
        }
        ("ORCPT", Some(original)) => original.split_once(';').is_some_and(|(kind, address)| {
            let is_utf8 = kind.eq_ignore_ascii_case("utf-8");
            !kind.is_empty()
                && kind.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
                && !address.is_empty()
                && original.len() <= 500
                // RFC 6533 section 3 allows characters, or \x{…} for them.
                && (is_utf8 || is_xtext(address))
        }),
        _ => false,
    });
    if valid { Ok(()) } else { Err(replies::ARGUMENTS) }
}

/// Pairs with names in upper case, each name once.
fn pairs<'a>(words: &[&'a str]) -> Result<Vec<(String, Option<&'a str>)>, &'static str> {
    let mut seen = HashSet::new();
    words
        .iter()
        .map(|word| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (*word, None),
            };
            let name = name.to_ascii_uppercase();
            // RFC 5321 section 4.1.2 allows no second equals sign.
            let is_whole = value.is_none_or(|value| !value.is_empty() && !value.contains('='));
            if is_whole && seen.insert(name.clone()) { Ok((name, value)) } else { Err(replies::ARGUMENTS) }
        })
        .collect()
}

pub(super) fn decimal(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

fn one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|one| word.eq_ignore_ascii_case(one))
}

/// RFC 3461 section 4: printable, and `+` begins two upper-case hexadecimal digits.
fn is_xtext(text: &str) -> bool {
    let is_hex = |octet: Option<u8>| octet.is_some_and(|o| matches!(o, b'0'..=b'9' | b'A'..=b'F'));
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let valid = match octet {
            b'+' => is_hex(octets.next()) && is_hex(octets.next()),
            _ => (b'!'..=b'~').contains(&octet) && octet != b'=',
        };
        if !valid {
            return false;
        }
    }
    true
}
