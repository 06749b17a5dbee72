//! Tenant credentials become access tokens.
//!
//! # Contract
//!
//! * Each tenant has a cache of its own, and no lock is held over the network: a slow login of one tenant delays no other.
//! * One request at a time for each tenant: whoever needs a token meanwhile waits for that one.
//! * A token is renewed in the background a few minutes before it ends, while it is still good: nobody waits for that.
//! * A failure is remembered for a while, so that a broken credential is not hammered on the login service. A request that
//!   breaks off is a failure like any other.
//! * Tokens are in memory only, wiped when dropped, and appear in no log, error or metric.
//!
//! Called by the scheduler, through the worker, before it hands a tenant's mail out; and by the routes for each call.

mod aadsts;
mod cache;
mod request;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    config::{Cloud, Tenant, TenantName},
    network::Clients,
    telemetry::Metrics,
};
use cache::TokenCache;

/// All tenants' tokens. A tenant that delivers nothing has none, and costs nothing.
pub struct Identity {
    clients: Clients,
    metrics: Metrics,
    caches: Mutex<HashMap<(TenantName, Audience), Arc<TokenCache>>>,
}

/// The service that a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    Graph,
    /// SMTP submission. Graph refuses its tokens, and it Graph's.
    Exchange,
}

/// A token that one service takes. Cheap to clone.
#[derive(Clone)]
pub struct AccessToken {
    secret: Arc<Zeroizing<String>>,
    ends: Instant,
    usable_until: Instant,
}

/// A token is not used in its last seconds: a call that began with it must end with it.
const MARGIN: Duration = Duration::from_secs(30);
/// No token is kept longer than this. Entra ID's live about an hour, and about a day where access is evaluated
/// continuously. An answer that claims more is at fault (and may claim more than a clock can count); to ask once a day
/// costs nothing.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TokenError {
    pub kind: TokenErrorKind,
    /// For the administrator: what happened, and what to mend.
    pub why: String,
    /// When to ask again.
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenErrorKind {
    /// The login service is unreachable, overloaded or at fault.
    Transient,
    /// An administrator has to mend something.
    Blocked,
}

impl Identity {
    pub fn new(clients: Clients, metrics: Metrics) -> Self {
        Self { clients, metrics, caches: Mutex::default() }
    }

    /// A token that is good now.
    pub async fn token(&self, tenant: &Arc<Tenant>, audience: Audience) -> Result<AccessToken, TokenError> {
        match self.cache(tenant, audience) {
            Some(cache) => cache.token().await,
            None => Err(TokenError {
                kind: TokenErrorKind::Blocked,
                why: format!("there is no way to the cloud {}", tenant.cloud.name),
                retry_after: Duration::from_secs(600),
            }),
        }
    }

    /// The service refused `token`: it is not handed out again.
    pub fn reject(&self, tenant: &Arc<Tenant>, audience: Audience, token: &AccessToken) {
        if let Some(cache) = self.cache(tenant, audience) {
            cache.reject(token);
        }
    }

    /// A tenant whose configuration has changed begins anew.
    fn cache(&self, tenant: &Arc<Tenant>, audience: Audience) -> Option<Arc<TokenCache>> {
        // Whole values only are put in, so a panic elsewhere leaves nothing half done.
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.name.clone(), audience);
        if let Some(cache) = caches.get(&key).filter(|cache| cache.is_of(tenant)) {
            return Some(cache.clone());
        }
        let client = self.clients.of(&tenant.cloud)?;
        let cache = TokenCache::new(tenant.clone(), audience, client, self.metrics.clone());
        caches.insert(key, cache.clone());
        Some(cache)
    }
}

impl Audience {
    /// In metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::Exchange => "exchange",
        }
    }

    /// What the login service calls it.
    fn resource(self, cloud: &Cloud) -> &str {
        match self {
            Self::Graph => &cloud.graph,
            Self::Exchange => &cloud.exchange,
        }
    }
}

impl AccessToken {
    /// `lifetime` as the service says it: it is cut at [`LONGEST_LIFETIME`].
    fn new(secret: String, lifetime: Duration) -> Self {
        let (now, lifetime) = (Instant::now(), lifetime.min(LONGEST_LIFETIME));
        // Half of a short life is used, or a token that is good for less than the margin would be asked for at each use.
        let margin = MARGIN.min(lifetime / 2);
        let (ends, usable_until) = (now + lifetime, now + (lifetime - margin));
        Self { secret: Arc::new(Zeroizing::new(secret)), ends, usable_until }
    }

    /// The token itself, for the Authorization header.
    pub fn expose(&self) -> &str {
        &self.secret
    }

    /// Until when it is handed out: a little before its end.
    pub fn expires(&self) -> Instant {
        self.usable_until
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.secret, &other.secret)
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(access token)")
    }
}
