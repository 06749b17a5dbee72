//! What a command that takes long says meanwhile, if a person looks on.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use tokio::time::Instant;

use super::console;

/// How often.
const EVERY: Duration = Duration::from_secs(2);

pub(super) struct Progress {
    is_seen: bool,
    next: Instant,
    looked_at: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_seen: stderr().is_terminal(), next: Instant::now() + EVERY, looked_at: 0 }
    }

    /// So many messages more have been looked at, and so many found in all.
    pub(super) fn looked_at(&mut self, more: usize, found: usize) {
        self.looked_at += more;
        let looked_at = self.looked_at;
        self.say(|| format!("{looked_at} messages looked at, {found} found so far"));
    }

    pub(super) fn done(&mut self, done: usize, of: usize) {
        self.say(|| format!("{done} of {of} messages done"));
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.is_seen && now >= self.next {
            self.next = now + EVERY;
            console::complain(text());
        }
    }
}
