//! HTTP clients: one a cloud, shared by its tenants.
//!
//! TLS by rustls with the system's certificates and the cloud's `ca_file`. HTTP/1.1 only: a call that failed can then be
//! put on another connection, which with HTTP/2 it cannot. Redirects are not followed, since neither login nor Graph
//! sends any and a token must not travel to another host; and nothing is retried here, because a repeated send is a
//! duplicate mail. Every call has a time limit, set where it is made.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::config::{Cloud, CloudName};

const CONNECT: Duration = Duration::from_secs(10);
/// Below the idle time after which the service closes: a call on a connection that is just being closed has an unknown
/// outcome.
const IDLE: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clients(HashMap<CloudName, reqwest::Client>);

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("ca_file {path}: {source}")]
    CaFile { path: PathBuf, source: io::Error },
    #[error("ca_file {path}: not a PEM certificate: {source}")]
    Certificate { path: PathBuf, source: reqwest::Error },
    #[error("cannot prepare TLS: {0}")]
    Tls(reqwest::Error),
}

impl Clients {
    pub fn new<'a>(clouds: impl Iterator<Item = &'a Cloud>) -> Result<Self, NetworkError> {
        let mut clients = HashMap::new();
        for cloud in clouds {
            if !clients.contains_key(&cloud.name) {
                clients.insert(cloud.name.clone(), client(cloud.ca_file.as_deref())?);
            }
        }
        Ok(Self(clients))
    }

    /// The client of a cloud that was given to [`Clients::new`].
    pub fn of(&self, cloud: &Cloud) -> Option<&reqwest::Client> {
        self.0.get(&cloud.name)
    }
}

/// A client that trusts the system's certificates and those in `ca_file`.
pub fn client(ca_file: Option<&Path>) -> Result<reqwest::Client, NetworkError> {
    // Rustls leaves the choice of cryptography to the program. An error means that it is made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("m365-relay/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|source| NetworkError::CaFile { path: path.into(), source })?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|source| NetworkError::Certificate { path: path.into(), source })?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(NetworkError::Tls)
}

/// An error and what caused it, in one line; without the URL, which may hold a secret.
pub fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, which Graph gives with a fraction too, or a date.
pub fn retry_after(headers: &http::HeaderMap, now: crate::clock::Timestamp) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok().map(|wait| wait.min(LONGEST_WAIT));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now.as_system_time()).unwrap_or_default().min(LONGEST_WAIT))
}

/// A service that says to come back next year is mistaken.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

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
        assert_eq!(wait("999999999"), Some(LONGEST_WAIT));
        for nonsense in ["-1", "NaN", "inf", "soon", ""] {
            assert_eq!(wait(nonsense), None, "{nonsense}");
        }
    }
}
