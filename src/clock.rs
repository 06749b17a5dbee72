//! Wall-clock time that follows tokio's clock.
//!
//! Retry times and message ids are stored, so they need wall-clock time; tests need to pause it. [`now`] is the
//! system's time at first use plus what tokio's clock has advanced since: with a paused runtime it stands still and jumps
//! with `tokio::time::advance`. A step of the system clock while the process runs is therefore not followed; retries
//! stay correct relative to each other, and a restart picks up the new time.

use std::{
    fmt,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// What lies before the epoch is the epoch.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time from `earlier` until `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn as_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// RFC 3339 in UTC, to the second.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_seconds(self.as_system_time()))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.as_system_time()))
    }
}

/// Now, by tokio's clock.
pub fn now() -> Timestamp {
    #[allow(
        clippy::disallowed_methods,
        reason = "here and in `wall` the system clock is read, and nowhere else"
    )]
    fn origin() -> (Instant, u64) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
    static ORIGIN: OnceLock<(Instant, u64)> = OnceLock::new();
    let (instant, millis) = *ORIGIN.get_or_init(origin);
    Timestamp(millis) + instant.elapsed()
}

/// Now, by the system's clock, however it was set since the start: for what others compare with their own clocks. Paused time
/// has no say in it.
pub fn wall() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "what is compared elsewhere follows the system's clock")]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The tokio instant at which `due` is reached: now, if it is past.
pub fn instant_of(due: Timestamp) -> Instant {
    Instant::now() + due.since(now())
}
