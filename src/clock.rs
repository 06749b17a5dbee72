//! The time, by tokio's clock: tests pause it. For which of the two to use, see [`Timestamp`].

use relay_mail::Timestamp;
use tokio::time::Instant;

/// Now, whatever happens to the system's clock: for what waits, and what expires.
pub fn now() -> Timestamp {
    Timestamp::of(Instant::now().into_std())
}

/// Now, by the system's clock, however it was set since the start: for what others read.
pub fn wall() -> Timestamp {
    Timestamp::wall_of(Instant::now().into_std())
}

/// The tokio instant at which `due` is reached: now, if it is past.
pub fn instant_of(due: Timestamp) -> Instant {
    Instant::now() + due.since(now())
}
