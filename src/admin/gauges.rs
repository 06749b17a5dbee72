//! Gauges that are read on request: how much waits, how old it is, how the spool is.

use prometheus::{IntGauge, IntGaugeVec};

use super::Shown;
use crate::{clock, telemetry::Metrics};

pub struct Gauges {
    queue_messages: IntGaugeVec,
    queue_oldest: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    spool_bytes: IntGaugeVec,
    free: IntGauge,
    healthy: IntGauge,
}

impl Gauges {
    pub fn new(metrics: &Metrics) -> Self {
        let build = metrics.build();
        Self {
            queue_messages: build.gauges(
                "queue_messages",
                "Messages in the spool by state.",
                &["tenant", "state"],
            ),
            queue_oldest: build.gauges(
                "queue_oldest_seconds",
                "Age of the oldest message that is not delivered.",
                &["tenant"],
            ),
            queue_bytes: build.gauges("queue_bytes", "Octets of message bodies in the spool.", &["tenant"]),
            spool_bytes: build.gauges("spool_bytes", "Octets on disk, measured every 15 seconds.", &["part"]),
            free: build.gauge("spool_free_bytes", "Free octets on the spool's disk, the floor included."),
            healthy: build.gauge("spool_healthy", "1 while the spool can write, 0 when it cannot."),
        }
    }

    pub(super) fn set(&self, shown: &Shown) {
        let now = clock::now();
        let depths = shown.depths.all();
        for (tenant, depth) in &depths {
            for (state, messages) in depth.states() {
                set(&self.queue_messages.with_label_values(&[tenant.as_str(), state]), messages);
            }
            let age = depth.oldest().map_or(0, |oldest| now.since(oldest).as_secs());
            set(&self.queue_oldest.with_label_values(&[tenant.as_str()]), age);
        }
        for (tenant, tally) in shown.spool.tally().tenants() {
            // A tenant that has gone from the configuration, and whose mail is gone too, is not shown.
            if tally.messages() > 0 || depths.iter().any(|(known, _)| *known == tenant) {
                set(&self.queue_bytes.with_label_values(&[tenant.as_str()]), tally.bytes());
            }
        }
        for (part, bytes) in shown.usage.bytes() {
            set(&self.spool_bytes.with_label_values(&[part]), bytes);
        }
        set(&self.free, shown.free_space.bytes());
        self.healthy.set(i64::from(shown.spool.unhealthy().is_none()));
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
