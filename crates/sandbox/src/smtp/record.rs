//! What is remembered about the sessions.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use super::super::store::lock;

/// Totals of SMTP since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SmtpSessions {
    pub connections: u64,
    /// Logins that succeeded.
    pub auths: u64,
    /// Answers to AUTH that were refusals, those by faults included.
    pub refused_auths: u64,
    pub messages: u64,
    /// The highest number of sessions logged in at one time, by mailbox in lower case, those over the limit
    /// included.
    pub peaks: BTreeMap<String, u32>,
}

/// One line of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SmtpLine {
    /// 1, 2, 3 … in the order of acceptance.
    pub connection: u64,
    /// From the client; otherwise from the server.
    pub from_client: bool,
    /// It was sent by TLS.
    pub encrypted: bool,
    /// Without its line end. Secrets, unknown text and content appear as `(…)` or as a number of octets in
    /// round brackets; events without a line of their own appear in round brackets, too.
    pub text: String,
}

pub(crate) struct Record {
    lines: Mutex<VecDeque<SmtpLine>>,
    keep: usize,
    connections: AtomicU64,
    auths: AtomicU64,
    refused_auths: AtomicU64,
    messages: AtomicU64,
}

impl Record {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            lines: Mutex::default(),
            keep,
            connections: AtomicU64::new(0),
            auths: AtomicU64::new(0),
            refused_auths: AtomicU64::new(0),
            messages: AtomicU64::new(0),
        }
    }

    /// The number of a new connection.
    pub(super) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn auth(&self, succeeded: bool) {
        let total = if succeeded { &self.auths } else { &self.refused_auths };
        total.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn message(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn line(&self, line: SmtpLine) {
        if self.keep == 0 {
            return;
        }
        let mut lines = lock(&self.lines);
        if lines.len() >= self.keep {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// With the peaks of the mailboxes, which keep them themselves.
    pub(crate) fn totals(&self, peaks: BTreeMap<String, u32>) -> SmtpSessions {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        SmtpSessions {
            connections: read(&self.connections),
            auths: read(&self.auths),
            refused_auths: read(&self.refused_auths),
            messages: read(&self.messages),
            peaks,
        }
    }

    pub(crate) fn lines(&self) -> Vec<SmtpLine> {
        lock(&self.lines).iter().cloned().collect()
    }
}

/// `3 C: EHLO relay.example`, with `S` for the server.
impl fmt::Display for SmtpLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.from_client { 'C' } else { 'S' };
        write!(f, "{} {who}: {}", self.connection, self.text)
    }
}
