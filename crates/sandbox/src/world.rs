//! Everything behind the one port: organisations, mailboxes, tokens, uploads, faults, and the record of it
//! all.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    login::logins::Logins,
    options::Options,
    smtp::{record::SmtpSessions, shared::Smtp},
    store::Store,
    struck::Faults,
    tenant::Tenant,
    token::Tokens,
    upload_sessions::Uploads,
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

impl World {
    pub(super) fn new(url: String, mut options: Options) -> Self {
        let directories = std::mem::take(&mut options.directories);
        let tenants = directories.into_iter().map(|directory| Arc::new(Tenant::new(directory))).collect();
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

    /// Whether there is such an organisation.
    pub(super) fn set_roles(&self, directory: &str, roles: Vec<String>) -> bool {
        self.tenant(directory).map(|tenant| tenant.set_roles(roles)).is_some()
    }

    /// Drafts in all mailboxes.
    pub(super) fn drafts(&self) -> usize {
        self.tenants.iter().map(|tenant| tenant.drafts()).sum()
    }

    /// Totals of SMTP.
    pub(super) fn smtp_sessions(&self) -> SmtpSessions {
        let mut peaks = BTreeMap::new();
        for mailbox in self.tenants.iter().flat_map(|tenant| tenant.mailboxes()) {
            let peak = mailbox.standing.peak();
            if peak > 0 {
                peaks.insert(mailbox.address.clone(), peak);
            }
        }
        self.smtp.record.totals(peaks)
    }

    pub(super) fn peak(&self, mailbox: &str) -> u32 {
        let mailbox = mailbox.to_lowercase();
        self.tenants.iter().filter_map(|t| t.used(&mailbox)).map(|m| m.gate.peak()).max().unwrap_or(0)
    }
}
