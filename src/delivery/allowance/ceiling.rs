//! What one application may ask of a cloud, over all its tenants and mailboxes.
//!
//! A token bucket with a burst of a tenth, as for [messages a minute](crate::schedule): the figure is so large that only
//! bursts of a very busy relay come near it, and these are spread over ten seconds.

use std::{collections::HashMap, sync::Arc, time::Duration};

use governor::{
    RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use super::Exhausted;
use crate::{
    config::{AppLimit, CloudName, Tenant},
    schedule::{TokioClock, quota},
    telemetry::LimitKind,
};

const SPAN: Duration = Duration::from_secs(10);

pub(super) struct AppCeiling(RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>);

/// By cloud and application.
pub(super) struct Ceilings(HashMap<(CloudName, String), Arc<AppCeiling>>);

impl Ceilings {
    pub(super) fn new<'a>(tenants: impl IntoIterator<Item = &'a Tenant>, limit: AppLimit) -> Self {
        let Some(limit) = limit.0 else { return Self(HashMap::new()) };
        let clock = TokioClock::start();
        let make = |_| Arc::new(AppCeiling(RateLimiter::direct_with_clock(quota(limit, SPAN), clock)));
        Self(tenants.into_iter().map(|tenant| (app_of(tenant), make(tenant))).collect())
    }

    pub(super) fn of(&self, tenant: &Tenant) -> Option<Arc<AppCeiling>> {
        self.0.get(&app_of(tenant)).cloned()
    }
}

/// Case says nothing in a GUID.
fn app_of(tenant: &Tenant) -> (CloudName, String) {
    (tenant.cloud.name.clone(), tenant.client_id.to_lowercase())
}

impl AppCeiling {
    pub(super) fn take(&self) -> Result<(), Exhausted> {
        self.0.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(self.0.clock().now());
            Exhausted { limit: LimitKind::AppRequests, until: Instant::now() + wait }
        })
    }
}
