//! TLS on a listener: what it offers, and the handshake.
//!
//! TLS 1.2 and 1.3 by rustls. No client certificates, no early data (a replayed one would be a repeated message).

use std::{io, sync::Arc, time::Duration};

use rustls::{ServerConfig, crypto::ring, sign::SingleCertAndKey};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{config::LoadedCertificate, message::Encryption};

/// From the first octet to the last of a handshake, for slow devices on slow lines.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// Not, and it cannot be.
    Clear,
    /// Not yet: STARTTLS is offered.
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

/// Tickets and cached sessions belong to one configuration, so a client that comes back after a change sees the new
/// certificate.
pub(super) fn server_config(loaded: &LoadedCertificate) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = SingleCertAndKey::from(loaded.certified.clone());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    Ok(Arc::new(config))
}

pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    current: &Current,
    stream: S,
) -> io::Result<(TlsStream<S>, Encryption)> {
    let config = current.borrow().clone();
    let stream = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await??;
    let (_, connection) = stream.get_ref();
    let version = connection.protocol_version().and_then(|version| version.as_str());
    let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let encryption = Encryption::new(version.unwrap_or_default(), suite.unwrap_or_default());
    Ok((stream, encryption))
}
