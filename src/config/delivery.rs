//! `[delivery]`

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// Deliveries at a time, over all tenants. Default 1024.
    pub max_in_flight: usize,
    pub retry: RetryConfig,
    /// How long a delivery whose outcome is unknown waits before it is concluded that it was not sent. Default 5 minutes.
    pub settle_after: Duration,
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
