//! `[graph]`

use super::reader::TableReader;
use relay_mail::ByteSize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphConfig {
    /// The largest message that is sent in one `sendMail` call, in octets before the base64. Default 2.2 MiB;
    /// 64 KiB to 3 MiB.
    pub max_mime: ByteSize,
    /// Recipients of one message; a message with more is sent as several. Default 500; 1 to 1000.
    pub max_recipients: u32,
    /// Above `max_mime`, whether fields of the header that Graph's JSON has no place for go as MAPI
    /// properties. Default false: whether Exchange makes fields of them again is not documented.
    pub keep_headers: bool,
}

/// A request may have 4 MB, and base64 makes four octets of three.
const LARGEST_MIME: ByteSize = ByteSize(3 << 20);

impl Default for GraphConfig {
    fn default() -> Self {
        Self { max_mime: ByteSize((2 << 20) + (1 << 20) / 5), max_recipients: 500, keep_headers: false }
    }
}

impl GraphConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        Self {
            max_mime: table.or_default("max_mime", default.max_mime, |item| {
                item.size_within(ByteSize::kib(64)..=LARGEST_MIME)
            }),
            max_recipients: table
                .or_default("max_recipients", default.max_recipients, |item| item.integer(1..=1000)),
            keep_headers: table.or_default("keep_headers", default.keep_headers, |item| item.boolean()),
        }
    }
}
