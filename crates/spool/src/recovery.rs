//! Finding out what there is: at the start, and after the disk has failed.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    BodyPlace, Change, Event, LaneId, Phase, Remembered, State, StoreError, Waiting,
    committer::{Committer, Context},
    lane::Lanes,
    store::guarded,
};
use crate::clock;
use relay_mail::{MessageId, Timestamp};

/// What a lease in the index means.
#[derive(Clone, Copy)]
enum Leases<'a> {
    /// The process that held it is dead. An attempt had begun: it counts, and its outcome is unknown.
    OfTheDead,
    /// Workers hold these. Any other lease was never given to a worker: its claim failed.
    Given(&'a HashMap<MessageId, u32>),
}

/// Takes in one message after the other.
struct Recovery<'a> {
    lanes: &'a mut Lanes,
    context: &'a Context,
    leases: Leases<'a>,
    now: Timestamp,
    changes: Vec<Change>,
    last: MessageId,
    messages: u64,
    in_doubt: u64,
    /// Messages that are due earlier than their stored time.
    brought_forward: u64,
    /// A message that has no lane.
    lost: Option<MessageId>,
    remembered: &'a HashMap<MessageId, Remembered>,
    /// Messages of which something is remembered that have not been found yet.
    missing: HashSet<MessageId>,
}

impl Committer {
    /// Releases the leases of a dead process, and sweeps. Returns the last id in use.
    pub(super) fn recover_at_start(&mut self) -> Result<MessageId, StoreError> {
        let started = Instant::now();
        let recovered = match self.recover(true) {
            Err(error) if is_damage(&error) => {
                self.rescue(&error)?;
                self.recover(true)?
            }
            recovered => recovered?,
        };
        self.store.sweep()?;
        let Recovered { last, messages, in_doubt, damaged } = recovered;
        let took = started.elapsed();
        info!(messages, in_doubt, damaged, took = took.as_secs_f64(), "spool recovered");
        Ok(last)
    }

    /// Finds out what there is after the disk has failed. Workers keep their leases.
    pub(super) fn recover_after_fault(&mut self) -> Result<(), StoreError> {
        match self.recover(false) {
            Err(error) if is_damage(&error) => {
                self.rescue(&error)?;
                self.is_rescued = true;
                self.recover(false).map(drop)
            }
            recovered => recovered.map(drop),
        }
    }

    fn rescue(&mut self, damage: &StoreError) -> Result<(), StoreError> {
        error!(%damage, "spool index damaged; it is being rebuilt from its readable parts and the bodies");
        let now = clock::now();
        let stall = self.context.stall.clone();
        let state = |lane: LaneId, body: BodyPlace| {
            stall.index.goes_on();
            State { lane, phase: Phase::Waiting { due: now }, epoch: 0, attempts: 0, doubt: Some(now), body }
        };
        let put_aside = guarded(|| self.store.rescue(&state))?;
        for _ in 0..put_aside {
            self.context.observer.quarantined();
        }
        Ok(())
    }

    fn recover(&mut self, is_start: bool) -> Result<Recovered, StoreError> {
        self.lanes = Lanes::default();
        self.context.tally.clear();
        for (id, lane) in guarded(|| self.store.lanes())? {
            self.lanes.add(id, lane.into());
        }
        self.remembered = guarded(|| self.store.remembered())?.into_iter().collect();
        let mut recovery = Recovery {
            remembered: &self.remembered,
            missing: self.remembered.keys().copied().collect(),
            lanes: &mut self.lanes,
            context: &self.context,
            leases: if is_start { Leases::OfTheDead } else { Leases::Given(&self.leases) },
            now: clock::now(),
            changes: Vec::new(),
            last: MessageId::first_at(Timestamp::default()),
            messages: 0,
            in_doubt: 0,
            brought_forward: 0,
            lost: None,
        };
        let damaged = guarded(|| {
            self.store.load(&mut |id, state| {
                recovery.context.stall.index.goes_on();
                recovery.take(id, state);
            })
        })?;
        let Recovery { mut changes, last, messages, in_doubt, brought_forward, lost, missing, .. } = recovery;
        if brought_forward > 0 {
            let longest_wait = self.context.longest_wait;
            warn!(
                messages = brought_forward,
                longest_wait = longest_wait.as_secs_f64(),
                "messages brought forward: they were due later than the longest wait allows"
            );
        }
        if let Some(id) = lost {
            return Err(StoreError::Damaged(format!("it does not say which tenant message {id} belongs to")));
        }
        for _ in 0..damaged {
            self.context.observer.quarantined();
        }
        // Their messages were quarantined.
        for id in missing {
            let was = self.remembered.remove(&id).unwrap_or_default();
            changes.push(Change::Remember { id, was, now: Remembered::default() });
        }
        self.lanes.drop_unused(&mut changes);
        if !changes.is_empty() {
            guarded(|| self.store.commit(&changes))?;
        }
        Ok(Recovered { last, messages, in_doubt, damaged })
    }
}

struct Recovered {
    last: MessageId,
    messages: u64,
    in_doubt: u64,
    damaged: usize,
}

/// Whether the index itself is at fault, and not the disk.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged(_) | StoreError::Panicked(_) => true,
        StoreError::Index(error) => !matches!(error, sled::Error::Io(_)),
        StoreError::Io { .. } | StoreError::Unwritten { .. } | StoreError::Closed => false,
    }
}

impl Recovery<'_> {
    fn take(&mut self, id: MessageId, was: State) {
        let Some(lane) = self.lanes.lane(was.lane) else {
            self.lost = Some(id);
            return;
        };
        self.missing.remove(&id);
        self.last = self.last.max(id);
        self.messages += 1;
        self.lanes.enter(was.lane);
        let tenant = self.context.tally.tenant(&lane.tenant);
        tenant.enter(was.body.len);
        let event = match was.phase {
            Phase::Held => {
                let reason = self.remembered.get(&id).and_then(|remembered| remembered.held.clone());
                Event::Held { id, lane, reason }
            }
            Phase::Waiting { due } => {
                let stored = due;
                let due = self.context.credible_due(stored, &was, self.now);
                self.brought_forward += u64::from(due != stored);
                Event::Waiting(Waiting { id, lane, due })
            }
            Phase::Leased => match self.leases {
                Leases::Given(given) if given.get(&id) == Some(&was.epoch) => return tenant.lease(),
                Leases::Given(_) => {
                    let due = self.now;
                    let state = State { phase: Phase::Waiting { due }, ..was };
                    self.changes.push(Change::Update { id, was, state, attempts: None });
                    Event::Waiting(Waiting { id, lane, due })
                }
                Leases::OfTheDead => {
                    self.in_doubt += 1;
                    // It waits for nothing: its route finds out what happened to the attempt.
                    let due = self.now;
                    let attempts = was.attempts.saturating_add(1);
                    let doubt = Some(self.now);
                    let state = State { phase: Phase::Waiting { due }, attempts, doubt, ..was };
                    self.changes.push(Change::Update { id, was, state, attempts: None });
                    Event::Waiting(Waiting { id, lane, due })
                }
            },
        };
        self.context.announcer.announce_found(id, event);
    }
}
