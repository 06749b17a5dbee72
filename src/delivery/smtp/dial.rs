//! Ways to the service: TCP, directly or through the proxy, and TLS.
//!
//! Certificates are checked as for HTTPS: against those of the system and the cloud's `ca_file`. The host
//! that the configuration names must be in the certificate. With a proxy, the proxy looks the host up.

use std::{io, net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Url;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Broken;
use crate::{
    config::{CloudName, NetworkConfig, Proxy, SecretError, SmtpAddress},
    network::Clients,
};

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) type Duplex = Box<dyn Stream>;

/// The longest answer of a proxy to CONNECT.
const LONGEST_ANSWER: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("network.proxy_password: {0}")]
    ProxyPassword(SecretError),
    #[error("network.proxy {0}: it has no host and port")]
    Proxy(String),
}

pub(super) struct Dialer {
    connect_timeout: Duration,
    proxy: Option<ByProxy>,
    clients: Clients,
}

struct ByProxy {
    url: String,
    address: SmtpAddress,
    is_tls: bool,
    /// A line of the request.
    login: Option<Zeroizing<String>>,
}

impl Dialer {
    /// Blocks while the password of the proxy is read.
    pub(super) fn new(network: &NetworkConfig, clients: Clients) -> Result<Self, DialError> {
        let proxy = network.proxy.as_ref().map(ByProxy::new).transpose()?;
        Ok(Self { connect_timeout: network.connect_timeout, proxy, clients })
    }

    fn tls(&self, cloud: &CloudName) -> io::Result<TlsConnector> {
        self.clients.tls(cloud).ok_or_else(|| io::Error::other("the cloud has no certificates"))
    }

    /// Makes an unencrypted connection to the service.
    pub(super) async fn connect(&self, address: &SmtpAddress, cloud: &CloudName) -> Result<Duplex, Broken> {
        let deadline = Instant::now() + self.connect_timeout;
        let Some(proxy) = &self.proxy else {
            let stream = within(deadline, tcp(address, deadline)).await;
            return Ok(Box::new(
                stream.map_err(|e| Broken::new(format!("cannot connect to {address}"), &e))?,
            ));
        };
        let named =
            |e: io::Error| Broken::new(format!("cannot connect to {address} by the proxy {}", proxy.url), &e);
        let stream = within(deadline, tcp(&proxy.address, deadline)).await.map_err(named)?;
        let stream: Duplex = if proxy.is_tls {
            let tls = self.tls(cloud).map_err(named)?;
            let host = server_name(&proxy.address).map_err(named)?;
            Box::new(within(deadline, tls.connect(host, stream)).await.map_err(named)?)
        } else {
            Box::new(stream)
        };
        within(deadline, proxy.tunnel(stream, address)).await.map_err(named)
    }

    /// Starts TLS on a connection, after STARTTLS.
    pub(super) async fn encrypt(
        &self,
        stream: Duplex,
        address: &SmtpAddress,
        cloud: &CloudName,
    ) -> Result<Duplex, Broken> {
        let named = |e: io::Error| Broken::new(format!("cannot establish TLS with {address}"), &e);
        let tls = self.tls(cloud).map_err(named)?;
        let host = server_name(address).map_err(named)?;
        let deadline = Instant::now() + self.connect_timeout;
        Ok(Box::new(within(deadline, tls.connect(host, stream)).await.map_err(named)?))
    }
}

impl ByProxy {
    fn new(proxy: &Proxy) -> Result<Self, DialError> {
        let none = || DialError::Proxy(proxy.url.clone());
        let url = Url::parse(&proxy.url).map_err(|_| none())?;
        let (host, port) = url.host_str().zip(url.port_or_known_default()).ok_or_else(none)?;
        let address = SmtpAddress { host: host.trim_matches(['[', ']']).to_owned(), port };
        let login = match &proxy.login {
            None => None,
            Some(login) => {
                let password = login.password.read().map_err(DialError::ProxyPassword)?;
                let pair = Zeroizing::new(format!("{}:{}", login.user, password.expose()));
                let pair = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
                Some(Zeroizing::new(format!("Proxy-Authorization: Basic {}\r\n", *pair)))
            }
        };
        Ok(Self { url: proxy.url.clone(), address, is_tls: url.scheme() == "https", login })
    }

    /// RFC 9110 section 9.3.6.
    async fn tunnel(&self, mut stream: Duplex, to: &SmtpAddress) -> io::Result<Duplex> {
        let login = self.login.as_ref().map_or("", |login| login.as_str());
        let request = Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{login}\r\n"));
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        // Octet by octet: what follows the answer belongs to the service.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= LONGEST_ANSWER {
                return Err(io::Error::other("its answer does not end"));
            }
            answer.push(stream.read_u8().await?);
        }
        let line = answer.split(|octet| *octet == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        match line.split(' ').nth(1) {
            Some(code) if code.len() == 3 && code.starts_with('2') => Ok(stream),
            Some("407") => Err(io::Error::other("it refuses the login: 407")),
            _ => Err(io::Error::other(format!("it answered {line:?}"))),
        }
    }
}

async fn tcp(address: &SmtpAddress, deadline: Instant) -> io::Result<TcpStream> {
    let found: Vec<_> = lookup_host((address.host.as_str(), address.port)).await?.collect();
    let stream = first_of(&found, deadline).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Tries one after the other. None uses up the time of those behind it: even where IPv6 leads nowhere, its
/// addresses come first.
async fn first_of(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("the host has no address");
    for (left, address) in (1..=addresses.len() as u32).rev().zip(addresses) {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match within(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn server_name(address: &SmtpAddress) -> io::Result<ServerName<'static>> {
    ServerName::try_from(address.host.clone()).map_err(io::Error::other)
}

async fn within<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    #[tokio::test]
    async fn an_address_that_leads_nowhere_leaves_time_for_the_next() {
        let silent = TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        // It answers until its queue is full.
        let full = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        let soon = || Instant::now() + Duration::from_millis(200);
        while let Ok(stream) = within(soon(), TcpStream::connect(full)).await {
            waiting.push(stream);
        }
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [full, other.local_addr().unwrap()];
        let deadline = Instant::now() + Duration::from_secs(6);
        let stream = first_of(&addresses, deadline).await.unwrap();
        // The connection is made in time, and not only found by the last look when the time is up.
        assert!(Instant::now() < deadline);
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        let error = first_of(&[full], soon()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
