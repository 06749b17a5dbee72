//! Whether the tenant can deliver at all.

use tokio::time::Instant;

use super::Pool;
use crate::schedule::Blocked;

/// Whether the tenant has what it needs to deliver.
#[derive(Debug)]
pub(in crate::schedule) enum Credential {
    Unknown,
    Good { until: Instant },
    Blocked { until: Instant, because: Blocked },
}

impl Pool {
    pub(in crate::schedule) fn is_blocked_by(&self, reason: &str) -> bool {
        matches!(&self.credential, Credential::Blocked { because, .. } if because.reason == reason)
    }

    /// The tenant cannot deliver. Returns when to look again.
    pub(in crate::schedule) fn block(&mut self, because: Blocked) -> Instant {
        let until = Instant::now() + because.retry_after;
        self.show_blocked(false);
        self.credential = Credential::Blocked { until, because };
        self.show_blocked(true);
        until
    }

    pub(in crate::schedule) fn unblock(&mut self, until: Instant) {
        if matches!(self.credential, Credential::Blocked { .. }) {
            self.ramp.begin();
        }
        self.show_blocked(false);
        self.credential = Credential::Good { until };
    }

    pub(super) fn show_blocked(&self, blocked: bool) {
        if let Credential::Blocked { because, .. } = &self.credential {
            self.metrics.tenant_blocked(&self.tenant.name, because.reason, blocked);
            self.depth.set_blocked(blocked);
        }
    }

    /// Whether it is blocked, and has no message that would make the scheduler ask for its credential.
    pub(in crate::schedule) fn is_blocked_without_mail(&self) -> bool {
        matches!(self.credential, Credential::Blocked { .. }) && self.messages.is_empty()
    }
}
