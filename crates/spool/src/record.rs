//! What the index holds of a message: its immutable part and its state.

use serde::{Deserialize, Serialize};

use super::LaneId;
use relay_mail::{Envelope, Ingress, MailboxAddress, MessageId, TenantName, Timestamp};

/// The part of a message that never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub tenant: TenantName,
    pub ingress: Ingress,
    pub envelope: Envelope,
    /// The header From: it decides which mailbox posts the message.
    pub author: MailboxAddress,
    /// The message that this one reports on.
    pub bounce_of: Option<MessageId>,
}

/// The part that changes: small and of fixed size, since a million of them may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub lane: LaneId,
    pub phase: Phase,
    /// Raised at each claim.
    pub epoch: u32,
    /// Attempts that counted.
    pub attempts: u16,
    /// Since when it is unknown whether an earlier attempt was sent.
    pub doubt: Option<Timestamp>,
    pub body: BodyPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Waiting {
        due: Timestamp,
    },
    /// A worker has it; an attempt has begun.
    Leased,
    /// Held until an operator releases it.
    Held,
}

/// Where a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BodyPlace {
    /// The segment that holds it, or `None` if it has a file of its own.
    pub segment: Option<u32>,
    /// Offset of the record that holds it, in its file.
    pub offset: u64,
    /// Octets of body.
    pub len: u64,
}

/// Versions of an encoded state. The later one gives the time since when a message is in doubt. The other
/// gives only that it is in doubt, and is still written if no more is known: a record that is read and stored
/// again stays the same, octet for octet.
const VERSION: u8 = 2;
const VERSION_WITH_DOUBT: u8 = 3;
/// Version of an encoded message. Version 2 had no wishes in its envelope, and is still read.
const MESSAGE_VERSION: u8 = 3;
/// Octets of an encoded state.
const STATE_LEN: usize = 44;
const STATE_LEN_WITH_DOUBT: usize = 52;

/// A state as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncodedState {
    octets: [u8; STATE_LEN_WITH_DOUBT],
    len: usize,
}

impl std::ops::Deref for EncodedState {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// Divides a stored value into a state and what follows it.
pub(super) fn split_state(value: &[u8]) -> Option<(&[u8], &[u8])> {
    match *value.first()? {
        VERSION => value.split_at_checked(STATE_LEN),
        VERSION_WITH_DOUBT => value.split_at_checked(STATE_LEN_WITH_DOUBT),
        _ => None,
    }
}

impl State {
    /// Fixed-width, big-endian; the first octet is the version.
    pub(super) fn encode(&self) -> EncodedState {
        let (phase, due) = match self.phase {
            Phase::Waiting { due } => (0, due.as_millis()),
            Phase::Leased => (1, 0),
            Phase::Held => (2, 0),
        };
        let mut out = [0; STATE_LEN_WITH_DOUBT];
        let since = self.doubt.map_or(0, Timestamp::as_millis);
        let (version, fixed) = if since > 0 { (VERSION_WITH_DOUBT, 48) } else { (VERSION, 40) };
        out[0] = version;
        out[1] = phase | u8::from(self.doubt.is_some()) << 2 | u8::from(self.body.segment.is_some()) << 3;
        out[2..4].copy_from_slice(&self.attempts.to_be_bytes());
        out[4..8].copy_from_slice(&self.lane.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.epoch.to_be_bytes());
        out[12..20].copy_from_slice(&due.to_be_bytes());
        out[20..24].copy_from_slice(&self.body.segment.unwrap_or(0).to_be_bytes());
        out[24..32].copy_from_slice(&self.body.offset.to_be_bytes());
        out[32..40].copy_from_slice(&self.body.len.to_be_bytes());
        if version == VERSION_WITH_DOUBT {
            out[40..48].copy_from_slice(&since.to_be_bytes());
        }
        let crc = crc32fast::hash(&out[..fixed]);
        out[fixed..fixed + 4].copy_from_slice(&crc.to_be_bytes());
        EncodedState { octets: out, len: fixed + 4 }
    }

    /// `None`: not a state, or a damaged one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, rest) = split_state(bytes)?;
        let fixed = bytes.len() - 4;
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        // The index has its own checksums. This one detects a record that is another's or half written.
        if !rest.is_empty() || bytes[1] > 15 || u32_at(fixed)? != crc32fast::hash(&bytes[..fixed]) {
            return None;
        }
        let phase = match bytes[1] & 3 {
            0 => Phase::Waiting { due: Timestamp::from_millis(u64_at(12)?) },
            1 => Phase::Leased,
            2 => Phase::Held,
            _ => return None,
        };
        let since = if bytes[0] == VERSION_WITH_DOUBT { u64_at(40)? } else { 0 };
        Some(Self {
            lane: LaneId(u32_at(4)?),
            phase,
            epoch: u32_at(8)?,
            attempts: u16::from_be_bytes([bytes[2], bytes[3]]),
            doubt: (bytes[1] & 4 != 0).then_some(Timestamp::from_millis(since)),
            body: BodyPlace {
                segment: if bytes[1] & 8 != 0 { Some(u32_at(20)?) } else { None },
                offset: u64_at(24)?,
                len: u64_at(32)?,
            },
        })
    }
}

impl Message {
    /// The version, then postcard.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Serialising into a growing vector fails only for types that refuse to be serialised; these do not.
        postcard::to_extend(self, vec![MESSAGE_VERSION]).expect("a message can be serialised")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&MESSAGE_VERSION, rest) => postcard::from_bytes(rest).ok(),
            (2, rest) => {
                let (tenant, ingress, envelope, author, bounce_of) = postcard::from_bytes(rest).ok()?;
                let (sender, recipients, body): (_, Vec<MailboxAddress>, _) = envelope;
                let envelope = Envelope::new(sender, recipients, body).ok()?;
                Some(Self { tenant, ingress, envelope, author, bounce_of })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use relay_mail::BodyKind;

    #[test]
    fn a_message_of_an_earlier_version_is_read() {
        let message = Message {
            tenant: "contoso".parse().unwrap(),
            ingress: Ingress::Pickup,
            envelope: Envelope::new(None, ["b@x.se".parse().unwrap()], BodyKind::EightBitMime).unwrap(),
            author: "a@x.se".parse().unwrap(),
            bounce_of: None,
        };
        let Message { tenant, ingress, envelope, author, bounce_of } = &message;
        let envelope = (envelope.sender(), envelope.recipients(), envelope.body());
        let old = (tenant, ingress, envelope, author, bounce_of);
        let old = postcard::to_extend(&old, vec![2]).unwrap();
        assert_eq!(Message::decode(&old), Some(message.clone()));
        assert_eq!(Message::decode(&message.encode()), Some(message));
    }

    proptest! {
        #[test]
        fn state_and_back(
            (lane, epoch, attempts, doubt) in any::<(u32, u32, u16, Option<u64>)>(),
            phase in prop_oneof![
                any::<u64>().prop_map(|ms| Phase::Waiting { due: Timestamp::from_millis(ms) }),
                Just(Phase::Leased),
                Just(Phase::Held),
            ],
            segment in proptest::option::of(any::<u32>()),
            (offset, len) in any::<(u64, u64)>(),
        ) {
            let body = BodyPlace { segment, offset, len };
            let doubt = doubt.map(Timestamp::from_millis);
            let state = State { lane: LaneId(lane), phase, epoch, attempts, doubt, body };
            prop_assert_eq!(State::decode(&state.encode()), Some(state));
        }

        #[test]
        fn a_flipped_bit_is_seen(bit: usize, len: u64, doubt: Option<u32>) {
            let body = BodyPlace { segment: Some(3), offset: 7, len };
            let state = State {
                lane: LaneId(1), phase: Phase::Leased, epoch: 2, attempts: 1, body,
                doubt: doubt.map(|ms| Timestamp::from_millis(ms.into())),
            };
            let mut bytes = state.encode().to_vec();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(State::decode(&bytes), None);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = State::decode(&bytes);
            let _ = Message::decode(&bytes);
        }
    }
}
