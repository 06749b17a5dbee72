//! Times, by two clocks.
//!
//! * The *steady* clock ([`Timestamp::of`]) is the system's time at the first use, plus what the monotonic
//!   clock has advanced since. No step of the system clock moves it. Waiting and expiry go by it, or a step
//!   of a day would expire a day's mail.
//! * The *wall* clock ([`Timestamp::wall_of`]) follows the system clock at once. Times that others read go by
//!   it: `Received`, `Date`, the ids of messages. [`Timestamp::steady`] finds such a time on the steady
//!   clock.
//!
//! The caller passes an instant of the monotonic clock, from a clock that tests can pause. A restart starts
//! both clocks again.

#![allow(
    clippy::disallowed_types,
    reason = "the instants come from a clock that tests pause; here they are only compared"
)]

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A time before the epoch becomes the epoch.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
    }

    /// The steady time of `instant`.
    pub fn of(instant: Instant) -> Self {
        let (origin, time) = *origin();
        match instant.checked_duration_since(origin) {
            Some(since) => time + since,
            None => time - origin.duration_since(instant),
        }
    }

    /// The wall time of `instant`, which is about now. It includes all steps that the system clock has made
    /// until now.
    pub fn wall_of(instant: Instant) -> Self {
        Self::of(instant).moved(offset_now())
    }

    /// The steady time at which the wall clock showed this. If it showed it twice, since it was set back in
    /// between, this is the later time: nothing then becomes older than it is.
    pub fn steady(self) -> Self {
        // Called for each message, so it costs nothing where the clock has made no step.
        if !HAS_STEPPED.load(Ordering::Acquire) {
            return self;
        }
        epochs().steady(self)
    }

    const fn moved(self, millis: i64) -> Self {
        Self(self.0.saturating_add_signed(millis))
    }

    /// Now, by the system's clock, however it was set since the start: for what others compare with their own
    /// clocks.
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

/// The first use, by both clocks.
fn origin() -> &'static (Instant, Timestamp) {
    static ORIGIN: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    ORIGIN.get_or_init(|| (Instant::now(), Timestamp::wall()))
}

fn epochs() -> MutexGuard<'static, Epochs> {
    static EPOCHS: Mutex<Epochs> = Mutex::new(Epochs(Vec::new()));
    // Nothing panics half-way through a change.
    EPOCHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds by which the wall clock was ahead of the steady one when last seen.
static OFFSET: AtomicI64 = AtomicI64::new(0);
/// Whether that has ever changed.
static HAS_STEPPED: AtomicBool = AtomicBool::new(false);

/// Looks at the system clock. Takes a lock only if it has made a step.
fn offset_now() -> i64 {
    /// The longest time between the two readings. If this thread was stopped there, they do not belong
    /// together.
    const TOGETHER: Duration = Duration::from_millis(1);
    let before = Instant::now();
    let wall = Timestamp::wall();
    let known = OFFSET.load(Ordering::Acquire);
    if before.elapsed() >= TOGETHER {
        return known;
    }
    let Some(offset) = Epochs::step(known, Timestamp::of(before), wall) else { return known };
    let mut epochs = epochs();
    epochs.see(Timestamp::of(before), wall);
    // In this order: a thread that sees a time by the new offset finds the step.
    HAS_STEPPED.store(true, Ordering::Release);
    OFFSET.store(offset, Ordering::Release);
    offset
}

/// The steps that the system clock has made. Each has its time on the steady clock, and how many milliseconds
/// the system clock is off from then on. Oldest first; before the first, it is not off.
#[derive(Debug)]
struct Epochs(Vec<(Timestamp, i64)>);

impl Epochs {
    /// The system's own corrections (adjtime(3)) move both clocks. A difference below this comes from
    /// imprecise readings.
    const STEP_MILLIS: u64 = 50;
    /// If a clock steps all the time, the oldest steps are forgotten.
    const MOST: usize = 1000;

    fn offset(&self) -> i64 {
        self.0.last().map_or(0, |(_, offset)| *offset)
    }

    /// The new offset, if the system clock has made a step since it was `known`.
    fn step(known: i64, steady: Timestamp, wall: Timestamp) -> Option<i64> {
        let offset = i64::try_from(wall.0).ok()?.saturating_sub(i64::try_from(steady.0).ok()?);
        (offset.abs_diff(known) >= Self::STEP_MILLIS).then_some(offset)
    }

    fn see(&mut self, steady: Timestamp, wall: Timestamp) {
        let Some(offset) = Self::step(self.offset(), steady, wall) else { return };
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push((steady, offset));
    }

    fn steady(&self, wall: Timestamp) -> Timestamp {
        let said_in = self.0.iter().rev().find(|(since, offset)| since.moved(*offset) <= wall);
        wall.moved(said_in.map_or(0, |(_, offset)| -offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn at(hours: u64) -> Timestamp {
        Timestamp(hours * HOUR)
    }

    #[test]
    fn a_step_forth_and_one_back_are_followed_and_age_nothing() {
        let mut epochs = Epochs(Vec::new());
        epochs.see(at(100), at(100) + Duration::from_millis(20));
        assert_eq!((epochs.offset(), epochs.steady(at(99))), (0, at(99)));

        // Forward by ten hours.
        epochs.see(at(101), at(111));
        assert_eq!(epochs.offset(), 10 * HOUR as i64);
        assert_eq!([at(100), at(101), at(112)].map(|wall| epochs.steady(wall)), [at(100), at(101), at(102)]);

        // Back by twenty: a time that it showed before and shows again counts as the later one.
        epochs.see(at(103), at(93));
        assert_eq!(epochs.offset(), -10 * HOUR as i64);
        assert_eq!([at(92), at(93), at(94)].map(|wall| epochs.steady(wall)), [at(92), at(103), at(104)]);
        assert!(epochs.steady(at(100)) > at(100));
    }

    #[test]
    fn a_clock_that_steps_all_the_time_takes_no_more_memory() {
        let mut epochs = Epochs(Vec::new());
        for step in 0..3000_u64 {
            epochs.see(at(step), at(step + step % 2));
        }
        assert_eq!(epochs.0.len(), Epochs::MOST);
    }

    #[test]
    fn without_a_step_both_are_one() {
        let now = Instant::now();
        let apart = Timestamp::of(now).0.abs_diff(Timestamp::wall_of(now).0);
        assert!(apart < Epochs::STEP_MILLIS, "{apart}");
        assert_eq!(Timestamp::of(now).steady(), Timestamp::of(now));
    }
}
