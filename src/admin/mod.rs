//! Metrics and health over HTTP.
//!
//! `/metrics` in Prometheus' text format; `/healthz`: the process is alive; `/readyz`: the spool is healthy and the
//! listeners are bound, or 503 and why not; `/api/v1/messages/{id}`: where one message stands; `/api/v1/reload`: reads the configuration
//! again. Loopback only, since nobody is asked for a login.

mod connection;
mod exposition;
mod gauges;
mod messages;
mod reload;
mod seats;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::Listener,
};
use bytes::Bytes;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use exposition::Exposition;
use seats::Seats;

use crate::{
    schedule::{Depths, Inspector},
    spool::{FreeSpace, Spool, Usage},
    telemetry::Metrics,
};
pub use gauges::Gauges;
pub use messages::{ErrorPage, MessagePage, WaitsPage};
pub use reload::{ReloadRequest, Reloaded, Reloads};

/// Connections by TCP at a time. Prometheus, a health check and a person need one each.
const MOST_BY_TCP: usize = 48;

/// Bound, and nobody is served yet.
pub struct Server {
    listener: TcpListener,
}

/// What the pages show.
#[derive(Clone)]
pub struct Shown {
    pub metrics: Metrics,
    pub spool: Spool,
    pub depths: Depths,
    pub inspector: Inspector,
    pub reloads: Reloads,
    pub free_space: FreeSpace,
    pub usage: Usage,
}

#[derive(Debug, thiserror::Error)]
#[error("admin.address: cannot listen on {address}: {source}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

impl Server {
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
        Ok(Self { listener })
    }

    /// Where it is: with the port that the system chose, if the configuration has 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`. Called once the other listeners are bound, so that ready means ready.
    pub async fn serve(self, shown: Shown, shutdown: CancellationToken) {
        let metrics = shown.metrics.clone();
        let gauges = Gauges::new(&metrics);
        let to_render = shown.clone();
        let exposition = Exposition::new(move || {
            gauges.set(&to_render);
            to_render.metrics.render().map(Bytes::from).map_err(|error| error.to_string())
        });
        let router = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
            .route("/api/v1/messages/{id}", get(messages::message))
            .route("/api/v1/reload", post(reload::reload))
            .with_state(Arc::new(Desk { shown, exposition }));
        let seats = Seats::new(MOST_BY_TCP, metrics.admin_connections().clone());
        let site = Arc::new(Site { router, metrics });
        accept(self.listener, seats, site, shutdown).await;
    }
}

/// Takes connections until `shutdown`, and returns when all have ended.
async fn accept<L>(mut listener: L, seats: Arc<Seats>, site: Arc<Site>, shutdown: CancellationToken)
where
    L: Listener,
{
    let mut connections = JoinSet::new();
    loop {
        let arrived = async {
            // An error, such as too many open files, is waited for there.
            let (stream, _) = listener.accept().await;
            (stream, seats.take().await)
        };
        let Some((stream, seat)) = shutdown.run_until_cancelled(arrived).await else { break };
        connections.spawn(connection::serve(stream, seat, site.clone(), shutdown.clone()));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What answers.
struct Site {
    router: Router,
    metrics: Metrics,
}

/// What the answers are made of.
struct Desk {
    shown: Shown,
    exposition: Arc<Exposition>,
}

type Page = State<Arc<Desk>>;

async fn metrics_page(State(desk): Page) -> Response {
    match desk.exposition.page().await {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(desk): Page) -> Response {
    match desk.shown.spool.unhealthy() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("spool: {reason}\n")).into_response(),
    }
}
