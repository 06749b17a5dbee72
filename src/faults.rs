//! Faults on demand, for tests of the real binary. A release build contains none of this.
//!
//! `M365_RELAY_TEST_PANICS=NAME[:N]` makes the thread or task with that name panic: a thread at its Nth turn,
//! a task after N tenths of a second. `M365_RELAY_TEST_HANGS=NAME[:N]` makes the task hang then.

#[cfg(debug_assertions)]
pub use demanded::{Turns, due};
#[cfg(not(debug_assertions))]
pub use none::{Turns, due};

#[cfg(debug_assertions)]
mod demanded {
    use std::time::Duration;

    const VARIABLE: &str = "M365_RELAY_TEST_PANICS";
    const HANGS: &str = "M365_RELAY_TEST_HANGS";

    /// How many turns the thread or task with this name has.
    fn turns_of(variable: &str, name: &str) -> Option<u32> {
        let wanted = std::env::var(variable).ok()?;
        let (who, turns) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        (who == name).then(|| turns.parse().unwrap_or(1))
    }

    /// The turns that a thread has left.
    #[derive(Debug)]
    pub struct Turns(Option<u32>);

    impl Turns {
        pub fn of(thread: &str) -> Self {
            Self(turns_of(VARIABLE, thread))
        }

        /// Called once each time that the thread has something to do.
        pub fn turn(&mut self) {
            if let Some(left) = &mut self.0 {
                *left = left.saturating_sub(1);
                assert!(*left > 0, "as {VARIABLE} wants it");
            }
        }

        /// How long the thread waits for its next turn.
        pub fn every(&self, usually: Duration) -> Duration {
            if self.0.is_some() { Duration::from_secs(1) } else { usually }
        }
    }

    /// Panics, or hangs, when the task's time has come; for most tasks it never does.
    pub async fn due(task: &str) {
        let turns = turns_of(VARIABLE, task);
        let Some(turns) = turns.or_else(|| turns_of(HANGS, task)) else {
            return std::future::pending().await;
        };
        tokio::time::sleep(Duration::from_millis(100) * turns).await;
        assert!(turns_of(HANGS, task).is_some(), "as {VARIABLE} wants it");
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(debug_assertions))]
mod none {
    #[derive(Debug)]
    pub struct Turns;

    impl Turns {
        pub fn of(_thread: &str) -> Self {
            Self
        }

        pub fn turn(&mut self) {}

        pub fn every(&self, usually: std::time::Duration) -> std::time::Duration {
            usually
        }
    }

    pub async fn due(_task: &str) {
        std::future::pending().await
    }
}
