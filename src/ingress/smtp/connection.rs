//! One connection, from accept to its end: PROXY header, TLS, session.
//!
//! All of it happens in the connection's own task. Each step has a time limit, and the connection counts
//! against both limits of connections from its first octet.

use std::{
    io::{self, Write},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    addresses::{Addresses, CountedConnection},
    conversation::{Peer, Service},
    proxy::{self, Source},
    reply::Reply,
    seats::Seat,
    session::{Ended, Session},
    tls::{self, Current, NoHandshake, Offer, Security},
};
use crate::{
    config::SmtpConfig,
    telemetry::{Metrics, Refused},
};
use relay_mail::{Ingress, share::Full};

/// A proxy sends its header at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Who the peer is taken to be.
pub(super) enum Caller {
    /// The client itself, with its place among the connections of its address.
    Client(IpAddr, CountedConnection),
    /// A proxy, whose header names the client.
    Proxy(IpAddr),
}

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) caller: Caller,
    pub(super) seat: Seat,
    pub(super) tls: Offer,
    /// The listener takes logins unencrypted, too.
    pub(super) trusted: bool,
    pub(super) config: Arc<SmtpConfig>,
    pub(super) addresses: Addresses,
    pub(super) service: Arc<Service>,
    /// The session's number in the logs.
    pub(super) number: u64,
}

impl Connection {
    /// Serves the client to its end.
    pub(super) async fn run(self) {
        let Self { mut stream, caller, seat, tls, trusted, config, addresses, service, number } = self;
        let (client, _place, span) = match caller {
            Caller::Client(address, place) => {
                (address, Some(place), info_span!("smtp", session = number, peer = %address))
            }
            Caller::Proxy(proxy) => {
                let header = read_header(&mut stream, &service);
                let span = info_span!("smtp", session = number, %proxy);
                match header.instrument(span).await {
                    None => return,
                    // The proxy itself, which has no limit of its own.
                    Some(Source::Peer) => (proxy, None, info_span!("smtp", session = number, peer = %proxy)),
                    Some(Source::Client(client)) => {
                        let span = info_span!("smtp", session = number, peer = %client, %proxy);
                        let Some(place) = addresses.enter(client) else {
                            span.in_scope(|| {
                                info!("connection refused: too many connections from this address")
                            });
                            return turn_away(stream, Refused::ConnectionsPerAddress, &tls, &service.metrics);
                        };
                        if let Err(full) = seat.give_to(&service.door.party_at(client)) {
                            span.in_scope(|| info!(?full, "connection refused: too many connections"));
                            return turn_away(stream, refused(full), &tls, &service.metrics);
                        }
                        (client, Some(place), span)
                    }
                }
            }
        };
        let talk = async {
            let peer = Peer::new(client, trusted || config.trusts(client));
            match converse(stream, peer, Some(seat), tls, service).await {
                Ok(()) => debug!("connection closed"),
                Err(error) => debug!(%error, "connection lost"),
            }
        };
        talk.instrument(span).await;
    }
}

/// `None`: there is no client to talk to, and nothing is sent.
async fn read_header(stream: &mut TcpStream, service: &Service) -> Option<Source> {
    let read = timeout(HEADER_TIMEOUT, proxy::read(stream));
    let why = match service.shutdown.run_until_cancelled(read).await? {
        Ok(Ok(source)) => return Some(source),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not come in time".to_owned(),
    };
    service.metrics.refused(Ingress::Smtp, Refused::ProxyHeader);
    info!(why, "connection closed: no PROXY header from a trusted proxy");
    None
}

/// Talks over `stream`, unencrypted or over TLS, as `tls` says.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    peer: Peer,
    seat: Option<Seat>,
    tls: Offer,
    service: Arc<Service>,
) -> io::Result<()> {
    let (stream, current) = match tls {
        Offer::Nothing => return Session::new(stream, peer, service).seated(seat).run().await.map(drop),
        Offer::Implicit(current) => {
            return encrypted(stream, peer, seat, &current, service, Greeting::Send).await;
        }
        Offer::StartTls(current) => {
            let session =
                Session::new(stream, Peer { security: Security::StartTlsOffered, ..peer }, service.clone());
            match session.seated(seat.clone()).run().await? {
                Ended::Closed => return Ok(()),
                Ended::StartTls(stream) => (stream, current),
            }
        }
    };
    // A session of its own: RFC 3207 section 4.2 has both sides forget what was said unencrypted.
    encrypted(stream, peer, seat, &current, service, Greeting::Sent).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Send,
    /// Sent unencrypted. After STARTTLS it is the client's turn (RFC 3207 section 4.2).
    Sent,
}

async fn encrypted<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    peer: Peer,
    seat: Option<Seat>,
    current: &Current,
    service: Arc<Service>,
    greeting: Greeting,
) -> io::Result<()> {
    // Boxed, so that an unencrypted connection does not hold room for it.
    let handshake = Box::pin(tls::handshake(current, stream, &service.handshakes));
    // A client that has nothing in progress is not waited for.
    let Some(shaken) = service.shutdown.run_until_cancelled(handshake).await else { return Ok(()) };
    let (stream, encryption) = match shaken {
        Ok(encrypted) => encrypted,
        Err(NoHandshake { error, outdated }) => {
            service.metrics.refused(Ingress::Smtp, Refused::TlsHandshake);
            match outdated.filter(|_| service.outdated.is_news(peer.address)) {
                Some(version) => warn!(
                    %error, version,
                    "TLS handshake failed: the client speaks {version}, and TLS 1.2 is needed. Update the client, \
                     or let it send without TLS from a network of its tenant"
                ),
                None => info!(%error, "TLS handshake failed"),
            }
            return Ok(());
        }
    };
    debug!(%encryption, "TLS established");
    let peer = Peer { security: Security::Encrypted(encryption), ..peer };
    let session = Session::new(stream, peer, service).seated(seat);
    let session = if greeting == Greeting::Sent { session.greeted_before() } else { session };
    Box::pin(session.run()).await.map(drop)
}

/// Why a connection gets no seat.
pub(super) fn refused(full: Full) -> Refused {
    match full {
        Full::All => Refused::Connections,
        Full::Share => Refused::ConnectionsShare,
    }
}

/// Says why and hangs up, at once. A client that waits for a handshake is hung up on without a reply: it
/// could not read one.
pub(super) fn turn_away(stream: TcpStream, reason: Refused, tls: &Offer, metrics: &Metrics) {
    metrics.refused(Ingress::Smtp, reason);
    if matches!(tls, Offer::Implicit(_)) {
        return;
    }
    let reply = match reason {
        Refused::ConnectionsShare => {
            Reply::new(421, "4.7.0", "Too many connections from your network, try again later")
        }
        Refused::ConnectionsPerAddress => {
            Reply::new(421, "4.7.0", "Too many connections from your address, try again later")
        }
        _ => Reply::new(421, "4.3.2", "Too many connections, try again later"),
    };
    let mut octets = Vec::new();
    reply.write_to(&mut octets);
    // Without blocking: a new connection has room for one line; if it does not, there is no reply.
    if let Err(error) = stream.into_std().and_then(|mut stream| stream.write_all(&octets)) {
        debug!(%error, "reply to a refused client not sent");
    }
}
