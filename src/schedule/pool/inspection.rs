//! Where messages are in their pool, in words and in numbers.

use std::{collections::HashMap, ops::Bound};

use tokio::time::Instant;

use super::{Credential, Entry, EntryState, Pool, Queue, QueueId};
use crate::{
    clock,
    schedule::{
        inspector::{Ages, MessageState, MessageStatus, Selection, Survey, SurveyBy, TenantStatus, Waits},
        queue,
    },
    telemetry::LimitKind,
};
use relay_mail::{MailboxAddress, MessageId, Timestamp};
use relay_spool::HoldReason;

/// What makes a row of a survey.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Whole,
    Queue(QueueId),
    Word(&'static str),
}

impl Pool {
    /// The messages after `after`, oldest first.
    pub(in crate::schedule) fn ids(&self, after: Option<MessageId>) -> impl Iterator<Item = MessageId> {
        self.entries(after).map(|(id, _)| *id)
    }

    fn entries(&self, after: Option<MessageId>) -> impl Iterator<Item = (&MessageId, &Entry)> {
        self.messages.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// Whether this message is asked for, apart from its tenant and its age.
    pub(in crate::schedule) fn has(&self, id: MessageId, selection: &Selection) -> bool {
        let Some(entry) = self.messages.get(&id) else { return false };
        let is_of = |mailbox: &MailboxAddress| {
            self.queues.get(&entry.queue).is_some_and(|queue| queue.mailbox == *mailbox)
        };
        selection.mailbox.as_ref().is_none_or(is_of)
            && selection.state.is_none_or(|state| state == self.state(entry))
    }

    pub(in crate::schedule) fn inspect(&self, id: MessageId) -> Option<MessageStatus> {
        let entry = self.messages.get(&id)?;
        let state = self.state(entry);
        let waits = match (state, entry.state) {
            (MessageState::Leased, _) => None,
            (MessageState::Held, EntryState::Held) => {
                let why = self.held_because.get(&id).map_or("an operator holds it", HoldReason::as_str);
                Some(waits("held", why, None))
            }
            (MessageState::Held, _) => {
                Some(waits("no_tenant", "its tenant is not in the configuration", None))
            }
            _ => self.waits(entry),
        };
        let mailbox = self.queues.get(&entry.queue).map(|queue| queue.mailbox.clone());
        Some(MessageStatus { state, tenant: self.tenant.name.clone(), mailbox, waits })
    }

    pub(in crate::schedule) fn status(&self) -> TenantStatus {
        let blocked = match &self.credential {
            Credential::Blocked { until, because } => {
                Some(waits(because.reason, because.why.clone(), Some(time_of(*until))))
            }
            Credential::Unknown | Credential::Good { .. } => None,
        };
        let mut asleep: Vec<_> = self
            .queues
            .values()
            .filter_map(|queue| match queue.standing {
                queue::QueueState::Asleep { until, limit } => Some((limit, until, queue)),
                _ => None,
            })
            .collect();
        let mailboxes_asleep = asleep.len();
        asleep.sort_by_key(|(limit, until, _)| (*limit != LimitKind::Mailbox, std::cmp::Reverse(*until)));
        let named = asleep.into_iter().take(TenantStatus::MAILBOXES_NAMED).map(|(limit, until, queue)| {
            let why = queue.asleep_because.clone();
            let waits = waits(limit.as_str(), why, Some(time_of(until)));
            (queue.mailbox.clone(), Waits { limit: Some(limit), ..waits })
        });
        TenantStatus { blocked, asleep: named.collect(), mailboxes_asleep }
    }

    /// Counts messages after `after`, `most` at most.
    pub(in crate::schedule) fn survey(
        &self,
        by: SurveyBy,
        after: Option<MessageId>,
        most: usize,
        now: Timestamp,
    ) -> Survey {
        let mut rows: HashMap<Key, Ages> = HashMap::new();
        let mut last = None;
        let mut looked_at = 0;
        for (id, entry) in self.entries(after).take(most) {
            let key = match by {
                SurveyBy::Tenant => Key::Whole,
                SurveyBy::Mailbox => Key::Queue(entry.queue),
                SurveyBy::State => Key::Word(self.state(entry).as_str()),
                SurveyBy::Why => Key::Word(self.class(entry)),
            };
            rows.entry(key).or_default().add(now.since(id.accepted()));
            last = Some(*id);
            looked_at += 1;
        }
        let name = |key| match key {
            Key::Whole => String::new(),
            Key::Queue(queue) => {
                self.queues.get(&queue).map_or_else(String::new, |queue| queue.mailbox.to_string())
            }
            Key::Word(word) => word.to_owned(),
        };
        let rows = rows.into_iter().map(|(key, ages)| (name(key), ages)).collect();
        Survey { rows, next: last.filter(|_| looked_at == most) }
    }

    fn state(&self, entry: &Entry) -> MessageState {
        match entry.state {
            EntryState::Leased => MessageState::Leased,
            _ if self.retired.is_some() => MessageState::Held,
            EntryState::Held => MessageState::Held,
            EntryState::Ready if matches!(self.credential, Credential::Blocked { .. }) => {
                MessageState::Blocked
            }
            EntryState::Ready => MessageState::Ready,
            EntryState::Scheduled => MessageState::Scheduled,
        }
    }

    /// What it waits for, in one word: as [`Waits::class`], or for its turn, or nothing.
    fn class(&self, entry: &Entry) -> &'static str {
        match (self.state(entry), entry.state) {
            (MessageState::Leased, _) => "in_delivery",
            (MessageState::Held, EntryState::Held) => "held",
            (MessageState::Held, _) => "no_tenant",
            _ => self.stop(entry).map_or(TURN, |stop| self.class_of(stop)),
        }
    }

    /// What stops it; of two things, the one that stops more.
    fn stop<'a>(&'a self, entry: &Entry) -> Option<Stop<'a>> {
        if let Credential::Blocked { .. } = &self.credential {
            return Some(Stop::Tenant);
        }
        let queue = self.queues.get(&entry.queue);
        match queue.map(|queue| (queue.standing, queue)) {
            Some((queue::QueueState::Asleep { until, limit }, queue)) => {
                Some(Stop::Asleep { queue, until, limit })
            }
            _ if entry.state == EntryState::Scheduled => Some(Stop::Retry),
            Some((queue::QueueState::Full, queue)) => Some(Stop::Full(queue)),
            _ if self.is_preparing => Some(Stop::Token),
            Some((_, queue)) if queue.ready.len() > 1 => Some(Stop::Turn),
            _ => None,
        }
    }

    fn class_of(&self, stop: Stop<'_>) -> &'static str {
        match stop {
            Stop::Tenant => match &self.credential {
                Credential::Blocked { because, .. } => because.reason,
                Credential::Unknown | Credential::Good { .. } => TURN,
            },
            Stop::Asleep { limit, .. } => limit.as_str(),
            Stop::Retry => "retry",
            Stop::Full(_) => LimitKind::ConcurrentRequests.as_str(),
            Stop::Token => "token",
            Stop::Turn => TURN,
        }
    }

    fn waits(&self, entry: &Entry) -> Option<Waits> {
        let due = (entry.state == EntryState::Scheduled).then_some(entry.at);
        let stop = self.stop(entry)?;
        let class = self.class_of(stop);
        Some(match (stop, &self.credential) {
            (Stop::Tenant, Credential::Blocked { until, because }) => {
                let why = format!("the tenant is blocked ({}): {}", because.reason, because.why);
                waits(class, why, due.max(Some(time_of(*until))))
            }
            (Stop::Tenant, _) => return None,
            (Stop::Asleep { queue, until, limit }, _) => {
                let until = due.max(Some(time_of(until)));
                Waits { limit: Some(limit), ..waits(class, queue.asleep_because.clone(), until) }
            }
            (Stop::Retry, _) => waits(class, "an earlier attempt failed; it will be tried again", due),
            (Stop::Full(queue), _) => Waits {
                limit: Some(LimitKind::ConcurrentRequests),
                ..waits(
                    class,
                    format!("mailbox {} has as many calls in progress as it may", queue.mailbox),
                    None,
                )
            },
            (Stop::Token, _) => waits(class, "the tenant's access token has been requested", None),
            (Stop::Turn, _) => waits(class, "its turn after other mail", None),
        })
    }
}

const TURN: &str = "turn";

/// What stops a message.
#[derive(Clone, Copy)]
enum Stop<'a> {
    /// Its tenant is blocked.
    Tenant,
    Asleep {
        queue: &'a Queue,
        until: Instant,
        limit: LimitKind,
    },
    Retry,
    Full(&'a Queue),
    Token,
    Turn,
}

fn waits(class: &'static str, why: impl Into<String>, until: Option<Timestamp>) -> Waits {
    Waits { class, why: why.into(), limit: None, until }
}

fn time_of(at: Instant) -> Timestamp {
    clock::wall() + at.saturating_duration_since(Instant::now())
}
