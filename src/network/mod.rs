//! The ways to the clouds: two HTTP clients for each, shared by its tenants, and TLS for what is not HTTP.
//!
//! TLS by rustls with the system's certificates and the cloud's `ca_file`. HTTP/1.1 only: a call that failed
//! can then be made on another connection, which is not possible with HTTP/2. Redirects are not followed,
//! since neither login nor Graph sends any and a token must not travel to another host; and nothing is
//! retried here, because a repeated send is a duplicate mail. Every call has a time limit, set where it is
//! made: [`time_limit`] says which.
//!
//! With a proxy, every call goes through it, even to loopback: an https address by CONNECT, an http address
//! in absolute form. Connection errors then name the proxy. Its password is in none of them.

mod public;
mod tls;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use tokio_rustls::TlsConnector;
use tower::{BoxError, timeout::TimeoutLayer, util::MapErrLayer};

use crate::config::{Cloud, CloudName, LONGEST_RETRY_AFTER, NetworkConfig, Proxy, SecretError};

/// Less than the idle time after which the service closes: a call on a connection that is just being closed
/// has an unknown outcome.
const IDLE: Duration = Duration::from_secs(30);

/// Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    network: NetworkConfig,
    clouds: RwLock<HashMap<CloudName, Ways>>,
}

/// The clients of one cloud.
#[derive(Debug, Clone)]
struct Ways {
    /// What `ca_file` held.
    trusted: Option<Vec<u8>>,
    shared: reqwest::Client,
    fresh: reqwest::Client,
    /// The same two, to public addresses only.
    public: [reqwest::Client; 2],
    tls: Arc<rustls::ClientConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("ca_file {path}: {source}")]
    CaFile { path: PathBuf, source: io::Error },
    #[error("ca_file {path}: not a PEM certificate: {source}")]
    Certificate { path: PathBuf, source: reqwest::Error },
    #[error("network.proxy {url}: {}", cause(source))]
    Proxy { url: String, source: reqwest::Error },
    #[error("network.proxy_password: {0}")]
    ProxyPassword(SecretError),
    #[error("ca_file {path}: not a PEM certificate: {source}")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("cannot prepare TLS: {0}")]
    Tls(reqwest::Error),
    #[error("cannot prepare TLS: {0}")]
    Rustls(rustls::Error),
}

impl Clients {
    /// Blocks while files are read: certificates, and the password of the proxy.
    pub fn new<'a>(
        network: &NetworkConfig,
        clouds: impl Iterator<Item = &'a Cloud>,
    ) -> Result<Self, NetworkError> {
        let clients = Self(Arc::new(Shared { network: network.clone(), clouds: RwLock::default() }));
        clients.follow(clouds)?;
        Ok(clients)
    }

    /// Makes clients for clouds that are new, or trust other certificates than before. On an error nothing
    /// changes. Blocks as [`new`](Self::new) does.
    pub fn follow<'a>(&self, clouds: impl Iterator<Item = &'a Cloud>) -> Result<(), NetworkError> {
        let network = &self.0.network;
        let mut known = self.clouds().clone();
        let mut seen = HashSet::new();
        for cloud in clouds.filter(|cloud| seen.insert(&cloud.name)) {
            let trusted = read_trusted(cloud.ca_file.as_deref())?;
            if known.get(&cloud.name).is_some_and(|ways| ways.trusted == trusted) {
                continue;
            }
            let ca = cloud.ca_file.as_deref().zip(trusted.as_deref());
            let ways = Ways {
                shared: client(network, ca, Idle::Kept, Reach::Any)?,
                fresh: client(network, ca, Idle::Closed, Reach::Any)?,
                public: [
                    client(network, ca, Idle::Kept, Reach::Public)?,
                    client(network, ca, Idle::Closed, Reach::Public)?,
                ],
                tls: Arc::new(tls::client_config(ca)?),
                trusted,
            };
            known.insert(cloud.name.clone(), ways);
        }
        *self.0.clouds.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// The client of a cloud that was given to [`Clients::new`] or [`Clients::follow`].
    pub fn of(&self, cloud: &Cloud) -> Option<reqwest::Client> {
        self.clouds().get(&cloud.name).map(|ways| ways.shared.clone())
    }

    /// A client of the same cloud that makes a new connection for each call. Microsoft wants a new one for
    /// any call that is repeated after a 503 ("Microsoft Graph error responses": the server behind the old
    /// one may be the trouble).
    pub fn fresh(&self, cloud: &Cloud) -> Option<reqwest::Client> {
        self.clouds().get(&cloud.name).map(|ways| ways.fresh.clone())
    }

    /// A client for hosts that the service names and the configuration does not: it connects to public
    /// addresses only, whatever a name leads to. With a proxy, it is the proxy that looks names up, and
    /// decides where they may lead. `fresh`: as for [`fresh`](Self::fresh).
    pub fn public(&self, cloud: &Cloud, fresh: bool) -> Option<reqwest::Client> {
        self.clouds().get(&cloud.name).map(|ways| ways.public[usize::from(fresh)].clone())
    }

    /// For connections to the same cloud that are not HTTP.
    pub fn tls(&self, cloud: &CloudName) -> Option<TlsConnector> {
        self.clouds().get(cloud).map(|ways| ways.tls.clone().into())
    }

    fn clouds(&self) -> RwLockReadGuard<'_, HashMap<CloudName, Ways>> {
        // The map is replaced as a whole, so a panic elsewhere leaves nothing half done.
        self.0.clouds.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_trusted(ca_file: Option<&Path>) -> Result<Option<Vec<u8>>, NetworkError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| NetworkError::CaFile { path: path.into(), source })
    };
    ca_file.map(read).transpose()
}

/// A client for this machine itself: no proxy, only the system's certificates.
pub fn local_client() -> Result<reqwest::Client, NetworkError> {
    client(&NetworkConfig::default(), None, Idle::Closed, Reach::Any)
}

/// A client for a server on a Unix socket of this machine, whatever host a URL names.
pub fn socket_client(socket: &Path) -> Result<reqwest::Client, NetworkError> {
    // Rustls leaves the choice of cryptography to the program. An error means that it has been made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .unix_socket(socket)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(NetworkError::Tls)
}

/// How long a call that sends this many octets may take: a slow line gets the time it needs, and the service
/// its time to answer.
pub fn time_limit(network: &NetworkConfig, octets: u64) -> Duration {
    let sending = Duration::from_millis(octets.saturating_mul(1000) / network.slowest.0.max(1));
    network.answer_timeout.saturating_add(sending)
}

/// What happens to idle connections.
#[derive(Clone, Copy)]
enum Idle {
    Kept,
    Closed,
}

/// Which addresses a client connects to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Any,
    Public,
}

/// A client that trusts the system's certificates and those of `ca`, a file and what it holds, for servers
/// and for a proxy.
fn client(
    network: &NetworkConfig,
    ca: Option<(&Path, &[u8])>,
    idle: Idle,
    reach: Reach,
) -> Result<reqwest::Client, NetworkError> {
    // Rustls leaves the choice of cryptography to the program. An error means that it has been made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Nor any from the environment.
        .no_proxy()
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("m365-relay/", env!("CARGO_PKG_VERSION")));
    if let Idle::Closed = idle {
        builder = builder.pool_max_idle_per_host(0);
    }
    // A proxy usually has an address in one's own network, and looks up all other names itself.
    if reach == Reach::Public && network.proxy.is_none() {
        builder = builder.dns_resolver(public::PublicOnly);
    }
    builder = match &network.proxy {
        None => builder.connect_timeout(network.connect_timeout),
        Some(proxy) => {
            let name = named(&proxy.url);
            // The time limit is inside, so that its error is named too.
            builder
                .proxy(by(proxy)?)
                .connector_layer(TimeoutLayer::new(network.connect_timeout))
                .connector_layer(MapErrLayer::new(name))
        }
    };
    if let Some((path, pem)) = ca {
        let certificates = reqwest::Certificate::from_pem_bundle(pem)
            .map_err(|source| NetworkError::Certificate { path: path.into(), source })?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(NetworkError::Tls)
}

fn by(proxy: &Proxy) -> Result<reqwest::Proxy, NetworkError> {
    let made = reqwest::Proxy::all(&proxy.url)
        .map_err(|source| NetworkError::Proxy { url: proxy.url.clone(), source })?;
    let Some(login) = &proxy.login else { return Ok(made) };
    let password = login.password.read().map_err(NetworkError::ProxyPassword)?;
    Ok(made.basic_auth(&login.user, password.expose()))
}

/// What failed on the way to the service through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("by the proxy {proxy}")]
struct ByProxy {
    proxy: String,
    source: BoxError,
}

fn named(url: &str) -> impl Fn(BoxError) -> BoxError + Clone + Send + Sync + use<> {
    let proxy: std::sync::Arc<str> = url.into();
    move |source| ByProxy { proxy: proxy.to_string(), source }.into()
}

/// An error and what caused it, in one line; without the URL, which may hold a secret.
pub fn describe(error: reqwest::Error) -> String {
    cause(&error.without_url())
}

fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, which Graph gives with a fraction too, or a date.
pub fn retry_after(headers: &http::HeaderMap, now: relay_mail::Timestamp) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok().map(|wait| wait.min(LONGEST_RETRY_AFTER));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now.as_system_time()).unwrap_or_default().min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProxyLogin, Secret, SecretSource};
    use relay_mail::{ByteSize, Timestamp};

    fn by_proxy(url: String) -> NetworkConfig {
        let password = SecretSource::Text(Secret::new("pass:w\u{f6}rd@~/%".into()));
        let login = Some(ProxyLogin { user: "relay%@/".into(), password });
        NetworkConfig { proxy: Some(Proxy { url, login }), ..NetworkConfig::default() }
    }

    #[test]
    fn time_grows_with_size() {
        let network = NetworkConfig { slowest: ByteSize::kib(2), ..NetworkConfig::default() };
        assert_eq!(time_limit(&network, 0), Duration::from_secs(100));
        assert_eq!(time_limit(&network, 4096), Duration::from_secs(102));
        assert_eq!(time_limit(&network, 100), Duration::from_millis(100_048));
        assert!(time_limit(&network, u64::MAX) > Duration::from_secs(1 << 32));
    }

    /// Answers one request after the other with 204, each with the connection that it came on, from 1.
    async fn server() -> (String, tokio::sync::mpsc::UnboundedReceiver<(usize, String)>) {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heard, hear) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 1.. {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let heard = heard.clone();
                tokio::spawn(async move {
                    let mut head = String::new();
                    while stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
                        if head.ends_with("\r\n\r\n") {
                            heard.send((connection, std::mem::take(&mut head))).unwrap();
                            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                        }
                    }
                });
            }
        });
        (url, hear)
    }

    #[tokio::test]
    async fn a_fresh_client_makes_a_connection_a_call() {
        let (url, mut heard) = server().await;
        let cloud = Cloud::loopback(&url);
        let clients = Clients::new(&NetworkConfig::default(), [&cloud].into_iter()).unwrap();
        let mut connections = Vec::new();
        for client in [clients.of(&cloud), clients.of(&cloud), clients.fresh(&cloud), clients.fresh(&cloud)] {
            client.unwrap().get(&url).send().await.unwrap();
            connections.push(heard.recv().await.unwrap().0);
        }
        assert_eq!(connections, [1, 1, 2, 3]);
    }

    /// Each request is answered with its path, and each answer is followed by `behind`, at once or a little
    /// later. A permit shows that all of that was written.
    async fn talkative(behind: &'static str, later: Duration) -> (String, Arc<tokio::sync::Semaphore>) {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let written = Arc::new(tokio::sync::Semaphore::new(0));
        let tell = written.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut head = String::new();
                    while stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
                        if !head.ends_with("\r\n\r\n") {
                            continue;
                        }
                        let path = head.split(' ').nth(1).unwrap().to_owned();
                        head.clear();
                        let mut answer =
                            format!("HTTP/1.1 202 Accepted\r\nx-of: {path}\r\ncontent-length: 0\r\n\r\n");
                        if later.is_zero() {
                            answer.push_str(behind);
                        }
                        let _ = stream.write_all(answer.as_bytes()).await;
                        if !later.is_zero() {
                            tokio::time::sleep(later).await;
                            let _ = stream.write_all(behind.as_bytes()).await;
                        }
                        tell.add_permits(1);
                    }
                });
            }
        });
        (url, written)
    }

    /// An answer that no call asked for ends its connection, and is not taken for the answer to the next
    /// call, which may be another tenant's.
    #[tokio::test]
    async fn an_answer_to_nothing_is_not_taken_for_that_to_the_next_call() {
        const STRAY: &str = "HTTP/1.1 202 Accepted\r\nx-of: /stray\r\ncontent-length: 0\r\n\r\n";
        for (behind, later) in [
            (STRAY, Duration::ZERO),
            (STRAY, Duration::from_millis(2)),
            ("H", Duration::ZERO),
            ("\r\n", Duration::ZERO),
            ("HTTP/1.1 100 Continue\r\n\r\n", Duration::ZERO),
        ] {
            let (url, written) = talkative(behind, later).await;
            let cloud = Cloud::loopback(&url);
            let clients = Clients::new(&NetworkConfig::default(), [&cloud].into_iter()).unwrap();
            let client = clients.of(&cloud).unwrap();
            for call in 0..100 {
                let path = format!("/{call}");
                // It may fail; if an answer comes, it is the answer to this call.
                if let Ok(answer) = client.get(format!("{url}{path}")).send().await {
                    assert_eq!(answer.headers()["x-of"], path.as_str(), "{behind:?} {later:?}");
                    // An answer that comes when the next call is on its way cannot be told apart here:
                    // Graph's answers name their call.
                    written.acquire().await.unwrap().forget();
                }
            }
        }
    }

    #[tokio::test]
    async fn a_proxy_is_told_who_asks_and_nobody_else_is() {
        let (url, mut heard) = server().await;
        let cloud = Cloud::loopback("http://127.0.0.1:1");
        let clients = Clients::new(&by_proxy(url), [&cloud].into_iter()).unwrap();
        clients.of(&cloud).unwrap().get("http://127.0.0.1:1/path").send().await.unwrap();

        let head = heard.recv().await.unwrap().1.to_lowercase();
        assert!(head.starts_with("get http://127.0.0.1:1/path http/1.1\r\n"), "{head}");
        // `relay%@/:pass:wörd@~/%`
        let login = "cmVsYXklQC86cGFzczp3w7ZyZEB+LyU=".to_lowercase();
        assert!(head.contains(&format!("proxy-authorization: basic {login}\r\n")), "{head}");
        let shown = format!("{clients:?}");
        assert!(!shown.contains("pass:w") && !shown.contains("cmVs"), "{shown}");
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_reached_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let cloud = Cloud::loopback("http://127.0.0.1:1");
        let clients = Clients::new(&by_proxy(url.clone()), [&cloud].into_iter()).unwrap();
        for address in ["http://127.0.0.1:1/", "https://127.0.0.1:1/"] {
            let error = clients.of(&cloud).unwrap().get(address).send().await.unwrap_err();
            assert!(error.is_connect(), "{error:?}");
            let error = describe(error);
            assert!(error.contains(&format!("by the proxy {url}: ")) && !error.contains("pass"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_says_nothing_is_named_when_the_time_is_over() {
        // Connections are taken by the system, and CONNECT is never answered.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cloud = Cloud::loopback("http://127.0.0.1:1");
        let clients = Clients::new(&by_proxy(url.clone()), [&cloud].into_iter()).unwrap();
        let error = clients.of(&cloud).unwrap().get("https://127.0.0.1:1/").send().await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        let error = describe(error);
        assert!(error.contains(&format!("by the proxy {url}: ")) && error.contains("timed out"), "{error}");
    }

    #[test]
    fn retry_after_in_all_forms() {
        let now = Timestamp::from_millis(784_111_777_000);
        let wait = |value: &str| {
            let value = http::HeaderValue::from_str(value).unwrap();
            retry_after(&http::HeaderMap::from_iter([(http::header::RETRY_AFTER, value)]), now)
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("2.128"), Some(Duration::from_millis(2128)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("999999999"), Some(LONGEST_RETRY_AFTER));
        for nonsense in ["-1", "NaN", "inf", "soon", ""] {
            assert_eq!(wait(nonsense), None, "{nonsense}");
        }
    }
}
