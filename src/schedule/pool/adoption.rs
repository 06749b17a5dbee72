//! The pool of a tenant whose configuration has changed, or that is no longer configured.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Credential, MailboxLimits, Pool, QueueId, QueueState};
use crate::{clock, config::Tenant, schedule::GRACE, telemetry::LimitKind};

/// What follows from a changed configuration.
#[derive(Default)]
pub(in crate::schedule) struct Adopted {
    /// Messages may leave from other mailboxes than before: the spool must announce all of them again.
    pub(in crate::schedule) is_remapped: bool,
    /// Queues that sleep no longer, to be woken then.
    pub(in crate::schedule) woken: Vec<(Instant, QueueId)>,
}

impl Pool {
    /// Takes the tenant as it is from now on. A tenant that has not changed is not disturbed. Nothing of a
    /// tenant that was gone expires for as long as it was gone, `give_up_after` at most: a hold does not
    /// count.
    pub(in crate::schedule) fn adopt(&mut self, tenant: Arc<Tenant>, give_up_after: Duration) -> Adopted {
        if let Some(since) = self.retired.take() {
            self.spare(clock::now().since(since).max(GRACE).min(give_up_after));
        }
        if Arc::ptr_eq(&self.tenant, &tenant) {
            return Adopted::default();
        }
        let before = std::mem::replace(&mut self.tenant, tenant);
        let old = &*before;
        let new = &*self.tenant;
        let is_remapped = (&old.mailbox, &old.mailboxes, &old.bounces.mailbox)
            != (&new.mailbox, &new.mailboxes, &new.bounces.mailbox);
        if old.limits != new.limits {
            for queue in self.queues.values_mut() {
                queue.limits = MailboxLimits::new(&new.limits, self.clock);
            }
        }
        self.ask_again();
        let mut woken = Vec::new();
        let now = Instant::now();
        for (id, queue) in &mut self.queues {
            match &mut queue.standing {
                // What the service has said holds, whatever the configuration says.
                QueueState::Asleep { limit: LimitKind::Service, .. } => {}
                QueueState::Asleep { until, .. } => {
                    *until = now;
                    woken.push((now, *id));
                }
                QueueState::Idle | QueueState::InTurn | QueueState::Full => {}
            }
        }
        let full: Vec<_> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.standing == QueueState::Full)
            .map(|(id, _)| *id)
            .collect();
        for id in full {
            self.stand(id, QueueState::Idle);
            self.put_in_turn(id);
        }
        Adopted { is_remapped, woken }
    }

    /// The tenant is gone. Returns whether it was there until now, and has mail.
    pub(in crate::schedule) fn retire(&mut self) -> bool {
        self.ask_again();
        let was_there = self.retired.is_none();
        self.retired.get_or_insert_with(clock::now);
        was_there && !self.messages.is_empty()
    }

    /// Nothing of the tenant expires for this long.
    pub(in crate::schedule) fn spare(&mut self, long: Duration) {
        self.spared_until = clock::now() + long;
    }

    pub(in crate::schedule) fn is_retired(&self) -> bool {
        self.retired.is_some()
    }

    /// The tenant is retired, and nothing of it is left.
    pub(in crate::schedule) fn is_over(&self) -> bool {
        self.retired.is_some() && self.messages.is_empty() && self.in_flight == 0
    }

    /// What blocks the tenant may have been fixed.
    pub(in crate::schedule) fn doubt_block(&mut self) {
        if matches!(self.credential, Credential::Blocked { .. }) {
            self.ask_again();
        }
    }

    /// Its credential is asked for before the next job.
    fn ask_again(&mut self) {
        if matches!(self.credential, Credential::Blocked { .. }) {
            self.ramp.begin();
        }
        self.show_blocked(false);
        self.credential = Credential::Unknown;
    }
}
