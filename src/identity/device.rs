//! Signing in with a code (RFC 8628): a user types it into a browser anywhere, and the relay gets a refresh
//! token.

use std::{path::Path, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    Audience, LoginContext, TokenClaims, TokenError, TokenErrorKind, claims,
    endpoint::{DeviceAuthorization, Endpoint, Granted, Poll},
    grant::prove_if_there,
    store::{StoredToken, fingerprint},
};
use crate::{
    config::{ClientProof, Credential, RouteRule, SecretSource, Tenant, UserGrant},
    network::Clients,
    telemetry::Metrics,
};

/// What to show to the user who signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCode {
    pub user_code: String,
    pub verification_uri: String,
    /// The service's own words, which hold both.
    pub message: String,
    /// How long the code is valid.
    pub expires_in: Duration,
}

/// What "slow_down" adds to the interval, by RFC 8628 section 3.5.
const SLOWER: Duration = Duration::from_secs(5);
/// No code is waited for longer than this. Entra ID's are valid for 15 minutes.
const LONGEST: Duration = Duration::from_secs(3600);

/// Lets a user sign in for `tenant`, whose grant is `refresh_token`. `show` is called once with the code, and
/// returns whether anybody can see it. Returns when the refresh token is stored in `folder`, where a running
/// relay finds it, with what the token says about the user who signed in.
pub async fn log_in(
    tenant: &Tenant,
    clients: Clients,
    folder: &Path,
    show: impl FnOnce(&DeviceCode) -> bool,
) -> Result<Option<TokenClaims>, TokenError> {
    let Credential::User { grant: UserGrant::RefreshToken { first }, proof } = &tenant.credential else {
        return Err(TokenError::blocked("this tenant needs no sign-in: only grant = \"refresh_token\" does"));
    };
    let means = LoginContext::new(clients, Metrics::new(), folder.to_owned());
    let audience = match tenant.route {
        RouteRule::Smtp => Audience::Exchange,
        RouteRule::Graph | RouteRule::Auto => Audience::Graph,
    };
    let scope = format!("{} offline_access", audience.scope(&tenant.cloud));
    let code = Endpoint::of(&means, tenant, None)?.device_code(scope).await?;
    let expires_in = code.expires_in().min(LONGEST);
    let shown = show(&DeviceCode {
        user_code: code.user_code().secret().clone(),
        verification_uri: code.verification_uri().to_string(),
        message: code.extra_fields().message.clone(),
        expires_in,
    });
    if !shown {
        return Err(TokenError::defect("the code cannot be shown"));
    }
    let granted = poll(&means, tenant, proof.as_ref(), &code, expires_in).await?;
    let Some(refresh_token) = granted.refresh_token else {
        return Err(TokenError::blocked(
            "the login service gave no refresh token: give the app the permission offline_access",
        ));
    };
    let store = means.store.clone();
    let first = first.clone();
    let owned = tenant.clone();
    let stored = spawn_blocking(move || {
        let origin = first.as_ref().map(SecretSource::read).transpose();
        let origin = origin.map_err(|e| TokenError::blocked(format!("refresh_token: {e}")))?;
        let stored = StoredToken::of(&owned, refresh_token, origin.as_ref().map(fingerprint));
        store.put(&owned.name, &stored).map_err(|e| TokenError::blocked(format!("it cannot be stored: {e}")))
    });
    stored.await.map_err(|e| TokenError::defect(format!("the sign-in was interrupted: {e}")))??;
    Ok(claims(&granted.token))
}

/// Asks until a user has signed in, or the code is no longer valid. The application proves itself again each
/// time: an assertion is valid once, and for less time than the code.
async fn poll(
    means: &LoginContext,
    tenant: &Tenant,
    proof: Option<&ClientProof>,
    code: &DeviceAuthorization,
    expires_in: Duration,
) -> Result<Granted, TokenError> {
    let end = Instant::now() + expires_in;
    // A service that claims more than a clock can count is at fault.
    let mut interval = code.interval().min(LONGEST);
    let mut wait = interval;
    while Instant::now() + wait < end {
        sleep(wait).await;
        let proved = prove_if_there(means, tenant, proof).await?;
        wait = match Endpoint::of(means, tenant, proved.as_ref())?.poll(code).await {
            Ok(Poll::Granted(granted)) => return Ok(granted),
            Ok(Poll::Pending) => interval,
            Ok(Poll::SlowDown) => {
                interval += SLOWER;
                interval
            }
            Ok(Poll::Declined) => {
                return Err(TokenError::blocked("the sign-in was declined in the browser"));
            }
            Ok(Poll::Expired) => return Err(too_late()),
            // The network may come back while the user is still typing.
            Err(error) if error.kind == TokenErrorKind::Transient => interval.max(error.retry_after),
            Err(error) => return Err(error),
        };
    }
    Err(too_late())
}

fn too_late() -> TokenError {
    TokenError::blocked("nobody has signed in while the code was good: begin again")
}
