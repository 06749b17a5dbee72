//! `[limits]`, and `limits = { .. }` of a tenant, which changes single figures.

use std::num::NonZeroU32;

use super::reader::{Item, TableReader};
use relay_mail::ByteSize;

/// What one mailbox may do, as Microsoft publishes it. `None` (0 in the file): no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Default 30.
    pub messages_per_minute: Option<NonZeroU32>,
    /// Calls in flight. Default 3: the service allows 4 and may still count one that timed out on our side.
    pub concurrent_requests: Option<NonZeroU32>,
    /// In any 24 hours. Default 10,000.
    pub recipients_per_day: Option<NonZeroU32>,
    /// Calls in any 10 minutes. Default 10,000.
    pub requests_per_10_minutes: Option<NonZeroU32>,
    /// Octets of all bodies in any 5 minutes. Default 150 MB. Never zero.
    pub upload_per_5_minutes: Option<ByteSize>,
}

/// What one application may do, over all tenants and mailboxes: its calls in 10 seconds. Default 130,000;
/// `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppLimit(pub Option<NonZeroU32>);

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_minute: NonZeroU32::new(30),
            concurrent_requests: NonZeroU32::new(3),
            recipients_per_day: NonZeroU32::new(10_000),
            requests_per_10_minutes: NonZeroU32::new(10_000),
            upload_per_5_minutes: Some(ByteSize::mb(150)),
        }
    }
}

impl Default for AppLimit {
    fn default() -> Self {
        Self(NonZeroU32::new(130_000))
    }
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self {
        messages_per_minute: None,
        concurrent_requests: None,
        recipients_per_day: None,
        requests_per_10_minutes: None,
        upload_per_5_minutes: None,
    };

    /// What the table leaves out stays as `inherited`.
    pub(super) fn read(table: &mut TableReader<'_>, inherited: &Self) -> Self {
        let mut number =
            |key, inherited| table.or_default(key, inherited, |item| read_limit(item, 1_000_000));
        let messages_per_minute = number("messages_per_minute", inherited.messages_per_minute);
        let concurrent_requests = number("concurrent_requests", inherited.concurrent_requests);
        let recipients_per_day = number("recipients_per_day", inherited.recipients_per_day);
        let requests_per_10_minutes = number("requests_per_10_minutes", inherited.requests_per_10_minutes);
        let upload_per_5_minutes =
            table.or_default("upload_per_5_minutes", inherited.upload_per_5_minutes, |item| {
                let size = item.size(ByteSize(0))?;
                Some((size != ByteSize(0)).then_some(size))
            });
        Self {
            messages_per_minute,
            concurrent_requests,
            recipients_per_day,
            requests_per_10_minutes,
            upload_per_5_minutes,
        }
    }
}

impl AppLimit {
    /// From `[limits]` only: the figure is one of the application, so no tenant has its own.
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default().0;
        Self(table.or_default("app_requests_per_10_seconds", default, |item| read_limit(item, 100_000_000)))
    }
}

fn read_limit(item: &Item<'_>, most: u32) -> Option<Option<NonZeroU32>> {
    item.integer(0..=most).map(NonZeroU32::new)
}
