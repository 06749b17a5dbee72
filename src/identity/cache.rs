//! One tenant's token: kept, renewed ahead of time, asked for once at a time.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use rand::RngExt;
use tokio::{task::spawn_blocking, time::Instant};
use tracing::{info, warn};

use super::{
    AccessToken, Audience, LoginContext, TokenError, TokenErrorKind, contents::Contents, grant,
    token_error::Pause,
};
use crate::{
    clock,
    config::{Credential, Tenant, UserGrant},
    telemetry::{TokenResult, seconds},
};
use relay_mail::TenantName;

/// A token is renewed this long before its usable time ends, plus jitter of the same size, so that tenants do
/// not renew together.
const AHEAD: Duration = Duration::from_secs(300);
/// After a token was rejected and replaced, its successor is not replaced for this long: the service refuses
/// whatever it gets.
const NO_MORE_REJECTED: Duration = Duration::from_secs(60);
/// A token that is denied something is renewed if it is older than this.
const RENEWED_WHEN_DENIED: Duration = Duration::from_secs(240);
/// A login that failed is not tried again for this long, whoever asks: repeated failures lock a user out.
const FAILED_JUST_NOW: Duration = Duration::from_secs(60);
/// A failure is forgotten this long after its pause.
const FORGOTTEN: Duration = Duration::from_secs(3600);

pub(super) struct TokenCache {
    tenant: Arc<Tenant>,
    audience: Audience,
    means: Arc<LoginContext>,
    state: Mutex<State>,
}

type Fetch = Shared<BoxFuture<'static, Result<AccessToken, TokenError>>>;

#[derive(Default)]
struct State {
    token: Option<AccessToken>,
    renew_at: Option<Instant>,
    /// When the token came.
    came: Option<Instant>,
    /// A service has denied to the token what it should permit.
    is_denied: bool,
    /// The request in progress.
    fetch: Option<Fetch>,
    failure: Option<Failure>,
    /// In a row.
    failures: u32,
    /// When a token was rejected last.
    rejected: Option<Instant>,
}

/// The last failure, and how long it stands.
#[derive(Clone)]
struct Failure {
    error: TokenError,
    until: Instant,
    /// What the credential's files looked like before they were read.
    files: Contents,
}

impl TokenCache {
    pub(super) fn new(tenant: Arc<Tenant>, audience: Audience, means: Arc<LoginContext>) -> Arc<Self> {
        Arc::new(Self { tenant, audience, means, state: Mutex::default() })
    }

    pub(super) fn tenant(&self) -> &TenantName {
        &self.tenant.name
    }

    /// Whether it logs in as `tenant` should.
    pub(super) fn is_of(&self, tenant: &Arc<Tenant>) -> bool {
        let own = &self.tenant;
        Arc::ptr_eq(own, tenant)
            || own.cloud == tenant.cloud
                && own.directory == tenant.directory
                && own.client_id == tenant.client_id
                && own.credential == tenant.credential
    }

    /// Whether it can be dropped without loss: its token has ended, or there never was one.
    pub(super) fn is_spent(&self) -> bool {
        let state = self.state();
        let now = Instant::now();
        state.fetch.is_none()
            && state.token.as_ref().is_none_or(|token| token.usable_until <= now)
            && state.failure.as_ref().is_none_or(|failure| failure.until + FORGOTTEN <= now)
            && state.rejected.is_none_or(|at| at + NO_MORE_REJECTED <= now)
    }

    /// The files that may be to blame for a failure that still stands.
    pub(super) fn blamed_files(&self) -> Option<Contents> {
        let state = self.state();
        let failure = state.failure.as_ref().filter(|failure| failure.until > Instant::now())?;
        (!failure.files.is_empty()).then(|| failure.files.clone())
    }

    /// Whether a failure stands that the login service knows nothing of.
    pub(super) fn is_unreached(&self) -> bool {
        let state = self.state();
        let standing = state.failure.as_ref().filter(|failure| failure.until > Instant::now());
        standing.is_some_and(|failure| failure.error.pause == Pause::Unreached)
    }

    /// The failure no longer stands.
    pub(super) fn forgive(&self) {
        let mut state = self.state();
        (state.failures, state.failure) = (0, None);
    }

    pub(super) async fn token(self: &Arc<Self>) -> Result<AccessToken, TokenError> {
        let fetch = {
            let mut state = self.state();
            let now = Instant::now();
            let good = state.token.clone().filter(|token| token.usable_until > now);
            let paused = state.failure.clone().filter(|failure| failure.until > now);
            match (good, paused) {
                (Some(token), paused) => {
                    if state.renew_at.is_none_or(|at| at <= now) && paused.is_none() {
                        // Runs on its own: no caller has to wait for it.
                        drop(self.fetch(&mut state));
                    }
                    return Ok(token);
                }
                (None, Some(Failure { error, until, .. })) => {
                    return Err(TokenError { retry_after: until - now, ..error });
                }
                (None, None) => self.fetch(&mut state),
            }
        };
        fetch.await
    }

    pub(super) fn reject(&self, token: &AccessToken) {
        let mut state = self.state();
        let now = Instant::now();
        let is_current = state.token.as_ref().is_some_and(|current| current.is(token));
        if is_current && state.rejected.is_none_or(|at| at + NO_MORE_REJECTED <= now) {
            (state.token, state.rejected) = (None, Some(now));
        }
    }

    pub(super) fn denied(self: &Arc<Self>, token: &AccessToken) {
        let mut state = self.state();
        let now = Instant::now();
        if !state.token.as_ref().is_some_and(|current| current.is(token)) {
            return;
        }
        state.is_denied = true;
        let is_old = state.came.is_none_or(|came| came + RENEWED_WHEN_DENIED <= now);
        let is_paused = state.failure.as_ref().is_some_and(|failure| failure.until > now);
        if is_old && !is_paused {
            // Runs on its own. Until it ends, the token is good for whatever it permits.
            drop(self.fetch(&mut state));
        }
    }

    pub(super) fn is_denied(&self) -> bool {
        self.state().is_denied
    }

    /// Gets a new token, in place of one that may still be good. A failure leaves that one in use.
    pub(super) async fn renew(self: &Arc<Self>) {
        let fetch = {
            let mut state = self.state();
            let now = Instant::now();
            let failed_just_now = |failure: &Failure| {
                let since = failure.until.checked_sub(failure.error.retry_after);
                since.is_none_or(|since| since + FAILED_JUST_NOW > now)
            };
            if state.failure.as_ref().is_some_and(failed_just_now) {
                return;
            }
            self.fetch(&mut state)
        };
        // An error is remembered, and in the log.
        let _ = fetch.await;
    }

    /// Joins the request in progress or begins one. It runs on its own, whether or not any caller waits for
    /// it.
    fn fetch(self: &Arc<Self>, state: &mut State) -> Fetch {
        if let Some(fetch) = &state.fetch {
            return fetch.clone();
        }
        let cache = self.clone();
        let task = tokio::spawn(async move { cache.guard(cache.fetch_now()).await });
        // The task ends without an answer only when the process does.
        let fetch = async move { task.await.unwrap_or_else(|_| Err(broken_off())) }.boxed().shared();
        state.fetch = Some(fetch.clone());
        fetch
    }

    /// A request that panics is a failure like any other: it must not stay the request in progress for ever.
    async fn guard(
        &self,
        fetch: impl Future<Output = Result<AccessToken, TokenError>>,
    ) -> Result<AccessToken, TokenError> {
        // What it changes is protected by the lock: see `state`.
        AssertUnwindSafe(fetch)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(self.failed(broken_off(), Contents::default())))
    }

    async fn fetch_now(&self) -> Result<AccessToken, TokenError> {
        let name = &self.tenant.name;
        let started = Instant::now();
        let files = self.look().await;
        let request = grant::token(&self.means, &self.tenant, self.audience);
        let result = self.means.places.within(self.place(), request).await;
        let label = match result.as_ref().map_err(|error| error.kind) {
            Ok(_) => TokenResult::Ok,
            Err(TokenErrorKind::Transient) => TokenResult::Transient,
            Err(TokenErrorKind::Blocked) => TokenResult::Blocked,
            Err(TokenErrorKind::Fault) => TokenResult::Defect,
        };
        self.means.metrics.token_refresh(name, self.audience.as_str(), label, started.elapsed());
        let token = result.map_err(|error| self.failed(error, files))?;

        let now = Instant::now();
        let lifetime = token.ends.saturating_duration_since(now);
        let usable = token.usable_until.saturating_duration_since(now);
        // A token with a short life is renewed at half of it.
        let ahead = AHEAD.mul_f64(rand::rng().random_range(1.0..2.0)).min(usable / 2);
        let mut state = self.state();
        let rejected = state.rejected;
        let renew_at = Some(now + (usable - ahead));
        let came = Some(now);
        *state = State { token: Some(token.clone()), renew_at, came, rejected, ..State::default() };
        drop(state);
        let ends = (clock::wall() + lifetime).as_millis() / 1000;
        self.means.metrics.token_expires(name, self.audience.as_str(), ends);
        let audience = self.audience.as_str();
        let lifetime = Duration::from_secs(lifetime.as_secs_f64().round() as u64);
        info!(tenant = %name, audience, lifetime = seconds(lifetime), took = seconds(started.elapsed()), "token acquired");
        Ok(token)
    }

    /// What the files of the credential look like now.
    async fn look(&self) -> Contents {
        let credential = &self.tenant.credential;
        let mut files: Vec<_> = credential.files().into_iter().map(|path| path.into_owned()).collect();
        if let Credential::User { grant: UserGrant::RefreshToken { .. }, .. } = credential {
            files.push(self.means.store.file(&self.tenant.name));
        }
        // It decides whether the login service is believed at all.
        files.extend(self.tenant.cloud.ca_file.clone());
        if files.is_empty() {
            return Contents::default();
        }
        // If this fails, a change is only seen later.
        spawn_blocking(move || Contents::at(files)).await.unwrap_or_default()
    }

    /// The login service that is asked.
    fn place(&self) -> &str {
        match &self.tenant.credential {
            Credential::ManagedIdentity(_) => "managed identities",
            _ => &self.tenant.cloud.login,
        }
    }

    /// Remembers the failure with its pause, and lets the next request begin after it.
    fn failed(&self, error: TokenError, files: Contents) -> TokenError {
        let mut state = self.state();
        state.fetch = None;
        let error = error.after(state.failures);
        state.failures = state.failures.saturating_add(1);
        state.failure =
            Some(Failure { error: error.clone(), until: Instant::now() + error.retry_after, files });
        drop(state);
        let tenant = &self.tenant.name;
        warn!(%tenant, error = error.why, retry_after = seconds(error.retry_after), "token request failed");
        error
    }

    #[cfg(test)]
    pub(super) fn put(&self, token: AccessToken) {
        self.state().token = Some(token);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only whole values are stored, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn broken_off() -> TokenError {
    let error = TokenError::transient("the token request was interrupted: this is a defect of the relay");
    TokenError { retry_after: Duration::from_secs(5), ..error }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::Config, network::Clients, telemetry::Metrics};

    #[tokio::test(start_paused = true)]
    async fn a_request_that_panics_is_a_failure_and_is_not_joined_again() {
        let text = "[spool]\npath = 's'\n[pickup]\npath = 'p'\n[tenants.t]\ndirectory = 't.example'\n\
                    client_id = 'app'\nclient_secret = 'secret'\nsenders = ['*']\n";
        let config = Config::parse(text, Path::new("config.toml")).unwrap();
        let tenant = config.tenants.values().next().unwrap().clone();
        let means = LoginContext::new(
            Clients::new(&config.network, std::iter::once(&tenant.cloud)).unwrap(),
            Metrics::new(),
            "no-such-folder".into(),
        );
        let cache = TokenCache::new(tenant, Audience::Graph, Arc::new(means));
        let under_way = async { Err(broken_off()) }.boxed().shared();
        cache.state().fetch = Some(under_way);

        let error = cache.guard(async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.kind, TokenErrorKind::Transient);
        assert!(cache.state().fetch.is_none());
        // The failure stands for its pause.
        assert_eq!(cache.token().await.unwrap_err(), error);
        assert_eq!(error.retry_after, Duration::from_secs(5));
    }
}
