//! Why a client is turned away, in the words that it gets.

use std::{borrow::Cow, fmt};

use crate::telemetry::Refused;
use relay_spool::SpoolError;

/// An SMTP reply that refuses, with its enhanced status code (RFC 3463), and the reason for the metric.
///
/// The text says what to fix. It never says more about the relay than the client needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx: try later. 5xx: never.
    pub code: u16,
    /// Such as `5.7.1`.
    pub enhanced: &'static str,
    pub text: Cow<'static, str>,
    pub reason: Refused,
}

impl Refusal {
    pub fn new(
        code: u16,
        enhanced: &'static str,
        text: impl Into<Cow<'static, str>>,
        reason: Refused,
    ) -> Self {
        Self { code, enhanced, text: text.into(), reason }
    }

    /// There is no room for the message.
    pub fn disk_full() -> Self {
        Self::new(452, "4.3.1", "Insufficient system storage, try again later", Refused::DiskFull)
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        self.code < 500
    }
}

impl From<SpoolError> for Refusal {
    /// The spool's errors are the operator's business: the client is told to come again.
    fn from(error: SpoolError) -> Self {
        if let SpoolError::Body(error) = &error
            && error.kind() == std::io::ErrorKind::StorageFull
        {
            return Self::disk_full();
        }
        Self::new(451, "4.3.0", "Cannot store mail at the moment, try again later", Refused::Unhealthy)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.enhanced, self.text)
    }
}
