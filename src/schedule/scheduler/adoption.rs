//! What changes when tenants do.
//!
//! A tenant that is not in the new roster keeps its pool while it has mail, which is held. Its jobs end as
//! they began.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Courier, Order, Scheduler, Timer};
use crate::{
    config::Roster,
    schedule::{
        Blocked,
        pool::{Adopted, Pool},
        turn::QueueId,
    },
};
use relay_mail::TenantName;

impl<C: Courier> Scheduler<C> {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Adopt(roster) => self.adopt(roster),
            Order::LookAgain(name) => {
                let woken = self.pools.get_mut(&name).map(Pool::look_again);
                self.woken(&name, woken.unwrap_or_default());
            }
            Order::TryLogin(name) => {
                if self.pool_for(&name).is_some() {
                    self.has_credential(&name);
                }
            }
            Order::AskServices { except } => {
                let names: Vec<_> =
                    self.pools.keys().filter(|name| !except.contains(*name)).cloned().collect();
                for name in names {
                    let woken = self.pools.get_mut(&name).map(Pool::ask_service_again);
                    self.woken(&name, woken.unwrap_or_default());
                }
            }
        }
    }

    fn woken(&mut self, name: &TenantName, queues: Vec<(Instant, QueueId)>) {
        self.timers
            .extend(queues.into_iter().map(|(at, queue)| Reverse((at, Timer::Wake(name.clone(), queue)))));
        self.changed(name);
    }

    fn adopt(&mut self, roster: Arc<Roster>) {
        let before = std::mem::replace(&mut self.settings.roster, roster.clone());
        let give_up_after = self.settings.give_up_after;
        let mut told_again = HashSet::new();
        let mut gone = Vec::new();
        for name in self.pools.keys().cloned().collect::<Vec<_>>() {
            let Some(pool) = self.pools.get_mut(&name) else { continue };
            match roster.tenant(&name) {
                Some(tenant) => {
                    let Adopted { is_remapped, woken } = pool.adopt(tenant.clone(), give_up_after);
                    self.woken(&name, woken);
                    if is_remapped {
                        told_again.insert(name.clone());
                    }
                }
                None => {
                    if pool.retire() {
                        warn!(tenant = %name, "mail held: its tenant was removed from the configuration");
                    }
                }
            }
            self.changed(&name);
            if self.drop_if_over(&name) {
                gone.push(name);
            }
        }
        // What they left in the metrics, including those without a message.
        let is_over = |name: &&TenantName| roster.tenant(name).is_none() && !self.pools.contains_key(*name);
        gone.extend(before.tenants().keys().filter(is_over).cloned());
        self.forget(&gone);
        let known: Vec<_> =
            self.unknown.keys().filter(|name| roster.tenant(name).is_some()).cloned().collect();
        for name in known {
            info!(tenant = %name, "mail released: its tenant is in the configuration again");
            self.unknown.remove(&name);
            // Nobody knows how long it was held.
            if let Some(pool) = self.pool_for(&name) {
                pool.spare(give_up_after);
            }
            told_again.insert(name);
        }
        if told_again.is_empty() {
            return;
        }
        let spool = self.spool.clone();
        self.jobs.spawn(async move {
            if let Err(error) = spool.tell_again(told_again).await {
                // The spool announces everything again once it has healed.
                warn!(%error, "mail of changed tenants not determined: the spool did not respond");
            }
        });
    }

    /// Drops the pool of a tenant that is no longer there, once nothing is left in it. Returns whether it
    /// did: then the tenant must be [forgotten](Self::forget).
    pub(super) fn drop_if_over(&mut self, name: &TenantName) -> bool {
        if !self.pools.get(name).is_some_and(|pool| pool.is_over()) {
            return false;
        }
        let pool = self.pools.remove(name);
        // Its timers are still to come.
        self.last_queue = pool.map_or(0, |pool| pool.last_queue).max(self.last_queue);
        true
    }

    pub(super) fn forget(&mut self, names: &[TenantName]) {
        if names.is_empty() {
            return;
        }
        names.iter().for_each(|name| self.depths.forget(name));
        self.metrics.forget_tenants(names);
        // A mistake in its configuration is shown as long as it is there.
        let invalid = self.settings.roster.invalid();
        for name in names.iter().filter(|name| invalid.tenants.contains_key(name.as_str())) {
            self.metrics.tenant_blocked(name, Blocked::CONFIGURATION, true);
        }
    }
}
