//! The name of a message in the spool, in replies, in logs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Crockford's base 32: no I, L, O, U, so that an id survives being read out over the telephone.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DIGITS: usize = 13;
/// Bits below the millisecond: about a million ids a millisecond before ids run ahead of the clock.
const SEQUENCE_BITS: u32 = 20;

/// A message's id: the time of acceptance in milliseconds and a sequence number, so that ids sort by age.
///
/// Written as 13 characters of Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: expected {DIGITS} characters of 0-9 and A-Z without I, L, O, U")]
pub struct InvalidMessageId;

impl MessageId {
    /// The first id of the millisecond `at`.
    pub const fn first_at(at: Timestamp) -> Self {
        Self(at.as_millis() << SEQUENCE_BITS)
    }

    /// The id after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// When the message was accepted.
    pub const fn accepted(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> SEQUENCE_BITS)
    }

    /// Eight bytes that sort as the ids do.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; DIGITS];
        let mut rest = self.0;
        for digit in text.iter_mut().rev() {
            *digit = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        if text.len() != DIGITS {
            return Err(InvalidMessageId);
        }
        text.bytes()
            .try_fold(0u64, |id, byte| {
                let digit = ALPHABET.iter().position(|&letter| letter == byte.to_ascii_uppercase())?;
                id.checked_mul(32)?.checked_add(digit as u64)
            })
            .map(Self)
            .ok_or(InvalidMessageId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_back(raw: u64) {
            let id = MessageId(raw);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
            prop_assert_eq!(MessageId::from_bytes(id.to_bytes()), id);
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = text.parse::<MessageId>();
        }
    }

    #[test]
    fn knows_its_time() {
        let at = Timestamp::from_millis(1_795_000_000_123);
        assert_eq!(MessageId::first_at(at).next().accepted(), at);
    }

    #[test]
    fn too_large_is_refused() {
        assert_eq!("ZZZZZZZZZZZZZ".parse::<MessageId>(), Err(InvalidMessageId));
    }
}
