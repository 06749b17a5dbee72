//! The names of files in a tenant's folder. No I/O.
//!
//! | name                     | what it is                                                            |
//! |--------------------------|-----------------------------------------------------------------------|
//! | `NAME.eml`               | a message to take                                                     |
//! | `.NAME.eml.ID.claimed`   | one under way, which becomes the message `ID` in the spool            |
//! | `NAME.bad`               | a file that was refused; `NAME.1.bad` and so on if the name was taken |
//! | `NAME.bad.txt`           | why                                                                   |
//!
//! Other names are let alone. Those with a leading dot belong to whoever is still at work: this relay, or a program that writes
//! a file before it renames it.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::message::MessageId;

const MESSAGE: &[u8] = b".eml";
const CLAIMED: &[u8] = b".claimed";
/// Linux allows 255 octets for a name; a claim puts a dot in front, and a dot, an id of 13 characters and `.claimed` behind.
pub(super) const LONGEST: usize = 255 - 1 - 1 - 13 - CLAIMED.len();

/// Whether a file of that name is a message.
pub(super) fn is_message(name: &OsStr) -> bool {
    stem(name).is_some()
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// The name that a message has while it is under way.
pub(super) fn claimed(name: &OsStr, id: MessageId) -> OsString {
    OsString::from_vec([b".", name.as_bytes(), b".", id.to_string().as_bytes(), CLAIMED].concat())
}

/// The name that a claimed file had, and the id that its message gets.
pub(super) fn claim_of(name: &OsStr) -> Option<(OsString, MessageId)> {
    let inside = name.as_bytes().strip_prefix(b".")?.strip_suffix(CLAIMED)?;
    let dot = memchr::memrchr(b'.', inside)?;
    let id = std::str::from_utf8(&inside[dot + 1..]).ok()?.parse().ok()?;
    let name = OsStr::from_bytes(&inside[..dot]);
    is_message(name).then(|| (name.to_owned(), id))
}

/// Names for a message that has to give up its own, best first.
pub(super) fn others(name: &OsStr) -> impl Iterator<Item = OsString> {
    numbered(name, 1, ".eml")
}

/// Names for a message that is refused, best first.
pub(super) fn bad(name: &OsStr) -> impl Iterator<Item = OsString> {
    numbered(name, 0, ".bad")
}

/// The name of the file that says why another is bad.
pub(super) fn reason(bad: &OsStr) -> OsString {
    let mut name = bad.to_owned();
    name.push(".txt");
    name
}

fn numbered(name: &OsStr, first: u32, ending: &'static str) -> impl Iterator<Item = OsString> {
    let stem = OsStr::from_bytes(stem(name).unwrap_or(name.as_bytes())).to_owned();
    (first..).map(move |number| {
        let mut name = stem.clone();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.push(ending);
        name
    })
}

/// Without `.eml`.
fn stem(name: &OsStr) -> Option<&[u8]> {
    let (stem, ending) = name.as_bytes().split_at_checked(name.len().checked_sub(MESSAGE.len())?)?;
    ending.eq_ignore_ascii_case(MESSAGE).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        for name in ["a.eml", "A.EML", ".eml", "a.b.Eml"] {
            assert!(is_message(name.as_ref()), "{name}");
        }
        for name in ["a.tmp", "eml", "a.eml.tmp", "a.bad", "a.bad.txt", ""] {
            assert!(!is_message(name.as_ref()), "{name}");
        }
    }

    #[test]
    fn names_for_refused_files() {
        let names: Vec<_> = bad("a.b.EML".as_ref()).take(3).collect();
        assert_eq!(names, ["a.b.bad", "a.b.1.bad", "a.b.2.bad"]);
        assert_eq!(reason(&names[1]), "a.b.1.bad.txt");
        assert_eq!(others("a.eml".as_ref()).next().unwrap(), "a.1.eml");
    }

    #[test]
    fn the_longest_name_can_be_claimed() {
        let name = OsString::from("x".repeat(LONGEST));
        assert_eq!(claimed(&name, MessageId::from_bytes([7; 8])).len(), 255);
    }

    #[test]
    fn other_hidden_names_are_no_claims() {
        for name in
            [".a.eml.claimed", ".a.eml.0000000000001.claim", "a.eml.0000000000001.claimed", ".claimed"]
        {
            assert_eq!(claim_of(name.as_ref()), None, "{name}");
        }
        assert_eq!(claim_of(".a.txt.0000000000001.claimed".as_ref()), None);
    }

    proptest! {
        #[test]
        fn a_claim_says_what_it_was(stem: Vec<u8>, id: [u8; 8]) {
            let name = OsString::from_vec([&stem[..], b".eml"].concat());
            let id = MessageId::from_bytes(id);
            let name_of_claim = claimed(&name, id);
            prop_assert_eq!(claim_of(&name_of_claim), Some((name, id)));
            prop_assert!(is_hidden(&name_of_claim) && !is_message(&name_of_claim));
        }
    }
}
