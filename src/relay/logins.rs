//! The watch over logins: a credential that no longer works is found before there is mail that needs it.
//!
//! Each tenant's login is tried once in a while (`delivery.check_logins_every`), one after the other, and
//! soon after it was configured or changed. A tenant that has a token is not logged in again. What fails is
//! the scheduler's from then on: it blocks the tenant, shows that, and tries again. Tenants without a fault
//! cost it nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{LiveRoster, Roster, Tenant},
    schedule::{Courier, Order},
};
use relay_mail::TenantName;

/// Between two tries, if there are not so many tenants that it must be less.
const SPACING: Duration = Duration::from_secs(5);

pub(super) struct LoginWatch<C> {
    pub(super) every: Duration,
    pub(super) roster: LiveRoster,
    pub(super) courier: Arc<C>,
    pub(super) orders: UnboundedSender<Order>,
}

/// When each tenant was tried, as it was then.
#[derive(Default)]
struct Tried(HashMap<TenantName, (Arc<Tenant>, Instant)>);

impl<C: Courier> LoginWatch<C> {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut tried = Tried::default();
        loop {
            let tenants = u32::try_from(self.roster.now().tenants().len()).unwrap_or(u32::MAX).max(1);
            let spacing = SPACING.min(self.every / tenants);
            if stop.run_until_cancelled(sleep(spacing)).await.is_none() {
                return;
            }
            // As they are now: a credential that a reload has replaced must not be tried once more.
            let roster = self.roster.now();
            let Some(tenant) = tried.next(&roster, self.every) else { continue };
            match stop.run_until_cancelled(self.courier.prepare(&tenant)).await {
                None => return,
                Some(Ok(_)) => {}
                // The scheduler listens as long as this runs; if not, nothing depends on it.
                Some(Err(_)) => drop(self.orders.send(Order::TryLogin(tenant.name.clone()))),
            }
        }
    }
}

impl Tried {
    /// The next tenant whose turn it is. Suspended tenants have none.
    fn next(&mut self, roster: &Roster, every: Duration) -> Option<Arc<Tenant>> {
        let now = Instant::now();
        self.0.retain(|name, _| roster.tenant(name).is_some());
        let is_due = |tenant: &&Arc<Tenant>| {
            tenant.suspended.is_none()
                && self
                    .0
                    .get(&tenant.name)
                    .is_none_or(|(before, at)| !Arc::ptr_eq(before, tenant) || *at + every <= now)
        };
        let tenant = roster.tenants().values().find(is_due)?.clone();
        self.0.insert(tenant.name.clone(), (tenant.clone(), now));
        Some(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cloud;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn roster(tenants: &[&Arc<Tenant>]) -> Roster {
        Roster::new(tenants.iter().map(|tenant| (tenant.name.clone(), Arc::clone(tenant))).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn each_once_a_day_and_when_it_has_changed() {
        let sample = |name| Tenant::sample(name, Cloud::loopback("http://127.0.0.1:1"));
        let [one, other] = ["one", "other"].map(|name| Arc::new(sample(name)));
        let suspension = Some(crate::config::Suspension::configured());
        let suspended = Arc::new(Tenant { suspended: suspension, ..sample("suspended") });
        let before = roster(&[&one, &other, &suspended]);
        let mut tried = Tried::default();
        let mut next = |roster: &Roster| tried.next(roster, DAY).map(|tenant| tenant.name.to_string());
        assert_eq!(
            [next(&before), next(&before), next(&before)],
            [Some("one".into()), Some("other".into()), None]
        );
        let changed = Arc::new(Tenant { client_id: "another".into(), ..sample("other") });
        let after = roster(&[&one, &changed]);
        assert_eq!([next(&after), next(&after)], [Some("other".into()), None]);
        sleep(DAY).await;
        assert_eq!(
            [next(&after), next(&after), next(&after)],
            [Some("one".into()), Some("other".into()), None]
        );
    }
}
