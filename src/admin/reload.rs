//! `POST /api/v1/reload`: the configuration is read again. Also what asks for it otherwise.

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, HOST},
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Page, messages::failed};
use crate::config::{Changes, Problem, is_this_machine};

/// Asks the relay to read its configuration again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

/// For the relay: to be answered.
#[derive(Debug)]
pub struct ReloadRequest {
    pub answer: oneshot::Sender<Reloaded>,
}

/// How a reload went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reloaded {
    /// False: nothing has changed, because of `errors`.
    pub ok: bool,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
    #[serde(flatten)]
    pub changes: Changes,
}

impl Reloads {
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        // One at a time; who asks meanwhile waits.
        let (sender, receiver) = mpsc::channel(4);
        (Self(sender), receiver)
    }

    /// `None`: the relay is stopping.
    pub async fn reload(&self) -> Option<Reloaded> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ReloadRequest { answer }).await.ok()?;
        answered.await.ok()
    }
}

/// A page of some web site can have a browser post a form here, but not JSON: for that a browser asks first. Nor does a name of
/// its own help it that leads to this machine: the browser says that name.
pub(super) async fn reload(State(desk): Page, headers: HeaderMap) -> Response {
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return failed(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json".into());
    }
    if !headers.get(HOST).is_some_and(leads_here) {
        return failed(StatusCode::FORBIDDEN, "ask by this machine's loopback address".into());
    }
    match desk.shown.reloads.reload().await {
        Some(reloaded) => {
            let status = if reloaded.ok { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            (status, Json(reloaded)).into_response()
        }
        None => failed(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping".into()),
    }
}

fn leads_here(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| is_this_machine(authority.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for host in ["127.0.0.1:8025", "127.0.0.1", "[::1]:8025", "[::1]", "localhost", "LocalHost:80"] {
            assert!(leads_here(&HeaderValue::from_static(host)), "{host}");
        }
        for host in
            ["evil.example:8025", "10.0.0.1", "localhost.evil.example", "", "127.0.0.1.evil.example:80"]
        {
            assert!(!leads_here(&HeaderValue::from_static(host)), "{host}");
        }
    }
}
