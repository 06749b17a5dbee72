//! Logins that were right a moment ago.
//!
//! What is kept is a keyed hash of name, password and password hash under a key that was drawn at the start.
//! It says nothing about the password, and a user whose hash has changed is not among the known ones.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use ring::hmac;
use tokio::time::Instant;

use crate::config::PasswordHash;

/// Counted from when the password was compared with its hash. Use does not extend it.
const KNOWN_FOR: Duration = Duration::from_secs(5 * 60);
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

pub(super) struct KnownLogins {
    key: hmac::Key,
    /// Each with the time of its comparison.
    tags: Mutex<LruCache<[u8; 32], Instant>>,
}

impl KnownLogins {
    pub(super) fn new() -> Self {
        let key: [u8; 32] = rand::random();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), tags: Mutex::new(LruCache::new(MOST)) }
    }

    /// The password was compared with `hash`, and is right.
    pub(super) fn add(&self, name: &str, password: &[u8], hash: &PasswordHash, now: Instant) {
        let tag = self.tag(name, password, hash);
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).put(tag, now);
    }

    pub(super) fn has(&self, name: &str, password: &[u8], hash: &PasswordHash, now: Instant) -> bool {
        let tag = self.tag(name, password, hash);
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = tags.get(&tag).map(|&at| now.duration_since(at) < KNOWN_FOR);
        if is_fresh == Some(false) {
            tags.pop(&tag);
        }
        is_fresh == Some(true)
    }

    fn tag(&self, name: &str, password: &[u8], hash: &PasswordHash) -> [u8; 32] {
        let hash = hash.expose();
        let mut context = hmac::Context::with_key(&self.key);
        // With their lengths, so that no part can pass for another.
        for part in [name.as_bytes(), password, hash.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_known_for_a_while_and_no_longer() {
        let known = KnownLogins::new();
        let hash = PasswordHash::cheap("s3cret");
        let other = PasswordHash::cheap("s3cret");
        let begin = Instant::now();
        known.add("a@contoso", b"s3cret", &hash, begin);
        let has = |name, password: &[u8], hash, after| known.has(name, password, hash, begin + after);
        assert!(has("a@contoso", b"s3cret", &hash, Duration::ZERO));
        assert!(!has("a@contoso", b"s3cre", &hash, Duration::ZERO));
        assert!(!has("b@contoso", b"s3cret", &hash, Duration::ZERO));
        assert!(!has("a@contosos", b"3cret", &hash, Duration::ZERO));
        // The user was given a new hash, even if it is of the same password.
        assert!(!has("a@contoso", b"s3cret", &other, Duration::ZERO));
        // Asking does not extend it.
        assert!(has("a@contoso", b"s3cret", &hash, KNOWN_FOR - Duration::from_millis(1)));
        assert!(!has("a@contoso", b"s3cret", &hash, KNOWN_FOR));
    }

    #[test]
    fn there_is_a_most() {
        let known = KnownLogins::new();
        let hash = PasswordHash::cheap("s3cret");
        let now = Instant::now();
        for n in 0..=MOST.get() {
            known.add(&format!("u{n}"), b"s3cret", &hash, now);
        }
        assert!(!known.has("u0", b"s3cret", &hash, now) && known.has("u1", b"s3cret", &hash, now));
        assert_eq!(known.tags.lock().unwrap().len(), MOST.get());
    }
}
