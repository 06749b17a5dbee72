//! Why there is no token, and when to ask again.

use std::time::Duration;

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TokenError {
    pub kind: TokenErrorKind,
    /// For the administrator: what happened, and what to fix.
    pub why: String,
    /// When to ask again.
    pub retry_after: Duration,
    pub(super) pause: Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenErrorKind {
    /// The login service is unreachable, overloaded or at fault.
    Transient,
    /// An administrator must fix something.
    Blocked,
    /// The relay's request was wrong.
    Fault,
}

/// How long a failure stands if the service does not say: longer with each consecutive one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// From a second to ten minutes.
    Short,
    /// The same. Nothing reached the service, so it has counted no failed login: a reload may ask again at
    /// once.
    Unreached,
    /// The same three times, then it is taken as refused.
    ShortAtFirst,
    /// From a minute to ten. Microsoft's own client library remembers a refusal for a minute.
    Minute,
    /// From five minutes to an hour.
    Long,
    /// Always an hour: tries with a wrong password lock the user out.
    Hour,
}

const HOUR: Duration = Duration::from_secs(3600);
const TEN_MINUTES: Duration = Duration::from_secs(600);
/// Consecutive failures that may pass by themselves although the service says that they will not.
const FEW: u32 = 3;

impl TokenError {
    pub(super) fn transient(why: impl Into<String>) -> Self {
        Self {
            kind: TokenErrorKind::Transient,
            why: why.into(),
            retry_after: Duration::ZERO,
            pause: Pause::Short,
        }
    }

    /// For a request that got no connection.
    pub(super) fn unreached(why: impl Into<String>) -> Self {
        Self { pause: Pause::Unreached, ..Self::transient(why) }
    }

    pub(super) fn blocked(why: impl Into<String>) -> Self {
        Self { kind: TokenErrorKind::Blocked, pause: Pause::Minute, ..Self::transient(why) }
    }

    pub(super) fn defect(why: impl Into<String>) -> Self {
        Self { kind: TokenErrorKind::Fault, pause: Pause::Minute, ..Self::transient(why) }
    }

    /// The error as it stands after this many consecutive failures before it. A pause that the service asked
    /// for is respected, up to an hour; apart from that, pauses grow.
    pub(super) fn after(mut self, failures: u32) -> Self {
        if self.pause == Pause::ShortAtFirst && failures >= FEW {
            (self.kind, self.pause) = (TokenErrorKind::Blocked, Pause::Minute);
        }
        let (first, longest) = match self.pause {
            Pause::Short | Pause::Unreached | Pause::ShortAtFirst => (Duration::from_secs(1), TEN_MINUTES),
            Pause::Minute => (Duration::from_secs(60), TEN_MINUTES),
            Pause::Long => (Duration::from_secs(300), HOUR),
            Pause::Hour => (HOUR, HOUR),
        };
        let grown = (first * 2u32.pow(failures.min(10))).min(longest);
        self.retry_after = grown.max(self.retry_after.min(HOUR));
        self
    }
}

impl TokenErrorKind {
    /// The label `reason` of the metric `tenant_blocked`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Transient => "login",
            Self::Blocked => "credential",
            Self::Fault => "defect",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let seconds = |pause, failures| {
            TokenError { pause, ..TokenError::transient("") }.after(failures).retry_after.as_secs()
        };
        for (pause, expected) in [
            (Pause::Short, [1, 2, 4, 512, 600]),
            (Pause::Minute, [60, 120, 240, 600, 600]),
            (Pause::Long, [300, 600, 1200, 3600, 3600]),
            (Pause::Hour, [3600; 5]),
        ] {
            assert_eq!(
                [0, 1, 2, 9, u32::MAX].map(|failures| seconds(pause, failures)),
                expected,
                "{pause:?}"
            );
        }
    }

    #[test]
    fn what_the_service_asks_for_is_kept_to_up_to_an_hour() {
        let asked =
            |seconds| TokenError { retry_after: Duration::from_secs(seconds), ..TokenError::transient("") };
        assert_eq!(asked(17).after(0).retry_after.as_secs(), 17);
        assert_eq!(asked(17).after(9).retry_after.as_secs(), 512);
        assert_eq!(asked(100_000).after(0).retry_after, HOUR);
    }

    #[test]
    fn a_failure_that_does_not_pass_blocks_at_last() {
        let failing = TokenError { pause: Pause::ShortAtFirst, ..TokenError::transient("") };
        let kinds = [0, 1, 2, 3, 9].map(|failures| failing.clone().after(failures).kind);
        use TokenErrorKind::{Blocked, Transient};
        assert_eq!(kinds, [Transient, Transient, Transient, Blocked, Blocked]);
    }
}
