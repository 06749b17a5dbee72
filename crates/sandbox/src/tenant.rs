//! An organisation and its mailboxes while the service runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{
    items::Items, limits::Gate, login::accounts::Accounts, options::Directory, smtp::standing::Standing,
    store::lock,
};

/// An organisation while the service runs.
pub(super) struct Tenant {
    pub(super) directory: Directory,
    pub(super) accounts: Accounts,
    /// What its administrator has granted to the application.
    roles: RwLock<Vec<String>>,
    /// By address in lower case; only the mailboxes that have been used.
    mailboxes: RwLock<HashMap<String, Arc<Mailbox>>>,
}

pub(super) struct Mailbox {
    /// In lower case.
    pub(super) address: String,
    pub(super) gate: Arc<Gate>,
    pub(super) items: Mutex<Items>,
    /// Its SMTP sessions.
    pub(super) standing: Standing,
}

impl Tenant {
    pub(super) fn new(directory: Directory) -> Self {
        let accounts = Accounts::new(&directory);
        let roles = RwLock::new(directory.roles.clone());
        Self { directory, accounts, roles, mailboxes: RwLock::default() }
    }

    pub(super) fn roles(&self) -> Vec<String> {
        self.roles.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For tokens that are issued from now on.
    pub(super) fn set_roles(&self, roles: Vec<String>) {
        *self.roles.write().unwrap_or_else(PoisonError::into_inner) = roles;
    }

    /// `None`: this organisation has no such mailbox.
    pub(super) fn mailbox(&self, address: &str) -> Option<Arc<Mailbox>> {
        let address = address.to_lowercase();
        if let Some(mailbox) = self.used(&address) {
            return Some(mailbox);
        }
        if !self.directory.mailboxes.has(&address) {
            return None;
        }
        let mut mailboxes = self.mailboxes.write().unwrap_or_else(PoisonError::into_inner);
        let mailbox = mailboxes.entry(address.clone()).or_insert_with(|| {
            Arc::new(Mailbox {
                address,
                gate: Arc::default(),
                items: Mutex::default(),
                standing: Standing::default(),
            })
        });
        Some(mailbox.clone())
    }

    /// The mailboxes that have been used.
    pub(super) fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.mailboxes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn drafts(&self) -> usize {
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        mailboxes.values().map(|mailbox| lock(&mailbox.items).drafts()).sum()
    }

    pub(super) fn used(&self, lower_case: &str) -> Option<Arc<Mailbox>> {
        self.mailboxes.read().unwrap_or_else(PoisonError::into_inner).get(lower_case).cloned()
    }
}
