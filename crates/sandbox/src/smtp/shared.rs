//! What all sessions share: the certificate, and the record of what was said.

use std::sync::OnceLock;

use super::{identity::Identity, record::Record};

/// What all sessions share.
pub(crate) struct Smtp {
    identity: OnceLock<Identity>,
    pub(crate) record: Record,
}

impl Smtp {
    pub(crate) fn new(keep_lines: usize) -> Self {
        Self { identity: OnceLock::new(), record: Record::new(keep_lines) }
    }

    /// Made at first use: most services never see a connection.
    pub(crate) fn identity(&self) -> &Identity {
        self.identity.get_or_init(Identity::new)
    }
}
