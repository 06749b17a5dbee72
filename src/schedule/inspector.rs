//! Where one message is, and what it waits for: asked by the admin API, answered by the scheduler's task.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::telemetry::LimitKind;
use relay_mail::{MailboxAddress, MessageId, TenantName, Timestamp};

const MOMENT: Duration = Duration::from_millis(250);

/// Asks the scheduler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inspector(mpsc::Sender<Question>);

/// What an [`Inspector`] asks the scheduler.
#[derive(Debug)]
pub struct Questions(pub(super) mpsc::Receiver<Question>);

#[derive(Debug)]
pub(super) struct Question {
    pub(super) id: MessageId,
    pub(super) answer: oneshot::Sender<Option<MessageStatus>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageStatus {
    pub state: MessageState,
    pub tenant: TenantName,
    /// `None`: it is held, and in no queue.
    pub mailbox: Option<MailboxAddress>,
    /// `None`: it is with a worker, or its turn comes now.
    pub waits: Option<Waits>,
}

/// As in the metric `queue_messages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    Ready,
    Scheduled,
    Leased,
    Held,
    Blocked,
}

/// What a message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    pub why: String,
    pub limit: Option<LimitKind>,
    /// `None`: until something else ends.
    pub until: Option<Timestamp>,
}

impl Inspector {
    pub fn new() -> (Self, Questions) {
        // More requests than this wait their turn.
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), Questions(receiver))
    }

    /// `None`: the scheduler does not know it, or has stopped.
    ///
    /// For a moment after an attempt it does not know a message that waits again: its worker has ended, and
    /// the spool is about to announce it. So a message that is not found is asked for once more.
    pub async fn inspect(&self, id: MessageId) -> Option<MessageStatus> {
        if let Some(standing) = self.ask(id).await {
            return Some(standing);
        }
        tokio::time::sleep(MOMENT).await;
        self.ask(id).await
    }

    async fn ask(&self, id: MessageId) -> Option<MessageStatus> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { id, answer }).await.ok()?;
        answered.await.ok()?
    }
}

impl MessageState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled => "scheduled",
            Self::Leased => "leased",
            Self::Held => "held",
            Self::Blocked => "blocked",
        }
    }
}
