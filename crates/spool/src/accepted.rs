//! Messages that are durable, but that the scheduler has not been told of.
//!
//! The caller that submits a message may have something to do between "it is durable" and "it is on its way":
//! remove the file that it was, or find out that the client has given up. Until then the message is held
//! back. Nobody else can claim it, so it can still be unwound.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{mpsc, oneshot};

use super::{Event, SpoolError, Waiting, operation::Operation};
use relay_mail::MessageId;

/// A message that is on stable storage, and that is not delivered yet.
///
/// When it is dropped, it is announced to the scheduler, so a caller that is cancelled loses nothing. After a
/// crash it is announced by the next start.
#[derive(Debug)]
#[must_use = "dropping it announces the message: say so with `announce`"]
pub struct Accepted {
    waiting: Waiting,
    announcer: Arc<Announcer>,
    operations: mpsc::WeakSender<Operation>,
}

impl Accepted {
    pub fn id(&self) -> MessageId {
        self.waiting.id
    }

    /// Lets the scheduler have the message.
    pub fn announce(self) {}

    /// Removes the message again, durably, as if it had never come. While the spool is unhealthy, this waits.
    ///
    /// If it fails, the message is announced. It fails if an operator has removed the message already or made
    /// it due, and when the spool closes. When the process dies before this returns, the message may be there
    /// at the next start.
    pub async fn unwind(self) -> Result<(), SpoolError> {
        let operations = self.operations.upgrade().ok_or(SpoolError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let unwind = Operation::Unwind { accepted: self, answer, is_again: false };
        operations.send(unwind).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    /// Drops this without an announcement. Returns whether the message had not been announced.
    pub(super) fn forget(self) -> bool {
        self.announcer.take_over(self.waiting.id)
        // The message is no longer held back, so dropping this announces nothing.
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.announcer.take_over(self.waiting.id) {
            self.announcer.announce(Event::Waiting(self.waiting.clone()));
        }
    }
}

/// Tells the scheduler, and knows which messages to keep from it.
#[derive(Debug)]
pub(super) struct Announcer {
    events: mpsc::UnboundedSender<Event>,
    held_back: Mutex<HashSet<MessageId>>,
}

impl Announcer {
    pub(super) fn new(events: mpsc::UnboundedSender<Event>) -> Self {
        Self { events, held_back: Mutex::default() }
    }

    pub(super) fn announce(&self, event: Event) {
        // Nobody listens while the relay stops: the next start finds the message in the store.
        let _ = self.events.send(event);
    }

    /// Announces what the store has, except for messages that are held back.
    pub(super) fn announce_found(&self, id: MessageId, event: Event) {
        let held_back = self.held_back();
        if !held_back.contains(&id) {
            self.announce(event);
        }
    }

    /// From now on, only the caller that takes the message over announces it.
    pub(super) fn hold_back(&self, id: MessageId) {
        self.held_back().insert(id);
    }

    /// Whether the message was held back. If so, the caller must announce it.
    pub(super) fn take_over(&self, id: MessageId) -> bool {
        self.held_back().remove(&id)
    }

    /// The right to announce or unwind a message, which is held back already or has been announced.
    pub(super) fn accepted(
        self: &Arc<Self>,
        waiting: Waiting,
        operations: mpsc::WeakSender<Operation>,
    ) -> Accepted {
        Accepted { waiting, announcer: self.clone(), operations }
    }

    fn held_back(&self) -> MutexGuard<'_, HashSet<MessageId>> {
        // Ids are inserted and removed whole, so a panic elsewhere leaves the set in order.
        self.held_back.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
