//! When to try again: exponential, capped, with jitter.

use std::time::Duration;

use crate::config::RetryConfig;

/// How long to wait after `failed` attempts (1 or more) that counted. `random` is drawn from 0 up to, not
/// including, 1.
///
/// Jitter keeps messages that failed together, in one outage, from coming back together.
pub fn retry_delay(config: &RetryConfig, failed: u16, random: f64) -> Duration {
    let exponent = i32::from(failed.max(1) - 1);
    // The cap comes before the multiplication overflows: min() also takes care of infinity.
    let seconds =
        (config.first.as_secs_f64() * config.factor.powi(exponent)).min(config.longest.as_secs_f64());
    let jitter = 1.0 + config.jitter * (2.0 * random - 1.0);
    Duration::from_secs_f64(seconds * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeliveryConfig;
    use proptest::prelude::*;

    const CONFIG: RetryConfig = RetryConfig {
        first: Duration::from_secs(60),
        factor: 2.0,
        longest: Duration::from_secs(3600),
        jitter: 0.2,
        give_up_after: Duration::from_secs(172_800),
    };

    #[test]
    fn doubles_until_the_cap() {
        let waits: Vec<_> = (1..=9).map(|failed| retry_delay(&CONFIG, failed, 0.5).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    }

    proptest! {
        #[test]
        fn stays_within_the_jitter_of_the_cap(failed: u16, random in 0.0..1.0f64) {
            let wait = retry_delay(&CONFIG, failed, random).as_secs_f64();
            prop_assert!((48.0..=3600.0 * 1.2).contains(&wait));
        }

        /// What the spool assumes when it starts.
        #[test]
        fn no_wait_is_longer_than_the_longest(
            failed: u16, random in 0.0..1.0f64, jitter in 0.0..1.0f64, days in 1..=366u32
        ) {
            let longest = Duration::from_secs(24 * 3600) * days;
            let retry = RetryConfig { longest, jitter, ..CONFIG };
            let config = DeliveryConfig { retry, ..DeliveryConfig::default() };
            prop_assert!(retry_delay(&retry, failed, random) <= config.longest_wait());
        }
    }
}
