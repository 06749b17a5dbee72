//! The login service: one token request, and what its response says.
//!
//! # Contract
//!
//! * The crate `oauth2` writes the requests and reads the responses. They travel over the cloud's HTTP client
//!   ([`client`]), so the client's proxy and certificates, the time limit and the bound on a response apply.
//! * A response becomes a token, or a [`TokenError`] that says what to do and when to ask again
//!   ([`response`]).
//! * No error text of `oauth2` is shown: it may quote the response, and so a token.
//! * Tokens move from `oauth2` to memory that is wiped as soon as they are read. docs/security.md lists what
//!   `oauth2` leaves in memory.
//!
//! The grants make an [`Endpoint`] for each request. Managed identities use only [`send`] and [`Response`]:
//! their protocol is not OAuth.

mod client;
mod response;
#[cfg(test)]
mod tests;
mod wiped;

use std::{future::pending, time::Duration};

use oauth2::{
    AuthType, ClientId, ClientSecret, DeviceAuthorizationResponse, DeviceAuthorizationUrl,
    DeviceCodeErrorResponse, EndpointNotSet, EndpointSet, ExtraDeviceAuthorizationFields, RefreshToken,
    RequestTokenError, ResourceOwnerPassword, ResourceOwnerUsername, Scope, StandardRevocableToken, TokenUrl,
    basic::{BasicRevocationErrorResponse, BasicTokenIntrospectionResponse},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use self::{
    client::Client,
    response::{EntraError, EntraTokens},
    wiped::Wiped,
};
use super::{LoginContext, TokenError};
use crate::config::{Secret, Tenant};

pub(super) use client::{TIMEOUT, send};
pub(super) use response::{Granted, Response};

/// From RFC 7523. A certificate and another provider's token prove the application in the same way.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The tenant's login service as one application uses it.
pub(super) struct Endpoint<'a> {
    http: reqwest::Client,
    tenant: &'a Tenant,
    application: Application,
    assertion: Option<&'a str>,
}

/// With the URLs of the device code and of the token.
type Application = oauth2::Client<
    EntraError,
    EntraTokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// What the user must type in, and what the relay asks with meanwhile.
pub(super) type DeviceAuthorization = DeviceAuthorizationResponse<EntraMessage>;

/// What Entra ID adds to it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct EntraMessage {
    /// For the user who signs in, with the code and the address.
    #[serde(default)]
    pub(super) message: String,
}

impl ExtraDeviceAuthorizationFields for EntraMessage {}

/// Whether the user has signed in.
pub(super) enum Poll {
    Granted(Granted),
    Pending,
    /// Pending, and the service wants to be asked less often.
    SlowDown,
    Declined,
    Expired,
}

/// With the application's assertion, if it proves itself by one. A macro, since the requests of `oauth2`
/// share no trait.
macro_rules! with_assertion {
    ($request:expr, $assertion:expr) => {{
        let request = $request;
        match $assertion {
            None => request,
            Some(assertion) => request
                .add_extra_param("client_assertion", assertion)
                .add_extra_param("client_assertion_type", ASSERTION_TYPE),
        }
    }};
}

impl<'a> Endpoint<'a> {
    /// `proof` is `None` for an application that anybody can claim to be.
    pub(super) fn of(
        means: &LoginContext,
        tenant: &'a Tenant,
        proof: Option<&'a Proved>,
    ) -> Result<Self, TokenError> {
        let invalid = |e| TokenError::blocked(format!("the login URL is not valid: {e}"));
        let device_url = DeviceAuthorizationUrl::new(url(tenant, "devicecode")).map_err(invalid)?;
        let token_url = TokenUrl::new(url(tenant, "token")).map_err(invalid)?;
        let application: Application = oauth2::Client::new(ClientId::new(tenant.client_id.clone()))
            // Credentials go into the body, as Microsoft documents it, and not into a header.
            .set_auth_type(AuthType::RequestBody)
            .set_device_authorization_url(device_url)
            .set_token_uri(token_url);
        let (application, assertion) = match proof {
            None => (application, None),
            Some(Proved::Secret(secret)) => {
                (application.set_client_secret(ClientSecret::new(secret.expose().to_owned())), None)
            }
            Some(Proved::Assertion(assertion)) => (application, Some(assertion.as_str())),
        };
        Ok(Self { http: means.client_of(tenant)?, tenant, application, assertion })
    }

    /// For the application itself.
    pub(super) async fn by_client_credentials(&self, scope: String) -> Result<Granted, TokenError> {
        let request = self.application.exchange_client_credentials().add_scope(Scope::new(scope));
        let request = with_assertion!(request, self.assertion);
        let client = self.client();
        let result = request.request_async(&client).await;
        client.granted(result)
    }

    /// For a user, by the user's password.
    pub(super) async fn by_password(
        &self,
        username: &str,
        password: &Secret,
        scope: String,
    ) -> Result<Granted, TokenError> {
        let username = ResourceOwnerUsername::new(username.to_owned());
        let password = Wiped::new(ResourceOwnerPassword::new(password.expose().to_owned()));
        let request = self.application.exchange_password(&username, &password).add_scope(Scope::new(scope));
        let request = with_assertion!(request, self.assertion);
        let client = self.client();
        let result = request.request_async(&client).await;
        client.granted(result)
    }

    /// For a user who has signed in once. The token may be used up afterwards, even if no response came.
    pub(super) async fn by_refresh_token(
        &self,
        token: &Secret,
        scope: String,
    ) -> Result<Granted, TokenError> {
        let token = Wiped::new(RefreshToken::new(token.expose().to_owned()));
        let request = self.application.exchange_refresh_token(&token).add_scope(Scope::new(scope));
        let request = with_assertion!(request, self.assertion);
        let client = self.client();
        let result = request.request_async(&client).await;
        client.granted(result)
    }

    /// Asks for a code for a user to sign in with (RFC 8628 section 3.1). Entra ID needs no proof of the
    /// application for it.
    pub(super) async fn device_code(&self, scope: String) -> Result<DeviceAuthorization, TokenError> {
        let request = self.application.exchange_device_code().add_scope(Scope::new(scope));
        let client = self.client();
        let result = request.request_async(&client).await;
        result.map_err(|error| client.failure(error, "code"))
    }

    /// Asks once whether the user has signed in with the code.
    pub(super) async fn poll(&self, code: &DeviceAuthorization) -> Result<Poll, TokenError> {
        let request = self.application.exchange_device_access_token(code);
        let request = with_assertion!(request, self.assertion);
        let client = self.client();
        // `oauth2` would poll in its own loop. That loop sends the same assertion again, ignores Retry-After
        // and swallows network errors, so it is abandoned when it would wait for the next round.
        let (wants, mut wanted) = mpsc::channel::<Duration>(1);
        let wait = |interval| {
            // There is room for the one value that is read.
            let _ = wants.try_send(interval);
            pending()
        };
        let result = tokio::select! {
            result = request.request_async(&client, wait, Some(TIMEOUT)) => result,
            Some(interval) = wanted.recv() => return match client.unanswered() {
                Some(error) => Err(error),
                None if interval > code.interval() => Ok(Poll::SlowDown),
                None => Ok(Poll::Pending),
            },
        };
        match result {
            Err(RequestTokenError::ServerResponse(error)) => refused(&client, error),
            Err(error) => Err(client.failure(error, "token")),
            Ok(tokens) => client.granted(Ok(tokens)).map(Poll::Granted),
        }
    }

    /// For one request.
    fn client(&self) -> Client<'_> {
        Client::new(&self.http, &self.tenant.cloud.login)
    }
}

fn refused(client: &Client<'_>, error: DeviceCodeErrorResponse) -> Result<Poll, TokenError> {
    match error.error().as_ref() {
        "authorization_declined" | "access_denied" => Ok(Poll::Declined),
        "expired_token" | "code_expired" => Ok(Poll::Expired),
        _ => Err(client.failure(RequestTokenError::ServerResponse(EntraError::from(error)), "token")),
    }
}

/// The proof that an application is itself, ready to be put into a request.
pub(super) enum Proved {
    Secret(Secret),
    Assertion(Zeroizing<String>),
}

/// The token endpoint of the tenant is `url(tenant, "token")`.
pub(super) fn url(tenant: &Tenant, path: &str) -> String {
    format!("{}/{}/oauth2/v2.0/{path}", tenant.cloud.login, tenant.directory)
}
