//! One token request: client credentials with a secret (RFC 6749 section 4.4), by the `oauth2` crate.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    RequestTokenError, Scope, TokenResponse, TokenUrl,
    basic::{BasicClient, BasicErrorResponse},
};

use super::{AccessToken, Audience, TokenError, TokenErrorKind, aadsts};
use crate::{clock, config::Tenant, network};

/// For the whole request. Entra ID answers within a second or two.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A token answer has some 2 KB.
const LARGEST_ANSWER: usize = 256 * 1024;
/// What Entra ID's tokens live at least if the answer does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// A token that ends sooner is none: it would be asked for again and again, without a pause.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);

type Client = BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// Asks the tenant's login service for a token.
pub(super) async fn token(
    tenant: &Tenant,
    audience: Audience,
    http: reqwest::Client,
) -> Result<AccessToken, TokenError> {
    let client = oauth_client(tenant).await?;
    // Graph and login are configured by base URL, and the resource's name is Graph's.
    let scope = Scope::new(format!("{}/.default", audience.resource(&tenant.cloud)));
    let answer_head = Arc::new(Mutex::new(AnswerHead::default()));
    let send = |request: HttpRequest| send(http.clone(), request, answer_head.clone());
    let answer = client.exchange_client_credentials().add_scope(scope).request_async(&send).await;
    let head = *answer_head.lock().unwrap_or_else(|e| e.into_inner());
    match answer {
        Ok(token) => {
            let lifetime = token.expires_in().unwrap_or(DEFAULT_LIFETIME);
            if lifetime < SHORTEST_LIFETIME {
                return Err(TokenError {
                    kind: TokenErrorKind::Transient,
                    why: format!(
                        "the login service {} gave a token that ends at once (expires_in {})",
                        tenant.cloud.login,
                        lifetime.as_secs()
                    ),
                    retry_after: head.retry_after.unwrap_or_default(),
                });
            }
            Ok(AccessToken::new(token.access_token().secret().clone(), lifetime))
        }
        Err(error) => Err(explain(tenant, error, head)),
    }
}

async fn oauth_client(tenant: &Tenant) -> Result<Client, TokenError> {
    let url = format!("{}/{}/oauth2/v2.0/token", tenant.cloud.login, tenant.directory);
    let url = TokenUrl::new(url).map_err(|e| blocked(format!("the login URL is none: {e}")))?;
    let source = tenant.client_secret.clone();
    // A file is read here, and a file may be on a slow disk.
    let secret = tokio::task::spawn_blocking(move || source.read()).await;
    let secret = secret.map_err(|e| blocked(e.to_string()))?;
    let secret = secret.map_err(|e| blocked(format!("client_secret: {e}")))?;
    Ok(BasicClient::new(ClientId::new(tenant.client_id.clone()))
        .set_client_secret(ClientSecret::new(secret.expose().to_owned()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(url))
}

/// What the oauth2 crate does not hand on.
#[derive(Debug, Clone, Copy, Default)]
struct AnswerHead {
    status: u16,
    retry_after: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{0}")]
    Http(String),
    #[error("the answer is larger than {LARGEST_ANSWER} bytes")]
    TooLarge,
}

async fn send(
    http: reqwest::Client,
    request: HttpRequest,
    head: Arc<Mutex<AnswerHead>>,
) -> Result<HttpResponse, SendError> {
    let failed = |e| SendError::Http(network::describe(e));
    let (parts, body) = request.into_parts();
    let request = http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
    let mut answer = request.timeout(TIMEOUT).send().await.map_err(failed)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    *head.lock().unwrap_or_else(|e| e.into_inner()) =
        AnswerHead { status: status.as_u16(), retry_after: network::retry_after(&headers, clock::now()) };
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(SendError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn explain(
    tenant: &Tenant,
    error: RequestTokenError<SendError, BasicErrorResponse>,
    head: AnswerHead,
) -> TokenError {
    let login = &tenant.cloud.login;
    let transient = |why: String| TokenError {
        kind: TokenErrorKind::Transient,
        why,
        retry_after: head.retry_after.unwrap_or_default(),
    };
    match error {
        RequestTokenError::ServerResponse(response) => {
            let description = response.error_description().map_or("", String::as_str);
            let mut error = aadsts::explain(response.error().as_ref(), description);
            // An overloaded service may answer in the form of a refusal; the status knows better.
            if head.status == 429 || head.status >= 500 {
                error.kind = TokenErrorKind::Transient;
            }
            error.retry_after = head.retry_after.unwrap_or_default();
            error
        }
        RequestTokenError::Request(e) => transient(format!("cannot reach the login service {login}: {e}")),
        // The body may hold a token that was cut short: it is not quoted.
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => transient(format!(
            "the login service {login} answered {} with something that is no token",
            head.status
        )),
    }
}

fn blocked(why: String) -> TokenError {
    TokenError { kind: TokenErrorKind::Blocked, why, retry_after: Duration::ZERO }
}
