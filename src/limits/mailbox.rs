//! What one mailbox may do, by Microsoft's figures.
//!
//! The token bucket of the `governor` crate, on tokio's clock. A bucket that starts full and refills at the
//! full rate would let through twice the figure in its first minute. So the burst is a tenth of the figure,
//! and the refill makes up the rest: in no 60 seconds are there more than the figure allows, and a small
//! burst need not wait.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use crate::config::Limits;

const MINUTE: Duration = Duration::from_secs(60);

pub struct MailboxLimits {
    messages: Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>>,
    concurrent: Option<NonZeroU32>,
}

impl MailboxLimits {
    pub fn new(limits: &Limits, clock: TokioClock) -> Self {
        let messages =
            limits.messages_per_minute.map(|n| RateLimiter::direct_with_clock(quota(n, MINUTE), clock));
        Self { messages, concurrent: limits.concurrent_requests }
    }

    pub fn concurrent(&self) -> Option<NonZeroU32> {
        self.concurrent
    }

    /// Whether `in_flight` deliveries leave a slot for another.
    pub fn has_slot(&self, in_flight: u32) -> bool {
        self.concurrent.is_none_or(|limit| in_flight < limit.get())
    }

    /// Takes the permit for one message, or returns how long to wait for it.
    pub fn take(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.messages else { return Ok(()) };
        limiter.check().map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }
}

/// At most `limit` in any `span`, which is not shorter than a second.
pub fn quota(limit: NonZeroU32, span: Duration) -> Quota {
    let burst = NonZeroU32::new(limit.get() / 10).unwrap_or(NonZeroU32::MIN);
    let refills = limit.get() - burst.get() + 1;
    // burst >= 1 and refills >= 1, so the period is neither zero nor longer than the span.
    Quota::with_period(span / refills).unwrap_or(Quota::per_second(limit)).allow_burst(burst)
}

/// Tokio's clock in governor's terms: time since the scheduler was made.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock(Instant);

impl TokioClock {
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

// `Reference` is implemented by governor for Nanos; this line fails to compile if that ever changes.
const _: fn() = || {
    fn is_reference<T: Reference>() {}
    is_reference::<Nanos>();
};

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages: u32) -> Limits {
        Limits {
            messages_per_minute: NonZeroU32::new(messages),
            concurrent_requests: NonZeroU32::new(3),
            ..Limits::NONE
        }
    }

    /// Sends as fast as allowed for five minutes; returns when each message was sent.
    async fn sent_at(messages: u32) -> Vec<Duration> {
        let limiter = MailboxLimits::new(&limits(messages), TokioClock::start());
        let start = Instant::now();
        let mut sent = Vec::new();
        while start.elapsed() < MINUTE * 5 {
            match limiter.take() {
                Ok(()) => sent.push(start.elapsed()),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_than_the_limit_and_most_is_used() {
        for limit in [1, 2, 9, 30, 60, 600] {
            let sent = sent_at(limit).await;
            let busiest = (0..sent.len())
                .map(|from| sent[from..].iter().take_while(|at| **at < sent[from] + MINUTE).count());
            assert!(busiest.max().unwrap() <= limit as usize, "limit {limit}");
            assert!(
                sent.len() as u32 >= limit * 5 * 9 / 10,
                "limit {limit}: only {} in five minutes",
                sent.len()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_no_limit() {
        let limiter = MailboxLimits::new(&Limits::NONE, TokioClock::start());
        assert!((0..100_000).all(|n| limiter.take().is_ok() && limiter.has_slot(n)));
    }
}
