//! The grants, by what the tenant's credential is.

use super::{
    AccessToken, Audience, LoginContext, TokenError,
    endpoint::{Endpoint, Proved},
    managed, proof, user,
};
use crate::config::{ClientProof, Credential, Tenant, UserGrant};

/// Asks for a token.
pub(super) async fn token(
    means: &LoginContext,
    tenant: &Tenant,
    audience: Audience,
) -> Result<AccessToken, TokenError> {
    match &tenant.credential {
        Credential::App(proof) => {
            let proved = proof::prove(means, tenant, proof).await?;
            let endpoint = Endpoint::of(means, tenant, Some(&proved))?;
            Ok(endpoint.by_client_credentials(audience.scope(&tenant.cloud)).await?.token)
        }
        Credential::User { grant: UserGrant::Password { username, password }, proof } => {
            let proved = prove_if_there(means, tenant, proof.as_ref()).await?;
            user::by_password(means, tenant, audience, (username, password), proved).await
        }
        Credential::User { grant: UserGrant::RefreshToken { first }, proof } => {
            let proved = prove_if_there(means, tenant, proof.as_ref()).await?;
            user::by_refresh_token(means, tenant, audience, first.as_ref(), proved).await
        }
        Credential::ManagedIdentity(identity) => {
            let resource = audience.resource(&tenant.cloud);
            managed::token(&means.local_client().await?, identity, resource).await
        }
    }
}

pub(super) async fn prove_if_there(
    means: &LoginContext,
    tenant: &Tenant,
    proof: Option<&ClientProof>,
) -> Result<Option<Proved>, TokenError> {
    match proof {
        Some(proof) => proof::prove(means, tenant, proof).await.map(Some),
        None => Ok(None),
    }
}
