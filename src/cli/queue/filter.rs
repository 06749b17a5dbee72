//! Which messages a command is about.

use anyhow::Context;

use crate::{
    admin::{MessageQuery, MessagesPage},
    cli::daemon::Daemon,
};

/// All that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Filters {
    /// Of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Of this mailbox
    #[arg(long, value_name = "ADDRESS")]
    mailbox: Option<String>,
    /// With this envelope sender: an address, @DOMAIN, or <> for the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// With this recipient in the envelope: an address, or @DOMAIN
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// In this state: ready, scheduled, leased, held or blocked
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// That wait for this, or whose last attempt failed for this: throttled, held, credential, connection, …
    #[arg(long, value_name = "CLASS")]
    why: Option<String>,
    /// Accepted longer ago than this: 90s, 4h, 2d
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Larger than this: 150MB, 64KiB
    #[arg(long, value_name = "SIZE")]
    larger_than: Option<String>,
    /// With this Message-ID field
    #[arg(long, value_name = "MESSAGE-ID")]
    message_id: Option<String>,
}

impl Filters {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn query(&self) -> MessageQuery {
        let Self { tenant, mailbox, from, to, state, why, older_than, larger_than, message_id } =
            self.clone();
        MessageQuery {
            tenant,
            mailbox,
            from,
            to,
            state,
            why,
            older_than,
            larger_than,
            message_id,
            ..MessageQuery::default()
        }
    }
}

/// Asks for one page after the other.
pub(super) struct Pages<'a> {
    daemon: &'a Daemon,
    query: MessageQuery,
    is_over: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(daemon: &'a Daemon, query: MessageQuery) -> Self {
        Self { daemon, query, is_over: false }
    }

    /// Messages of the next page at most.
    pub(super) fn limit(&mut self, most: usize) {
        self.query.limit = Some(most);
    }

    /// `None`: there are no more. A page may be empty although there are more.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<MessagesPage>> {
        if self.is_over {
            return Ok(None);
        }
        let text = self.daemon.ask_for("/api/v1/messages", &self.query)?;
        let page: MessagesPage =
            serde_json::from_str(&text).context("cannot understand the relay's answer")?;
        self.query.cursor = page.next.clone();
        self.is_over = page.next.is_none();
        Ok(Some(page))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
