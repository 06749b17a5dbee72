//! The time, by tokio's clock: tests pause it.

use relay_mail::Timestamp;
use tokio::time::Instant;

/// Now.
pub(crate) fn now() -> Timestamp {
    Timestamp::of(Instant::now().into_std())
}
