//! The time, by tokio's clock, which tests pause. For the use of each of the two, see [`Timestamp`].

use relay_mail::Timestamp;
use tokio::time::Instant;

/// Now, whatever happens to the system's clock: for waiting and expiry.
pub(crate) fn now() -> Timestamp {
    Timestamp::of(Instant::now().into_std())
}

/// Now, by the system's clock, however it was set since the start: for times that others read.
pub(crate) fn wall() -> Timestamp {
    Timestamp::wall_of(Instant::now().into_std())
}
