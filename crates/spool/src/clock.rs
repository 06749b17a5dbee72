//! The time, by tokio's clock: tests pause it. Which of the two is for what: see [`Timestamp`].

use relay_mail::Timestamp;
use tokio::time::Instant;

/// Now, whatever happens to the system's clock: for what waits, and what expires.
pub(crate) fn now() -> Timestamp {
    Timestamp::of(Instant::now().into_std())
}

/// Now, as the system's clock says it, however it was set since the start: for what others read.
pub(crate) fn wall() -> Timestamp {
    Timestamp::wall_of(Instant::now().into_std())
}
