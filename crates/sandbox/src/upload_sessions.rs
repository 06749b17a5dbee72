//! The upload sessions that are open, and what has arrived of each attachment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::BytesMut;
use ring::digest;
use tokio::time::Instant;

use super::{
    delivered::DeliveredAttachment,
    store::lock,
    tenant::{Mailbox, Tenant},
};
use relay_mail::Timestamp;

/// By the token in the URL. A session that has ended, in any way, is not in it.
#[derive(Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Arc<Session>>>);

pub(super) struct Session {
    pub(super) tenant: Arc<Tenant>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) draft: u64,
    pub(super) expires: Instant,
    pub(super) expires_at: Timestamp,
    pub(super) about: DeliveredAttachment,
    /// `None` once it is complete: a call that had found the session earlier is too late.
    pub(super) received: Mutex<Option<Received>>,
}

/// The pieces so far, hashed as they come, so that no call has to hash a large file.
pub(super) struct Received {
    pub(super) content: BytesMut,
    pub(super) hash: digest::Context,
}

impl Uploads {
    /// Adds a new session and returns its token.
    pub(super) fn begin(&self, session: Session) -> String {
        let token = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let mut sessions = lock(&self.0);
        sessions.retain(|_, session| session.expires > Instant::now());
        sessions.insert(token.clone(), Arc::new(session));
        token
    }

    pub(super) fn find(&self, token: &str) -> Option<Arc<Session>> {
        lock(&self.0).get(token).filter(|session| session.expires > Instant::now()).cloned()
    }

    pub(super) fn end(&self, token: &str) {
        lock(&self.0).remove(token);
    }

    /// Ends the sessions of a draft that is sent or deleted.
    pub(super) fn end_all(&self, mailbox: &Arc<Mailbox>, draft: u64) {
        lock(&self.0).retain(|_, session| session.draft != draft || !Arc::ptr_eq(&session.mailbox, mailbox));
    }
}
