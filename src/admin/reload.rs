//! `POST /api/v1/reload`: reads the configuration again. Also the channel by which other parts ask for it.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Page, messages::failed};
use crate::config::{Changes, Problem};

/// Asks the relay to read its configuration again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

/// For the relay, which must answer it.
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
        // One at a time; requests that come meanwhile wait, and are answered together. The gate admits fewer.
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// `None`: the relay is stopping.
    pub async fn reload(&self) -> Option<Reloaded> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ReloadRequest { answer }).await.ok()?;
        answered.await.ok()
    }
}

/// A page of some web site can have a browser post a form here, but not JSON: for that the browser asks
/// first.
pub(super) async fn reload(State(desk): Page, headers: HeaderMap) -> Response {
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return failed(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json".into());
    }
    match desk.shown.reloads.reload().await {
        Some(reloaded) => {
            let status = if reloaded.ok { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            (status, Json(reloaded)).into_response()
        }
        None => failed(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping".into()),
    }
}
