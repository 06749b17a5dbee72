//! The listeners, and one task for each connection.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    addresses::Addresses,
    certificate::LiveCertificate,
    connection::{Caller, Connection, refused, turn_away},
    conversation::Service,
    memory::Memory,
    outdated::Outdated,
    seats::Seats,
    tls::{Handshakes, Offer},
};
use crate::{
    config::{self, ListenerTls, SmtpConfig},
    ingress::{Door, login::Logins},
    telemetry::{Metrics, Refused},
    vital::Vital,
};

/// How long transactions in DATA may go on after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(10);
/// The pause after an error of accept, such as too many open files, which an immediate retry does not cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound listeners that do not serve any client yet.
pub struct Server {
    listeners: Vec<Bound>,
    certificates: Vec<LiveCertificate>,
    addresses: Addresses,
    config: SmtpConfig,
}

struct Bound {
    socket: TcpListener,
    config: config::Listener,
    tls: Offer,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

impl Server {
    /// Binds every listener of the configuration, or none.
    pub async fn bind(config: &SmtpConfig) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(config.listeners.len());
        let mut certificates = Vec::new();
        for listener in &config.listeners {
            let bound = Bound::bind(listener, &mut certificates).await;
            listeners.push(bound.map_err(|source| BindError { address: listener.address, source })?);
        }
        let addresses = Addresses::new(config.max_connections_per_address, config.client_prefix);
        Ok(Self { listeners, certificates, addresses, config: config.clone() })
    }

    /// Where the listeners are: with the port that the system chose, where the configuration has 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
    }

    /// Serves until `shutdown` is cancelled and the sessions have ended, which takes 10 seconds at most: a
    /// client between transactions is told to come again, one in DATA may finish. A message whose client is
    /// cut off was not acknowledged.
    ///
    /// A listener that breaks down is reported to `vital`, while the others go on.
    pub async fn serve(
        self,
        door: Door,
        logins: Logins,
        metrics: Metrics,
        vital: Vital,
        shutdown: CancellationToken,
    ) {
        let gauge = metrics.smtp_connections().clone();
        let Self { listeners, certificates, addresses, config } = self;
        let service = Arc::new(Service {
            hostname: config.hostname.clone(),
            max_recipients: config.max_recipients,
            limits: config.session,
            memory: Memory::new(
                config.header_memory,
                config.client_prefix,
                metrics.smtp_header_bytes().clone(),
            ),
            handshakes: Handshakes::default(),
            outdated: Outdated::default(),
            door,
            logins,
            metrics,
            shutdown,
            sessions: AtomicU64::new(0),
        });
        let seats = Seats::new(config.max_connections);
        let config = Arc::new(config);
        let mut acceptors = JoinSet::new();
        for certificate in certificates {
            acceptors.spawn(certificate.keep(service.metrics.clone(), service.shutdown.clone()));
        }
        for listener in listeners {
            let acceptor = Acceptor {
                listener,
                config: config.clone(),
                service: service.clone(),
                seats: seats.clone(),
                addresses: addresses.clone(),
                gauge: gauge.clone(),
            };
            acceptors.spawn(acceptor.run());
        }
        if acceptors.is_empty() {
            // Mail may come in as files alone. A part of the relay that ends before it is told to has broken
            // down.
            service.shutdown.cancelled().await;
        }
        while let Some(ended) = acceptors.join_next().await {
            let why = ended.err().map_or_else(|| "it has ended".to_owned(), |error| error.to_string());
            vital.tell("a listener, or the watch over a certificate", &why);
        }
    }
}

impl Bound {
    /// Listeners with the same files share one certificate.
    async fn bind(config: &config::Listener, certificates: &mut Vec<LiveCertificate>) -> io::Result<Self> {
        let socket = TcpListener::bind(config.address).await?;
        let files = match &config.tls {
            ListenerTls::Off => return Ok(Self { socket, config: config.clone(), tls: Offer::Nothing }),
            ListenerTls::StartTls(files) | ListenerTls::Implicit(files) => files,
        };
        let name = socket.local_addr()?.to_string();
        let current = match certificates.iter_mut().find(|live| live.files() == files) {
            Some(live) => live.serve(name),
            None => {
                let mut live = LiveCertificate::load(files).await?;
                let current = live.serve(name);
                certificates.push(live);
                current
            }
        };
        let tls = match config.tls {
            ListenerTls::Implicit(_) => Offer::Implicit(current),
            ListenerTls::StartTls(_) | ListenerTls::Off => Offer::StartTls(current),
        };
        Ok(Self { socket, config: config.clone(), tls })
    }
}

struct Acceptor {
    listener: Bound,
    config: Arc<SmtpConfig>,
    service: Arc<Service>,
    seats: Seats,
    addresses: Addresses,
    gauge: IntGauge,
}

impl Acceptor {
    async fn run(self) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.service.shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => report(ended),
                accepted = self.listener.socket.accept() => match accepted {
                    Ok((stream, peer)) => self.meet(stream, peer, &mut sessions),
                    Err(error) => {
                        warn!(%error, "connection accept failed");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // New clients should find another server while the old ones finish.
        drop(self.listener);
        let drain = async {
            while let Some(ended) = sessions.join_next().await {
                report(ended);
            }
        };
        if timeout(GRACE, drain).await.is_err() {
            warn!(sessions = sessions.len(), "sessions closed: they took too long to end");
            sessions.shutdown().await;
        }
    }

    /// A client that is not served is told so at once: there would be no limit to tasks for excess clients.
    fn meet(&self, stream: TcpStream, peer: SocketAddr, sessions: &mut JoinSet<()>) {
        let Bound { config, tls, .. } = &self.listener;
        let metrics = &self.service.metrics;
        let address = peer.ip().to_canonical();
        let seat = match self.seats.take(self.service.door.party_at(address)) {
            Ok(seat) => seat,
            Err(full) => {
                info!(peer = %address, ?full, "connection refused: too many connections");
                return turn_away(stream, refused(full), tls, metrics);
            }
        };
        let caller = if config.is_proxy(address) {
            Caller::Proxy(address)
        } else if let Some(place) = self.addresses.enter(address) {
            Caller::Client(address, place)
        } else {
            info!(peer = %address, "connection refused: too many connections from this address");
            return turn_away(stream, Refused::ConnectionsPerAddress, tls, metrics);
        };
        // A reply is one write, so nothing is gained by waiting for more of it.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY not set");
        }
        let open = Open::new(&self.gauge);
        let connection = Connection {
            stream,
            caller,
            seat,
            tls: tls.clone(),
            trusted: config.trusted,
            config: self.config.clone(),
            addresses: self.addresses.clone(),
            service: self.service.clone(),
            number: self.service.sessions.fetch_add(1, Ordering::Relaxed) + 1,
        };
        sessions.spawn(async move {
            let _open = open;
            connection.run().await;
        });
    }
}

/// Counts a connection for as long as it is open, however it ends.
struct Open {
    gauge: IntGauge,
}

impl Open {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "session panicked");
    }
}
