//! A message as it is stored, for whoever asks about it. It may have ended by then.

use std::sync::Arc;

use super::{
    BodyReader, DamagedBody, FailedAttempts, HoldReason, Lane, Message, Phase, State, stored::StoredRecord,
};
use relay_mail::Timestamp;

/// What the index has of a message, and where to read the rest.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whose it is.
    pub lane: Arc<Lane>,
    /// Octets of its body.
    pub size: u64,
    pub phase: Phase,
    /// Why it is held, if somebody said so.
    pub held: Option<HoldReason>,
    /// Attempts that counted.
    pub attempts: u16,
    /// Since when it is unknown whether an earlier attempt was sent.
    pub doubt: Option<Timestamp>,
    /// The last attempts that failed.
    pub failed: FailedAttempts,
    record: StoredRecord,
}

impl Found {
    pub(super) fn new(
        lane: Arc<Lane>,
        state: State,
        held: Option<HoldReason>,
        failed: FailedAttempts,
        record: StoredRecord,
    ) -> Self {
        let State { attempts, doubt, body, phase, .. } = state;
        Self { lane, size: body.len, phase, held, attempts, doubt, failed, record }
    }

    /// Whose message it is, and its body. Blocks.
    pub fn read(self) -> Result<(Arc<Message>, BodyReader), DamagedBody> {
        self.record.read()
    }
}
