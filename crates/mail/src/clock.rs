//! Wall-clock time.
//!
//! Retry times and message ids are stored, so they need wall-clock time; tests need to pause it. So [`Timestamp::of`] names the
//! time of an instant of the monotonic clock, and whoever asks takes that instant from a clock that can be paused. A step of the
//! system clock while the process runs is not followed; retries stay correct relative to each other, and a restart picks up
//! the new time.

#![allow(
    clippy::disallowed_types,
    reason = "the instants come from a clock that tests pause; here they are only compared"
)]

use std::{
    fmt,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

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

    /// The time at `instant`: that of the system at the first use, plus what the monotonic clock has advanced since.
    pub fn of(instant: Instant) -> Self {
        static ORIGIN: OnceLock<(Instant, Timestamp)> = OnceLock::new();
        let (origin, time) = *ORIGIN.get_or_init(|| (Instant::now(), Self::wall()));
        match instant.checked_duration_since(origin) {
            Some(since) => time + since,
            None => time - origin.duration_since(instant),
        }
    }

    /// Now, by the system's clock, however it was set since the start: for what others compare with their own clocks.
    pub fn wall() -> Self {
        #[allow(clippy::disallowed_methods, reason = "here the system clock is read, and nowhere else")]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
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
