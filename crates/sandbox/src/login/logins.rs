//! What the login service remembers between requests.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{arc_secrets::ArcSecrets, assertion::Assertions, device_codes::Devices, refresh::RefreshTokens};

/// What the login service remembers between requests, besides its tokens.
#[derive(Default)]
pub(crate) struct Logins {
    pub(crate) assertions: Assertions,
    pub(crate) devices: Devices,
    pub(super) refresh_tokens: RefreshTokens,
    pub(super) arc_secrets: ArcSecrets,
    pub(crate) load: Load,
}

/// Number of token requests being handled at a time.
#[derive(Default)]
pub(crate) struct Load {
    now: AtomicU32,
    peak: AtomicU32,
}

pub(super) struct Busy<'a>(&'a Load);

impl Load {
    pub(super) fn enter(&self) -> Busy<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Busy(self)
    }

    pub(crate) fn peak(&self) -> u32 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}
