//! One tenant's token: kept, renewed ahead, asked for once at a time.

use std::{
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

use super::{AccessToken, TokenError, TokenErrorKind, request};
use crate::{
    clock,
    config::Tenant,
    telemetry::{Metrics, TokenResult},
};

/// A token is not used in its last seconds: a call that began with it must end with it.
const MARGIN: Duration = Duration::from_secs(30);
/// How long before its end a token is renewed, plus jitter of the same size so that tenants do not renew together.
const AHEAD: Duration = Duration::from_secs(300);
/// The longest that a failure is remembered.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

const AUDIENCE: &str = "graph";

pub(super) struct TokenCache {
    tenant: Arc<Tenant>,
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
    pub(super) fn new(tenant: Arc<Tenant>, client: reqwest::Client, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { tenant, client, metrics, state: Mutex::default() })
    }

    pub(super) async fn token(self: &Arc<Self>) -> Result<AccessToken, TokenError> {
        let fetch = {
            let mut state = self.state();
            let now = Instant::now();
            let good = state.token.clone().filter(|token| token.expires > now + MARGIN);
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
        let task = tokio::spawn(async move { cache.fetch_now().await });
        let fetch = async move { task.await.unwrap_or_else(|e| Err(broken_off(&e))) }.boxed().shared();
        state.fetch = Some(fetch.clone());
        fetch
    }

    async fn fetch_now(&self) -> Result<AccessToken, TokenError> {
        let (name, started) = (&self.tenant.name, Instant::now());
        let result = request::token(&self.tenant, self.client.clone()).await;
        let label = match &result {
            Ok(_) => TokenResult::Ok,
            Err(TokenError { kind: TokenErrorKind::Transient, .. }) => TokenResult::Transient,
            Err(TokenError { kind: TokenErrorKind::Blocked, .. }) => TokenResult::Blocked,
        };
        self.metrics.token_refresh(name, AUDIENCE, label, started.elapsed());

        let mut state = self.state();
        state.fetch = None;
        match result {
            Ok(token) => {
                let lifetime = token.expires.saturating_duration_since(Instant::now());
                // A token with a short life is renewed at half of it.
                let ahead = AHEAD.mul_f64(rand::rng().random_range(1.0..2.0)).min(lifetime / 2);
                state.renew_at = Some(token.expires - ahead);
                state.token = Some(token.clone());
                state.failure = None;
                state.failures = 0;
                self.metrics.token_expires(name, AUDIENCE, (clock::now() + lifetime).as_millis() / 1000);
                info!(tenant = %name, ?lifetime, took = ?started.elapsed(), "got an access token");
                Ok(token)
            }
            Err(mut error) => {
                error.retry_after = pause(&error, state.failures);
                state.failures += 1;
                state.failure = Some((error.clone(), Instant::now() + error.retry_after));
                warn!(tenant = %name, error = error.why, retry_after = ?error.retry_after, "got no access token");
                Err(error)
            }
        }
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

fn broken_off(error: &tokio::task::JoinError) -> TokenError {
    TokenError {
        kind: TokenErrorKind::Transient,
        why: format!("the token request broke off: {error}"),
        retry_after: Duration::from_secs(5),
    }
}
