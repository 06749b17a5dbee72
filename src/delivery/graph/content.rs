//! The body of a `sendMail` request: the message in base64, without line breaks.
//!
//! Encoded as it is read, so that only a piece of a large message is in memory at a time.

use std::{collections::VecDeque, io};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use relay_spool::OpenBody;

/// Octets of base64 for `len` octets of message.
pub(super) fn encoded_len(len: u64) -> u64 {
    len.div_ceil(3) * 4
}

/// A message made of parts, returned in base64.
pub(super) struct Content {
    parts: VecDeque<Bytes>,
    rest: OpenBody,
    /// Octets of the last part that did not fill a group of three.
    carry: Vec<u8>,
    ended: bool,
}

impl Content {
    /// `parts`, then what `rest` still has.
    pub(super) fn new(parts: impl IntoIterator<Item = Bytes>, rest: OpenBody) -> Self {
        Self { parts: parts.into_iter().collect(), rest, carry: Vec::new(), ended: false }
    }

    /// The next piece of base64; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let part = match self.parts.pop_front() {
                Some(part) => Some(part),
                None => self.rest.next().await?,
            };
            let encoded = match part {
                Some(part) => self.encode(&part),
                None => {
                    self.ended = true;
                    STANDARD.encode(&self.carry)
                }
            };
            if !encoded.is_empty() {
                return Ok(Some(encoded.into()));
            }
        }
    }

    /// Everything at once, for a message that is in memory anyway.
    pub(super) async fn whole(mut self, len: u64) -> io::Result<Bytes> {
        let mut whole = Vec::with_capacity(encoded_len(len) as usize);
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }

    fn encode(&mut self, mut part: &[u8]) -> String {
        let mut out = String::with_capacity(encoded_len((self.carry.len() + part.len()) as u64) as usize);
        if !self.carry.is_empty() {
            let wanted = (3 - self.carry.len()).min(part.len());
            self.carry.extend_from_slice(&part[..wanted]);
            part = &part[wanted..];
            if self.carry.len() < 3 {
                return out;
            }
            STANDARD.encode_string(&self.carry, &mut out);
            self.carry.clear();
        }
        let (groups, carry) = part.split_at(part.len() / 3 * 3);
        STANDARD.encode_string(groups, &mut out);
        self.carry.extend_from_slice(carry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_as_all_at_once(parts: Vec<Vec<u8>>, rest: Vec<u8>) {
            let message: Vec<u8> = parts.iter().flatten().chain(&rest).copied().collect();
            let parts = parts.into_iter().map(Bytes::from);
            let content = Content::new(parts, OpenBody::Whole(rest.into()));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let encoded = runtime.block_on(content.whole(message.len() as u64)).unwrap();
            prop_assert_eq!(encoded.len() as u64, encoded_len(message.len() as u64));
            prop_assert_eq!(encoded, STANDARD.encode(&message));
        }
    }
}
