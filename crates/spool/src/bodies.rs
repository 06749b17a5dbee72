//! The thread that takes bodies in.
//!
//! It takes whatever bodies wait, makes them durable together, and passes their messages to the committer.
//! The committer meanwhile works on the previous group, so a disk that syncs bodies and a processor that
//! works on the index need not wait for each other. Between groups, this thread copies what is left in sparse
//! segments, a little at a time.

use std::{collections::VecDeque, sync::Arc};

use tokio::{sync::mpsc, time::Instant};
use tracing::warn;

use super::{
    Accepted, Lane, Lease, SpoolError,
    health::Health,
    observer::{Observer, TellOnPanic},
    operation::{End, Operation, Responder, StoredMessage, respond},
    stall::Stall,
    store::{Arriving, Bodies, StoreError},
};
use crate::threads;
use relay_mail::MessageId;

/// The most bodies stored together, and the most octets.
const GROUP: usize = 512;
const GROUP_OCTETS: u64 = 8 * 1024 * 1024;

pub(super) enum Errand {
    Store(Box<Arrival>),
    Compact(u32),
}

/// A body, and what to do when it is stored.
pub(super) struct Arrival {
    pub(super) arriving: Arriving,
    pub(super) then: Then,
}

pub(super) enum Then {
    Accept {
        answer: Responder<Accepted>,
    },
    /// It enters with a settlement to come.
    Keep {
        answer: Responder<StoredMessage>,
    },
    /// It is the last that enters with a settlement, after these.
    Settle {
        lease: Lease,
        others: Vec<StoredMessage>,
        answer: Responder<()>,
    },
    /// It enters in the place of this one.
    Replace {
        id: MessageId,
        answer: Responder<()>,
    },
}

pub(super) struct BodyThread {
    bodies: Box<dyn Bodies>,
    errands: mpsc::Receiver<Errand>,
    operations: mpsc::Sender<Operation>,
    health: Arc<Health>,
    observer: Arc<dyn Observer>,
    stall: Arc<Stall>,
    /// To be compacted, one after the other: each is given out once.
    sparse: VecDeque<u32>,
}

/// The thread's name for people.
const PART: &str = "the spool's thread for bodies";
const THREAD: &str = "spool-bodies";

impl BodyThread {
    pub(super) fn start(
        bodies: Box<dyn Bodies>,
        errands: mpsc::Receiver<Errand>,
        operations: mpsc::Sender<Operation>,
        (health, stall): (Arc<Health>, Arc<Stall>),
        observer: Arc<dyn Observer>,
    ) -> Result<(), StoreError> {
        let tell = TellOnPanic { observer: observer.clone(), part: PART };
        let told = observer.clone();
        let this = Self { bodies, errands, operations, health, observer, stall, sparse: VecDeque::new() };
        threads::watched(THREAD, move || this.run(tell), move |why| told.ended(PART, why))
            .map_err(|source| StoreError::Io { what: "cannot start the thread for bodies", source })
    }

    fn run(mut self, tell: TellOnPanic) {
        let _tell = tell;
        let mut group = Vec::with_capacity(GROUP);
        let mut then = Vec::with_capacity(GROUP);
        loop {
            // With a segment to compact, the thread does not sleep, but does not keep arriving mail waiting
            // either.
            let mut next = if self.sparse.is_empty() {
                let Some(first) = self.errands.blocking_recv() else { return };
                Some(first)
            } else {
                match self.errands.try_recv() {
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                    first => first.ok(),
                }
            };
            let mut octets = 0;
            while let Some(errand) = next {
                match errand {
                    Errand::Compact(segment) => self.sparse.push_back(segment),
                    Errand::Store(arrival) => {
                        octets += arrival.arriving.body.len();
                        group.push(arrival.arriving);
                        then.push(arrival.then);
                    }
                }
                let is_full = group.len() >= GROUP || octets >= GROUP_OCTETS;
                next = if is_full { None } else { self.errands.try_recv().ok() };
            }
            if !group.is_empty() {
                self.store(&mut group, &mut then);
                self.observer.turned(THREAD);
            }
            if let Some(segment) = self.sparse.pop_front() {
                self.compact(segment);
            }
        }
    }

    fn store(&mut self, group: &mut Vec<Arriving>, then: &mut Vec<Then>) {
        let since = Instant::now();
        let stored = match self.health.reason() {
            Some(reason) => Err(SpoolError::Unhealthy(reason)),
            None => self.stall.bodies.during(|| self.bodies.store(group)).map_err(|e| self.refuse(e)),
        };
        for (arriving, then) in group.drain(..).zip(then.drain(..)) {
            let stored = stored.clone().map(|()| StoredMessage {
                id: arriving.id,
                lane: Lane { tenant: arriving.message.tenant, author: arriving.message.author },
                place: arriving.place,
                since,
            });
            self.hand_over(stored, then);
        }
    }

    fn hand_over(&self, stored: Result<StoredMessage, SpoolError>, then: Then) {
        let operation = match (then, stored) {
            (Then::Accept { answer }, Ok(new)) => Operation::Accept { new, answer },
            // The caller may have gone away, which changes nothing.
            (Then::Accept { answer }, Err(error)) => return respond(answer, Err(error)),
            // A caller that has gone away leaves a body that no message has: the next start sweeps it.
            (Then::Keep { answer }, stored) => return respond(answer, stored),
            (Then::Replace { id, answer }, Ok(new)) => {
                Operation::Replace { id, new, answer, is_again: false }
            }
            (Then::Replace { answer, .. }, Err(error)) => return respond(answer, Err(error)),
            (Then::Settle { lease, mut others, answer }, stored) => {
                let end = match stored {
                    Ok(last) => {
                        others.push(last);
                        End::Leave { entering: others }
                    }
                    Err(error) => End::Later { error, stored: others },
                };
                Operation::Settle { lease, end, answer, is_again: false }
            }
        };
        // This fails when the committer has ended. The answer is then dropped with the operation, which tells
        // the caller.
        let _ = self.operations.blocking_send(operation);
    }

    fn compact(&mut self, segment: u32) {
        match self.stall.bodies.during(|| self.bodies.compact(segment)) {
            Ok(compacted) => {
                if compacted.is_more {
                    self.sparse.push_front(segment);
                }
                if !compacted.moved.is_empty() {
                    let _ = self.operations.blocking_send(Operation::Moved(compacted.moved));
                }
            }
            Err(StoreError::Unwritten { what, source }) => {
                warn!(
                    segment, what, error = %source,
                    "sparse segment not compacted; it keeps its disk space and is tried again later"
                );
            }
            Err(error) => drop(self.refuse(error)),
        }
    }

    fn refuse(&self, error: StoreError) -> SpoolError {
        match error {
            StoreError::Unwritten { what, source } => {
                warn!(what, error = %source, "body storage failed; the clients will try again");
                SpoolError::Body(Arc::new(source))
            }
            error => {
                let refused = self.health.latch(&error.to_string());
                // This fails when the committer has ended, and then nothing heals.
                let _ = self.operations.blocking_send(Operation::Mend);
                refused
            }
        }
    }
}
