//! A message as it is stored, for whoever asks about it. It may have ended by then.

use std::sync::Arc;

use super::{BodyReader, DamagedBody, FailedAttempts, Lane, Message, State, stored::StoredRecord};
use relay_mail::Timestamp;

/// What the index has of a message, and where to read the rest.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whose it is.
    pub lane: Arc<Lane>,
    /// Octets of its body.
    pub size: u64,
    /// Attempts that counted.
    pub attempts: u16,
    /// Since when it is unknown whether an earlier attempt was sent.
    pub doubt: Option<Timestamp>,
    /// The last attempts that failed.
    pub failed: FailedAttempts,
    record: StoredRecord,
}

impl Found {
    pub(super) fn new(lane: Arc<Lane>, state: State, failed: FailedAttempts, record: StoredRecord) -> Self {
        let State { attempts, doubt, body, .. } = state;
        Self { lane, size: body.len, attempts, doubt, failed, record }
    }

    /// Whose message it is, and its body. Blocks.
    pub fn read(self) -> Result<(Arc<Message>, BodyReader), DamagedBody> {
        self.record.read()
    }
}
