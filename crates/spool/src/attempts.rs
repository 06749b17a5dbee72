//! What is kept of a message's failed attempts: the last ones, for whoever asks why it waits.
//!
//! They are stored behind the message's state, in the same record, so an attempt costs no write of its own.
//! They are in no sum and have a checksum of their own: if they are damaged, the message is delivered all the
//! same, and nobody knows of its earlier attempts. An index that is rebuilt forgets them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::remembered::beginning;
use relay_mail::Timestamp;

/// An attempt that failed, and what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// When it ended, by the wall clock.
    pub at: Timestamp,
    /// What it was about, in one word: 32 octets at most.
    pub class: Arc<str>,
    /// The service's code: 80 octets at most. Empty if it gave none.
    pub code: Arc<str>,
    /// In words: 300 octets at most.
    pub text: Arc<str>,
    /// The name that the service gave the call: 64 octets at most. Empty if it gave none.
    pub request_id: Arc<str>,
}

/// The last attempts of a message, as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedAttempts(Option<Arc<[u8]>>);

/// The octets that are kept of each text.
const CLASS: usize = 32;
const CODE: usize = 80;
const TEXT: usize = 300;
const REQUEST_ID: usize = 64;

/// The octets of all attempts of a message. A message that waits for days has ten attempts that say the same,
/// which is stored once.
const MOST_OCTETS: usize = 2048;

/// The first octet. A stamp of the index begins with the first octet of the number of a commit, which is 0.
const VERSION: u8 = 1;
/// The version, the length of what follows, its checksum.
const HEAD: usize = 1 + 2 + 4;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    at: u64,
    class: &'a str,
    code: &'a str,
    /// `None`: that of the attempt before.
    text: Option<&'a str>,
    request_id: &'a str,
}

impl FailedAttempt {
    /// Each text loses its end if it is too long.
    pub fn new(at: Timestamp, class: &str, code: &str, text: &str, request_id: &str) -> Self {
        let cut = |text, most| Arc::from(beginning(text, most));
        Self {
            at,
            class: cut(class, CLASS),
            code: cut(code, CODE),
            text: cut(text, TEXT),
            request_id: cut(request_id, REQUEST_ID),
        }
    }
}

impl FailedAttempts {
    /// Attempts that are kept.
    pub const MOST: usize = 10;

    /// Oldest first. Empty if they are damaged.
    pub fn list(&self) -> Vec<FailedAttempt> {
        let Some(stored) = self.0.as_deref().and_then(payload) else { return Vec::new() };
        let Ok(stored) = postcard::from_bytes::<Vec<Stored<'_>>>(stored) else { return Vec::new() };
        let mut attempts: Vec<FailedAttempt> = Vec::with_capacity(stored.len());
        for Stored { at, class, code, text, request_id } in stored {
            let before = || attempts.last().map_or("".into(), |before| before.text.clone());
            attempts.push(FailedAttempt {
                at: Timestamp::from_millis(at),
                class: class.into(),
                code: code.into(),
                text: text.map_or_else(before, Arc::from),
                request_id: request_id.into(),
            });
        }
        attempts
    }

    /// With one more. The oldest go if there are too many, or if they are too long.
    pub(super) fn with(&self, attempt: FailedAttempt) -> Self {
        let mut attempts = self.list();
        attempts.push(attempt);
        let surplus = attempts.len().saturating_sub(Self::MOST);
        attempts.drain(..surplus);
        loop {
            let encoded = encode(&attempts);
            if encoded.len() <= MOST_OCTETS || attempts.len() <= 1 {
                return Self(Some(encoded.into()));
            }
            attempts.remove(0);
        }
    }

    /// As stored behind a state; nothing if there are none.
    pub(super) fn octets(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Divides what is stored behind a state into attempts and the rest.
    pub(super) fn split(tail: &[u8]) -> (&[u8], &[u8]) {
        match tail {
            [VERSION, high, low, ..] => {
                let len = HEAD + usize::from(u16::from_be_bytes([*high, *low]));
                tail.split_at_checked(len).unwrap_or((tail, &[]))
            }
            _ => (&[], tail),
        }
    }

    /// What was divided off. Damage shows when it is [listed](Self::list).
    pub(super) fn read(octets: &[u8]) -> Self {
        Self((!octets.is_empty()).then(|| octets.into()))
    }
}

fn encode(attempts: &[FailedAttempt]) -> Vec<u8> {
    let mut before: Option<&FailedAttempt> = None;
    let stored: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            let is_same = before.replace(attempt).is_some_and(|before| before.text == attempt.text);
            Stored {
                at: attempt.at.as_millis(),
                class: &attempt.class,
                code: &attempt.code,
                text: (!is_same).then_some(&*attempt.text),
                request_id: &attempt.request_id,
            }
        })
        .collect();
    // Serialising into a growing vector fails only for types that refuse to be serialised; these do not.
    let mut octets =
        postcard::to_extend(&stored, vec![VERSION, 0, 0, 0, 0, 0, 0]).expect("texts can be serialised");
    let (head, payload) = octets.split_at_mut(HEAD);
    // Ten attempts of some 500 octets each are the most.
    let len = u16::try_from(payload.len()).expect("shorter than 64 KiB");
    head[1..3].copy_from_slice(&len.to_be_bytes());
    head[3..].copy_from_slice(&crc32fast::hash(payload).to_be_bytes());
    octets
}

/// `None`: damaged.
fn payload(octets: &[u8]) -> Option<&[u8]> {
    let (head, payload) = octets.split_at_checked(HEAD)?;
    let whole = usize::from(u16::from_be_bytes([head[1], head[2]])) == payload.len();
    let crc = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    (head[0] == VERSION && whole && crc == crc32fast::hash(payload)).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attempt(n: u64, text: &str) -> FailedAttempt {
        FailedAttempt::new(Timestamp::from_millis(n), "throttled", "TooManyRequests", text, "0a1b2c")
    }

    #[test]
    fn the_last_ten_are_kept() {
        let mut attempts = FailedAttempts::default();
        assert_eq!((attempts.list(), attempts.octets()), (Vec::new(), &[][..]));
        for n in 0..25 {
            attempts = attempts.with(attempt(n, "the same text each time, which is stored once"));
        }
        let list = attempts.list();
        assert_eq!(
            list.iter().map(|attempt| attempt.at.as_millis()).collect::<Vec<_>>(),
            (15..25).collect::<Vec<_>>()
        );
        assert!(list.iter().all(|attempt| attempt.text.starts_with("the same text")));
        assert!(attempts.octets().len() < 500, "{}", attempts.octets().len());
    }

    #[test]
    fn long_ones_push_the_oldest_out() {
        let mut attempts = FailedAttempts::default();
        for n in 0..10 {
            attempts = attempts.with(attempt(n, &format!("{n}{}", "ä".repeat(400))));
        }
        let list = attempts.list();
        assert!(attempts.octets().len() <= MOST_OCTETS);
        assert!((5..9).contains(&list.len()), "{}", list.len());
        assert_eq!(list.last().unwrap().text.len(), 299);
        assert_eq!(list.last().unwrap().at.as_millis(), 9);
    }

    proptest! {
        #[test]
        fn there_and_back(texts in proptest::collection::vec((any::<u64>(), ".{0,90}", ".{0,40}", ".{0,20}"), 1..4), tail: [u8; 24]) {
            let wanted: Vec<_> = texts
                .iter()
                .map(|(at, text, code, id)| FailedAttempt::new(Timestamp::from_millis(*at), "class", code, text, id))
                .collect();
            let attempts = wanted.iter().fold(FailedAttempts::default(), |all, one| all.with(one.clone()));
            let stored = [attempts.octets(), &tail].concat();
            let (octets, rest) = FailedAttempts::split(&stored);
            prop_assert_eq!(rest, &tail);
            prop_assert_eq!(FailedAttempts::read(octets).list(), wanted);
        }

        #[test]
        fn damage_costs_only_the_attempts(octets: Vec<u8>, bit: usize) {
            let _ = FailedAttempts::read(FailedAttempts::split(&octets).0).list();
            let mut whole = FailedAttempts::default().with(attempt(1, "text")).octets().to_vec();
            let bit = bit % (whole.len() * 8);
            whole[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(FailedAttempts::read(&whole).list(), Vec::new());
        }
    }
}
