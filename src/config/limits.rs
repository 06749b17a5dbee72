//! `[limits]`, and `limits = { .. }` of a tenant, which changes single figures.

/// What one mailbox may do, as Microsoft publishes it. `None` (0 in the file): no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Default 30.
    pub messages_per_minute: Option<std::num::NonZeroU32>,
    /// Calls in flight. Default 3: the service allows 4 and may still count one that timed out on our side.
    pub concurrent_requests: Option<std::num::NonZeroU32>,
}
