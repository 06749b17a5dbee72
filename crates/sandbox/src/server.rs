//! The one port: routes, request ids, bodies, faults and the log of calls, the same for every endpoint.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
    routing::{any, get, post},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use uuid::Uuid;

use super::{
    control,
    faults::{Action, On},
    graph, login,
    options::Directory,
    page,
    store::Call,
    uploads,
    wire::Cut,
    world::World,
};
use crate::clock;
use relay_mail::Timestamp;

/// What is read of a body that is too large before it is refused, so that a client that sends all before it
/// listens gets its 413 and not a broken connection.
const DRAIN: usize = 256 << 20;

pub(super) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/", get(page::show))
        .route("/_sandbox/messages", get(control::messages))
        .route("/_sandbox/messages/{number}", get(control::message))
        .route("/_sandbox/messages/{number}/source", get(control::source))
        .route("/_sandbox/calls", get(control::calls))
        .route("/_sandbox/counts", get(control::counts))
        .route("/_sandbox/faults", get(control::faults).post(control::inject).delete(control::clear_faults))
        .route("/_sandbox/smtp", get(control::smtp))
        .route("/_sandbox/device", post(control::device))
        .route("/{directory}/oauth2/v2.0/token", post(token))
        .route("/{directory}/oauth2/v2.0/devicecode", post(token))
        .route("/{directory}/v2.0/.well-known/openid-configuration", get(discovery))
        .route("/{directory}/discovery/v2.0/keys", get(discovery))
        .route("/common/discovery/instance", get(discovery))
        .route("/common/userrealm/{user}", get(discovery))
        .route("/{directory}/v2.0/adminconsent", get(consent))
        .route("/metadata/identity/oauth2/token", get(managed_identity))
        .route("/msi/token", get(managed_identity))
        .route("/v1.0/{*path}", any(graph))
        .route("/api/v2.0/{*path}", any(upload))
        .with_state(world)
}

/// A request while it is worked on, and what its line in the log will say.
pub(super) struct Exchange {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) request_id: Uuid,
    pub(super) client_request_id: Option<String>,
    pub(super) directory: Option<String>,
    pub(super) mailbox: Option<String>,
    pub(super) body_len: usize,
    connection: u64,
    received: Timestamp,
}

pub(super) enum Outcome {
    Answer(Response),
    /// Close the connection, say nothing.
    Cut,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    /// The client went away in the middle.
    Broken,
}

#[derive(Clone, Copy)]
enum Endpoint {
    Token,
    Discovery,
    Consent,
    ManagedIdentity,
    Graph,
    Upload,
}

type Connection = ConnectInfo<Cut>;

async fn token(State(world): State<Arc<World>>, ConnectInfo(cut): Connection, request: Request) -> Response {
    run(world, cut, request, Endpoint::Token).await
}

async fn discovery(
    State(world): State<Arc<World>>,
    ConnectInfo(cut): Connection,
    request: Request,
) -> Response {
    run(world, cut, request, Endpoint::Discovery).await
}

async fn consent(
    State(world): State<Arc<World>>,
    ConnectInfo(cut): Connection,
    request: Request,
) -> Response {
    run(world, cut, request, Endpoint::Consent).await
}

async fn managed_identity(
    State(world): State<Arc<World>>,
    ConnectInfo(cut): Connection,
    request: Request,
) -> Response {
    run(world, cut, request, Endpoint::ManagedIdentity).await
}

async fn graph(State(world): State<Arc<World>>, ConnectInfo(cut): Connection, request: Request) -> Response {
    run(world, cut, request, Endpoint::Graph).await
}

async fn upload(State(world): State<Arc<World>>, ConnectInfo(cut): Connection, request: Request) -> Response {
    run(world, cut, request, Endpoint::Upload).await
}

/// Runs the endpoint on a task of its own: like the real back end, it goes on when the client has given up, keeps
/// its place among the mailbox's concurrent calls, and delivers.
async fn run(world: Arc<World>, cut: Cut, request: Request, endpoint: Endpoint) -> Response {
    let (parts, body) = request.into_parts();
    let mut exchange = Exchange::new(parts, cut.connection());
    let work = tokio::spawn(async move {
        let answer = async {
            match endpoint {
                Endpoint::Token => login::answer(&world, &mut exchange, body).await,
                Endpoint::Discovery => login::discovery(&world, &mut exchange),
                Endpoint::Consent => login::consent(&world, &mut exchange),
                Endpoint::ManagedIdentity => login::managed(&world, &mut exchange).await,
                Endpoint::Graph => graph::answer(&world, &mut exchange, body).await,
                Endpoint::Upload => uploads::answer(&world, &mut exchange, body).await,
            }
        };
        let outcome = tokio::select! {
            outcome = answer => outcome,
            () = world.stop.cancelled() => Outcome::Cut,
        };
        let outcome = match outcome {
            Outcome::Answer(response) => Outcome::Answer(exchange.sign(response)),
            Outcome::Cut => Outcome::Cut,
        };
        // Before the answer leaves: who has the answer finds the call in the log.
        world.store.log(exchange.into_call(&outcome));
        outcome
    });
    match work.await {
        Ok(Outcome::Answer(response)) => response,
        Ok(Outcome::Cut) | Err(_) => {
            cut.now();
            Response::default()
        }
    }
}

/// Lets the faults have their say, and does `act` unless they say no. `directory` is the caller's, as far as known.
pub(super) async fn with_faults(
    world: &World,
    on: On,
    directory: Option<&Directory>,
    exchange: &mut Exchange,
    act: impl FnOnce(&mut Exchange) -> Response,
) -> Outcome {
    let struck = world.faults.strike(on, directory, exchange.mailbox.as_deref());
    let latency = match on {
        On::Token => world.options.login_latency,
        On::ManagedIdentity => Duration::ZERO,
        _ => world.options.latency,
    };
    let wait = struck.delay + latency;
    if !wait.is_zero() {
        // What `act` holds, such as a place among the concurrent calls, it holds meanwhile.
        tokio::time::sleep(wait).await;
    }
    match struck.then {
        // The last two are for SMTP, and are not let in for a call.
        None | Some(Action::Delay(_) | Action::Reply(_) | Action::ReplyAfter(_)) => {
            Outcome::Answer(act(exchange))
        }
        Some(Action::Status(fault)) => Outcome::Answer(fault.respond(on, exchange)),
        Some(Action::StatusAfter(fault)) => {
            act(exchange);
            Outcome::Answer(fault.respond(on, exchange))
        }
        Some(Action::CutBefore) => Outcome::Cut,
        Some(Action::CutAfter) => {
            act(exchange);
            Outcome::Cut
        }
    }
}

impl Exchange {
    fn new(parts: Parts, connection: u64) -> Self {
        Self {
            client_request_id: text_header(&parts.headers, "client-request-id").map(str::to_owned),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            request_id: random_uuid(),
            directory: None,
            mailbox: None,
            body_len: 0,
            connection,
            received: clock::now(),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        text_header(&self.headers, name)
    }

    /// The client's own, or ours where it gave none.
    pub(super) fn client_request_id(&self) -> String {
        self.client_request_id.clone().unwrap_or_else(|| self.request_id.to_string())
    }

    /// The whole body, if it is no longer than `most`.
    pub(super) async fn read(&mut self, body: Body, most: usize) -> Result<Bytes, BodyError> {
        let mut chunks = body.into_data_stream();
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            self.body_len += chunk.len();
            if self.body_len > DRAIN {
                return Err(BodyError::TooLarge);
            }
            if self.body_len > most {
                more.clear();
            } else if whole.is_empty() {
                whole = chunk;
            } else {
                if more.is_empty() {
                    let length = self.header(header::CONTENT_LENGTH.as_str()).and_then(|n| n.parse().ok());
                    more.reserve(length.unwrap_or(0_usize).min(most));
                    more.extend_from_slice(&whole);
                }
                more.extend_from_slice(&chunk);
            }
        }
        match self.body_len > most {
            true => Err(BodyError::TooLarge),
            false if more.is_empty() => Ok(whole),
            false => Ok(more.freeze()),
        }
    }

    /// The headers that Microsoft puts on each answer. `Date` comes from the HTTP engine.
    fn sign(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.request_id.to_string()) {
            headers.insert("request-id", id);
        }
        if let Ok(id) = HeaderValue::from_str(&self.client_request_id()) {
            headers.insert("client-request-id", id);
        }
        response
    }

    fn into_call(self, outcome: &Outcome) -> Call {
        // The query of an upload URL is what gives access to it.
        let secret_query = self.uri.path().starts_with("/api/");
        let path = match self.uri.path_and_query() {
            Some(all) if !secret_query => all.as_str(),
            _ => self.uri.path(),
        };
        Call {
            received_at_ms: self.received.as_millis(),
            connection: self.connection,
            method: self.method.to_string(),
            path: path.to_owned(),
            directory: self.directory,
            mailbox: self.mailbox,
            status: match outcome {
                Outcome::Answer(response) => Some(response.status().as_u16()),
                Outcome::Cut => None,
            },
            body_len: self.body_len,
            request_id: self.request_id.to_string(),
            client_request_id: self.client_request_id,
        }
    }
}

pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// From the thread's own generator: these ids keep nobody out, and cost no system call.
pub(super) fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(super) fn is_media_type(exchange: &Exchange, wanted: &str) -> bool {
    exchange
        .header(header::CONTENT_TYPE.as_str())
        .map(|value| value.split(';').next().unwrap_or_default().trim())
        .is_some_and(|media| media.eq_ignore_ascii_case(wanted))
}
