//! Operations on the store that never come back.
//!
//! A disk that hangs is one kind. Another is sled: its flush waits for a write by one of sled's own threads,
//! and waits for ever if the news that the write failed is lost. Nothing in the process would end that, every
//! message would wait behind it, and nobody would be told. So each thread of the spool has a [`Pulse`], and a
//! caller [watches](Stall::long_enough) both.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

/// Odd while an operation is in progress. The number is different for each operation, and for each step of a
/// long one.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicU64);

impl Pulse {
    /// Runs an operation that may never come back.
    pub(super) fn during<T>(&self, operation: impl FnOnce() -> T) -> T {
        let _beat = Beat::begin(self);
        operation()
    }

    /// Notes that a step of a long operation is done. Outside an operation, this means nothing.
    pub(super) fn goes_on(&self) {
        self.0.fetch_add(2, Ordering::Relaxed);
    }

    fn under_way(&self) -> Option<u64> {
        let beats = self.0.load(Ordering::Relaxed);
        (beats % 2 == 1).then_some(beats)
    }
}

struct Beat<'a>(&'a Pulse);

impl<'a> Beat<'a> {
    fn begin(pulse: &'a Pulse) -> Self {
        pulse.0.fetch_add(1, Ordering::Relaxed);
        Self(pulse)
    }
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct Stall {
    pub(super) index: Pulse,
    pub(super) bodies: Pulse,
}

impl Stall {
    /// Returns when one operation has been in progress for `limit`, and gives the part of the store.
    ///
    /// This counts looks and compares no times: a machine that was asleep, or a clock that jumps, is not a
    /// disk that hangs.
    pub(super) async fn long_enough(&self, limit: Duration) -> &'static str {
        const LOOKS: u32 = 20;
        let mut look = interval((limit / LOOKS).max(Duration::from_millis(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = [(None, 0), (None, 0)];
        loop {
            look.tick().await;
            let pulses = [("index", &self.index), ("bodies", &self.bodies)];
            for ((what, pulse), (last, looks)) in pulses.into_iter().zip(&mut seen) {
                let now = pulse.under_way();
                *looks = if now.is_some() && now == *last { *looks + 1 } else { 0 };
                *last = now;
                if *looks >= LOOKS {
                    return what;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn one_operation_that_does_not_come_back_is_seen() {
        let stall = Arc::new(Stall::default());
        let _under_way = Beat::begin(&stall.bodies);
        let began = Instant::now();
        assert_eq!(stall.long_enough(LIMIT).await, "bodies");
        assert!((LIMIT..LIMIT * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_one_that_goes_on_is_none() {
        let stall = Arc::new(Stall::default());
        let long = async {
            let _beat = Beat::begin(&stall.index);
            for _ in 0..20 {
                sleep(LIMIT - Duration::from_secs(5)).await;
                stall.index.goes_on();
            }
            std::future::pending::<()>().await;
        };
        let began = Instant::now();
        tokio::select! {
            () = long => {}
            what = stall.long_enough(LIMIT) => assert_eq!(what, "index"),
        }
        assert!(began.elapsed() > LIMIT * 18, "{:?}", began.elapsed());
        stall.bodies.goes_on();
        assert_eq!(stall.bodies.under_way(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_do_come_back_are_none() {
        let stall = Arc::new(Stall::default());
        let busy = async {
            loop {
                let _beat = Beat::begin(&stall.index);
                sleep(LIMIT - Duration::from_secs(5)).await;
            }
        };
        tokio::select! {
            () = busy => {}
            watched = timeout(LIMIT * 50, stall.long_enough(LIMIT)) => assert!(watched.is_err()),
        }
        assert!(stall.index.during(|| stall.index.under_way().is_some()));
        assert_eq!(stall.index.under_way(), None);
    }
}
