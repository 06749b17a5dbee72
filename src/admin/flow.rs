//! How much mail has passed lately: counted every ten seconds, for whoever asks whether mail is flowing.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

pub(super) struct Flow {
    started: Instant,
    metrics: Metrics,
    /// Accepted and delivered since the start: one count for each tick, the latest last.
    counts: Mutex<VecDeque<[u64; 2]>>,
}

const EVERY: Duration = Duration::from_secs(10);
const MINUTE: usize = 6;
const TEN_MINUTES: usize = 60;

impl Flow {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { started: Instant::now(), metrics, counts: Mutex::new(VecDeque::new()) }
    }

    pub(super) async fn watch(&self, shutdown: CancellationToken) {
        let mut tick = interval(EVERY);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let now = self.metrics.passed();
            let mut counts = self.counts();
            counts.push_back(now);
            if counts.len() > TEN_MINUTES {
                counts.pop_front();
            }
        }
    }

    pub(super) fn up(&self) -> Duration {
        self.started.elapsed()
    }

    /// In the last minute, and in the last ten.
    pub(super) fn accepted(&self) -> [u64; 2] {
        self.since(0)
    }

    pub(super) fn delivered(&self) -> [u64; 2] {
        self.since(1)
    }

    fn since(&self, which: usize) -> [u64; 2] {
        let now = self.metrics.passed()[which];
        let counts = self.counts();
        [MINUTE, TEN_MINUTES].map(|ticks| {
            let before = counts.len().saturating_sub(ticks);
            now - counts.get(before).map_or(0, |count| count[which]).min(now)
        })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, VecDeque<[u64; 2]>> {
        // Whole counts are put in, so a panic elsewhere leaves it in order.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
