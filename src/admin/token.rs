//! The token that opens the API: read where the configuration says, read again after a second, and never kept
//! in plain form.
//!
//! What is kept is a keyed hash under a key that was drawn at the start. A comparison takes equally long for
//! any other token, so it reveals nothing about the right one.

use std::time::Duration;

use ring::hmac;
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use crate::config::{SHORTEST_TOKEN, SecretSource};

/// A new one takes effect after this time at most.
const FRESH_FOR: Duration = Duration::from_secs(1);

pub(super) struct Token {
    source: SecretSource,
    key: hmac::Key,
    read: Mutex<Option<(Instant, Result<hmac::Tag, String>)>>,
}

impl Token {
    pub(super) fn new(source: SecretSource) -> Self {
        let key: [u8; 32] = rand::random();
        Self { source, key: hmac::Key::new(hmac::HMAC_SHA256, &key), read: Mutex::default() }
    }

    /// Whether `given` is the token as it is now. The error says why that cannot be determined, without what
    /// was read.
    pub(super) async fn is(&self, given: &[u8]) -> Result<bool, String> {
        let tag = self.tag().await?;
        Ok(hmac::verify(&self.key, given, tag.as_ref()).is_ok())
    }

    async fn tag(&self) -> Result<hmac::Tag, String> {
        // Callers that ask meanwhile wait for the one that reads.
        let mut read = self.read.lock().await;
        if let Some((_, tag)) = read.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return tag.clone();
        }
        let source = self.source.clone();
        let key = self.key.clone();
        let tag = spawn_blocking(move || {
            let token = source.read().map_err(|error| error.to_string())?;
            match token.expose().len() {
                SHORTEST_TOKEN.. => Ok(hmac::sign(&key, token.expose().as_bytes())),
                _ => Err(format!("it has fewer than {SHORTEST_TOKEN} characters")),
            }
        });
        let tag = tag.await.unwrap_or_else(|error| Err(error.to_string()));
        read.insert((Instant::now(), tag)).1.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_token_counts_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "0123456789abcdef\n").unwrap();
        let token = Token::new(SecretSource::File(file.clone()));
        assert_eq!(token.is(b"0123456789abcdef").await, Ok(true));
        assert_eq!(token.is(b"0123456789abcdef\n").await, Ok(false));
        fs::write(&file, "fedcba9876543210").unwrap();
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(token.is(b"0123456789abcdef").await, Ok(false));
        assert_eq!(token.is(b"fedcba9876543210").await, Ok(true));
        // A token that is gone, or empty, opens nothing.
        for content in [Some(""), Some("short"), None] {
            match content {
                Some(content) => fs::write(&file, content).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            tokio::time::advance(FRESH_FOR).await;
            for given in [&b""[..], b"short", b"fedcba9876543210"] {
                let error = token.is(given).await.unwrap_err();
                assert!(!error.contains("fedcba"), "{error}");
            }
        }
    }
}
