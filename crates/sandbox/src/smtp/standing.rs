//! How many sessions a mailbox has: Exchange Online lets three connections of one mailbox submit at a time.

use std::sync::{Arc, Mutex};

use super::super::{
    store::lock,
    world::{Mailbox, Tenant},
};

/// Of one mailbox.
#[derive(Default)]
pub(crate) struct Standing(Mutex<State>);

#[derive(Default)]
struct State {
    logged_in: u32,
    /// Those among them that the limit allows.
    placed: u32,
    peak: u32,
}

/// A session that has logged in, until it is dropped.
pub(super) struct Login {
    pub(super) tenant: Arc<Tenant>,
    pub(super) mailbox: Arc<Mailbox>,
    placed: bool,
}

impl Standing {
    /// The most sessions that were logged in at one time, those without a place included.
    pub(crate) fn peak(&self) -> u32 {
        lock(&self.0).peak
    }
}

impl Login {
    /// Takes a place if one is free.
    pub(super) fn new(tenant: Arc<Tenant>, mailbox: Arc<Mailbox>, most: Option<u32>) -> Self {
        {
            let mut state = lock(&mailbox.standing.0);
            state.logged_in += 1;
            state.peak = state.peak.max(state.logged_in);
        }
        let mut login = Self { tenant, mailbox, placed: false };
        login.take_place(most);
        login
    }

    /// Whether it has a place, which it may get now if it had none.
    pub(super) fn take_place(&mut self, most: Option<u32>) -> bool {
        if !self.placed {
            let mut state = lock(&self.mailbox.standing.0);
            if most.is_none_or(|most| state.placed < most) {
                state.placed += 1;
                self.placed = true;
            }
        }
        self.placed
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let mut state = lock(&self.mailbox.standing.0);
        state.logged_in -= 1;
        if self.placed {
            state.placed -= 1;
        }
    }
}
