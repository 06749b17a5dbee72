//! How many sessions a mailbox has: Exchange Online lets three connections of one mailbox submit at a time.

use std::sync::Mutex;

use super::super::store::lock;

/// The sessions of one mailbox.
#[derive(Default)]
pub(crate) struct Standing(Mutex<State>);

#[derive(Default)]
struct State {
    logged_in: u32,
    /// Sessions among them that the limit allows.
    placed: u32,
    peak: u32,
}

impl Standing {
    /// For a session that has logged in.
    pub(super) fn enter(&self) {
        let mut state = lock(&self.0);
        state.logged_in += 1;
        state.peak = state.peak.max(state.logged_in);
    }

    /// Whether one more session that has logged in is among the `most` that the limit allows.
    pub(super) fn take_place(&self, most: Option<u32>) -> bool {
        let mut state = lock(&self.0);
        let free = most.is_none_or(|most| state.placed < most);
        if free {
            state.placed += 1;
        }
        free
    }

    /// For a session that is over, with or without a place.
    pub(super) fn leave(&self, placed: bool) {
        let mut state = lock(&self.0);
        state.logged_in -= 1;
        if placed {
            state.placed -= 1;
        }
    }

    /// The highest number of sessions logged in at one time, those without a place included.
    pub(crate) fn peak(&self) -> u32 {
        lock(&self.0).peak
    }
}
