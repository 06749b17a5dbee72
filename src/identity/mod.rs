//! Tenant credentials become access tokens.
//!
//! # Contract
//!
//! * Each tenant has a cache of its own for each service, and no lock is held over the network that two
//!   tenants share: a slow login of one tenant delays no other. A login service gets a bounded number of
//!   requests at a time ([`places`]).
//! * One request at a time for each tenant and service: a caller that needs a token meanwhile waits for that
//!   request. A refresh token is valid once, so the requests with one follow each other, and its successor is
//!   stored before the access token is handed out.
//! * A token is renewed in the background a few minutes before it ends, while it is still valid: no caller
//!   waits for that.
//! * A token that a service refuses is replaced once; if its successor is refused as well, none is asked for
//!   during a minute.
//! * A token to which a service denies what it asks for is renewed, if it is some minutes old: a permission
//!   that was granted meanwhile is only in tokens that are issued afterwards.
//! * A failure is remembered for a while, so that a broken credential does not hammer the login service,
//!   unless a file that the credential is read from changes ([`Identity::watch`]). A request that is
//!   interrupted is a failure like any other.
//! * Secrets are read again for each request. Access tokens are in memory only, wiped when dropped, and
//!   neither they nor anything that leads to one appears in a log, error or metric.
//!
//! Called by the scheduler, through the worker, before it hands a tenant's mail out; by the routes for each
//! call; by the relay when tenants change; and by `tenant check` and `tenant login`.

mod aadsts;
mod assertion;
mod cache;
mod claims;
mod contents;
mod device;
mod endpoint;
mod grant;
mod managed;
mod places;
mod proof;
mod store;
mod token_error;
mod user;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderValue;
use tokio::{sync::OnceCell, task::spawn_blocking, time::Instant};
use zeroize::Zeroizing;

use crate::{
    config::{Cloud, Tenant},
    network::{self, Clients},
    telemetry::Metrics,
};
use cache::TokenCache;
use places::Places;
use relay_mail::TenantName;
use store::Store;
use token_error::Pause;
use user::Rotations;

pub use claims::{TokenClaims, claims};
pub use device::{DeviceCode, log_in};
pub use store::StoreError;
pub use token_error::{TokenError, TokenErrorKind};

/// All tenants' tokens. A tenant that delivers nothing has none, and costs nothing.
pub struct Identity {
    means: Arc<LoginContext>,
    caches: Mutex<Caches>,
    /// Tenants whose credential is a certificate.
    certified: Mutex<Vec<Arc<Tenant>>>,
}

type Caches = HashMap<(TenantName, Audience), Arc<TokenCache>>;

/// What logins need.
struct LoginContext {
    clients: Clients,
    metrics: Metrics,
    store: Store,
    /// For managed identities: without a proxy. Made at the first use.
    local: OnceCell<reqwest::Client>,
    places: Places,
    rotations: Rotations,
}

/// The service that a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    Graph,
    /// SMTP submission. Graph refuses its tokens, and it refuses Graph's.
    Exchange,
}

/// Where refresh tokens are stored, beside the mail.
pub fn credential_folder(spool: &Path) -> PathBuf {
    spool.join("credentials")
}

/// A token that one service takes. Cheap to clone.
#[derive(Clone)]
pub struct AccessToken {
    secret: Arc<Zeroizing<String>>,
    ends: Instant,
    usable_until: Instant,
}

/// A token is not used in its last seconds: it must outlast a call that began with it.
const MARGIN: Duration = Duration::from_secs(30);
/// No token is kept longer than this. Entra ID's live about an hour, and about a day where access is
/// evaluated continuously. An answer that claims more is at fault (and may claim more than a clock can
/// count); asking once a day costs nothing.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

impl Identity {
    /// `folder` is where refresh tokens are stored, see [`credential_folder`]; it need not be there.
    pub fn new(clients: Clients, metrics: Metrics, folder: PathBuf) -> Self {
        let means = Arc::new(LoginContext::new(clients, metrics, folder));
        Self { means, caches: Mutex::default(), certified: Mutex::default() }
    }

    /// Returns a token that is valid now.
    pub async fn token(&self, tenant: &Arc<Tenant>, audience: Audience) -> Result<AccessToken, TokenError> {
        self.cache(tenant, audience).token().await
    }

    /// Takes note that the service refused `token`: it is not handed out again. If its successor is refused
    /// as well, another one would not help, and for a while none is asked for.
    pub fn reject(&self, tenant: &Arc<Tenant>, audience: Audience, token: &AccessToken) {
        self.cache(tenant, audience).reject(token);
    }

    /// Takes note that the service denied to `token` what it should permit. The token stays in use.
    pub fn denied(&self, tenant: &Arc<Tenant>, audience: Audience, token: &AccessToken) {
        self.cache(tenant, audience).denied(token);
    }

    /// Gets new tokens for a tenant that has any, or has tried to, and returns when they are there or cannot
    /// be had. A login that failed within the last minute is not tried again.
    pub async fn renew(&self, tenant: &TenantName) {
        let caches: Vec<_> =
            self.caches().values().filter(|cache| cache.tenant() == tenant).cloned().collect();
        join_all(caches.iter().map(TokenCache::renew)).await;
    }

    /// A tenant whose login is configured in another way starts with a new cache.
    fn cache(&self, tenant: &Arc<Tenant>, audience: Audience) -> Arc<TokenCache> {
        let mut caches = self.caches();
        let key = (tenant.name.clone(), audience);
        if let Some(cache) = caches.get(&key).filter(|cache| cache.is_of(tenant)) {
            return cache.clone();
        }
        let cache = TokenCache::new(tenant.clone(), audience, self.means.clone());
        caches.insert(key, cache.clone());
        cache
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        // Only whole values are stored, so a panic elsewhere leaves nothing half done.
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoginContext {
    fn new(clients: Clients, metrics: Metrics, folder: PathBuf) -> Self {
        Self {
            clients,
            metrics,
            store: Store::in_folder(folder),
            local: OnceCell::new(),
            places: Places::default(),
            rotations: Rotations::default(),
        }
    }

    /// For the tenant's login service.
    fn client_of(&self, tenant: &Tenant) -> Result<reqwest::Client, TokenError> {
        let client = self.clients.of(&tenant.cloud);
        client.ok_or_else(|| {
            TokenError::defect(format!("there is no client for the cloud {}", tenant.cloud.name))
        })
    }

    async fn local_client(&self) -> Result<reqwest::Client, TokenError> {
        let made = self.local.get_or_try_init(|| async {
            let made = spawn_blocking(network::local_client).await;
            made.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        });
        made.await.cloned().map_err(TokenError::transient)
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

    /// All permissions that the application was given for that resource. Graph and login are configured by
    /// base URL, and the resource's name is Graph's.
    fn scope(self, cloud: &Cloud) -> String {
        format!("{}/.default", self.resource(cloud))
    }
}

impl AccessToken {
    /// `lifetime` as the service states it: it is cut at [`LONGEST_LIFETIME`].
    fn new(secret: impl Into<Zeroizing<String>>, lifetime: Duration) -> Self {
        let now = Instant::now();
        let lifetime = lifetime.min(LONGEST_LIFETIME);
        // Half of a short life is used; otherwise a token that is valid for less than the margin would be
        // asked for at each use.
        let margin = MARGIN.min(lifetime / 2);
        let ends = now + lifetime;
        let usable_until = now + (lifetime - margin);
        Self { secret: Arc::new(secret.into()), ends, usable_until }
    }

    /// The token itself. For HTTP there is [`bearer`](Self::bearer).
    pub fn expose(&self) -> &str {
        &self.secret
    }

    /// `Bearer TOKEN`, which no log shows, and which is wiped when the call is over.
    pub fn bearer(&self) -> HeaderValue {
        let mut text = Zeroizing::new(Vec::with_capacity("Bearer ".len() + self.secret.len()));
        text.extend_from_slice(b"Bearer ");
        text.extend_from_slice(self.secret.as_bytes());
        // A token with other octets is refused when it comes.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        let mut value = value.unwrap_or(HeaderValue::from_static("Bearer"));
        value.set_sensitive(true);
        value
    }

    /// When it stops being handed out: a little before its end.
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
