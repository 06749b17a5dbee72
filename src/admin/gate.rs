//! Who may ask for what.
//!
//! * By TCP, a request names this machine: its address, `localhost`, or a name of `admin.hosts`. A web page
//!   that a user here looks at can point a name of its own to this machine ("DNS rebinding"), and the browser
//!   sends that name.
//! * By TCP, the API requires the token. Without one in the configuration, the API is not served by TCP at
//!   all. If the address is not a loopback one, metrics require the token, too. Any client may ask whether
//!   the relay is alive and ready.
//! * By the socket, none of this is checked: its permissions have decided.
//! * The API serves a limited number of requests at a time; one more is told to come again.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CONNECTION, HOST, RETRY_AFTER, WWW_AUTHENTICATE},
        request::Parts,
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::warn;

use super::{error_page::ErrorPage, token::Token};
use crate::{
    config::{AdminConfig, is_this_machine},
    telemetry::{AdminRefused, Metrics},
};

/// Requests to the API at a time.
const MOST_REQUESTS: usize = 16;
/// A wrong token is answered after this time,
const WRONG_TOKEN_WAITS: Duration = Duration::from_secs(1);
/// and this many wait for that. One more is refused at once.
const MOST_WRONG_TOKENS: usize = 8;

pub(super) struct Gate {
    token: Option<Token>,
    hosts: Vec<String>,
    socket: PathBuf,
    /// Other machines reach the address.
    is_reachable: bool,
    questions: Arc<Semaphore>,
    wrong_tokens: Semaphore,
    wrong_so_far: AtomicU64,
    metrics: Metrics,
}

/// How a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Socket {
        /// The user of the program at the other end.
        user: Option<u32>,
    },
    Tcp {
        /// The address of this end.
        here: Option<IpAddr>,
        /// And of the other.
        there: Option<IpAddr>,
    },
}

/// Who asks, for the log.
#[derive(Debug, Clone)]
pub(super) struct Actor(String);

impl Way {
    /// Whoever is admitted to the API by TCP has the token.
    pub(super) fn actor(self) -> Actor {
        Actor(match self {
            Self::Socket { user: Some(user) } => format!("user {user} by the socket"),
            Self::Socket { user: None } => "an unknown user by the socket".to_owned(),
            Self::Tcp { there: Some(there), .. } => format!("{} with the token", there.to_canonical()),
            Self::Tcp { there: None, .. } => "somebody with the token".to_owned(),
        })
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Holds one of the places for requests to the API, until it is dropped.
pub(super) struct Pass(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// `Host` is missing, is there twice, or is not a host.
    NoHost,
    StrangeHost,
    /// There is no token that would be accepted.
    SocketOnly,
    NoToken,
    WrongToken,
    /// Too many wrong tokens were sent just now.
    TooManyWrong,
    /// The configured token cannot be read; the log says why.
    TokenUnreadable,
    Busy,
}

impl Gate {
    pub(super) fn new(config: &AdminConfig, metrics: Metrics) -> Self {
        Self {
            token: config.token.clone().map(Token::new),
            hosts: config.hosts.clone(),
            socket: config.socket.path.clone(),
            is_reachable: !config.address.ip().to_canonical().is_loopback(),
            questions: Arc::new(Semaphore::new(MOST_REQUESTS)),
            wrong_tokens: Semaphore::new(MOST_WRONG_TOKENS),
            wrong_so_far: AtomicU64::new(0),
            metrics,
        }
    }

    /// Admits a request by its head, or returns the answer that refuses it.
    pub(super) async fn admit(&self, way: Way, head: &Parts) -> Result<Pass, Response> {
        self.judge(way, head).await.map_err(|refusal| {
            self.metrics.admin_refused(refusal.reason());
            self.explain(&refusal, head.uri.path())
        })
    }

    async fn judge(&self, way: Way, head: &Parts) -> Result<Pass, Refusal> {
        let path = head.uri.path();
        if let Way::Tcp { here, .. } = way {
            self.check_host(here, head)?;
            if is_api(path) || self.is_reachable && !tells_everybody(path) {
                self.check_token(&head.headers).await?;
            }
        }
        if !is_api(path) {
            return Ok(Pass(None));
        }
        let place = self.questions.clone().try_acquire_owned();
        place.map(|place| Pass(Some(place))).map_err(|_| Refusal::Busy)
    }

    /// RFC 9112 section 3.2: a request has one `Host`; the authority in its target takes precedence, if there
    /// is one.
    fn check_host(&self, here: Option<IpAddr>, head: &Parts) -> Result<(), Refusal> {
        let mut named = head.headers.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else { return Err(Refusal::NoHost) };
        let host: Authority = host.to_str().ok().and_then(|host| host.parse().ok()).ok_or(Refusal::NoHost)?;
        let is_mine = |authority: &Authority| {
            let host = authority.host();
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| ip.to_canonical());
            let is_here = || address.is_ok_and(|ip| Some(ip) == here.map(|here| here.to_canonical()));
            let is_named = || self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
            // `localhost@evil.example`
            !authority.as_str().contains('@') && (is_this_machine(host) || is_here() || is_named())
        };
        let mut named = std::iter::once(&host).chain(head.uri.authority());
        if named.all(is_mine) { Ok(()) } else { Err(Refusal::StrangeHost) }
    }

    async fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = self.token.as_ref().ok_or(Refusal::SocketOnly)?;
        let given = headers.get(AUTHORIZATION).and_then(bearer).ok_or(Refusal::NoToken)?;
        match token.is(given).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let waiting = self.wrong_tokens.try_acquire().map_err(|_| Refusal::TooManyWrong)?;
                self.tell_of_wrong_token();
                sleep(WRONG_TOKEN_WAITS).await;
                drop(waiting);
                Err(Refusal::WrongToken)
            }
            Err(error) => {
                warn!(%error, "admin token unusable: the API is not available over TCP");
                Err(Refusal::TokenUnreadable)
            }
        }
    }

    /// A guesser must not fill the log: the first is logged, and then each time that the number has doubled.
    fn tell_of_wrong_token(&self) {
        let wrong = self.wrong_so_far.fetch_add(1, Ordering::Relaxed) + 1;
        if wrong.is_power_of_two() {
            warn!(wrong, "admin request with a wrong token refused");
        }
    }

    fn explain(&self, refusal: &Refusal, path: &str) -> Response {
        let (status, text) = match refusal {
            Refusal::NoHost => {
                (StatusCode::BAD_REQUEST, "a request must have exactly one Host field".to_owned())
            }
            Refusal::StrangeHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "the name in Host is not the relay's: use its address, or list the name in admin.hosts"
                    .to_owned(),
            ),
            Refusal::SocketOnly => (
                StatusCode::FORBIDDEN,
                format!(
                    "without admin.token, this is available only on the socket {}, which the relay's user \
                     and group can open (m365-relay uses it; so does curl --unix-socket)",
                    self.socket.display()
                ),
            ),
            Refusal::NoToken => (
                StatusCode::UNAUTHORIZED,
                "this needs the token of admin.token: send Authorization: Bearer TOKEN".to_owned(),
            ),
            Refusal::WrongToken => (StatusCode::UNAUTHORIZED, "the token is wrong".to_owned()),
            Refusal::TooManyWrong => {
                (StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens: try again".to_owned())
            }
            Refusal::TokenUnreadable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "admin.token cannot be used: see the relay's log".to_owned(),
            ),
            Refusal::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{MOST_REQUESTS} requests are being answered: try again"),
            ),
        };
        let mut response = if is_api(path) {
            (status, Json(ErrorPage { error: text })).into_response()
        } else {
            (status, format!("{text}\n")).into_response()
        };
        let headers = response.headers_mut();
        match refusal {
            Refusal::NoToken | Refusal::WrongToken => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refusal::TooManyWrong | Refusal::Busy => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        // Its body has not been read.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

impl Refusal {
    fn reason(&self) -> AdminRefused {
        match self {
            Self::NoHost | Self::StrangeHost => AdminRefused::Host,
            Self::SocketOnly
            | Self::NoToken
            | Self::WrongToken
            | Self::TooManyWrong
            | Self::TokenUnreadable => AdminRefused::Token,
            Self::Busy => AdminRefused::Busy,
        }
    }
}

/// Every path of it is below this one, as in the router.
fn is_api(path: &str) -> bool {
    path.starts_with("/api")
}

fn tells_everybody(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// RFC 6750 section 2.1; the name of the scheme is case-insensitive (RFC 9110 section 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::http::Request;

    use super::*;
    use crate::config::Config;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn gate(admin: &str) -> Gate {
        let text = format!("[spool]\npath = '/s'\n[pickup]\npath = 'p'\n[admin]\n{admin}");
        Gate::new(&Config::parse(&text, Path::new("c.toml")).unwrap().admin, Metrics::new())
    }

    fn head(path: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    async fn judged(gate: &Gate, way: Way, path: &str, headers: &[(&str, &str)]) -> Option<Refusal> {
        gate.judge(way, &head(path, headers)).await.err()
    }

    const LOCAL: Way = Way::Tcp { here: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)), there: None };
    const SOCKET: Way = Way::Socket { user: None };

    #[tokio::test]
    async fn names_of_this_machine() {
        let gate = gate("hosts = ['relay.example']");
        for host in [
            "127.0.0.1:8025",
            "127.0.0.1",
            "[::1]:8025",
            "[::1]",
            "localhost",
            "LocalHost:80",
            "Relay.Example:8025",
            "127.8.9.10",
        ] {
            assert_eq!(judged(&gate, LOCAL, "/metrics", &[("host", host)]).await, None, "{host}");
        }
        for host in [
            "evil.example:8025",
            "10.0.0.1",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost.",
            "0x7f.1",
            "2130706433",
            "0.0.0.0",
            "xrelay.example",
            "relay.example.evil.example",
        ] {
            let refusal = judged(&gate, LOCAL, "/metrics", &[("host", host)]).await;
            assert_eq!(refusal, Some(Refusal::StrangeHost), "{host}");
            assert_eq!(judged(&gate, SOCKET, "/metrics", &[("host", host)]).await, None);
        }
        for hosts in
            [&[][..], &[("host", "localhost"), ("host", "localhost")], &[("host", "")], &[("host", "a b")]]
        {
            assert_eq!(judged(&gate, LOCAL, "/healthz", hosts).await, Some(Refusal::NoHost), "{hosts:?}");
        }
        // The target itself names one.
        let target = "http://evil.example/metrics";
        assert_eq!(judged(&gate, LOCAL, target, &[("host", "localhost")]).await, Some(Refusal::StrangeHost));
        let here = Way::Tcp { here: Some("10.0.0.1".parse().unwrap()), there: None };
        assert_eq!(judged(&gate, here, "/metrics", &[("host", "10.0.0.1")]).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_wants_the_token_or_the_socket() {
        const API: &str = "/api/v1/messages/x";
        let host = ("host", "localhost");
        let without = gate("");
        assert_eq!(judged(&without, LOCAL, API, &[host]).await, Some(Refusal::SocketOnly));
        assert_eq!(judged(&without, SOCKET, API, &[]).await, None);

        let with = gate(&format!("token = '{TOKEN}'"));
        let given = |value: &str| {
            let value = value.to_owned();
            let with = &with;
            async move { judged(with, LOCAL, API, &[host, ("authorization", &value)]).await }
        };
        assert_eq!(judged(&with, LOCAL, API, &[host]).await, Some(Refusal::NoToken));
        assert_eq!(given(&format!("Bearer {TOKEN}")).await, None);
        assert_eq!(given(&format!("bearer {TOKEN}")).await, None);
        for wrong in ["Basic YTpi", "Bearer", "Bear", TOKEN] {
            assert_eq!(given(wrong).await, Some(Refusal::NoToken), "{wrong}");
        }
        for wrong in ["x", &TOKEN[1..], &format!("{TOKEN}0"), ""] {
            assert_eq!(given(&format!("Bearer {wrong}")).await, Some(Refusal::WrongToken), "{wrong}");
        }
        // On this machine, metrics are for everybody; on a network, for nobody without the token.
        assert_eq!(judged(&with, LOCAL, "/metrics", &[host]).await, None);
        let reachable = gate(&format!("address = '0.0.0.0:8025'\ntoken = '{TOKEN}'"));
        assert_eq!(judged(&reachable, LOCAL, "/metrics", &[host]).await, Some(Refusal::NoToken));
        assert_eq!(judged(&reachable, LOCAL, "/other", &[host]).await, Some(Refusal::NoToken));
        assert_eq!(judged(&reachable, LOCAL, "/healthz", &[host]).await, None);
    }

    #[tokio::test]
    async fn so_many_questions_at_a_time() {
        let gate = gate("");
        let head = head("/api/v1/messages/x", &[]);
        let mut passes = Vec::new();
        for _ in 0..MOST_REQUESTS {
            passes.push(gate.judge(SOCKET, &head).await.ok().unwrap());
        }
        assert_eq!(gate.judge(SOCKET, &head).await.err(), Some(Refusal::Busy));
        passes.pop();
        assert!(gate.judge(SOCKET, &head).await.is_ok());
    }
}
