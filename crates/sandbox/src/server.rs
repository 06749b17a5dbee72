//! The one port: routes, and what is the same for every endpoint: a task for each call, and a line in the
//! log.

use std::sync::Arc;

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    response::Response,
    routing::{any, get, post},
};

use super::{
    control,
    exchange::{Exchange, Outcome},
    graph, login, page, uploads,
    wire::Cut,
    world::World,
};

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
        .route("/_sandbox/roles", post(control::roles))
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

/// Runs the endpoint on a task of its own: like the real back end, it continues when the client has given up,
/// keeps its place among the mailbox's concurrent calls, and delivers.
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
        // Before the answer is sent: a client that has the answer finds the call in the log.
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
