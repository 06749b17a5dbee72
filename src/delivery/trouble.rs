//! What stopped an attempt.

use std::fmt;

use crate::telemetry::ErrorClass;
use relay_mail::Timestamp;
use relay_spool::FailedAttempt;

/// What stopped an attempt, or a recipient: for people, for metrics, and for whoever asks later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub class: ErrorClass,
    /// The service's code, or the SMTP reply's codes. Empty if it gave none.
    pub code: String,
    /// Graph's `request-id`. Empty if it gave none.
    pub request_id: String,
    /// In words, with what the service said.
    pub text: String,
}

impl Trouble {
    /// Something that no service gave a code to.
    pub fn new(class: ErrorClass, text: impl Into<String>) -> Self {
        Self { class, code: String::new(), request_id: String::new(), text: text.into() }
    }

    /// The same, with what people need to know first.
    pub(super) fn explained(self, explain: impl FnOnce(&str) -> String) -> Self {
        Self { text: explain(&self.text), ..self }
    }

    /// As it is kept with the message. `None`: nothing was tried.
    pub(super) fn attempt(&self, at: Timestamp) -> Option<FailedAttempt> {
        let Self { class, code, request_id, text } = self;
        class.is_of_a_call().then(|| FailedAttempt::new(at, class.as_str(), code, text, request_id))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
