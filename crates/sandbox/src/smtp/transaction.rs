//! A message between MAIL and the end of its content.

use super::{envelope::SmtpRecipient, parameters::MailParameters};

/// From MAIL to the end of the content.
pub(super) struct Transaction {
    pub(super) from: String,
    /// Its parameters, as they were written.
    pub(super) words: Vec<String>,
    pub(super) parameters: MailParameters,
    pub(super) recipients: Vec<SmtpRecipient>,
    /// A chunk has come.
    pub(super) chunking: bool,
    pub(super) content: Vec<u8>,
    /// Octets of content, with those that were too many to be kept.
    pub(super) size: u64,
}
