//! The names of files in a tenant's folder. No I/O.
//!
//! | name                        | what it is                                                            |
//! |-----------------------------|-----------------------------------------------------------------------|
//! | `NAME.eml`                  | a message to take                                                     |
//! | `.NAME.eml.ID-MARK.claimed` | one in progress, which becomes message `ID` in the spool (`marks`)    |
//! | `.NAME.eml.ID.claimed`      | the same, by a relay from before there were marks                     |
//! | `NAME.bad`                  | a file that was refused; `NAME.1.bad` and so on if the name was taken |
//! | `NAME.bad.txt`              | why                                                                   |
//!
//! Other names are left alone. Those with a leading dot belong to work in progress: this relay's, or that of
//! a program that writes a file before it renames it.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use super::marks::Mark;
use relay_mail::MessageId;

const MESSAGE: &[u8] = b".eml";
const CLAIMED: &[u8] = b".claimed";
/// Linux allows 255 octets for a name; a claim puts a dot in front, and a dot, an id of 13 characters, a
/// hyphen, a mark and `.claimed` after it.
pub(super) const LONGEST: usize = 255 - 1 - 1 - 13 - 1 - Mark::LEN - CLAIMED.len();

/// What the name of a claimed file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClaimName {
    /// The name that the file had.
    pub(super) original: OsString,
    /// The id of the message that it was about to become.
    pub(super) id: MessageId,
    /// As the name has it: anybody can write one. `None`: from before there were marks.
    pub(super) mark: Option<Mark>,
}

/// Whether a file of that name is a message.
pub(super) fn is_message(name: &OsStr) -> bool {
    stem(name).is_some()
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

impl ClaimName {
    /// The name that a file has while it is in progress.
    pub(super) fn file_name(&self) -> OsString {
        let id = self.id.to_string();
        let mark = self.mark.map(|mark| format!("-{mark}")).unwrap_or_default();
        let parts = [b".", self.original.as_bytes(), b".", id.as_bytes(), mark.as_bytes(), CLAIMED];
        OsString::from_vec(parts.concat())
    }

    /// `None`: not the name of a claimed file.
    pub(super) fn read(name: &OsStr) -> Option<Self> {
        let inside = name.as_bytes().strip_prefix(b".")?.strip_suffix(CLAIMED)?;
        let dot = memchr::memrchr(b'.', inside)?;
        let original = OsStr::from_bytes(&inside[..dot]);
        let rest = std::str::from_utf8(&inside[dot + 1..]).ok()?;
        let (id, mark) = match rest.split_once('-') {
            Some((id, mark)) => (id, Some(mark.parse().ok()?)),
            None => (rest, None),
        };
        let id = id.parse().ok()?;
        is_message(original).then(|| Self { original: original.to_owned(), id, mark })
    }
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
        let original = OsString::from("x".repeat(LONGEST));
        let claim = ClaimName { original, id: MessageId::from_bytes([7; 8]), mark: Some(Mark::sample(7)) };
        assert_eq!(claim.file_name().len(), 255);
    }

    #[test]
    fn other_hidden_names_are_no_claims() {
        for name in [
            ".a.eml.claimed",
            ".a.eml.0000000000001.claim",
            "a.eml.0000000000001.claimed",
            ".claimed",
            ".a.txt.0000000000001.claimed",
            ".a.eml.0000000000001-.claimed",
            ".a.eml.0000000000001-0.claimed",
            ".a.eml.-0000000000000000.claimed",
            ".a.eml.0000000000001-00000000000000000.claimed",
            ".a.eml.0000000000001-000000000000000-.claimed",
        ] {
            assert_eq!(ClaimName::read(name.as_ref()), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_claim_says_what_it_was(stem: Vec<u8>, id: [u8; 8], mark: Option<u8>) {
            let original = OsString::from_vec([&stem[..], b".eml"].concat());
            let claim = ClaimName { original, id: MessageId::from_bytes(id), mark: mark.map(Mark::sample) };
            let name = claim.file_name();
            prop_assert_eq!(ClaimName::read(&name), Some(claim));
            prop_assert!(is_hidden(&name) && !is_message(&name));
        }
    }
}
