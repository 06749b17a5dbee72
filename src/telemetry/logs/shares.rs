//! What one source may log: a share of the lines that wait, and a limited number of lines a second.
//!
//! For a tenant that sends a lot, every message is two lines: its rate is far above what Microsoft 365 takes
//! from a tenant. A client that belongs to nobody has nothing to log but refusals.

use std::{collections::HashMap, num::NonZeroUsize};

use lru::LruCache;
use tokio::time::Instant;

use super::attribution::Source;

/// Sources that are remembered. One that is forgotten starts again.
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Lines a second, and lines at once after a time of silence.
struct Rate {
    a_second: f64,
    at_once: f64,
}

const TENANT: Rate = Rate { a_second: 2_500.0, at_once: 50_000.0 };
const CLIENT: Rate = Rate { a_second: 50.0, at_once: 1_000.0 };

struct Left {
    lines: f64,
    at: Instant,
}

pub(super) struct Shares {
    /// Octets of one source that may wait.
    share: usize,
    waiting: HashMap<Source, usize>,
    left: LruCache<Source, Left>,
}

impl Shares {
    pub(super) fn new(share: usize) -> Self {
        Self { share, waiting: HashMap::new(), left: LruCache::new(MOST) }
    }

    /// Whether one more line of the source may wait: if so, it does. An error bypasses the rate, and has room
    /// for another share.
    pub(super) fn take(&mut self, source: Source, octets: usize, is_error: bool, now: Instant) -> bool {
        let rate = match source {
            Source::Relay => return true,
            Source::Tenant(_) => TENANT,
            Source::Client(_) => CLIENT,
        };
        let share = if is_error { 2 * self.share } else { self.share };
        if self.waiting.get(&source).copied().unwrap_or(0) + octets > share {
            return false;
        }
        if !is_error {
            let left = self.left.get_or_insert_mut(source, || Left { lines: rate.at_once, at: now });
            let since = now.saturating_duration_since(left.at).as_secs_f64();
            left.lines = (left.lines + since * rate.a_second).min(rate.at_once);
            left.at = now;
            if left.lines < 1.0 {
                return false;
            }
            left.lines -= 1.0;
        }
        *self.waiting.entry(source).or_default() += octets;
        true
    }

    /// The line no longer waits.
    pub(super) fn give_back(&mut self, source: Source, octets: usize) {
        if let Some(waiting) = self.waiting.get_mut(&source) {
            *waiting = waiting.saturating_sub(octets);
            if *waiting == 0 {
                self.waiting.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE: Source = Source::Client(1);
    const OTHER: Source = Source::Client(2);

    #[test]
    fn a_source_has_a_share_of_the_queue_and_errors_another() {
        let mut shares = Shares::new(100);
        let now = Instant::now();
        assert!(shares.take(ONE, 100, false, now));
        assert!(!shares.take(ONE, 1, false, now));
        assert!(shares.take(ONE, 100, true, now));
        assert!(!shares.take(ONE, 1, true, now));
        assert!(shares.take(OTHER, 100, false, now));
        assert!(shares.take(Source::Relay, 1000, false, now));
        shares.give_back(ONE, 200);
        assert!(shares.take(ONE, 100, false, now));
    }

    #[test]
    fn a_source_has_so_many_lines_a_second() {
        let mut shares = Shares::new(usize::MAX);
        let mut now = Instant::now();
        let mut taken = |source, now| (0..2000).filter(|_| shares.take(source, 0, false, now)).count();
        assert_eq!(taken(ONE, now), 1000);
        assert_eq!(taken(OTHER, now), 1000);
        now += Duration::from_secs(2);
        assert_eq!(taken(ONE, now), 100);
        assert_eq!(taken(Source::Tenant(1), now), 2000);
        now += Duration::from_secs(3600);
        assert_eq!(taken(ONE, now), 1000);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut shares = Shares::new(usize::MAX);
        let now = Instant::now();
        for n in 0..20_000 {
            assert!(shares.take(Source::Client(n), 1, false, now));
            shares.give_back(Source::Client(n), 1);
        }
        assert_eq!((shares.left.len(), shares.waiting.len()), (MOST.get(), 0));
    }
}
