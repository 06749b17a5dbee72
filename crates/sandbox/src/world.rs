//! Everything behind the one port: organisations, mailboxes, tokens, uploads, faults, and the record of it all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use tokio_util::sync::CancellationToken;

use super::{
    items::Items,
    limits::Gate,
    login::{Accounts, Logins},
    options::{Directory, Options},
    smtp::{Smtp, Standing},
    store::{Store, lock},
    struck::Faults,
    token::Tokens,
    uploads::Uploads,
};

pub(super) struct World {
    /// `http://ADDRESS`: both the login and the Graph base, and so a token audience.
    pub(super) url: String,
    pub(super) options: Options,
    pub(super) tenants: Vec<Arc<Tenant>>,
    pub(super) tokens: Tokens,
    pub(super) logins: Logins,
    pub(super) uploads: Uploads,
    pub(super) faults: Faults,
    pub(super) store: Store,
    pub(super) smtp: Smtp,
    pub(super) stop: CancellationToken,
}

/// An organisation while the service runs.
pub(super) struct Tenant {
    pub(super) directory: Directory,
    pub(super) accounts: Accounts,
    /// By address in lower case; those that have been used.
    mailboxes: RwLock<HashMap<String, Arc<Mailbox>>>,
}

pub(super) struct Mailbox {
    /// In lower case.
    pub(super) address: String,
    pub(super) gate: Gate,
    pub(super) items: Mutex<Items>,
    /// Its SMTP sessions.
    pub(super) standing: Standing,
}

impl World {
    pub(super) fn new(url: String, mut options: Options) -> Self {
        let tenants = std::mem::take(&mut options.directories)
            .into_iter()
            .map(|directory| {
                let accounts = Accounts::new(&directory);
                Arc::new(Tenant { directory, accounts, mailboxes: RwLock::default() })
            })
            .collect();
        Self {
            url,
            tenants,
            tokens: Tokens::default(),
            logins: Logins::default(),
            uploads: Uploads::default(),
            faults: Faults::default(),
            store: Store::new(options.keep_messages, options.keep_bytes, options.keep_calls),
            smtp: Smtp::new(options.keep_calls),
            stop: CancellationToken::new(),
            options,
        }
    }

    /// The organisation that a login URL names.
    pub(super) fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.iter().find(|tenant| tenant.directory.is_named(name))
    }

    /// Drafts in all mailboxes.
    pub(super) fn drafts(&self) -> usize {
        self.tenants.iter().map(|tenant| tenant.drafts()).sum()
    }

    pub(super) fn peak(&self, mailbox: &str) -> u32 {
        let mailbox = mailbox.to_lowercase();
        self.tenants.iter().filter_map(|t| t.used(&mailbox)).map(|m| m.gate.peak()).max().unwrap_or(0)
    }
}

impl Tenant {
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
                gate: Gate::default(),
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

    fn drafts(&self) -> usize {
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        mailboxes.values().map(|mailbox| lock(&mailbox.items).drafts()).sum()
    }

    fn used(&self, lower_case: &str) -> Option<Arc<Mailbox>> {
        self.mailboxes.read().unwrap_or_else(PoisonError::into_inner).get(lower_case).cloned()
    }
}
