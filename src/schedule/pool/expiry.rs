//! Messages that have waited too long.

use std::time::Duration;

use super::{Credential, EntryState, Pool, QueueState, Turn};
use crate::clock;
use relay_mail::{MessageId, Timestamp};

/// When a message has waited too long.
#[derive(Debug, Clone, Copy)]
pub(in crate::schedule) struct Expiry {
    pub(in crate::schedule) give_up_after: Duration,
    /// Nothing expires earlier.
    pub(in crate::schedule) not_before: Timestamp,
    /// How much later than that a message expires if only a free slot is missing: it should have its last
    /// attempt.
    pub(in crate::schedule) last_chance: Duration,
}

impl Pool {
    /// The messages that have waited too long, oldest first, at most `most`, and what they waited for.
    ///
    /// Only what is due: the rest has an attempt to come, which is its last one. A message whose outcome is
    /// unknown must not be given up before that is settled.
    pub(in crate::schedule) fn expired(&self, expiry: &Expiry, most: usize) -> Vec<(MessageId, String)> {
        let now = clock::now();
        // Nothing of a tenant that is gone or suspended expires: it may come back.
        let is_kept = self.retired.is_some() || self.tenant.suspended.is_some();
        if now < expiry.not_before.max(self.spared_until) || is_kept {
            return Vec::new();
        }
        let is_old = |id: MessageId| id.accepted().steady() + expiry.give_up_after <= now;
        let old = self.messages.iter().take_while(|(id, _)| is_old(**id));
        let expired = old.filter_map(|(id, entry)| {
            if entry.state != EntryState::Ready {
                return None;
            }
            let queue = self.queues.get(&entry.queue)?;
            if self.tenant.suspended_mailboxes.contains_key(&queue.mailbox) {
                return None;
            }
            let why = match (&self.credential, queue.standing) {
                (Credential::Blocked { because, .. }, _) => because.why.clone(),
                (_, QueueState::Asleep { .. }) => queue.asleep_because.clone(),
                _ => {
                    let at =
                        (id.accepted().steady() + expiry.give_up_after).max(expiry.not_before).max(entry.at);
                    if at + expiry.last_chance > now {
                        return None;
                    }
                    "the message waited too long for its turn".into()
                }
            };
            Some((*id, why))
        });
        expired.take(most).collect()
    }

    /// Takes one of the [expired](Pool::expired) messages.
    pub(in crate::schedule) fn take_expired(&mut self, id: MessageId, lease: u64) -> Option<Turn> {
        let queue_id = self.messages.get(&id)?.queue;
        let queue = self.queues.get_mut(&queue_id)?;
        queue.in_flight += 1;
        let mailbox = queue.mailbox.clone();
        self.lease(id, lease);
        Some(Turn { id, queue: queue_id, mailbox })
    }
}
