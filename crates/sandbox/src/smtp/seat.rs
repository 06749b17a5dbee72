//! A session of a mailbox that has logged in, and its place among the few that may submit.

use std::sync::Arc;

use crate::tenant::{Mailbox, Tenant};

/// A session that has logged in, until it is dropped.
pub(super) struct Login {
    pub(super) tenant: Arc<Tenant>,
    pub(super) mailbox: Arc<Mailbox>,
    placed: bool,
}

impl Login {
    /// Takes a place if one is free.
    pub(super) fn new(tenant: Arc<Tenant>, mailbox: Arc<Mailbox>, most: Option<u32>) -> Self {
        mailbox.standing.enter();
        let mut login = Self { tenant, mailbox, placed: false };
        login.take_place(most);
        login
    }

    /// Whether it has a place; if it had none, it may get one now.
    pub(super) fn take_place(&mut self, most: Option<u32>) -> bool {
        self.placed = self.placed || self.mailbox.standing.take_place(most);
        self.placed
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.mailbox.standing.leave(self.placed);
    }
}
