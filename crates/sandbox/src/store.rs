//! What the service remembers: delivered messages and calls, the last ones whole and all of them as counts.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use tokio::sync::Notify;

use super::delivered::Delivered;

/// One request to the login, Graph or upload endpoints.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// When its headers were read. Milliseconds since the Unix epoch.
    pub received_at_ms: u64,
    /// The number of its TCP connection: 1, 2, 3 … in the order of acceptance.
    pub connection: u64,
    pub method: String,
    /// With the query, except for an upload URL, whose query is a secret.
    pub path: String,
    pub directory: Option<String>,
    pub mailbox: Option<String>,
    /// `None`: the connection was cut instead, by a fault or by the client.
    pub status: Option<u16>,
    /// Octets of the body that arrived.
    pub body_len: usize,
    pub request_id: String,
    pub client_request_id: Option<String>,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub messages: u64,
    pub message_bytes: u64,
    pub calls: u64,
    /// Calls answered with 429.
    pub throttled: u64,
    /// Calls answered with 4xx or 5xx, 429 included.
    pub refused: u64,
    /// Calls that ended without an answer.
    pub cut: u64,
    pub tokens: u64,
    pub tokens_by_grant: TokensByGrant,
}

/// Tokens by the grant that they were issued for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TokensByGrant {
    pub client_secret: u64,
    pub certificate: u64,
    pub federated: u64,
    pub password: u64,
    pub device_code: u64,
    pub refresh_token: u64,
    pub managed_identity: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrantKind {
    Secret,
    Certificate,
    Federated,
    Password,
    DeviceCode,
    RefreshToken,
    ManagedIdentity,
}

pub(super) struct Store {
    messages: Mutex<Messages>,
    calls: Mutex<VecDeque<Call>>,
    arrived: Notify,
    keep_messages: usize,
    keep_bytes: usize,
    keep_calls: usize,
    totals: Totals,
}

#[derive(Default)]
struct Messages {
    kept: VecDeque<Arc<Delivered>>,
    bytes: usize,
}

#[derive(Default)]
struct Totals {
    messages: AtomicU64,
    message_bytes: AtomicU64,
    calls: AtomicU64,
    throttled: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    /// By [`GrantKind`].
    tokens: [AtomicU64; 7],
}

impl Store {
    pub(super) fn new(keep_messages: usize, keep_bytes: usize, keep_calls: usize) -> Self {
        Self {
            messages: Mutex::default(),
            calls: Mutex::default(),
            arrived: Notify::new(),
            keep_messages: keep_messages.max(1),
            keep_bytes,
            keep_calls,
            totals: Totals::default(),
        }
    }

    /// Takes the message over and gives it its number.
    pub(super) fn deliver(&self, mut message: Delivered) {
        let size = message.raw.len();
        self.totals.message_bytes.fetch_add(size as u64, Ordering::Relaxed);
        {
            let mut messages = lock(&self.messages);
            // Under the lock, so that numbers and order agree.
            message.number = self.totals.messages.fetch_add(1, Ordering::Relaxed) + 1;
            messages.bytes += size;
            messages.kept.push_back(Arc::new(message));
            while messages.kept.len() > self.keep_messages
                || (messages.bytes > self.keep_bytes && messages.kept.len() > 1)
            {
                let Some(oldest) = messages.kept.pop_front() else { break };
                messages.bytes -= oldest.raw.len();
            }
        }
        self.arrived.notify_waiters();
    }

    pub(super) fn messages(&self) -> Vec<Arc<Delivered>> {
        lock(&self.messages).kept.iter().cloned().collect()
    }

    pub(super) fn message(&self, number: u64) -> Option<Arc<Delivered>> {
        let messages = lock(&self.messages);
        let first = messages.kept.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        messages.kept.get(index).cloned()
    }

    /// Returns once `count` messages have been accepted since the start.
    pub(super) async fn accepted(&self, count: u64) {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if self.totals.messages.load(Ordering::Relaxed) >= count {
                return;
            }
            arrived.await;
        }
    }

    pub(super) fn log(&self, call: Call) {
        let totals = &self.totals;
        totals.calls.fetch_add(1, Ordering::Relaxed);
        match call.status {
            None => drop(totals.cut.fetch_add(1, Ordering::Relaxed)),
            Some(400..) => drop(totals.refused.fetch_add(1, Ordering::Relaxed)),
            Some(_) => {}
        }
        if call.status == Some(429) {
            totals.throttled.fetch_add(1, Ordering::Relaxed);
        }
        if self.keep_calls == 0 {
            return;
        }
        let mut calls = lock(&self.calls);
        if calls.len() >= self.keep_calls {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).iter().cloned().collect()
    }

    pub(super) fn count_token(&self, kind: GrantKind) {
        self.totals.tokens[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let t = &self.totals;
        let of = |kind: GrantKind| read(&t.tokens[kind as usize]);
        Counts {
            messages: read(&t.messages),
            message_bytes: read(&t.message_bytes),
            calls: read(&t.calls),
            throttled: read(&t.throttled),
            refused: read(&t.refused),
            cut: read(&t.cut),
            tokens: t.tokens.iter().map(read).sum(),
            tokens_by_grant: TokensByGrant {
                client_secret: of(GrantKind::Secret),
                certificate: of(GrantKind::Certificate),
                federated: of(GrantKind::Federated),
                password: of(GrantKind::Password),
                device_code: of(GrantKind::DeviceCode),
                refresh_token: of(GrantKind::RefreshToken),
                managed_identity: of(GrantKind::ManagedIdentity),
            },
        }
    }
}

/// A panic leaves nothing here half-changed, so a poisoned lock is as good as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
