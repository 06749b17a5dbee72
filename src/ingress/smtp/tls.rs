//! TLS on a listener: what it offers, and the handshake.
//!
//! TLS 1.2 and 1.3 by rustls. No client certificates, no early data (a replayed one would be a repeated
//! message).
//!
//! A handshake costs a client nothing and the relay a signature, so at most half of the processors work on
//! handshakes: a flood of them takes nothing from connected clients. A handshake waits for its client without
//! a turn, and holds only its own connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::{ServerConfig, crypto::ring, sign::SingleCertAndKey};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::PollSemaphore;

use super::outdated;
use crate::config::LoadedCertificate;
use relay_mail::Encryption;

/// From the first octet of a handshake to the last, for slow devices on slow lines.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a client may send until the handshake is done. A hello has some 2 KiB, even with post-quantum keys;
/// one as large as TLS allows would be held in memory until it is whole.
const LARGEST_HANDSHAKE: usize = 16 * 1024;

/// The configuration for new connections. It changes when the certificate does.
pub(super) type Current = watch::Receiver<Arc<ServerConfig>>;

/// What a listener offers.
#[derive(Debug, Clone)]
pub(super) enum Offer {
    Nothing,
    StartTls(Current),
    Implicit(Current),
}

/// How a session's connection is protected.
#[derive(Debug, Clone, Copy)]
pub(super) enum Security {
    /// Unprotected, and it cannot be protected.
    Clear,
    /// Not yet protected: STARTTLS is offered.
    StartTlsOffered,
    Encrypted(Encryption),
}

impl Security {
    pub(super) fn encryption(self) -> Option<Encryption> {
        match self {
            Self::Encrypted(encryption) => Some(encryption),
            Self::Clear | Self::StartTlsOffered => None,
        }
    }
}

/// Tickets and cached sessions belong to one configuration, so a client that comes back after a change sees
/// the new certificate.
pub(super) fn server_config(loaded: &LoadedCertificate) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = SingleCertAndKey::from(loaded.certified.clone());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    Ok(Arc::new(config))
}

/// Turns for the work of handshakes. Cheap to clone; all clones share them.
#[derive(Clone)]
pub(super) struct Handshakes(Arc<Semaphore>);

impl Default for Handshakes {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new((processors / 2).max(1))))
    }
}

/// Why there is no handshake.
#[derive(Debug)]
pub(super) struct NoHandshake {
    pub(super) error: io::Error,
    /// What the client speaks, if that is too old.
    pub(super) outdated: Option<&'static str>,
}

pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    current: &Current,
    stream: S,
    handshakes: &Handshakes,
) -> Result<(TlsStream<Metered<S>>, Encryption), NoHandshake> {
    let config = current.borrow().clone();
    let stream = Metered { inner: stream, left: Some(LARGEST_HANDSHAKE), head: Vec::new() };
    let work = TlsAcceptor::from(config).accept(stream).into_fallible();
    let work = InTurns { work, turns: PollSemaphore::new(handshakes.0.clone()) };
    let shaken = timeout(HANDSHAKE_TIMEOUT, work).await;
    let shaken = shaken.map_err(|late| NoHandshake { error: late.into(), outdated: None })?;
    let mut stream = shaken.map_err(|(error, stream)| {
        let outdated = outdated::version(&stream.head);
        NoHandshake { error, outdated }
    })?;
    stream.get_mut().0.left = None;
    let (_, connection) = stream.get_ref();
    let version = connection.protocol_version().and_then(|version| version.as_str());
    let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let encryption = Encryption::new(version.unwrap_or_default(), suite.unwrap_or_default());
    Ok((stream, encryption))
}

/// Takes a turn whenever there is something to do, but none while it waits.
struct InTurns<F> {
    work: F,
    turns: PollSemaphore,
}

impl<F: Future + Unpin> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // It is never closed.
        let _turn = ready!(self.turns.poll_acquire(context));
        Pin::new(&mut self.work).poll(context)
    }
}

/// A stream that gives this many octets and then fails.
#[derive(Debug)]
pub(super) struct Metered<S> {
    inner: S,
    /// `None`: any number.
    left: Option<usize>,
    /// The first few.
    head: Vec<u8>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let this = &mut *self;
        if let Some(left) = &mut this.left {
            let read = &buffer.filled()[before..];
            this.head.extend(read.iter().take(outdated::HEAD - this.head.len()));
            *left = left
                .checked_sub(buffer.filled().len() - before)
                .ok_or_else(|| io::Error::other("the client's part of the handshake is too large"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
