//! Whether the spool takes changes, and why not.

use std::sync::{Arc, RwLock};

use tracing::error;

use super::SpoolError;

/// Written by the spool's two threads, read by anybody.
#[derive(Debug, Default)]
pub(super) struct Health(RwLock<Option<Arc<str>>>);

impl Health {
    pub(super) fn reason(&self) -> Option<Arc<str>> {
        // All that happens under this lock is one assignment.
        self.0.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The spool takes no changes from now on. The first reason stays.
    pub(super) fn latch(&self, reason: &str) -> SpoolError {
        let mut latched = self.0.write().unwrap_or_else(|e| e.into_inner());
        let first = latched.get_or_insert_with(|| {
            error!(
                error = reason,
                "spool write failed; no mail is accepted or delivered until writing succeeds"
            );
            reason.into()
        });
        SpoolError::Unhealthy(first.clone())
    }

    pub(super) fn healed(&self) {
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = None;
    }
}
