//! The pool of a tenant whose configuration has changed, or that is no longer configured.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Credential, Entry, EntryState, MailboxLimits, Pool, QueueId, QueueState, suspended_since};
use crate::{
    clock,
    config::Tenant,
    schedule::{Blocked, GRACE},
    telemetry::LimitKind,
};
use relay_mail::MessageId;

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
        // The time in which its mail was kept back does not count, of all of it or of a part.
        let was_suspended = self.suspended;
        self.suspended = suspended_since(&self.tenant);
        if let Some(since) = was_suspended.filter(|since| self.suspended.is_none_or(|now| now > *since)) {
            self.spare(clock::now().since(since).max(GRACE).min(give_up_after));
        }
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
        // What the service has said holds, whatever the configuration says.
        let woken = self.end_sleep(|limit| limit != LimitKind::Service);
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

    /// Whatever blocks the tenant, or one of its mailboxes, may have been fixed. Returns the queues that
    /// sleep no longer, to be woken then.
    pub(in crate::schedule) fn look_again(&mut self) -> Vec<(Instant, QueueId)> {
        let is_blocked = matches!(self.credential, Credential::Blocked { .. });
        if is_blocked && !self.is_blocked_by(Blocked::THROTTLED) {
            self.ask_again();
        }
        self.try_refused();
        self.end_sleep(|limit| limit == LimitKind::Mailbox)
    }

    /// The same, where the login is as it was: what Microsoft 365 refused may have been granted.
    pub(in crate::schedule) fn ask_service_again(&mut self) -> Vec<(Instant, QueueId)> {
        if self.is_blocked_by(Blocked::PERMISSION) {
            self.ask_again();
        }
        self.try_refused();
        self.end_sleep(|limit| limit == LimitKind::Mailbox)
    }

    /// This message waits for something to be fixed. The spool has said when it is due, or will.
    pub(in crate::schedule) fn note_refused(&mut self, id: MessageId) {
        self.refused.insert(id);
    }

    /// Those messages are due now.
    fn try_refused(&mut self) {
        let now = clock::now();
        for id in std::mem::take(&mut self.refused) {
            let is_scheduled = |entry: &&mut Entry| entry.state == EntryState::Scheduled;
            let Some(entry) = self.messages.get_mut(&id).filter(is_scheduled) else { continue };
            (entry.at, entry.state) = (now, EntryState::Ready);
            let queue_id = entry.queue;
            self.uncount(EntryState::Scheduled);
            self.count(EntryState::Ready);
            if let Some(queue) = self.queues.get_mut(&queue_id) {
                queue.ready.push_back(id);
            }
            self.put_in_turn(queue_id);
        }
    }

    /// The sleep of all queues that sleep for such a limit is over. Returns when to wake which.
    fn end_sleep(&mut self, is_over: impl Fn(LimitKind) -> bool) -> Vec<(Instant, QueueId)> {
        let now = Instant::now();
        let mut woken = Vec::new();
        for (id, queue) in &mut self.queues {
            match &mut queue.standing {
                QueueState::Asleep { until, limit } if is_over(*limit) => {
                    *until = now;
                    woken.push((now, *id));
                }
                QueueState::Asleep { .. } | QueueState::Idle | QueueState::InTurn | QueueState::Full => {}
            }
        }
        woken
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
