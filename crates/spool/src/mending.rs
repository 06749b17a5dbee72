//! What the committer does while the disk does not work.
//!
//! The callers of the group that failed, and all callers after them, are told that the spool is unhealthy.
//! Only those that settle, replace or unwind a message wait. The committer then tries again and again whether
//! the disk works. When it does, the committer opens the index again and finds out what happened to the group
//! (each change is in it or not, as after a crash). It removes messages that were refused but are there all
//! the same, releases the bodies of those that have ended all the same, stores what had to wait, and goes on.

use std::{thread, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use super::{
    BodyPlace, Change, SpoolError, StoreError,
    committer::{Committer, GROUP},
    operation::{Operation, respond},
    store::guarded,
};
use relay_mail::MessageId;

/// How often an unhealthy spool tries whether the disk works again: soon, then less and less often.
const MEND_FIRST: Duration = Duration::from_millis(20);
const MEND_EVERY: Duration = Duration::from_secs(1);
/// How often it logs that the disk does not work.
const SAY_EVERY: Duration = Duration::from_secs(60);

impl Committer {
    /// Tells a caller that nothing was done, or lets it wait: the outcome of a delivery must not be
    /// forgotten.
    pub(super) fn refuse(&mut self, operation: Operation, error: &SpoolError) {
        match operation {
            Operation::Accept { new, answer } => {
                self.context.announcer.hold_back(new.id);
                self.refused.push((new.id, new.place));
                let _ = answer.send(Err(error.clone()));
            }
            Operation::Claim { answer, .. } => respond(answer, Err(error.clone())),
            Operation::Alter { answer, .. } | Operation::Remember { answer, .. } => {
                respond(answer, Err(error.clone()));
            }
            Operation::Settle { lease, end, answer, .. } => {
                self.unsettled.push(Operation::Settle { lease, end, answer, is_again: true });
            }
            Operation::Replace { id, new, answer, .. } => {
                self.unsettled.push(Operation::Replace { id, new, answer, is_again: true });
            }
            Operation::Unwind { accepted, answer, .. } => {
                self.unsettled.push(Operation::Unwind { accepted, answer, is_again: true });
            }
            Operation::Find { answer, .. } => respond(answer, Err(error.clone())),
            // A spool that has healed tells of all messages in any case.
            Operation::TellAgain { answer, .. } => respond(answer, Err(error.clone())),
            Operation::Moved(moved) => {
                moved.iter().for_each(|moved| self.question_body(moved.id, moved.to, false));
            }
            Operation::Mend => {}
        }
    }

    /// Waits until the disk works again, and goes on where the work was interrupted. Returns whether any
    /// caller still wants that.
    pub(super) fn mend(&mut self, operations: &mut mpsc::Receiver<Operation>) -> bool {
        let mut next_try = Instant::now();
        let mut next_word = Instant::now();
        let mut wait = MEND_FIRST;
        while let Some(reason) = self.context.health.reason() {
            let error = SpoolError::Unhealthy(reason);
            loop {
                match operations.try_recv() {
                    Ok(operation) => self.refuse(operation, &error),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return false,
                }
            }
            let now = Instant::now();
            if now >= next_try {
                match self.heal() {
                    Ok(()) => continue,
                    Err(error) if now >= next_word => {
                        warn!(%error, "spool write still failing");
                        next_word = now + SAY_EVERY;
                    }
                    Err(_) => {}
                }
                next_try = Instant::now() + wait;
                wait = (wait * 2).min(MEND_EVERY);
            }
            thread::park_timeout(MEND_FIRST);
        }
        true
    }

    /// Removes messages that were refused but stored all the same. The caller will try again, or has told its
    /// client to, and the message would be there twice.
    fn remove_refused(&mut self) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut left = Vec::new();
        let mut discarded = Vec::new();
        for (id, place) in &self.refused {
            self.context.stall.index.goes_on();
            match guarded(|| self.store.state(*id))? {
                Some(was) => {
                    left.extend(self.lanes.lane(was.lane).map(|lane| (lane, was.body.len)));
                    changes.push(Change::Remove { id: *id, was });
                    self.lanes.leave(was.lane, &mut changes);
                }
                None => discarded.push((*id, *place)),
            }
        }
        if !changes.is_empty() {
            self.context.stall.index.goes_on();
            guarded(|| self.store.commit(&changes))?;
        }
        for (lane, len) in left {
            self.context.tally.tenant(&lane.tenant).leave(len);
        }
        for (id, place) in discarded {
            self.store.discard(id, place, true);
        }
        for (id, _) in self.refused.drain(..) {
            self.context.announcer.take_over(id);
        }
        Ok(())
    }

    /// Finds out what there is after the fault, and removes what nobody waits for. All of it is watched: it
    /// may hang at any step, as the failed operation may have, and takes long only while it goes from message
    /// to message.
    fn take_stock(&mut self) -> Result<(), StoreError> {
        guarded(|| self.store.reopen())?;
        self.context.stall.index.goes_on();
        self.recover_after_fault()?;
        self.remove_refused()?;
        self.release_unneeded()
    }

    /// Releases those of the bodies in question that are not needed. Those that have been looked at are
    /// forgotten, so that none is released twice: when a look fails, the next try goes on where this one
    /// ended.
    fn release_unneeded(&mut self) -> Result<(), StoreError> {
        while let Some((&(id, place), &ended)) = self.in_question.first_key_value() {
            self.context.stall.index.goes_on();
            if guarded(|| self.store.state(id))?.is_none_or(|state| state.body != place) {
                self.store.discard(id, place, ended);
            }
            self.in_question.pop_first();
        }
        Ok(())
    }

    /// Notes that a group with these changes may or may not be durable.
    pub(super) fn question(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Remove { id, was } => self.question_body(*id, was.body, true),
                Change::Update { id, was, state, .. } if was.body != state.body => {
                    self.question_body(*id, was.body, false);
                }
                _ => {}
            }
        }
    }

    fn question_body(&mut self, id: MessageId, place: BodyPlace, ended: bool) {
        *self.in_question.entry((id, place)).or_default() |= ended;
    }

    fn heal(&mut self) -> Result<(), StoreError> {
        let stall = self.context.stall.clone();
        stall.index.during(|| self.take_stock())?;
        self.context.health.healed();
        info!(results = self.unsettled.len(), "spool writable again; pending delivery results stored");
        let mut unsettled = std::mem::take(&mut self.unsettled);
        while !unsettled.is_empty() {
            let rest = unsettled.split_off(unsettled.len().min(GROUP));
            self.commit(&mut unsettled);
            unsettled = rest;
        }
        Ok(())
    }
}
