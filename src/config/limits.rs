//! `[limits]`, and `limits = { .. }` of a tenant, which changes single figures.

use std::num::NonZeroU32;

use super::reader::{Item, TableReader};

/// What one mailbox may do, as Microsoft publishes it. `None` (0 in the file): no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Default 30.
    pub messages_per_minute: Option<NonZeroU32>,
    /// Calls in flight. Default 3: the service allows 4 and may still count one that timed out on our side.
    pub concurrent_requests: Option<NonZeroU32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_per_minute: NonZeroU32::new(30), concurrent_requests: NonZeroU32::new(3) }
    }
}

impl Limits {
    /// What the table leaves out stays as `inherited`.
    pub(super) fn read(table: &mut TableReader<'_>, inherited: &Self) -> Self {
        Self {
            messages_per_minute: table.or_default(
                "messages_per_minute",
                inherited.messages_per_minute,
                read_limit,
            ),
            concurrent_requests: table.or_default(
                "concurrent_requests",
                inherited.concurrent_requests,
                read_limit,
            ),
        }
    }
}

fn read_limit(item: &Item<'_>) -> Option<Option<NonZeroU32>> {
    item.integer(0..=1_000_000).map(NonZeroU32::new)
}
