//! What the relay does with the events of its spool: metrics, and a stop when a thread has ended.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use relay_spool::Observer;

use crate::{faults::Turns, telemetry::Metrics, vital::Vital};

pub(super) struct SpoolWatch {
    metrics: Metrics,
    vital: Vital,
    turns: Mutex<HashMap<&'static str, Turns>>,
}

impl SpoolWatch {
    pub(super) fn new(metrics: Metrics, vital: Vital) -> Self {
        Self { metrics, vital, turns: Mutex::default() }
    }
}

impl Observer for SpoolWatch {
    fn committed(&self, changes: usize, took: Duration) {
        self.metrics.committed(changes, took);
    }

    fn quarantined(&self) {
        self.metrics.quarantined();
    }

    fn ended(&self, part: &'static str, why: &str) {
        self.vital.tell(part, why);
    }

    fn turned(&self, thread: &'static str) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(thread).or_insert_with(|| Turns::of(thread)).turn();
    }
}
