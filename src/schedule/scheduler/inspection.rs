//! Answers to questions about messages. Each looks at a limited number of them, so that no delivery waits.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Bound};

use super::{Courier, Pool, Scheduler};
use crate::{
    clock,
    schedule::{
        Blocked,
        inspector::{
            Ages, Listing, MessageState, MessageStatus, Question, Selection, Survey, SurveyBy, Waits,
        },
    },
};
use relay_mail::{MessageId, TenantName};

/// Messages that one answer looks at.
const LOOKED_AT: usize = 8192;

/// One tenant's messages.
#[derive(Clone, Copy)]
enum Source<'a> {
    Pool(&'a Pool),
    /// The tenant is not in the configuration.
    Unknown(&'a TenantName),
}

impl<C: Courier> Scheduler<C> {
    pub(super) fn answer(&self, question: Question) {
        // The caller may have gone.
        match question {
            Question::One { id, tenant: None, answer } => drop(answer.send(self.inspect(id))),
            Question::One { id, tenant: Some(tenant), answer } => {
                drop(answer.send(self.inspect_of(&tenant, id)));
            }
            Question::List { selection, after, most, answer } => {
                drop(answer.send(self.list(&selection, after, most)));
            }
            Question::Tenants { names, answer } => {
                let status = |name| self.pools.get(name).map(Pool::status);
                drop(answer.send(names.iter().map(status).collect()));
            }
            Question::Turn { answer } => drop(answer.send(())),
            Question::Survey { tenant, by, after, answer } => {
                drop(answer.send(self.survey(&tenant, by, after)));
            }
        }
    }

    fn inspect(&self, id: MessageId) -> Option<MessageStatus> {
        if let Some((tenant, _)) = self.unknown.iter().find(|(_, ids)| ids.contains(&id)) {
            return Some(self.of_nobody(tenant));
        }
        self.pools.values().find_map(|pool| self.inspect_in(pool, id))
    }

    fn inspect_of(&self, tenant: &TenantName, id: MessageId) -> Option<MessageStatus> {
        match (self.pools.get(tenant), self.unknown.get_key_value(tenant)) {
            (Some(pool), _) => self.inspect_in(pool, id),
            (None, Some((tenant, ids))) => ids.contains(&id).then(|| self.of_nobody(tenant)),
            (None, None) => None,
        }
    }

    /// A message whose tenant is not in the configuration.
    fn of_nobody(&self, tenant: &TenantName) -> MessageStatus {
        let waits = Some(self.why_without(tenant));
        MessageStatus { state: MessageState::Held, tenant: tenant.clone(), mailbox: None, waits }
    }

    fn why_without(&self, tenant: &TenantName) -> Waits {
        let waits = |class, why| Waits { class, why, limit: None, until: None };
        match self.settings.roster.invalid().first_of(tenant.as_str()) {
            None => waits("no_tenant", "its tenant is not in the configuration".to_owned()),
            Some(problem) => {
                waits(Blocked::CONFIGURATION, format!("its tenant's configuration has a mistake: {problem}"))
            }
        }
    }

    fn inspect_in(&self, pool: &Pool, id: MessageId) -> Option<MessageStatus> {
        let mut status = pool.inspect(id)?;
        if let (Some(reason), MessageState::Ready) = (self.spool.unhealthy(), status.state) {
            let why = format!("the spool cannot write: {reason}");
            status.waits = Some(Waits { class: "spool", why, limit: None, until: None });
        }
        Some(status)
    }

    /// The messages after `after` that are asked for, oldest first: `most` at most.
    fn list(&self, selection: &Selection, after: Option<MessageId>, most: usize) -> Listing {
        let is_wanted = |name: &TenantName| selection.tenant.as_ref().is_none_or(|wanted| wanted == name);
        let pools = self.pools.values().filter(|pool| is_wanted(&pool.tenant.name)).map(|pool| {
            let ids: Box<dyn Iterator<Item = MessageId>> = Box::new(pool.ids(after));
            (Source::Pool(pool), ids)
        });
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let unknown = self.unknown.iter().filter(|(name, _)| is_wanted(name)).map(|(name, ids)| {
            let ids: Box<dyn Iterator<Item = MessageId>> =
                Box::new(ids.range((begin, Bound::Unbounded)).copied());
            (Source::Unknown(name), ids)
        });
        let mut sources: Vec<_> = pools.chain(unknown).collect();
        // The next message of each, oldest first.
        let heads =
            sources.iter_mut().enumerate().filter_map(|(n, (_, ids))| Some(Reverse((ids.next()?, n))));
        let mut heads: BinaryHeap<_> = heads.collect();
        let mut listing = Listing::default();
        let mut last = None;
        while let Some(Reverse((id, n))) = heads.pop() {
            if selection.before.is_some_and(|before| id.accepted() >= before) {
                return listing;
            }
            if listing.looked_at == LOOKED_AT || listing.found.len() == most {
                listing.next = last;
                return listing;
            }
            let (source, ids) = &mut sources[n];
            heads.extend(ids.next().map(|id| Reverse((id, n))));
            listing.looked_at += 1;
            last = Some(id);
            let status = match *source {
                Source::Pool(pool) if pool.has(id, selection) => self.inspect_in(pool, id),
                Source::Unknown(tenant) if selection.has_held_of_nobody() => Some(self.of_nobody(tenant)),
                Source::Pool(_) | Source::Unknown(_) => None,
            };
            listing.found.extend(status.map(|status| (id, status)));
        }
        listing
    }

    /// Counts messages of a tenant after `after`.
    fn survey(&self, tenant: &TenantName, by: SurveyBy, after: Option<MessageId>) -> Survey {
        let now = clock::wall();
        if let Some(pool) = self.pools.get(tenant) {
            return pool.survey(by, after, LOOKED_AT, now);
        }
        let Some(ids) = self.unknown.get(tenant) else { return Survey::default() };
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut ages = Ages::default();
        let mut last = None;
        let mut looked_at = 0;
        for id in ids.range((begin, Bound::Unbounded)).take(LOOKED_AT) {
            ages.add(now.since(id.accepted()));
            last = Some(*id);
            looked_at += 1;
        }
        let key = match by {
            SurveyBy::Tenant | SurveyBy::Mailbox => "",
            SurveyBy::State => MessageState::Held.as_str(),
            SurveyBy::Why => self.why_without(tenant).class,
        };
        Survey { rows: vec![(key.to_owned(), ages)], next: last.filter(|_| looked_at == LOOKED_AT) }
    }
}
