//! One record of the ledger: who took how many recipients, and in which hour.

use ring::digest::{SHA256, digest};

use relay_mail::{MailboxAddress, TenantName};

/// A mailbox of a tenant, as the ledger knows it: no address is in the file, and all records have the same
/// length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    tenant: u64,
    mailbox: u64,
}

/// Hours since the Unix epoch.
pub(super) type Hour = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) hour: Hour,
    /// Less than zero: given back.
    pub(super) count: i32,
}

/// The mark of this version's records. It is in front of each, so that zeros are not a record.
const MARK: u32 = u32::from_be_bytes(*b"RCP1");

impl Key {
    pub(super) fn of(tenant: &TenantName, mailbox: &MailboxAddress) -> Self {
        // Two addresses are equal whatever their case.
        let mailbox: String = mailbox.as_str().chars().flat_map(char::to_lowercase).collect();
        Self { tenant: stable_hash(tenant.as_str()), mailbox: stable_hash(&mailbox) }
    }
}

/// The same in every version and on every machine.
fn stable_hash(text: &str) -> u64 {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |hash, octet| hash << 8 | u64::from(*octet))
}

impl Record {
    /// A power of two: no record lies across two pages of the file.
    pub(super) const LEN: usize = 32;

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let hour = u32::try_from(self.hour).unwrap_or(u32::MAX);
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&MARK.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.key.tenant.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.key.mailbox.to_be_bytes());
        bytes[20..24].copy_from_slice(&hour.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.count.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// `None`: damaged.
    pub(super) fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let word = |at| u32_at(bytes, at);
        let long = |at| u64_at(bytes, at);
        if word(0) != MARK || word(28) != crc32fast::hash(&bytes[..28]) {
            return None;
        }
        Some(Self {
            key: Key { tenant: long(4), mailbox: long(12) },
            hour: word(20).into(),
            count: i32::from_be_bytes(word(24).to_be_bytes()),
        })
    }
}

fn u32_at(bytes: &[u8; Record::LEN], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, octet| word << 8 | u32::from(*octet))
}

fn u64_at(bytes: &[u8; Record::LEN], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(mailbox: &str) -> Key {
        Key::of(&"contoso".parse().unwrap(), &mailbox.parse().unwrap())
    }

    #[test]
    fn a_key_is_stable_and_knows_no_case() {
        assert_eq!(stable_hash("contoso"), 0x11f0_b04e_da61_baeb);
        assert_eq!(key("A@Contoso.example"), key("a@contoso.EXAMPLE"));
        assert_ne!(key("a@contoso.example"), key("b@contoso.example"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tenant: u64, mailbox: u64, hour: u32, count: i32) {
            let record = Record { key: Key { tenant, mailbox }, hour: hour.into(), count };
            prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        }

        #[test]
        fn a_flipped_bit_is_seen(mailbox: u64, count: i32, at in 0..Record::LEN * 8) {
            let mut bytes = Record { key: Key { tenant: 7, mailbox }, hour: 495_000, count }.to_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(Record::from_bytes(&bytes), None);
        }

        #[test]
        fn any_octets_are_answered(bytes: [u8; Record::LEN]) {
            let _ = Record::from_bytes(&bytes);
        }
    }
}
