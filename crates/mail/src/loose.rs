//! Addresses in text that is no address list: in whichever way it is read, these are all there are.

use crate::{MailboxAddress, outside::is_hidden, words::decode_words};

/// The addresses in the value of a field, raw and decoded, each as often as it is there. `None`: there is
/// something besides that may be one.
pub(crate) fn addresses_in(raw: &[u8]) -> Option<Vec<MailboxAddress>> {
    let mut found = Vec::new();
    let decoded = decode_words(raw);
    for (text, is_decoded) in [(&*String::from_utf8_lossy(raw), false), (&*decoded, true)] {
        for token in text.split(separates).filter(|token| token.contains('@')) {
            // What is in an encoded word shows when it is decoded. One that cannot be, or that has an `@`
            // where there is none in its alphabet, is no address.
            if token.contains("=?") {
                if is_decoded || !is_q_word(token) {
                    return None;
                }
                continue;
            }
            // A route (RFC 5321 section 4.1.2) names servers only.
            if token.starts_with('@') && !token[1..].contains('@') {
                continue;
            }
            found.push(token.trim_end_matches('.').parse().ok()?);
        }
    }
    Some(found)
}

/// Between two words, one of which may be an address. Other characters that cannot be seen are not among
/// them: with one in it, a word with an `@` is no address.
fn separates(c: char) -> bool {
    c.is_ascii_whitespace() || c.is_whitespace() && !is_hidden(c) || "<>()[],;:\"'".contains(c)
}

/// `=?charset?Q?text?=`, or the beginning of it.
fn is_q_word(token: &str) -> bool {
    let mut parts = token.split('?');
    let (Some("="), Some(_), Some(encoding)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    encoding.eq_ignore_ascii_case("q") && token.matches("=?").count() == 1
}
