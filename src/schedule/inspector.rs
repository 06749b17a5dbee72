//! Where messages are, and what they wait for: asked by the admin API, answered by the scheduler's task.

use std::{collections::BTreeMap, time::Duration};

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
pub(super) enum Question {
    /// `tenant`: whose it is, if that is known.
    One {
        id: MessageId,
        tenant: Option<TenantName>,
        answer: oneshot::Sender<Option<MessageStatus>>,
    },
    List {
        selection: Selection,
        after: Option<MessageId>,
        most: usize,
        answer: oneshot::Sender<Listing>,
    },
    /// `None` in the answer: the scheduler has no mail of it.
    Tenants {
        names: Vec<TenantName>,
        answer: oneshot::Sender<Vec<Option<TenantStatus>>>,
    },
    Turn {
        answer: oneshot::Sender<()>,
    },
    Survey {
        tenant: TenantName,
        by: SurveyBy,
        after: Option<MessageId>,
        answer: oneshot::Sender<Survey>,
    },
}

/// What stops a tenant's mail, if anything does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantStatus {
    pub blocked: Option<Waits>,
    /// Mailboxes with mail that sleep, those that need mending first.
    /// [`MAILBOXES_NAMED`](Self::MAILBOXES_NAMED) at most.
    pub asleep: Vec<(MailboxAddress, Waits)>,
    /// How many there are.
    pub mailboxes_asleep: usize,
}

impl TenantStatus {
    pub const MAILBOXES_NAMED: usize = 20;
}

/// Which messages are asked for. What is `None` selects nothing.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub tenant: Option<TenantName>,
    pub mailbox: Option<MailboxAddress>,
    pub state: Option<MessageState>,
    /// Accepted before this time, by the wall clock.
    pub before: Option<Timestamp>,
}

/// Messages, oldest first.
#[derive(Debug, Default)]
pub struct Listing {
    pub found: Vec<(MessageId, MessageStatus)>,
    /// Messages that were looked at.
    pub looked_at: usize,
    /// Where the next listing begins. `None`: there are no more.
    pub next: Option<MessageId>,
}

/// What makes a row of a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurveyBy {
    Tenant,
    Mailbox,
    State,
    /// As in [`Waits::class`].
    Why,
}

/// How many messages there are, by age. The rows of several surveys of a tenant must be added.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub rows: Vec<(String, Ages)>,
    /// Where the next survey begins. `None`: this was all.
    pub next: Option<MessageId>,
}

/// Numbers of messages by age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ages(pub [u64; Ages::UP_TO.len() + 1]);

impl Ages {
    /// Seconds; one more number counts what is older than the last.
    pub const UP_TO: [u64; 7] = [300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 48 * 3600];

    pub fn add(&mut self, age: Duration) {
        let at = Self::UP_TO.iter().position(|most| age.as_secs() < *most).unwrap_or(Self::UP_TO.len());
        self.0[at] += 1;
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl std::ops::AddAssign for Ages {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

impl Selection {
    /// Whether it has messages that are held because their tenant is not in the configuration. They have no
    /// mailbox.
    pub(super) fn has_held_of_nobody(&self) -> bool {
        self.mailbox.is_none() && self.state.is_none_or(|state| state == MessageState::Held)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageStatus {
    pub state: MessageState,
    pub tenant: TenantName,
    /// `None`: its tenant is not in the configuration.
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
    /// In one word.
    pub class: &'static str,
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
        self.ask_twice(id, None).await
    }

    /// The same, quicker, for a message of this tenant.
    pub async fn inspect_of(&self, tenant: &TenantName, id: MessageId) -> Option<MessageStatus> {
        self.ask_twice(id, Some(tenant)).await
    }

    async fn ask_twice(&self, id: MessageId, tenant: Option<&TenantName>) -> Option<MessageStatus> {
        if let Some(status) = self.ask(id, tenant).await {
            return Some(status);
        }
        tokio::time::sleep(MOMENT).await;
        self.ask(id, tenant).await
    }

    async fn ask(&self, id: MessageId, tenant: Option<&TenantName>) -> Option<MessageStatus> {
        let (answer, answered) = oneshot::channel();
        let tenant = tenant.cloned();
        self.0.send(Question::One { id, tenant, answer }).await.ok()?;
        answered.await.ok()?
    }

    /// The messages after `after`: `most` at most, and fewer if many had to be looked at. `None`: the
    /// scheduler has stopped.
    pub async fn list(&self, selection: Selection, after: Option<MessageId>, most: usize) -> Option<Listing> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question::List { selection, after, most, answer }).await.ok()?;
        answered.await.ok()
    }

    /// What stops each of these tenants, in their order; `None` where there is no mail. Empty: the scheduler
    /// has stopped.
    pub async fn tenants(&self, names: &[TenantName]) -> Vec<Option<TenantStatus>> {
        const AT_A_TIME: usize = 256;
        let mut all = Vec::with_capacity(names.len());
        for names in names.chunks(AT_A_TIME) {
            let (answer, answered) = oneshot::channel();
            if self.0.send(Question::Tenants { names: names.to_vec(), answer }).await.is_err() {
                return Vec::new();
            }
            let Ok(part) = answered.await else { return Vec::new() };
            all.extend(part);
        }
        all
    }

    /// Waits for the scheduler's next turn. False: it has stopped.
    pub async fn turn(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question::Turn { answer }).await.is_ok() && answered.await.is_ok()
    }

    /// Counts all messages of a tenant. `None`: the scheduler has stopped.
    pub async fn survey(&self, tenant: &TenantName, by: SurveyBy) -> Option<BTreeMap<String, Ages>> {
        let mut rows: BTreeMap<String, Ages> = BTreeMap::new();
        let mut after = None;
        loop {
            let (answer, answered) = oneshot::channel();
            let tenant = tenant.clone();
            self.0.send(Question::Survey { tenant, by, after, answer }).await.ok()?;
            let survey = answered.await.ok()?;
            for (key, ages) in survey.rows {
                *rows.entry(key).or_default() += ages;
            }
            after = survey.next;
            if after.is_none() {
                return Some(rows);
            }
        }
    }
}

impl MessageState {
    pub const ALL: [Self; 5] = [Self::Ready, Self::Scheduled, Self::Leased, Self::Held, Self::Blocked];

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
