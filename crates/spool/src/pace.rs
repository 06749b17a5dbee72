//! Accepting comes before delivering.
//!
//! A client that submits mail waits for a 250 and gives up after a while; a message that waits for its
//! delivery does neither. Both want the same processors and the same disk. So in a burst of mail, deliveries
//! begin one after the other, with a pause of some milliseconds between them. When the burst is over, or has
//! lasted for [`LONGEST`], they begin at once: what lasts longer is not a burst but the normal load, and mail
//! must leave as fast as it comes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

/// This many messages within two windows are a burst: some 500 a second.
const BURST: u32 = 50;
const WINDOW: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(4);
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Pace {
    arrivals: Mutex<Arrivals>,
    /// In a burst, one delivery after the other.
    turn: Semaphore,
}

#[derive(Debug)]
struct Arrivals {
    /// When the current window began.
    since: Instant,
    now: u32,
    /// Arrivals in the window before that.
    before: u32,
    /// When the burst began, if there is one.
    burst: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        let arrivals = Arrivals { since: Instant::now(), now: 0, before: 0, burst: None };
        Self { arrivals: Mutex::new(arrivals), turn: Semaphore::new(1) }
    }
}

impl Pace {
    /// A message comes in.
    pub(super) fn arrival(&self) {
        self.arrivals(|arrivals| arrivals.now = arrivals.now.saturating_add(1));
    }

    /// Returns when a delivery may begin. Fair: those that wait go on in the order in which they arrived.
    pub(super) async fn delivery(&self) {
        if !self.is_burst() {
            return;
        }
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        if self.is_burst() {
            sleep(PAUSE).await;
        }
    }

    fn is_burst(&self) -> bool {
        self.arrivals(|arrivals| {
            if arrivals.now.saturating_add(arrivals.before) < BURST {
                arrivals.burst = None;
                return false;
            }
            let began = *arrivals.burst.get_or_insert_with(Instant::now);
            began.elapsed() < LONGEST
        })
    }

    fn arrivals<T>(&self, look: impl FnOnce(&mut Arrivals) -> T) -> T {
        // Numbers are set one by one and always in order.
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let age = now.saturating_duration_since(arrivals.since);
        if age >= WINDOW {
            let before = if age < WINDOW * 2 { arrivals.now } else { 0 };
            *arrivals = Arrivals { since: now, now: 0, before, burst: arrivals.burst };
        }
        look(&mut arrivals)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;

    async fn time_of(deliveries: usize, pace: &Pace) -> Duration {
        let began = Instant::now();
        join_all((0..deliveries).map(|_| pace.delivery())).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_wait_for_their_turn_in_a_burst_only() {
        let pace = Pace::default();
        for _ in 1..BURST {
            pace.arrival();
        }
        assert_eq!(time_of(1000, &pace).await, Duration::ZERO);
        pace.arrival();
        assert_eq!(time_of(10, &pace).await, PAUSE * 10);
        // The burst has ended: deliveries that still wait go on.
        assert!(time_of(1000, &pace).await <= WINDOW * 2);
        assert_eq!(time_of(1000, &pace).await, Duration::ZERO);
        // A burst that does not end does not count.
        let began = Instant::now();
        while began.elapsed() < LONGEST + WINDOW * 4 {
            for _ in 0..BURST {
                pace.arrival();
            }
            pace.delivery().await;
            advance(WINDOW / 2).await;
        }
        assert_eq!(time_of(1000, &pace).await, Duration::ZERO);
        advance(WINDOW * 2).await;
        assert_eq!(time_of(1000, &pace).await, Duration::ZERO);
        for _ in 0..BURST {
            pace.arrival();
        }
        assert_eq!(time_of(10, &pace).await, PAUSE * 10);
        advance(WINDOW * 2).await;
        // A few messages now and then do not count.
        for _ in 0..BURST {
            pace.arrival();
            advance(WINDOW / 20).await;
        }
        assert_eq!(time_of(1000, &pace).await, Duration::ZERO);
    }
}
