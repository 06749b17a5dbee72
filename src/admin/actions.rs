//! What an operator does to one message: `POST /api/v1/messages/{id}/hold`, `POST …/release`, and `DELETE`.
//!
//! The answer comes when it is durable. A message that is being delivered is left alone: 409.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::{field::display, info};

use super::{
    Page,
    messages::{failed, missing, parse},
};
use relay_mail::{MessageId, outside::Outside};
use relay_spool::{HoldReason, SpoolError};

/// The body of a request, which may be empty.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionRequest {
    /// In words, for the log, and for whoever asks why a message is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was done.
#[derive(Debug, Serialize, Deserialize)]
pub struct ActionResponse {
    pub id: String,
    /// `held`, `released` or `deleted`.
    pub done: String,
}

#[derive(Clone, Copy)]
enum Action {
    Hold,
    Release,
    Delete,
}

pub(super) async fn hold(desk: Page, id: Path<String>, body: Bytes) -> Response {
    act(Action::Hold, desk, id, &body).await
}

pub(super) async fn release(desk: Page, id: Path<String>, body: Bytes) -> Response {
    act(Action::Release, desk, id, &body).await
}

pub(super) async fn delete(desk: Page, id: Path<String>, body: Bytes) -> Response {
    act(Action::Delete, desk, id, &body).await
}

async fn act(action: Action, State(desk): Page, Path(id): Path<String>, body: &[u8]) -> Response {
    let id = match parse(&id) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    let ActionRequest { reason } = match body {
        [] => ActionRequest::default(),
        body => match serde_json::from_slice(body) {
            Ok(wish) => wish,
            Err(error) => return failed(StatusCode::BAD_REQUEST, format!("the body: {error}")),
        },
    };
    let reason = reason.as_deref().filter(|reason| !reason.is_empty());
    let Some(standing) = desk.shown.inspector.inspect(id).await else { return missing(id) };
    let spool = &desk.shown.spool;
    let result = match action {
        Action::Hold => {
            let why = reason.map(|reason| HoldReason::new(&format!("an operator holds it: {reason}")));
            spool.hold(id, why).await
        }
        Action::Release => spool.release(id).await,
        Action::Delete => spool.remove(id).await,
    };
    match result {
        Ok(()) => {
            let done = action.past();
            let tenant = &standing.tenant;
            let reason = reason.map(|reason| display(Outside::new(reason)));
            info!(%id, %tenant, reason, "message {done} by an operator");
            Json(ActionResponse { id: id.to_string(), done: done.to_owned() }).into_response()
        }
        Err(error) => refused(id, &error),
    }
}

fn refused(id: MessageId, error: &SpoolError) -> Response {
    match error {
        SpoolError::NoSuchMessage(_) => missing(id),
        SpoolError::InDelivery(_) => {
            let error = format!("message {id} is being delivered: try again when its attempt has ended");
            failed(StatusCode::CONFLICT, error)
        }
        other => failed(StatusCode::SERVICE_UNAVAILABLE, other.to_string()),
    }
}

impl Action {
    const fn past(self) -> &'static str {
        match self {
            Self::Hold => "held",
            Self::Release => "released",
            Self::Delete => "deleted",
        }
    }
}
