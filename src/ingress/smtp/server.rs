//! The listeners, and one task for each connection.

use std::{
    io,
    io::Write,
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
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    reply::Reply,
    session::{Service, Session},
};
use crate::{
    config::SmtpConfig,
    ingress::Door,
    telemetry::{Ingress, Metrics, Refused},
};

/// How long transactions in DATA may go on after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(10);
/// After an error of accept, such as too many open files, which does not go away by trying again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound listeners that nobody is served on yet.
pub struct Server {
    listeners: Vec<TcpListener>,
    hostname: String,
    max_recipients: usize,
    max_connections: usize,
    reply_within: Duration,
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
        for listener in &config.listeners {
            let address = listener.address;
            let bound = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
            listeners.push(bound);
        }
        Ok(Self {
            listeners,
            hostname: config.hostname.clone(),
            max_recipients: config.max_recipients,
            max_connections: config.max_connections,
            reply_within: config.reply_within,
        })
    }

    /// Where the listeners are: with the port that the system chose, where the configuration has 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `shutdown` is cancelled and the sessions have ended, which takes 10 seconds at most: a client between
    /// transactions is told to come again, one in DATA may finish. A message whose client is cut off was not
    /// acknowledged.
    pub async fn serve(self, door: Door, metrics: Metrics, shutdown: CancellationToken) {
        let gauge = metrics.smtp_connections().clone();
        let Self { listeners, hostname, max_recipients, max_connections, reply_within } = self;
        let service = Arc::new(Service {
            hostname,
            max_recipients,
            reply_within,
            door,
            metrics,
            shutdown,
            sessions: AtomicU64::new(0),
        });
        let slots = Arc::new(Semaphore::new(max_connections));
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            let acceptor =
                Acceptor { listener, service: service.clone(), slots: slots.clone(), gauge: gauge.clone() };
            acceptors.spawn(acceptor.run());
        }
        if acceptors.is_empty() {
            // Mail may come in as files alone. A part of the relay that ends before it is told to has broken down.
            service.shutdown.cancelled().await;
        }
        while let Some(ended) = acceptors.join_next().await {
            if let Err(panicked) = ended {
                error!(%panicked, "a listener failed");
            }
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    service: Arc<Service>,
    slots: Arc<Semaphore>,
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
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.meet(stream, peer, &mut sessions),
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // New clients are to find another server while the old ones finish.
        drop(self.listener);
        let drain = async {
            while let Some(ended) = sessions.join_next().await {
                report(ended);
            }
        };
        if timeout(GRACE, drain).await.is_err() {
            warn!(sessions = sessions.len(), "sessions cut off: they took too long to end");
            sessions.shutdown().await;
        }
    }

    fn meet(&self, stream: TcpStream, peer: SocketAddr, sessions: &mut JoinSet<()>) {
        let address = peer.ip().to_canonical();
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            self.service.metrics.refused(Ingress::Smtp, Refused::Connections);
            info!(peer = %address, "too many connections, one refused");
            turn_away(stream);
            return;
        };
        // A reply is one write, so there is nothing to be gained by waiting for more of it.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot set TCP_NODELAY");
        }
        let connection = Connection::new(slot, &self.gauge);
        let session = Session::new(stream, address, self.service.clone());
        let number = self.service.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let span = info_span!("smtp", session = number, peer = %address);
        let talk = async move {
            let _connection = connection;
            match session.run().await {
                Ok(()) => debug!("closed"),
                Err(error) => debug!(%error, "connection lost"),
            }
        };
        sessions.spawn(talk.instrument(span));
    }
}

/// Counts a connection for as long as it is open, however it ends.
struct Connection {
    gauge: IntGauge,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn new(slot: OwnedSemaphorePermit, gauge: &IntGauge) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone(), _slot: slot }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Says why and hangs up, at once: a task for each client in excess would be a limit that is none.
fn turn_away(stream: TcpStream) {
    let mut reply = Vec::new();
    Reply::new(421, "4.3.2", "Too many connections, try again later").write_to(&mut reply);
    // Without blocking: a new connection has room for one line, and if it has not, then there is no reply.
    if let Err(error) = stream.into_std().and_then(|mut stream| stream.write_all(&reply)) {
        debug!(%error, "a refused client did not get its reply");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a session panicked");
    }
}
