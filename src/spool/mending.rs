//! What the committer does while the disk does not work.
//!
//! The callers of the group that failed and everybody after them are told that the spool is unhealthy, but for those who say
//! how a delivery went: they wait. The committer then tries again and again whether the disk works. When it does, it opens
//! the index anew, finds out what became of the group (each change is in it or not, as after a crash), stores what had to
//! wait, and goes on.

use std::{thread, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use super::{
    SpoolError, StoreError,
    committer::{Committer, GROUP},
    operation::Operation,
    store::guarded,
};

/// When an unhealthy spool tries whether the disk works again: soon, then less and less often.
const MEND_FIRST: Duration = Duration::from_millis(20);
const MEND_EVERY: Duration = Duration::from_secs(1);
/// How often it says that it does not.
const SAY_EVERY: Duration = Duration::from_secs(60);

impl Committer {
    /// Tells a caller that nothing was done, or lets it wait: how a delivery went must not be forgotten.
    pub(super) fn refuse(&mut self, operation: Operation, error: &SpoolError) {
        match operation {
            Operation::Accept { new, answer } => {
                self.refused.push((new.id, new.place));
                let _ = answer.send(Err(error.clone()));
            }
            Operation::Claim { answer, .. } => drop(answer.send(Err(error.clone()))),
            Operation::Alter { answer, .. } => drop(answer.send(Err(error.clone()))),
            Operation::Settle { lease, end, answer, .. } => {
                self.unsettled.push(Operation::Settle { lease, end, answer, is_again: true });
            }
            Operation::Moved(moved) => self.refused.extend(moved.iter().map(|moved| (moved.id, moved.to))),
            Operation::Mend => {}
        }
    }

    /// Waits until the disk works again, and goes on where the work broke off. Whether anybody still wants that.
    pub(super) fn mend(&mut self, operations: &mut mpsc::Receiver<Operation>) -> bool {
        let (mut next_try, mut next_word) = (Instant::now(), Instant::now());
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
                        warn!(%error, "the spool still cannot write");
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

    fn heal(&mut self) -> Result<(), StoreError> {
        if self.context.errands.upgrade().is_some_and(|errands| errands.is_closed()) {
            // Nobody would take bodies in: only a restart mends that.
            return Err(StoreError::Closed);
        }
        guarded(|| self.store.reopen())?;
        self.recover_after_fault()?;
        for (id, place) in std::mem::take(&mut self.refused) {
            if guarded(|| self.store.state(id))?.is_none_or(|state| state.body != place) {
                self.store.discard(id, place);
            }
        }
        self.context.health.healed();
        info!(
            results = self.unsettled.len(),
            "the spool can write again; results of deliveries that waited are stored"
        );
        let mut unsettled = std::mem::take(&mut self.unsettled);
        while !unsettled.is_empty() {
            let rest = unsettled.split_off(unsettled.len().min(GROUP));
            self.commit(&mut unsettled);
            unsettled = rest;
        }
        Ok(())
    }
}
