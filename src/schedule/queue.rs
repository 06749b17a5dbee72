//! One mailbox's queue.

use std::collections::{BTreeSet, VecDeque};

use tokio::time::Instant;

use super::ramp::Ramp;
use crate::limits::MailboxLimits;
use crate::telemetry::LimitKind;
use relay_mail::{MailboxAddress, MessageId, Timestamp};

pub(super) struct Queue {
    pub(super) mailbox: MailboxAddress,
    pub(super) limits: MailboxLimits,
    /// Due, in the order in which they became so. An id whose message is elsewhere by then is skipped when it
    /// comes up.
    pub(super) ready: VecDeque<MessageId>,
    /// Due later.
    pub(super) scheduled: BTreeSet<(Timestamp, MessageId)>,
    /// Messages that are held. They are in neither part.
    pub(super) held: u32,
    /// When the timer runs out that moves due messages from there to the ready part.
    pub(super) promote_at: Option<Instant>,
    pub(super) in_flight: u32,
    /// Slots of jobs that have ended while the service may still be working on their call.
    pub(super) kept: u32,
    pub(super) ramp: Ramp,
    /// The service has put it to sleep: it must begin slowly when it wakes.
    pub(super) is_throttled: bool,
    pub(super) standing: QueueState,
    /// Whether its number is in the pool's turn. It may still be there after the queue has fallen asleep.
    pub(super) has_number: bool,
    /// Why it last fell asleep.
    pub(super) asleep_because: String,
    /// When it last had anything to do: an idle queue is forgotten after a while.
    pub(super) last_used: Instant,
}

/// Where a queue is in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueState {
    /// Nothing to do.
    Idle,
    /// In the pool's turn.
    InTurn,
    /// All its slots are taken: the next verdict wakes it.
    Full,
    Asleep {
        until: Instant,
        limit: LimitKind,
    },
}

impl Queue {
    pub(super) fn new(mailbox: MailboxAddress, limits: MailboxLimits) -> Self {
        Self {
            mailbox,
            limits,
            ready: VecDeque::new(),
            scheduled: BTreeSet::new(),
            held: 0,
            promote_at: None,
            in_flight: 0,
            kept: 0,
            ramp: Ramp::default(),
            is_throttled: false,
            standing: QueueState::Idle,
            has_number: false,
            asleep_because: String::new(),
            last_used: Instant::now(),
        }
    }

    pub(super) fn has_slot(&self) -> bool {
        self.limits.has_slot(self.in_flight + self.kept) && self.ramp.allows(self.in_flight)
    }

    /// Whether nothing would be lost by forgetting it: its limiter has long refilled.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        const IDLE: std::time::Duration = std::time::Duration::from_secs(600);
        self.ready.is_empty()
            && self.scheduled.is_empty()
            && self.held == 0
            && self.in_flight == 0
            && self.kept == 0
            && self.standing == QueueState::Idle
            && now.saturating_duration_since(self.last_used) > IDLE
    }

    pub(super) fn waits_for(&self) -> Option<LimitKind> {
        match self.standing {
            QueueState::Asleep { limit, .. } => Some(limit),
            QueueState::Full => Some(LimitKind::ConcurrentRequests),
            QueueState::Idle | QueueState::InTurn => None,
        }
    }
}
