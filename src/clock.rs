//! The time, by tokio's clock: tests pause it.

use relay_mail::Timestamp;
use tokio::time::Instant;

/// Now.
pub fn now() -> Timestamp {
    Timestamp::of(Instant::now().into_std())
}

/// The tokio instant at which `due` is reached: now, if it is past.
pub fn instant_of(due: Timestamp) -> Instant {
    Instant::now() + due.since(now())
}
