//! Makes metric families and registers each, so that no room spells a namespace.

use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use super::series::TenantSeries;

/// Makes families and registers each.
pub(crate) struct Build {
    pub(super) registry: Registry,
    pub(super) of_tenants: Arc<TenantSeries>,
}

impl Build {
    fn add<C: Collector + Clone + 'static>(&self, family: prometheus::Result<C>) -> C {
        // Names and labels are literals of this crate: they are valid and differ, or the first test that runs
        // fails here.
        let family = family.expect("metric names are valid");
        self.registry.register(Box::new(family.clone())).expect("metric names differ");
        family
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let family = self.add(IntCounterVec::new(Opts::new(name, help).namespace("m365_relay"), labels));
        self.of_tenants.add(&family, labels);
        family
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let family = self.add(IntGaugeVec::new(Opts::new(name, help).namespace("m365_relay"), labels));
        self.of_tenants.add(&family, labels);
        family
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Opts::new(name, help).namespace("m365_relay")))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).namespace("m365_relay").buckets(buckets.to_vec());
        let family = self.add(HistogramVec::new(opts, labels));
        self.of_tenants.add(&family, labels);
        family
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).namespace("m365_relay").buckets(buckets.to_vec()),
        ))
    }
}
