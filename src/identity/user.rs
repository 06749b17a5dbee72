//! Tokens on behalf of a user: by password, or by a refresh token that each answer replaces.
//!
//! Both audiences of a tenant share one refresh token, so its refreshes run one after the other. The
//! successor is stored before the access token is handed out: a caller that gets that token knows that the
//! next refresh is possible, whatever happens to the process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Mutex as AsyncMutex, task::spawn_blocking};
use tracing::{debug, error};

use super::{
    AccessToken, Audience, LoginContext, TokenError,
    endpoint::{Endpoint, Proved},
    store::{StoreError, StoredToken, Successor, fingerprint},
};
use crate::config::{Secret, SecretSource, Tenant};
use relay_mail::TenantName;

/// One lock for each tenant with a refresh token; it holds a successor that could not be stored.
#[derive(Default)]
pub(super) struct Rotations(Mutex<HashMap<TenantName, Rotation>>);

type Rotation = Arc<AsyncMutex<Option<Successor>>>;

impl Rotations {
    fn of(&self, tenant: &TenantName) -> Rotation {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(tenant.clone()).or_default().clone()
    }
}

pub(super) async fn by_password(
    means: &LoginContext,
    tenant: &Tenant,
    audience: Audience,
    (username, password): (&str, &SecretSource),
    proved: Option<Proved>,
) -> Result<AccessToken, TokenError> {
    let source = password.clone();
    let password = spawn_blocking(move || source.read()).await.map_err(|e| broken_off(&e))?;
    let password = password.map_err(|e| TokenError::blocked(format!("password: {e}")))?;
    let endpoint = Endpoint::of(means, tenant, proved.as_ref())?;
    // Without offline_access: there is no use for a refresh token where the password is known.
    let granted = endpoint.by_password(username, &password, audience.scope(&tenant.cloud)).await?;
    Ok(granted.token)
}

pub(super) async fn by_refresh_token(
    means: &LoginContext,
    tenant: &Tenant,
    audience: Audience,
    first: Option<&SecretSource>,
    proved: Option<Proved>,
) -> Result<AccessToken, TokenError> {
    let rotation = means.rotations.of(&tenant.name);
    let mut unstored = rotation.lock().await;
    if let Some(successor) = &*unstored {
        store(means, tenant, successor.clone()).await?;
        *unstored = None;
    }
    let current = current(means, tenant, first).await?;
    let endpoint = Endpoint::of(means, tenant, proved.as_ref())?;
    let scope = format!("{} offline_access", audience.scope(&tenant.cloud));
    let granted = endpoint.by_refresh_token(&current.token, scope).await?;
    if let Some(token) = granted.refresh_token.filter(|token| *token != current.token) {
        let successor = Successor {
            stored: StoredToken::of(tenant, token, current.descends_from.clone()),
            replaces: current.stored,
        };
        if let Err(error) = store(means, tenant, successor.clone()).await {
            // It may be the only one that is still valid.
            *unstored = Some(successor);
            return Err(error);
        }
        debug!(tenant = %tenant.name, "refresh token stored");
    }
    Ok(granted.token)
}

/// The refresh token to use now.
struct Current {
    token: Secret,
    descends_from: Option<String>,
    /// What the store held when it was read.
    stored: Option<Secret>,
}

/// Returns the stored one, unless another one has been configured since.
async fn current(
    means: &LoginContext,
    tenant: &Tenant,
    first: Option<&SecretSource>,
) -> Result<Current, TokenError> {
    let folder = means.store.clone();
    let first = first.cloned();
    let tenant = tenant.clone();
    let read = spawn_blocking(move || {
        let first = first.map(|source| source.read()).transpose();
        let first = first.map_err(|e| TokenError::blocked(format!("refresh_token: {e}")))?;
        let origin = first.as_ref().map(fingerprint);
        let stored = folder.read(&tenant).map_err(|error| match error {
            StoreError::Damaged { .. } => TokenError::blocked(error.to_string()),
            StoreError::Io { .. } => {
                TokenError::transient(format!("the refresh token cannot be read: {error}"))
            }
        })?;
        let held = stored.as_ref().map(|stored| stored.refresh_token());
        let descends = |stored: &StoredToken| origin.is_none() || stored.descends_from == origin;
        match (stored.filter(|stored| stored.is_of(&tenant) && descends(stored)), first) {
            (Some(stored), _) => Ok(Current {
                token: stored.refresh_token(),
                descends_from: stored.descends_from.clone(),
                stored: held,
            }),
            (None, Some(token)) => Ok(Current { token, descends_from: origin, stored: held }),
            (None, None) => Err(TokenError::blocked(format!(
                "nobody has signed in yet: run m365-relay tenant login {}",
                tenant.name
            ))),
        }
    });
    read.await.map_err(|e| broken_off(&e))?
}

async fn store(means: &LoginContext, tenant: &Tenant, successor: Successor) -> Result<(), TokenError> {
    let folder = means.store.clone();
    let name = tenant.name.clone();
    let stored =
        spawn_blocking(move || folder.replace(&name, &successor)).await.map_err(|e| broken_off(&e))?;
    stored.map_err(|e| {
        error!(tenant = %tenant.name, error = %e, "the new refresh token cannot be stored");
        TokenError::transient(format!("the new refresh token cannot be stored: {e}"))
    })
}

fn broken_off(error: &tokio::task::JoinError) -> TokenError {
    TokenError::defect(format!("the token request was interrupted: {error}"))
}
