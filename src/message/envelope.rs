//! The envelope: who sends, who receives, whatever the headers say.

use serde::{Deserialize, Serialize};

use super::MailboxAddress;

/// `MAIL FROM` and `RCPT TO` of one message. Has at least one recipient, none of them twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    sender: Option<MailboxAddress>,
    recipients: Vec<MailboxAddress>,
    body: BodyKind,
}

/// RFC 6152 `BODY=`: what the client promised about the octets of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BodyKind {
    #[default]
    SevenBit,
    EightBitMime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an envelope needs at least one recipient")]
pub struct EmptyEnvelope;

impl Envelope {
    /// `sender` is `None` for the null sender `<>` of bounces. A recipient given twice is kept once, where it came first.
    pub fn new(
        sender: Option<MailboxAddress>,
        recipients: impl IntoIterator<Item = MailboxAddress>,
        body: BodyKind,
    ) -> Result<Self, EmptyEnvelope> {
        let mut seen = std::collections::HashSet::new();
        let recipients: Vec<_> = recipients.into_iter().filter(|r| seen.insert(r.clone())).collect();
        if recipients.is_empty() { Err(EmptyEnvelope) } else { Ok(Self { sender, recipients, body }) }
    }

    pub fn sender(&self) -> Option<&MailboxAddress> {
        self.sender.as_ref()
    }

    /// Never empty, no address twice.
    pub fn recipients(&self) -> &[MailboxAddress] {
        &self.recipients
    }

    pub fn body(&self) -> BodyKind {
        self.body
    }
}
