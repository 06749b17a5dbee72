//! Metrics and health over HTTP.
//!
//! `/metrics` in Prometheus' text format; `/healthz`: the process is alive; `/readyz`: the spool is healthy and the
//! listeners are bound, or 503 and why not; `/api/v1/messages/{id}`: where one message stands; `/api/v1/reload`: reads the configuration
//! again. Loopback only, since nobody is asked for a login.

mod gauges;
mod messages;
mod reload;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    schedule::{Depths, Inspector},
    spool::{FreeSpace, Spool, Usage},
    telemetry::Metrics,
};
pub use gauges::Gauges;
pub use messages::{ErrorPage, MessagePage, WaitsPage};
pub use reload::{ReloadRequest, Reloaded, Reloads};

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
    pub async fn serve(self, shown: Shown, shutdown: CancellationToken) -> io::Result<()> {
        let gauges = Gauges::new(&shown.metrics);
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
            .route("/api/v1/messages/{id}", get(messages::message))
            .route("/api/v1/reload", post(reload::reload))
            .with_state(Arc::new((shown, gauges)));
        axum::serve(self.listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }
}

type Page = State<Arc<(Shown, Gauges)>>;

async fn metrics(State(page): Page) -> Response {
    let (shown, gauges) = &*page;
    gauges.set(shown);
    match shown.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

async fn ready(State(page): Page) -> Response {
    match page.0.spool.unhealthy() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("spool: {reason}\n")).into_response(),
    }
}
