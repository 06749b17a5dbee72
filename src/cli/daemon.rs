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
use bytes::Bytes;
use http::Method;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    admin::ErrorPage,
    config::{AdminConfig, Secret},
    network,
};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Daemon {
    way: Way,
    client: reqwest::Client,
    /// What the client runs on.
    runtime: tokio::runtime::Runtime,
}

enum Way {
    Socket(PathBuf),
    Tcp { address: SocketAddr, token: Secret },
}

impl Daemon {
    /// The relay that runs with this configuration file, in which other mistakes do not matter.
    pub(super) fn of(config: &Path) -> anyhow::Result<Self> {
        let way = Way::of(AdminConfig::load(config)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = match &way {
            Way::Socket(socket) => network::socket_client(socket)?,
            Way::Tcp { .. } => network::local_client()?,
        };
        Ok(Self { way, client, runtime })
    }

    /// Status and JSON.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.json(Method::GET, path, None)
    }

    /// Status and JSON.
    pub(super) fn post(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.json(Method::POST, path, Some("{}".into()))
    }

    /// The JSON that answers a query. What is wrong with the query is an error.
    pub(super) fn ask_for(&self, path: &str, query: &impl Serialize) -> anyhow::Result<String> {
        let query = serde_urlencoded::to_string(query)?;
        self.good(self.json(Method::GET, &format!("{path}?{query}"), None)?)
    }

    /// The JSON that answers an order. What is wrong with the order is an error.
    pub(super) fn order(&self, path: &str, order: &impl Serialize) -> anyhow::Result<String> {
        self.good(self.json(Method::POST, path, Some(serde_json::to_string(order)?))?)
    }

    fn good(&self, (status, text): (u16, String)) -> anyhow::Result<String> {
        match (status, serde_json::from_str(&text)) {
            (200, _) => Ok(text),
            (400 | 404 | 409, Ok(ErrorPage { error })) => bail!("{error}"),
            _ => Err(self.strange(status)),
        }
    }

    /// Status and JSON.
    fn json(&self, method: Method, path: &str, json: Option<String>) -> anyhow::Result<(u16, String)> {
        let (status, octets) = self.call(method, path, json)?;
        let text = String::from_utf8_lossy(&octets).into_owned();
        // Anything else that listens there does not speak JSON.
        if text.starts_with('{') { Ok((status, text)) } else { Err(self.strange(status)) }
    }

    /// Status and JSON of an order without a body.
    pub(super) fn send(&self, method: Method, path: &str) -> anyhow::Result<(u16, String)> {
        self.json(method, path, None)
    }

    /// Status and octets.
    pub(super) fn octets(&self, path: &str) -> anyhow::Result<(u16, Bytes)> {
        self.call(Method::GET, path, None)
    }

    fn call(&self, method: Method, path: &str, json: Option<String>) -> anyhow::Result<(u16, Bytes)> {
        let mut call = match &self.way {
            Way::Socket(_) => self.client.request(method, format!("http://localhost{path}")),
            Way::Tcp { address, token } => self
                .client
                .request(method, format!("http://{address}{path}"))
                .header(http::header::AUTHORIZATION, bearer(token)?),
        };
        if let Some(json) = json {
            let kind = http::HeaderValue::from_static("application/json");
            call = call.header(http::header::CONTENT_TYPE, kind).body(json);
        }
        self.runtime.block_on(async {
            let answer = match call.timeout(PATIENCE).send().await.map_err(network::describe) {
                Ok(answer) => answer,
                Err(error) => bail!("the relay does not answer at {}: {error}. Is it running?", self.way),
            };
            let status = answer.status().as_u16();
            let body = answer.bytes().await.map_err(|error| anyhow!(network::describe(error)))?;
            match (status, serde_json::from_slice(&body)) {
                (401 | 403 | 429 | 503, Ok(ErrorPage { error })) => {
                    bail!("the relay at {} answers {status}: {error}", self.way)
                }
                _ => Ok((status, body)),
            }
        })
    }

    /// An answer that no relay of this version gives.
    pub(super) fn strange(&self, status: u16) -> anyhow::Error {
        anyhow!("the relay at {} answers {status}: is it of this version?", self.way)
    }
}

impl Way {
    fn of(config: AdminConfig) -> anyhow::Result<Self> {
        let AdminConfig { address, socket, token, .. } = config;
        let path = socket.path;
        // An answer by the socket needs no secret, so it is tried first. Merely connecting is no burden.
        let Err(error) = UnixStream::connect(&path) else { return Ok(Self::Socket(path)) };
        match token.map(|token| token.read()) {
            Some(Ok(token)) => Ok(Self::Tcp { address, token }),
            Some(Err(unread)) => {
                bail!("{} TCP cannot be used either: admin.token: {unread}", unanswered(&path, &error))
            }
            None => bail!(unanswered(&path, &error)),
        }
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
