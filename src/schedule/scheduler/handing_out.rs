//! Which message is handed to a worker next: one turn for each tenant that has something to send and may.

use std::{cmp::Reverse, time::Duration};

use relay_mail::TenantName;
use tokio::time::Instant;
use tracing::{error, info};

use super::{Scheduler, Timer};
use crate::schedule::{
    Courier, Early, Job, Task, Verdict,
    pool::{Credential, Next},
    report::{Ended, OnDrop, Report},
    turn::Turn,
};

impl<C: Courier> Scheduler<C> {
    pub(super) fn hand_out(&mut self) {
        // A delivery whose result cannot be stored would be a duplicate after the next start. A spool that
        // has healed announces all its messages again.
        if self.spool.unhealthy().is_some() {
            return;
        }
        while self.in_flight < self.settings.max_in_flight
            && let Some(name) = self.runnable.pop_front()
        {
            self.hand_out_one(name);
        }
    }

    fn hand_out_one(&mut self, name: TenantName) {
        let lease = self.next_lease();
        let free = self.settings.max_in_flight - self.in_flight;
        let Some(pool) = self.pools.get_mut(&name) else { return };
        pool.is_runnable = false;
        if !pool.has_turn() || !self.has_credential(&name) {
            return;
        }
        let Some(pool) = self.pools.get_mut(&name) else { return };
        if !pool.ramp.allows(u32::try_from(pool.in_flight).unwrap_or(u32::MAX)) {
            // The next of its jobs that ends makes it runnable.
            return;
        }
        if !pool.has_share(free) {
            // It counts as runnable while it starves, so that it is not put in twice.
            pool.is_runnable = true;
            self.starved.push(name);
            return;
        }
        match pool.next(lease) {
            Next::Nothing => {}
            Next::Sleep(queue, until) => {
                self.timers.push(Reverse((until, Timer::Wake(name.clone(), queue))));
                self.changed(&name);
            }
            Next::Take(turn) => {
                self.hand_to_worker(&name, turn, lease, Task::Deliver);
                self.changed(&name);
            }
        }
    }

    pub(super) fn hand_to_worker(&mut self, name: &TenantName, turn: Turn, lease: u64, task: Task) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        pool.in_flight += 1;
        self.in_flight += 1;
        self.metrics.in_flight(name).inc();
        let is_call = task == Task::Deliver;
        let tenant = pool.tenant.clone();
        let job = Job { id: turn.id, tenant: tenant.clone(), mailbox: turn.mailbox.clone(), task };
        let courier = self.courier.clone();
        // Until the worker says otherwise, the job counts as interrupted: its message is found again at the
        // next start.
        let early = Early::new(tenant.clone(), turn.queue, self.reports.clone());
        let ended =
            Ended { turn, tenant, lease, verdict: Verdict::Done, is_well: false, keep: Duration::ZERO };
        let mut on_drop =
            OnDrop { ended: Some(ended), kept_millis: early.kept_millis(), reports: self.reports.clone() };
        self.jobs.spawn(async move {
            let verdict = courier.carry(job, &early).await;
            if let Some(ended) = &mut on_drop.ended {
                ended.is_well = is_call && early.is_well(&verdict);
                ended.verdict = early.news(verdict);
            }
        });
    }

    /// Whether the pool has a credential. If not, it is asked for, or a timer runs until it may be.
    pub(super) fn has_credential(&mut self, name: &TenantName) -> bool {
        let Some(pool) = self.pools.get_mut(name) else { return false };
        let now = Instant::now();
        match pool.credential {
            Credential::Good { until } if until > now => return true,
            Credential::Blocked { until, .. } if until > now => return false,
            _ if pool.is_preparing => return false,
            Credential::Unknown | Credential::Good { .. } | Credential::Blocked { .. } => {}
        }
        let was_blocked = matches!(pool.credential, Credential::Blocked { .. });
        pool.is_preparing = true;
        let courier = self.courier.clone();
        let reports = self.reports.clone();
        let tenant = pool.tenant.clone();
        let stopping = self.stopping.clone();
        self.jobs.spawn(async move {
            // `identity` decides how many logins there are at a time.
            let Some(result) = stopping.run_until_cancelled(courier.prepare(&tenant)).await else { return };
            if was_blocked && result.is_ok() {
                info!(tenant = %tenant.name, "tenant unblocked");
            }
            if reports.send(Report::Prepared(tenant, result)).is_err() {
                error!("credential result received after the scheduler stopped");
            }
        });
        false
    }

    pub(super) fn next_lease(&mut self) -> u64 {
        self.last_lease += 1;
        self.last_lease
    }
}
