//! How far a long job has come, on standard error. A short one says nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::console;
use relay_mail::ByteSize;
use relay_spool::archive::Step;

const EVERY: Duration = Duration::from_secs(2);

pub(super) struct Progress {
    /// As in "12 of 34 messages checked".
    done: &'static str,
    started: Instant,
    last: Instant,
}

impl Progress {
    pub(super) fn new(done: &'static str) -> Self {
        let now = Instant::now();
        Self { done, started: now, last: now }
    }

    pub(super) fn step(&mut self, step: Step) {
        let now = Instant::now();
        if now - self.last < EVERY {
            return;
        }
        self.last = now;
        console::complain(line(self.done, step, now - self.started));
    }
}

fn line(done: &str, step: Step, took: Duration) -> String {
    let Step { done: count, total, octets } = step;
    let a_second = |figure: f64| figure / took.as_secs_f64().max(f64::EPSILON);
    let messages = a_second(count as f64);
    let octets = ByteSize(a_second(octets as f64) as u64).rounded();
    format!("{count} of {total} messages {done}, {messages:.0} messages and {octets} a second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_much_of_how_much_and_how_fast() {
        let step = Step { done: 1200, total: 5000, octets: 6_000_000 };
        assert_eq!(
            line("checked", step, Duration::from_secs(4)),
            "1200 of 5000 messages checked, 300 messages and 1.5 MB a second"
        );
    }
}
