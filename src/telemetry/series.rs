//! The families that have series per tenant: these are removed when the tenant is.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

/// Cheap to use: tenants are seldom removed.
#[derive(Default)]
pub(super) struct TenantSeries(Mutex<Vec<Forget>>);

/// Removes a family's series for the tenants with these names.
type Forget = Box<dyn Fn(&BTreeSet<&str>) + Send + Sync>;

const LABEL: &str = "tenant";

impl TenantSeries {
    /// Remembers the family, if `labels` has a tenant.
    pub(super) fn add<T: MetricVecBuilder + 'static>(&self, family: &MetricVec<T>, labels: &[&str]) {
        if labels.contains(&LABEL) {
            let family = family.clone();
            let forget = Box::new(move |tenants: &BTreeSet<&str>| forget(&family, tenants));
            // Only whole values are put in, so a panic elsewhere leaves nothing half done.
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(forget);
        }
    }

    /// Looks once at every series that there is, however many tenants are removed.
    pub(super) fn forget(&self, tenants: &BTreeSet<&str>) {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        families.iter().for_each(|forget| forget(tenants));
    }
}

fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, tenants: &BTreeSet<&str>) {
    for shown in family.collect() {
        for series in shown.get_metric() {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if labels.get(LABEL).is_some_and(|tenant| tenants.contains(tenant)) {
                // It is already gone if two callers ask at the same time.
                let _ = family.remove(&labels);
            }
        }
    }
}
