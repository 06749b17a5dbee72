//! Asks the running relay: by its socket, if it has one that this user may open, else by TCP with the token.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{anyhow, bail};
use http::Method;
use zeroize::Zeroizing;

use crate::{
    admin::ErrorPage,
    config::{AdminConfig, Secret},
    network,
};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Daemon(Way);

enum Way {
    Socket(PathBuf),
    Tcp { address: SocketAddr, token: Secret },
}

impl Daemon {
    /// The relay that runs with this configuration file, in which other mistakes do not matter.
    pub(super) fn of(config: &Path) -> anyhow::Result<Self> {
        let AdminConfig { address, socket, token, .. } = AdminConfig::load(config)?;
        let path = socket.path;
        // An answer by the socket needs no secret, so it is tried first. Merely connecting is no burden.
        let Err(error) = UnixStream::connect(&path) else { return Ok(Self(Way::Socket(path))) };
        match token.map(|token| token.read()) {
            Some(Ok(token)) => Ok(Self(Way::Tcp { address, token })),
            Some(Err(unread)) => {
                bail!("{} TCP cannot be used either: admin.token: {unread}", unanswered(&path, &error))
            }
            None => bail!(unanswered(&path, &error)),
        }
    }

    /// Status and JSON.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask(|client, url| client.get(url), path)
    }

    /// Status and JSON.
    pub(super) fn post(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.send(Method::POST, path, "{}".into())
    }

    /// Sends `json`. Returns status and JSON.
    pub(super) fn send(&self, method: Method, path: &str, json: String) -> anyhow::Result<(u16, String)> {
        let kind = http::HeaderValue::from_static("application/json");
        let call = |client: reqwest::Client, url| {
            client.request(method, url).header(http::header::CONTENT_TYPE, kind).body(json)
        };
        self.ask(call, path)
    }

    fn ask(
        &self,
        call: impl FnOnce(reqwest::Client, String) -> reqwest::RequestBuilder,
        path: &str,
    ) -> anyhow::Result<(u16, String)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let call = match &self.0 {
                Way::Socket(socket) => {
                    call(network::socket_client(socket)?, format!("http://localhost{path}"))
                }
                Way::Tcp { address, token } => {
                    let call = call(network::local_client()?, format!("http://{address}{path}"));
                    call.header(http::header::AUTHORIZATION, bearer(token)?)
                }
            };
            let answer = match call.timeout(PATIENCE).send().await.map_err(network::describe) {
                Ok(answer) => answer,
                Err(error) => bail!("the relay does not answer at {}: {error}. Is it running?", self.0),
            };
            let status = answer.status().as_u16();
            let body = answer.bytes().await.map_err(|error| anyhow!(network::describe(error)))?;
            let text = String::from_utf8_lossy(&body).into_owned();
            match (status, serde_json::from_str(&text)) {
                (401 | 403 | 429 | 503, Ok(ErrorPage { error })) => {
                    bail!("the relay at {} answers {status}: {error}", self.0)
                }
                // Anything else that listens there does not speak JSON.
                _ if text.starts_with('{') => Ok((status, text)),
                _ => Err(self.strange(status)),
            }
        })
    }

    /// An answer that no relay of this version gives.
    pub(super) fn strange(&self, status: u16) -> anyhow::Error {
        anyhow!("the relay at {} answers {status}: is it of this version?", self.0)
    }
}

fn bearer(token: &Secret) -> anyhow::Result<http::HeaderValue> {
    let text = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = http::HeaderValue::from_str(&text)
        .map_err(|_| anyhow!("admin.token has characters that cannot be sent: use letters and digits"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unanswered(socket: &Path, error: &io::Error) -> String {
    let what = format!("the relay does not answer at its socket {}: {error}", socket.display());
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!(
                "{what}. Run this as root, or as a member of the relay's group (usermod -a -G GROUP USER)"
            )
        }
        _ => format!("{what}. Is it running?"),
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "its socket {}", path.display()),
            Self::Tcp { address, .. } => write!(f, "admin.address {address}"),
        }
    }
}
