//! One tenant's token: kept, renewed ahead, asked for once at a time.

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
use tokio::time::Instant;
use tracing::{info, warn};

use super::{AccessToken, Audience, TokenError, TokenErrorKind, request};
use crate::{
    clock,
    config::Tenant,
    telemetry::{Metrics, TokenResult},
};

/// How long before its usable time ends a token is renewed, plus jitter of the same size so that tenants do not renew together.
const AHEAD: Duration = Duration::from_secs(300);
/// The longest that a failure is remembered.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

pub(super) struct TokenCache {
    tenant: Arc<Tenant>,
    audience: Audience,
    client: reqwest::Client,
    metrics: Metrics,
    state: Mutex<State>,
}

type Fetch = Shared<BoxFuture<'static, Result<AccessToken, TokenError>>>;

#[derive(Default)]
struct State {
    token: Option<AccessToken>,
    renew_at: Option<Instant>,
    /// The request under way.
    fetch: Option<Fetch>,
    /// The last failure, until when it stands, and how many there were in a row.
    failure: Option<(TokenError, Instant)>,
    failures: u32,
}

impl TokenCache {
    pub(super) fn new(
        tenant: Arc<Tenant>,
        audience: Audience,
        client: reqwest::Client,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self { tenant, audience, client, metrics, state: Mutex::default() })
    }

    /// Whether it logs in as `tenant` is to.
    pub(super) fn is_of(&self, tenant: &Arc<Tenant>) -> bool {
        Arc::ptr_eq(&self.tenant, tenant)
    }

    pub(super) async fn token(self: &Arc<Self>) -> Result<AccessToken, TokenError> {
        let fetch = {
            let mut state = self.state();
            let now = Instant::now();
            let good = state.token.clone().filter(|token| token.usable_until > now);
            let paused = state.failure.clone().filter(|(_, until)| *until > now);
            match (good, paused) {
                (Some(token), paused) => {
                    if state.renew_at.is_none_or(|at| at <= now) && paused.is_none() {
                        // Runs on its own: nobody has to wait for it.
                        drop(self.fetch(&mut state));
                    }
                    return Ok(token);
                }
                (None, Some((error, until))) => return Err(TokenError { retry_after: until - now, ..error }),
                (None, None) => self.fetch(&mut state),
            }
        };
        fetch.await
    }

    pub(super) fn reject(&self, token: &AccessToken) {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|current| current.is(token)) {
            state.token = None;
        }
    }

    /// Joins the request under way or begins one. It runs on its own, whether or not anybody waits for it.
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

    /// A request that panics is a failure like any other: it must not stay the request under way for ever.
    async fn guard(
        &self,
        fetch: impl Future<Output = Result<AccessToken, TokenError>>,
    ) -> Result<AccessToken, TokenError> {
        // What it changes is behind the lock, see `state`.
        AssertUnwindSafe(fetch).catch_unwind().await.unwrap_or_else(|_| Err(self.failed(broken_off())))
    }

    async fn fetch_now(&self) -> Result<AccessToken, TokenError> {
        let (name, started) = (&self.tenant.name, Instant::now());
        let result = request::token(&self.tenant, self.audience, self.client.clone()).await;
        let label = match &result {
            Ok(_) => TokenResult::Ok,
            Err(TokenError { kind: TokenErrorKind::Transient, .. }) => TokenResult::Transient,
            Err(TokenError { kind: TokenErrorKind::Blocked, .. }) => TokenResult::Blocked,
        };
        self.metrics.token_refresh(name, self.audience.as_str(), label, started.elapsed());
        let token = result.map_err(|error| self.failed(error))?;

        let now = Instant::now();
        let lifetime = token.ends.saturating_duration_since(now);
        let usable = token.usable_until.saturating_duration_since(now);
        // A token with a short life is renewed at half of it.
        let ahead = AHEAD.mul_f64(rand::rng().random_range(1.0..2.0)).min(usable / 2);
        let mut state = self.state();
        *state =
            State { token: Some(token.clone()), renew_at: Some(now + (usable - ahead)), ..State::default() };
        self.metrics.token_expires(
            name,
            self.audience.as_str(),
            (clock::now() + lifetime).as_millis() / 1000,
        );
        info!(tenant = %name, audience = self.audience.as_str(), ?lifetime, took = ?started.elapsed(), "got an access token");
        Ok(token)
    }

    /// Remembers the failure with its pause, and lets the next request begin after it.
    fn failed(&self, mut error: TokenError) -> TokenError {
        let mut state = self.state();
        state.fetch = None;
        error.retry_after = pause(&error, state.failures);
        state.failures = state.failures.saturating_add(1);
        state.failure = Some((error.clone(), Instant::now() + error.retry_after));
        let tenant = &self.tenant.name;
        warn!(%tenant, error = error.why, retry_after = ?error.retry_after, "got no access token");
        error
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only whole values are put in, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What the service asked for is kept to; beyond that, pauses grow with each failure in a row.
fn pause(error: &TokenError, failures: u32) -> Duration {
    let grown = match error.kind {
        TokenErrorKind::Transient => Duration::from_secs(1),
        // Microsoft's own client library remembers a refusal for a minute.
        TokenErrorKind::Blocked => Duration::from_secs(60),
    } * 2u32.pow(failures.min(10));
    grown.min(LONGEST_PAUSE).max(error.retry_after)
}

fn broken_off() -> TokenError {
    TokenError {
        kind: TokenErrorKind::Transient,
        why: "the token request broke off: this is a defect of the relay".into(),
        retry_after: Duration::from_secs(5),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::Config, network::Clients};

    #[tokio::test(start_paused = true)]
    async fn a_request_that_panics_is_a_failure_and_is_not_joined_again() {
        let text = "[spool]\npath = 's'\n[pickup]\npath = 'p'\n[tenants.t]\ndirectory = 't.example'\n\
                    client_id = 'app'\nclient_secret = 'secret'\nsenders = ['*']\n";
        let config = Config::parse(text, Path::new("config.toml")).unwrap();
        let tenant = config.tenants.values().next().unwrap().clone();
        let client = Clients::new(&config.network, std::iter::once(&tenant.cloud))
            .unwrap()
            .of(&tenant.cloud)
            .unwrap()
            .clone();
        let cache = TokenCache::new(tenant, Audience::Graph, client, Metrics::new());
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
