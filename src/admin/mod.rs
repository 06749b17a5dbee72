//! Metrics and health over HTTP.
//!
//! `/metrics` in Prometheus' text format; `/healthz`: the process is alive; `/readyz`: mail is taken, or 503
//! and why not; `/api/v1/messages` and `/api/v1/queue`: what is in the queues, and what is done to it;
//! `/api/v1/quarantine`: the same of what is damaged; `/api/v1/tenants/{name}/retry`: tries what was refused
//! to a tenant again; `/api/v1/reload`: reads the configuration again.
//!
//! By TCP, and by a Unix socket for the commands of this machine. Who may ask for what is decided in one
//! place ([`gate`]) before anything is done; how many are connected, and how long they may take, in another
//! ([`seats`], [`connection`]). A handler has a whole request and never waits for a client.

mod connection;
mod error_page;
mod exposition;
mod flow;
mod gate;
mod gauges;
mod messages;
mod quarantine;
mod reload;
mod seats;
mod socket;
mod tenants;
mod token;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::Listener,
};
use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use exposition::Exposition;
use flow::Flow;
use gate::{Gate, Way};
use seats::Seats;
use socket::Socket;

use crate::{
    config::AdminConfig,
    delivery::ByHand,
    schedule::{Depths, Inspector},
    telemetry::Metrics,
};
pub use error_page::ErrorPage;
pub use gauges::Gauges;
pub use messages::{
    Action, ActionRequest, ActionResponse, ActionsRequest, ActionsResponse, AttemptPage, MessagePage,
    MessageQuery, MessagesPage, SummaryPage, SummaryRow, WaitsPage,
};
pub use quarantine::{QuarantineDone, QuarantineEntry, QuarantinePage};
use relay_spool::{FreeSpace, Quarantine, Spool, Usage};
pub use reload::{ReloadRequest, Reloaded, Reloads, SuspensionError, SuspensionKind, SuspensionWish};
pub use socket::{SocketError, SocketFault};
pub use tenants::{ConfigurationPage, MailboxPage, StatusPage, SuspendRequest, TenantPage, TenantsPage};

/// Connections by TCP at a time. Prometheus, a health check and a person need one each.
const MOST_BY_TCP: usize = 48;

/// The same by the socket, for commands.
const MOST_BY_SOCKET: usize = 32;

/// A request behind thousands of silent connections must be answered within a second.
const PATIENCE_BY_TCP: Duration = Duration::from_millis(5);
/// Nobody who can open the socket means harm.
const PATIENCE_BY_SOCKET: Duration = Duration::from_secs(1);

/// Bound, but not serving yet.
pub struct Server {
    listener: TcpListener,
    socket: Socket,
    config: AdminConfig,
}

/// What the pages show.
#[derive(Clone)]
pub struct Shown {
    pub metrics: Metrics,
    pub spool: Spool,
    pub quarantine: Quarantine,
    pub depths: Depths,
    pub inspector: Inspector,
    pub by_hand: ByHand,
    pub reloads: Reloads,
    pub free_space: FreeSpace,
    pub usage: Usage,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("admin.address: cannot listen on {address}: {source}")]
    Address { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl Server {
    pub async fn bind(config: &AdminConfig) -> Result<Self, BindError> {
        let address = config.address;
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| BindError::Address { address, source })?;
        let socket = Socket::bind(&config.socket).await?;
        Ok(Self { listener, socket, config: config.clone() })
    }

    /// Where the socket is.
    pub fn socket(&self) -> &Path {
        &self.socket.place.path
    }

    /// The bound address: with the port that the system chose, if the configuration has 0.
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
        let desk = Arc::new(Desk { flow: Flow::new(metrics.clone()), shown, exposition });
        let watched = desk.clone();
        let api = Router::new()
            .merge(messages::routes())
            .merge(quarantine::routes())
            .merge(tenants::routes())
            .route("/reload", post(reload::reload));
        let router = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
            // The gate recognises the API by this prefix.
            .nest("/api/v1", api)
            .with_state(desk);
        let Self { listener, socket: Socket { listener: by_socket, place }, config } = self;
        let gate = Gate::new(&config, metrics.clone());
        let seats = |most, patience| Seats::new(most, patience, metrics.admin_connections().clone());
        let by_tcp = seats(MOST_BY_TCP, PATIENCE_BY_TCP);
        let for_commands = seats(MOST_BY_SOCKET, PATIENCE_BY_SOCKET);
        let site = Arc::new(Site { router, gate, metrics });
        let by_address = |stream: &TcpStream| Way::Tcp {
            here: stream.local_addr().ok().map(|here| here.ip()),
            there: stream.peer_addr().ok().map(|there| there.ip()),
        };
        let by_file = |stream: &UnixStream| Way::Socket {
            user: stream.peer_cred().ok().map(|credentials| credentials.uid()),
        };
        tokio::join!(
            accept(listener, by_address, by_tcp, site.clone(), shutdown.clone()),
            accept(by_socket, by_file, for_commands, site, shutdown.clone()),
            watched.flow.watch(shutdown),
        );
        drop(place);
    }
}

/// Takes connections until `shutdown`, and returns when all have ended.
async fn accept<L: Listener>(
    mut listener: L,
    way: impl Fn(&L::Io) -> Way,
    seats: Arc<Seats>,
    site: Arc<Site>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let arrived = async {
            // An error, such as too many open files, is waited out there.
            let (stream, _) = listener.accept().await;
            (stream, seats.take().await)
        };
        let Some((stream, seat)) = shutdown.run_until_cancelled(arrived).await else { break };
        let way = way(&stream);
        connections.spawn(connection::serve(stream, way, seat, site.clone(), shutdown.clone()));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What answers.
struct Site {
    router: Router,
    gate: Gate,
    metrics: Metrics,
}

/// What the answers are made of.
struct Desk {
    shown: Shown,
    flow: Flow,
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
    match not_ready(&desk.shown) {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Why no mail is taken, if none is.
fn not_ready(shown: &Shown) -> Option<String> {
    match (shown.spool.unhealthy(), shown.free_space.shortage()) {
        (None, None) => None,
        (Some(reason), _) => Some(format!("spool: {reason}")),
        (None, Some(shortage)) => Some(format!("new mail is refused with 452: {shortage}")),
    }
}
