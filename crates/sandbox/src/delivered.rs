//! What is known about a delivered message.

use bytes::Bytes;
use serde::Serialize;

use super::smtp::envelope::SmtpEnvelope;

/// A message that the real service would have queued for its recipients.
#[derive(Debug, Clone, Serialize)]
pub struct Delivered {
    /// 1, 2, 3 … in the order of acceptance, over all organisations.
    pub number: u64,
    /// The organisation, by its first name.
    pub directory: String,
    /// The mailbox that sent it, as in the URL; in SMTP, the one that logged in.
    pub mailbox: String,
    /// The author, from the header From.
    pub from: String,
    /// The recipients that Exchange would send it to: To, Cc and Bcc, each address once (case ignored), in
    /// that order. In SMTP: the envelope's recipients that were accepted, as they were given.
    pub recipients: Vec<String>,
    /// The message as submitted, octet for octet; for a JSON message, what was built from it. Attachments
    /// over 8 MiB are left out of that: a line with size and SHA-256 is in their place, and
    /// [`attachments`](Self::attachments) lists the real ones.
    #[serde(skip)]
    pub raw: Bytes,
    /// The attachments of a message that was built from JSON, in the order of attaching. Empty for MIME.
    pub attachments: Vec<DeliveredAttachment>,
    pub subject: String,
    /// With angle brackets; empty if the message has none.
    pub message_id: String,
    pub via: Via,
    /// Milliseconds since the Unix epoch.
    pub accepted_at_ms: u64,
    /// Whether one of its lines ended in LF without CR: the real service then spoils quoted-printable text,
    /// and some receivers bounce it (550 5.6.11).
    pub bare_lf: bool,
    /// The envelope of a message that came by SMTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<SmtpEnvelope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    SendMail,
    Draft,
    Smtp,
}

/// An attachment of a message that was built from JSON. Its content is not kept: compare size and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveredAttachment {
    pub name: String,
    pub content_type: String,
    pub is_inline: bool,
    pub content_id: Option<String>,
    /// Octets of its content.
    pub size: usize,
    /// SHA-256 of its content, in lower-case hexadecimal digits.
    pub sha256: String,
}

impl DeliveredAttachment {
    /// For content that is still to come: its hash is empty.
    pub(super) fn announced(
        name: String,
        content_type: Option<String>,
        is_inline: bool,
        content_id: Option<String>,
        size: usize,
    ) -> Self {
        let content_type = content_type.unwrap_or_else(|| "application/octet-stream".into());
        Self { name, content_type, is_inline, content_id, size, sha256: String::new() }
    }
}
