//! A message between MAIL and the end of its content.

use super::{envelope::SmtpRecipient, parameters::MailParameters};

/// From MAIL to the end of the content.
pub(super) struct Transaction {
    pub(super) from: String,
    /// Its parameters, as they were written.
    pub(super) words: Vec<String>,
    pub(super) parameters: MailParameters,
    pub(super) recipients: Vec<SmtpRecipient>,
    /// A chunk has arrived.
    pub(super) chunking: bool,
    pub(super) content: Vec<u8>,
    /// Octets of content, including those that were too many to keep.
    pub(super) size: u64,
}
