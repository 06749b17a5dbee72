//! Where a message is in its pool, in words.

use tokio::time::Instant;

use super::{Credential, Entry, EntryState, Pool, Queue};
use crate::{
    clock,
    schedule::{
        inspector::{MessageState, MessageStatus, Waits},
        queue,
    },
    telemetry::LimitKind,
};
use relay_mail::{MessageId, Timestamp};
use relay_spool::HoldReason;

impl Pool {
    pub(in crate::schedule) fn inspect(&self, id: MessageId) -> Option<MessageStatus> {
        let entry = self.messages.get(&id)?;
        let queue = self.queues.get(&entry.queue);
        let is_blocked = matches!(self.credential, Credential::Blocked { .. });
        let (state, waits) = match entry.state {
            EntryState::Leased => (MessageState::Leased, None),
            _ if self.retired.is_some() => {
                (MessageState::Held, Some(waits("its tenant is not in the configuration", None)))
            }
            EntryState::Held => {
                let why = self.held_because.get(&id).map_or("an operator holds it", HoldReason::as_str);
                (MessageState::Held, Some(waits(why, None)))
            }
            EntryState::Ready if is_blocked => (MessageState::Blocked, self.waits(entry, queue)),
            EntryState::Ready => (MessageState::Ready, self.waits(entry, queue)),
            EntryState::Scheduled => (MessageState::Scheduled, self.waits(entry, queue)),
        };
        let mailbox = queue.map(|queue| queue.mailbox.clone());
        Some(MessageStatus { state, tenant: self.tenant.name.clone(), mailbox, waits })
    }

    /// What stops it; of two things, the one that stops more.
    fn waits(&self, entry: &Entry, queue: Option<&Queue>) -> Option<Waits> {
        let due = (entry.state == EntryState::Scheduled).then_some(entry.at);
        if let Credential::Blocked { until, because } = &self.credential {
            let why = format!("the tenant is blocked ({}): {}", because.reason, because.why);
            return Some(waits(why, due.max(Some(time_of(*until)))));
        }
        match queue.map(|queue| (queue.standing, queue)) {
            Some((queue::QueueState::Asleep { until, limit }, queue)) => {
                let until = due.max(Some(time_of(until)));
                Some(Waits { why: queue.asleep_because.clone(), limit: Some(limit), until })
            }
            _ if due.is_some() => Some(waits("an earlier attempt failed; it will be tried again", due)),
            Some((queue::QueueState::Full, queue)) => Some(Waits {
                why: format!("mailbox {} has as many calls in progress as it may", queue.mailbox),
                limit: Some(LimitKind::ConcurrentRequests),
                until: None,
            }),
            _ if self.is_preparing => Some(waits("the tenant's access token has been requested", None)),
            Some((_, queue)) if queue.ready.len() > 1 => Some(waits("its turn after other mail", None)),
            _ => None,
        }
    }
}

fn waits(why: impl Into<String>, until: Option<Timestamp>) -> Waits {
    Waits { why: why.into(), limit: None, until }
}

fn time_of(at: Instant) -> Timestamp {
    clock::wall() + at.saturating_duration_since(Instant::now())
}
