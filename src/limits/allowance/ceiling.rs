//! What one application may ask of a cloud, over all its tenants and mailboxes.
//!
//! A token bucket with a burst of a tenth, as for [messages a minute](crate::schedule): the figure is so
//! large that only bursts of a very busy relay come near it, and these are spread over ten seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use governor::{
    RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use super::{Exhausted, lock};
use crate::{
    config::{AppLimit, CloudName, Tenant},
    limits::{TokioClock, quota},
    telemetry::LimitKind,
};

const SPAN: Duration = Duration::from_secs(10);

pub(super) struct AppCeiling(RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>);

/// By cloud and application.
pub(super) struct Ceilings {
    limit: AppLimit,
    clock: TokioClock,
    known: Mutex<HashMap<(CloudName, String), Arc<AppCeiling>>>,
}

impl Ceilings {
    pub(super) fn new(limit: AppLimit) -> Self {
        Self { limit, clock: TokioClock::start(), known: Mutex::default() }
    }

    /// `None`: there is no limit.
    pub(super) fn of(&self, tenant: &Tenant) -> Option<Arc<AppCeiling>> {
        let limit = self.limit.0?;
        let make = || Arc::new(AppCeiling(RateLimiter::direct_with_clock(quota(limit, SPAN), self.clock)));
        Some(lock(&self.known).entry(app_of(tenant)).or_insert_with(make).clone())
    }
}

/// Case has no meaning in a GUID.
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
