//! Clients that speak a version of TLS which is offered no more.
//!
//! Printers and old systems do, and all that their administrators see is that mail fails. So the log says
//! once an hour for each client what it speaks and what can be done.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

const SAY_EVERY: Duration = Duration::from_secs(60 * 60);
/// Clients that are remembered.
const MOST: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// Octets of a client's hello up to its version.
pub(super) const HEAD: usize = 11;

/// When which client was last spoken of.
pub(super) struct Outdated(Mutex<LruCache<IpAddr, Instant>>);

impl Default for Outdated {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }
}

impl Outdated {
    /// Whether this client is to be spoken of now.
    pub(super) fn is_news(&self, client: IpAddr) -> bool {
        let now = Instant::now();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = said.get(&client).is_none_or(|at| now.saturating_duration_since(*at) >= SAY_EVERY);
        if is_news {
            said.put(client, now);
        }
        is_news
    }
}

/// The version that a client offers with these first octets, where that is older than TLS 1.2.
pub(super) fn version(head: &[u8]) -> Option<&'static str> {
    let version = match head {
        // A record of a handshake, with a ClientHello (RFC 5246 section 7.4.1.2). Newer versions say 1.2
        // here.
        [22, 3, _, _, _, 1, _, _, _, major, minor, ..] => (*major, *minor),
        // The hello of SSL 2.0, in which clients offered later versions (RFC 5246 appendix E.2).
        [length, _, 1, major, minor, ..] if length & 0x80 != 0 => (*major, *minor),
        _ => return None,
    };
    match version {
        (0 | 2, _) => Some("SSL 2.0"),
        (3, 0) => Some("SSL 3.0"),
        (3, 1) => Some("TLS 1.0"),
        (3, 2) => Some("TLS 1.1"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_hellos() {
        let hello = |minor| [22, 3, 1, 0, 100, 1, 0, 0, 96, 3, minor];
        assert_eq!(version(&hello(1)), Some("TLS 1.0"));
        assert_eq!(version(&hello(2)), Some("TLS 1.1"));
        assert_eq!(version(&hello(0)), Some("SSL 3.0"));
        assert_eq!(version(&hello(3)), None);
        assert_eq!(version(&[0x80, 46, 1, 3, 1]), Some("TLS 1.0"));
        assert_eq!(version(&[0x80, 46, 1, 0, 2]), Some("SSL 2.0"));
        assert_eq!(version(b"EHLO x\r\n..."), None);
        assert_eq!(version(&[22, 3]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_spoken_of_once_an_hour() {
        let outdated = Outdated::default();
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        assert!(outdated.is_news(one) && outdated.is_news(other));
        assert!(!outdated.is_news(one));
        tokio::time::advance(SAY_EVERY).await;
        assert!(outdated.is_news(one));
    }
}
