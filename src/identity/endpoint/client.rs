//! The relay's HTTP client in the form that `oauth2` takes.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use oauth2::{AsyncHttpClient, ErrorResponse, HttpRequest, HttpResponse, RequestTokenError};
use reqwest::Url;
use tracing::debug;
use zeroize::Zeroizing;

use super::{
    super::TokenError,
    response::{EntraError, EntraTokens, Granted, Head, Response},
};
use crate::network;

/// For the whole request. Entra ID answers within a second or two.
pub(in crate::identity) const TIMEOUT: Duration = Duration::from_secs(30);
/// In octets. A token response has some 2 KB.
pub(super) const LARGEST_RESPONSE: usize = 256 * 1024;

/// A client for one request. Keeps what `oauth2` does not pass on: the status and the headers, or why there
/// is no response.
pub(super) struct Client<'a> {
    http: &'a reqwest::Client,
    /// What an error calls it.
    service: &'a str,
    came: OnceLock<Result<Head, TokenError>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(http: &'a reqwest::Client, service: &'a str) -> Self {
        Self { http, service, came: OnceLock::new() }
    }

    /// What the result of the request means.
    pub(super) fn granted(
        &self,
        result: Result<EntraTokens, RequestTokenError<TokenError, EntraError>>,
    ) -> Result<Granted, TokenError> {
        match (result, self.came.get()) {
            (Ok(tokens), Some(Ok(head))) => head.granted(tokens, self.service),
            (Ok(_), _) => Err(not_made()),
            (Err(error), _) => Err(self.failure(error, "token")),
        }
    }

    /// Why there is no `wanted`.
    pub(super) fn failure<E: ErrorResponse + Into<EntraError>>(
        &self,
        error: RequestTokenError<TokenError, E>,
        wanted: &str,
    ) -> TokenError {
        let head = match self.came.get() {
            Some(Ok(head)) => head,
            Some(Err(error)) => return error.clone(),
            None => return not_made(),
        };
        match error {
            RequestTokenError::ServerResponse(error) => head.refused(error.into(), self.service),
            // The error may quote the body, and the body may hold a truncated token: neither is shown.
            RequestTokenError::Parse(_, body) => {
                drop(Zeroizing::new(body));
                head.nonsense(self.service, wanted)
            }
            RequestTokenError::Request(error) => error,
            RequestTokenError::Other(_) => head.nonsense(self.service, wanted),
        }
    }

    /// Why no response came, if none did.
    pub(super) fn unanswered(&self) -> Option<TokenError> {
        self.came.get()?.as_ref().err().cloned()
    }

    async fn post(&self, request: HttpRequest) -> Result<Response, TokenError> {
        let (parts, body) = request.into_parts();
        let body = Bytes::from_owner(Zeroizing::new(body));
        let url = Url::parse(&parts.uri.to_string());
        let url = url.map_err(|e| TokenError::blocked(format!("the login URL is not valid: {e}")))?;
        let request = |url: Url| self.http.post(url).headers(parts.headers.clone()).body(body.clone());
        let response = send(request(url.clone()), self.service).await?;
        match response.head.redirect(&url) {
            None => Ok(response),
            // AADSTS51005 "is like HTTP 307": the request is repeated there. Its secrets do not go to another
            // host.
            Some(elsewhere) if elsewhere.origin() == url.origin() => {
                send(request(elsewhere), self.service).await
            }
            Some(elsewhere) => Err(TokenError::transient(format!(
                "the login service {} sends the request to another host, {}: check the cloud's login",
                self.service,
                elsewhere.host_str().unwrap_or("none")
            ))),
        }
    }
}

impl<'c> AsyncHttpClient<'c> for Client<'_> {
    type Error = TokenError;
    type Future = BoxFuture<'c, Result<HttpResponse, TokenError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let (came, response) = match self.post(request).await {
                Ok(response) => {
                    let (head, response) = into_http(response);
                    (Ok(head), Ok(response))
                }
                Err(error) => (Err(error.clone()), Err(error)),
            };
            // One client makes one request.
            let _ = self.came.set(came);
            response
        })
    }
}

/// `oauth2` accepts only 200 as success, and only JSON's Content-Type. Here every 2xx is a success and the
/// body alone decides, so 200 stands for all of them and the headers are left out.
fn into_http(mut response: Response) -> (Head, HttpResponse) {
    let mut http = HttpResponse::new(std::mem::take(&mut *response.body));
    let status = response.head.status;
    *http.status_mut() = if status.is_success() { StatusCode::OK } else { status };
    (response.head, http)
}

fn not_made() -> TokenError {
    TokenError::defect("the token request cannot be made")
}

/// Sends a request; `service` is what an error calls it.
pub(in crate::identity) async fn send(
    request: reqwest::RequestBuilder,
    service: &str,
) -> Result<Response, TokenError> {
    let failed = |e: reqwest::Error| {
        let is_unreached = e.is_connect();
        let why = format!("cannot reach the login service {service}: {}", network::describe(e));
        if is_unreached { TokenError::unreached(why) } else { TokenError::transient(why) }
    };
    let mut response = request.timeout(TIMEOUT).send().await.map_err(failed)?;
    let head = Head { status: response.status(), headers: std::mem::take(response.headers_mut()) };
    // Room for all of it, since a buffer that grows leaves copies behind.
    let length = response.content_length().and_then(|length| usize::try_from(length).ok());
    let room = length.unwrap_or(LARGEST_RESPONSE).min(LARGEST_RESPONSE);
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LARGEST_RESPONSE {
            return Err(TokenError::transient(format!(
                "the login service {service} answered with more than {LARGEST_RESPONSE} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    debug!(service, status = head.status.as_u16(), "login service responded");
    Ok(Response { head, body })
}
