//! `[delivery]`

use std::time::Duration;

use super::{
    reader::TableReader,
    value::{LONGEST, SHORTEST},
};

#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryConfig {
    /// Deliveries at a time, over all tenants. Default 1024.
    pub max_in_flight: usize,
    pub retry: RetryConfig,
    /// How long a delivery whose outcome is unknown waits before it is concluded that it was not sent.
    /// Default 5 minutes.
    pub settle_after: Duration,
    /// How often the login of a tenant without mail is tried. Default one day. `None`: never.
    pub check_logins_every: Option<Duration>,
}

/// `[delivery.retry]`. The n-th retry waits `first * factor^(n-1)`, at most `longest`, give or take `jitter`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryConfig {
    /// Default 1 minute; more than zero.
    pub first: Duration,
    /// Default 2; at least 1.
    pub factor: f64,
    /// Default 1 hour; at least `first`.
    pub longest: Duration,
    /// Default 0.2: each wait is drawn from 80 % to 120 %. 0 up to, not including, 1.
    pub jitter: f64,
    /// The sender gets a bounce when a message is this old and not delivered. Default 2 days.
    pub give_up_after: Duration,
}

/// A service that asks for a longer wait than this is not believed.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 1024,
            retry: RetryConfig::default(),
            settle_after: 5 * MINUTE,
            check_logins_every: Some(24 * HOUR),
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { first: MINUTE, factor: 2.0, longest: HOUR, jitter: 0.2, give_up_after: 48 * HOUR }
    }
}

impl DeliveryConfig {
    /// No message must wait longer, whatever for: its next attempt, an outcome that must settle, or what the
    /// service says.
    pub fn longest_wait(&self) -> Duration {
        let RetryConfig { longest, jitter, .. } = self.retry;
        longest.mul_f64(1.0 + jitter).max(self.settle_after).max(LONGEST_RETRY_AFTER)
    }

    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        Self {
            max_in_flight: table
                .or_default("max_in_flight", default.max_in_flight, |item| item.integer(1..=100_000)),
            retry: table.table("retry", |retry| Some(RetryConfig::read(retry))).unwrap_or_default(),
            settle_after: table
                .or_default("settle_after", default.settle_after, |item| item.duration(SHORTEST..=LONGEST)),
            check_logins_every: table.or_default("check_logins_every", default.check_logins_every, |item| {
                match item.value.as_str() {
                    Some("off") => Some(None),
                    _ => item.duration(SHORTEST..=LONGEST).map(Some),
                }
            }),
        }
    }
}

impl RetryConfig {
    fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        let first = table.or_default("first", default.first, |item| item.duration(SHORTEST..=LONGEST));
        Self {
            first,
            factor: table.or_default("factor", default.factor, |item| {
                item.number("a number from 1 to 100", |n| (1.0..=100.0).contains(&n))
            }),
            longest: table
                .or_default("longest", default.longest.max(first), |item| item.duration(first..=LONGEST)),
            jitter: table.or_default("jitter", default.jitter, |item| {
                item.number("a number from 0 up to, not including, 1", |n| (0.0..1.0).contains(&n))
            }),
            give_up_after: table
                .or_default("give_up_after", default.give_up_after, |item| item.duration(SHORTEST..=LONGEST)),
        }
    }
}
