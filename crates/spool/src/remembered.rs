//! What is remembered of a message beside its state, for the few messages that have something: a route's
//! note, and why the message is held.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// What a route remembers of a message between its attempts. It is small, and means nothing to the spool.
#[derive(Clone, PartialEq, Eq)]
pub struct Note(Arc<[u8]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a note has {} octets at most", Note::MAX_LEN)]
pub struct NoteTooLong;

/// Why a message is held, in words for its operator: 512 octets at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldReason(Arc<str>);

/// Both, either or neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    pub note: Option<Note>,
    pub held: Option<HoldReason>,
}

/// Both, as they are stored.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    note: Option<&'a [u8]>,
    held: &'a str,
}

/// The first octet of a record that has a reason. A record without one is the note and nothing else, as
/// earlier versions wrote it. No note begins like this: a route's begins with the length of an address.
const WITH_REASON: u8 = 0xff;

impl Note {
    /// Far below what sled would put into a file of its own.
    pub const MAX_LEN: usize = 2048;

    pub fn new(octets: &[u8]) -> Result<Self, NoteTooLong> {
        if octets.len() > Self::MAX_LEN { Err(NoteTooLong) } else { Ok(Self(octets.into())) }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({} octets)", self.0.len())
    }
}

impl HoldReason {
    /// Octets that are kept of a reason.
    pub const MAX_LEN: usize = 512;

    /// A text that is too long loses its end.
    pub fn new(text: &str) -> Self {
        Self(beginning(text, Self::MAX_LEN).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As many whole characters as `most` octets hold.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    let last = text.len().min(most);
    let end = (0..=last).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Note> for Remembered {
    fn from(note: Note) -> Self {
        Self { note: Some(note), held: None }
    }
}

impl Remembered {
    pub(super) fn is_empty(&self) -> bool {
        self.note.is_none() && self.held.is_none()
    }

    /// `None`: there is nothing to store.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let note = self.note.as_ref().map(Note::as_bytes);
        match &self.held {
            None => note.map(<[u8]>::to_vec),
            Some(HoldReason(held)) => {
                // Serialising into a growing vector fails only for types that refuse to be serialised; these
                // do not.
                let stored = postcard::to_extend(&Stored { note, held }, vec![WITH_REASON]);
                Some(stored.expect("a note and a text can be serialised"))
            }
        }
    }

    /// `None`: it is neither. What is read is [encoded](Self::encode) as the same octets again, which the sum
    /// of all records needs.
    pub(super) fn decode(octets: &[u8]) -> Option<Self> {
        let with_reason = || {
            let (&WITH_REASON, rest) = octets.split_first()? else { return None };
            let Stored { note, held } = postcard::from_bytes(rest).ok()?;
            let note = note.map(Note::new).transpose().ok()?;
            Some(Self { note, held: Some(HoldReason::new(held)) })
        };
        match with_reason() {
            Some(both) if both.encode().as_deref() == Some(octets) => Some(both),
            _ => Note::new(octets).ok().map(Self::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn remembered_and_back(note: Option<Vec<u8>>, held: Option<String>) {
            // As the notes of routes are.
            let note = note.map(|octets| Note::new(&[&[7], &octets[..]].concat()).unwrap());
            let held = held.map(|text| HoldReason::new(&text));
            let remembered = Remembered { note, held };
            match remembered.encode() {
                None => prop_assert!(remembered.is_empty()),
                Some(octets) => prop_assert_eq!(Remembered::decode(&octets), Some(remembered)),
            }
        }

        #[test]
        fn what_is_read_is_stored_again_octet_for_octet(octets: Vec<u8>, is_marked: bool) {
            let octets = if is_marked { [&[WITH_REASON], &octets[..]].concat() } else { octets };
            prop_assert_eq!(Remembered::decode(&octets).unwrap().encode(), Some(octets));
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_two_characters() {
        let reason = HoldReason::new(&"ä".repeat(400));
        assert_eq!(reason.as_str(), "ä".repeat(256));
        assert_eq!(HoldReason::new(&format!("x{}", "ä".repeat(400))).as_str().len(), 511);
    }
}
