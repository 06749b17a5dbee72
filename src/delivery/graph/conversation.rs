//! Calls on behalf of one message: the URL, the token, the limits, the time.
//!
//! A call is made once. Only if its token is refused is it made again, once, with a new token: the refused
//! call was not executed. Before each call the mailbox's [`Allowance`] is asked. Each call carries a
//! `client-request-id` of its own, which is logged with the answer's `request-id`.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{
    Method,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE},
};
use reqwest::Url;
use tracing::debug;

use super::{
    answer::{CallError, GraphResponse},
    content::{self, Content},
    errors::Class,
    named::{PageUrl, UploadUrl},
};
use crate::{
    config::{NetworkConfig, Tenant},
    delivery::{Disposition, letter::Mime, put_off},
    identity::{AccessToken, Audience, Identity},
    limits::allowance::{Allowance, Allowances},
    network::{self, Clients},
};
use relay_mail::MailboxAddress;
use relay_spool::SMALL_BODY;

/// What is asked of Graph.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// What follows `/v1.0/users/{mailbox}/`, not escaped.
    pub(super) path: Vec<&'a str>,
    /// Escaped.
    pub(super) query: Option<String>,
    /// Instead of both: a URL that Graph has named.
    page: Option<Url>,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    /// `Content-Length: 0`, which a POST without a body needs.
    Empty,
    Json(Bytes),
    /// A message as MIME in base64.
    Mime(Mime),
}

impl Body {
    /// Octets on the wire.
    fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Json(json) => json.len() as u64,
            Self::Mime(mime) => content::encoded_len(mime.len()),
        }
    }
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, path: &[&'a str], body: Body) -> Self {
        Self { method, path: path.to_vec(), query: None, page: None, body }
    }

    pub(super) fn get(path: &[&'a str], query: String) -> Self {
        Self { query: Some(query), ..Self::new(Method::GET, path, Body::Empty) }
    }

    pub(super) fn page(page: &PageUrl) -> Self {
        Self { page: Some(page.url()), ..Self::new(Method::GET, &[], Body::Empty) }
    }
}

/// Whether an answer must name the call that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    /// Graph repeats the `client-request-id`.
    Own,
    Any,
}

/// What calls are made with.
pub struct GraphContext {
    pub identity: Arc<Identity>,
    pub clients: Clients,
    pub network: NetworkConfig,
    pub allowances: Allowances,
}

/// A conversation with the service, for one mailbox.
pub(super) struct Conversation<'a> {
    means: &'a GraphContext,
    pub(super) allowance: Arc<Allowance>,
    has_called: bool,
    /// A call timed out: the service may still be working on it.
    pub(super) timed_out: bool,
    pub(super) tenant: &'a Arc<Tenant>,
    pub(super) mailbox: &'a MailboxAddress,
    token: Option<AccessToken>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(means: &'a GraphContext, tenant: &'a Arc<Tenant>, mailbox: &'a MailboxAddress) -> Self {
        let allowance = means.allowances.of(tenant, mailbox);
        let has_called = false;
        let timed_out = false;
        Self { means, allowance, has_called, timed_out, tenant, mailbox, token: None }
    }

    /// Makes the call. `Ok` is a 2xx, which may be another than expected.
    pub(super) async fn call(&mut self, request: Request<'_>) -> Result<GraphResponse, CallError> {
        let refused = match self.call_once(&request).await?.check() {
            Err(CallError::Refused(error, answer)) if error.class == Class::Token => (error, answer),
            other => return self.heeding_denials(other),
        };
        debug!(tenant = %self.tenant.name, code = refused.0.code, "token rejected by Graph; requesting a new one");
        if let Some(token) = self.token.take() {
            self.means.identity.reject(self.tenant, Audience::Graph, &token);
        }
        let answer = self.call_once(&request).await?.check();
        self.heeding_denials(answer)
    }

    /// A permission is granted to tokens that are issued afterwards.
    fn heeding_denials(&self, answer: Result<GraphResponse, CallError>) -> Result<GraphResponse, CallError> {
        if let (Err(error), Some(token)) = (&answer, &self.token)
            && error.is_forbidden()
        {
            self.means.identity.denied(self.tenant, Audience::Graph, token);
        }
        answer
    }

    async fn call_once(&mut self, request: &Request<'_>) -> Result<GraphResponse, CallError> {
        let token = self.token().await?;
        let url = self.url(request).ok_or_else(|| CallError::stopped_here("the Graph URL is not valid"))?;
        let client_request_id = uuid::Uuid::new_v4().to_string();
        let len = request.body.len();
        self.admit(len).await?;
        let call = self
            .client()?
            .request(request.method.clone(), url)
            .header(AUTHORIZATION, token.bearer())
            .header("client-request-id", &client_request_id)
            // Ids that do not change when a draft becomes a sent message (Microsoft, "Obtain immutable
            // identifiers for Outlook resources").
            .header("Prefer", "IdType=\"ImmutableId\"")
            .timeout(network::time_limit(&self.means.network, len));
        let call = match &request.body {
            Body::Empty if request.method == Method::GET => call,
            Body::Empty => call.header(CONTENT_LENGTH, 0),
            Body::Json(json) => call.header(CONTENT_TYPE, "application/json").body(json.clone()),
            Body::Mime(mime) => with_mime(call.header(CONTENT_TYPE, "text/plain"), mime.clone()).await?,
        };
        self.send(call, &client_request_id, Echo::Own).await
    }

    /// Puts a piece of an attachment to an upload URL. The URL is its own permission: no token is sent there.
    /// To a host that is not configured, the call is made by a client that connects to public addresses only.
    /// `None`: asks how far the upload has come.
    pub(super) async fn upload(
        &mut self,
        to: &UploadUrl,
        piece: Option<(Bytes, String)>,
    ) -> Result<GraphResponse, CallError> {
        let url = to.url();
        let client_request_id = uuid::Uuid::new_v4().to_string();
        let len = piece.as_ref().map_or(0, |(piece, _)| piece.len() as u64);
        self.admit(len).await?;
        let client = self.upload_client(to)?;
        let call = match piece {
            None => client.get(url),
            Some((piece, range)) => client
                .put(url)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, range)
                .body(piece),
        };
        let time_limit = network::time_limit(&self.means.network, len);
        let call = call.header("client-request-id", &client_request_id).timeout(time_limit);
        self.send(call, &client_request_id, Echo::Any).await?.check()
    }

    /// What the mailbox may not do now it may do later. The first call of a message is put off with the
    /// message; any other call waits.
    async fn admit(&mut self, octets: u64) -> Result<(), CallError> {
        if self.has_called {
            self.allowance.take_call_when_allowed(octets).await;
            return Ok(());
        }
        self.allowance
            .take_call(octets)
            .map_err(|exhausted| CallError::Stopped(put_off(exhausted, self.mailbox)))?;
        self.has_called = true;
        Ok(())
    }

    async fn send(
        &mut self,
        call: reqwest::RequestBuilder,
        client_request_id: &str,
        echo: Echo,
    ) -> Result<GraphResponse, CallError> {
        match call.send().await {
            Ok(answer) if echo == Echo::Own && is_of_another(answer.headers(), client_request_id) => {
                // Neither this answer nor anything behind it on this connection is of use.
                self.allowance.avoid_connection();
                let why =
                    format!("the answer belongs to another call (client-request-id {client_request_id})");
                Err(CallError::Broken { why, is_unsent: false })
            }
            Ok(answer) => {
                let answer = GraphResponse::read(answer, client_request_id).await;
                if answer.status == 503 {
                    // The server behind this connection may be the cause.
                    self.allowance.avoid_connection();
                }
                let status = answer.status;
                let request_id = &answer.request_id;
                debug!(tenant = %self.tenant.name, status, request_id, client_request_id, "Graph responded");
                Ok(answer)
            }
            Err(error) => {
                // A connection that takes too long has failed.
                self.timed_out |= error.is_timeout() && !error.is_connect();
                Err(broken_off(error, client_request_id))
            }
        }
    }

    fn client(&self) -> Result<reqwest::Client, CallError> {
        let cloud = &self.tenant.cloud;
        let client = if self.allowance.wants_new_connection() {
            self.means.clients.fresh(cloud)
        } else {
            self.means.clients.of(cloud)
        };
        client.ok_or_else(|| CallError::stopped_here("the cloud has no client"))
    }

    fn upload_client(&self, to: &UploadUrl) -> Result<reqwest::Client, CallError> {
        if to.is_configured {
            return self.client();
        }
        let fresh = self.allowance.wants_new_connection();
        let client = self.means.clients.public(&self.tenant.cloud, fresh);
        client.ok_or_else(|| CallError::stopped_here("the cloud has no client"))
    }

    async fn token(&mut self) -> Result<AccessToken, CallError> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let token = self.means.identity.token(self.tenant, Audience::Graph).await;
        let token = token.map_err(|error| CallError::Stopped(Disposition::no_token(error)))?;
        self.token = Some(token.clone());
        Ok(token)
    }

    fn url(&self, request: &Request<'_>) -> Option<Url> {
        if let Some(page) = &request.page {
            return Some(page.clone());
        }
        message_url(&self.tenant.cloud.graph, self.mailbox, &request.path, request.query.as_deref())
    }
}

/// `…/v1.0/users/{mailbox}/…`
fn message_url(graph: &str, mailbox: &MailboxAddress, path: &[&str], query: Option<&str>) -> Option<Url> {
    let mut url = Url::parse(graph).ok()?;
    let users = format!("{}/v1.0/{}", url.path().trim_end_matches('/'), users(mailbox));
    url.set_path(&users);
    // Segments are escaped where they need to be.
    url.path_segments_mut().ok()?.extend(path);
    url.set_query(query);
    Some(url)
}

/// The mailbox's resource, escaped. One with a `$` in front cannot be a segment of its own (Microsoft, "Get a
/// user"): it becomes a key in quotes, and so does any other that is not plain.
fn users(mailbox: &MailboxAddress) -> String {
    const ESCAPED: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'@').remove(b'.').remove(b'-').remove(b'_').remove(b'+');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+".contains(c);
    let escaped = |text: &str| percent_encoding::utf8_percent_encode(text, ESCAPED).to_string();
    match mailbox.as_str() {
        plain if plain.starts_with(|c: char| c.is_ascii_alphanumeric()) && plain.chars().all(is_plain) => {
            format!("users/{plain}")
        }
        other => format!("users('{}')", escaped(&other.replace('\'', "''"))),
    }
}

async fn with_mime(call: reqwest::RequestBuilder, mime: Mime) -> Result<reqwest::RequestBuilder, CallError> {
    let len = mime.len();
    let content = Content::new([mime.header, mime.begun], mime.rest);
    if len <= SMALL_BODY as u64 {
        let whole = content.whole(len).await.map_err(|e| CallError::cannot_read(&e))?;
        return Ok(call.body(whole));
    }
    let pieces = futures_util::stream::try_unfold(content, |mut content| async {
        Ok::<_, io::Error>(content.next().await?.map(|piece| (piece, content)))
    });
    Ok(call.header(CONTENT_LENGTH, content::encoded_len(len)).body(reqwest::Body::wrap_stream(pieces)))
}

/// Whether an answer names another call: a proxy, or the service itself, has mixed them up. If a proxy
/// removed the id of the call, the answer names the service's own.
fn is_of_another(headers: &http::HeaderMap, client_request_id: &str) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let said = text("client-request-id");
    said.is_some_and(|said| !said.eq_ignore_ascii_case(client_request_id) && text("request-id") != Some(said))
}

/// No answer came. Without a connection nothing was sent; with one, nobody knows.
fn broken_off(error: reqwest::Error, client_request_id: &str) -> CallError {
    let is_unsent = error.is_connect() || error.is_builder();
    let why = format!("{} (client-request-id {client_request_id})", network::describe(error));
    CallError::Broken { why, is_unsent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(mailbox: &str) -> String {
        message_url("https://graph.example/base/", &mailbox.parse().unwrap(), &["sendMail"], None)
            .unwrap()
            .into()
    }

    #[test]
    fn a_mailbox_is_one_segment() {
        for (mailbox, users) in [
            ("ann.lee+x@contoso.example", "users/ann.lee+x@contoso.example"),
            ("$ales@contoso.example", "users('%24ales@contoso.example')"),
            ("o'neil@contoso.example", "users('o%27%27neil@contoso.example')"),
            ("a/b?c#d@contoso.example", "users('a%2Fb%3Fc%23d@contoso.example')"),
            ("100%25@contoso.example", "users('100%2525@contoso.example')"),
            ("_a@contoso.example", "users('_a@contoso.example')"),
        ] {
            assert_eq!(url(mailbox), format!("https://graph.example/base/v1.0/{users}/sendMail"));
        }
    }

    proptest! {
        #[test]
        fn no_address_reaches_another_resource(local in "(\\PC|[!-~]){1,20}", quoted: bool) {
            let address = if quoted { format!("\"{local}\"@x.se") } else { format!("{local}@x.se") };
            let Ok(mailbox) = address.parse::<MailboxAddress>() else { return Ok(()) };
            let url = message_url("https://graph.example/base", &mailbox, &["messages", "id"], Some("q=1")).unwrap();
            prop_assert_eq!((url.host_str(), url.query(), url.fragment()), (Some("graph.example"), Some("q=1"), None));
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            let (resource, rest) = match segments[..] {
                ["base", "v1.0", "users", mailbox, ref rest @ ..] => (mailbox.to_owned(), rest),
                ["base", "v1.0", users, ref rest @ ..] => {
                    let key = users.strip_prefix("users('").unwrap().strip_suffix("')").unwrap();
                    let key = percent_encoding::percent_decode_str(key).decode_utf8().unwrap();
                    (key.replace("''", "'"), rest)
                }
                _ => panic!("{url}"),
            };
            prop_assert_eq!((resource.as_str(), rest), (mailbox.as_str(), &["messages", "id"][..]));
        }
    }
}
