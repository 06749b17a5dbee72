//! The record in which a body is stored.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::Message;
use relay_mail::MessageId;

/// The header before each body on disk. With the meta after the body it is enough to rebuild the index: whose
/// the body is, how long it is, and checksums of all parts.
///
/// ```text
/// magic "m3r1" | body crc32 | id u64 | body length u64 | meta length u32 | meta crc32 | header crc32 | 0 u32
/// body…  meta (the encoded message)…
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) id: MessageId,
    pub(super) body_len: u64,
    pub(super) meta_len: u32,
    pub(super) body_crc: u32,
    meta_crc: u32,
}

impl RecordHeader {
    pub(super) const MAGIC: [u8; 4] = *b"m3r1";
    pub(super) const LEN: usize = 40;

    pub(super) fn new(id: MessageId, body_len: u64, body_crc: u32, meta: &[u8]) -> Self {
        // A message's meta is bounded by max_recipients, far below 4 GiB.
        let meta_len = u32::try_from(meta.len()).unwrap_or(u32::MAX);
        Self { id, body_len, meta_len, body_crc, meta_crc: crc32fast::hash(meta) }
    }

    pub(super) fn of(id: MessageId, body: &[u8], meta: &[u8]) -> Self {
        Self::new(id, body.len() as u64, crc32fast::hash(body), meta)
    }

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0..4].copy_from_slice(&Self::MAGIC);
        out[4..8].copy_from_slice(&self.body_crc.to_be_bytes());
        out[8..16].copy_from_slice(&self.id.to_bytes());
        out[16..24].copy_from_slice(&self.body_len.to_be_bytes());
        out[24..28].copy_from_slice(&self.meta_len.to_be_bytes());
        out[28..32].copy_from_slice(&self.meta_crc.to_be_bytes());
        let crc = crc32fast::hash(&out[..32]);
        out[32..36].copy_from_slice(&crc.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes[0..4] != Self::MAGIC || u32_at(32)? != crc32fast::hash(&bytes[..32]) {
            return None;
        }
        Some(Self {
            id: MessageId::from_bytes(u64_at(8)?.to_be_bytes()),
            body_len: u64_at(16)?,
            meta_len: u32_at(24)?,
            body_crc: u32_at(4)?,
            meta_crc: u32_at(28)?,
        })
    }

    /// Octets of the whole record.
    pub(super) fn record_len(&self) -> u64 {
        (Self::LEN as u64).saturating_add(self.body_len).saturating_add(u64::from(self.meta_len))
    }

    /// Reads the header of the record that begins at `offset`.
    pub(super) fn read(file: &File, offset: u64) -> io::Result<Option<Self>> {
        let mut header = [0; Self::LEN];
        file.read_exact_at(&mut header, offset)?;
        Ok(Self::decode(&header))
    }

    /// Reads the message that the record at `offset` belongs to; `None` if it is not as it was stored.
    pub(super) fn read_message(&self, file: &File, offset: u64) -> io::Result<Option<Message>> {
        let mut meta = vec![0; self.meta_len as usize];
        file.read_exact_at(&mut meta, offset + Self::LEN as u64 + self.body_len)?;
        Ok(self.message(&meta))
    }

    /// The message, if `meta` is unchanged since it was stored.
    pub(super) fn message(&self, meta: &[u8]) -> Option<Message> {
        if crc32fast::hash(meta) == self.meta_crc { Message::decode(meta) } else { None }
    }
}
