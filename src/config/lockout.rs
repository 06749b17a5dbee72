//! `[smtp.lockout]`: what failed logins lead to.

use std::{num::NonZeroU32, time::Duration};

use super::{
    reader::TableReader,
    value::{LONGEST, SHORTEST},
};

/// This many failed logins from one address, or with one name, within a time lock it out for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockoutConfig {
    /// Default 10. `None` (0 in the file): nobody is locked out.
    pub failures: Option<NonZeroU32>,
    /// Default 10 minutes.
    pub within: Duration,
    /// `for`. Default 15 minutes.
    pub duration: Duration,
}

impl Default for LockoutConfig {
    fn default() -> Self {
        Self {
            failures: NonZeroU32::new(10),
            within: Duration::from_secs(10 * 60),
            duration: Duration::from_secs(15 * 60),
        }
    }
}

impl LockoutConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        Self {
            failures: table.or_default("failures", default.failures, |item| {
                item.integer(0..=1_000_000).map(NonZeroU32::new)
            }),
            within: table.or_default("within", default.within, |item| item.duration(SHORTEST..=LONGEST)),
            duration: table.or_default("for", default.duration, |item| item.duration(SHORTEST..=LONGEST)),
        }
    }
}
