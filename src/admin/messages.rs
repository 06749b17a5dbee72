//! `GET /api/v1/messages/{id}`: the state of one message, and what it waits for.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::Page;
use crate::schedule::{MessageStatus, Waits};
use relay_mail::{InvalidMessageId, MessageId};

/// The answer as JSON. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, Deserialize)]
pub struct MessagePage {
    pub id: String,
    /// `ready`, `scheduled`, `leased`, `held` or `blocked`.
    pub state: String,
    pub tenant: String,
    pub mailbox: Option<String>,
    pub accepted: String,
    pub waits: Option<WaitsPage>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct WaitsPage {
    pub why: String,
    /// As in the metrics' label `limit`.
    pub limit: Option<String>,
    pub until: Option<String>,
}

/// Any answer that is not 200.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorPage {
    pub error: String,
}

impl MessagePage {
    fn of(id: MessageId, standing: MessageStatus) -> Self {
        let MessageStatus { state, tenant, mailbox, waits } = standing;
        let waits = waits.map(|Waits { why, limit, until }| WaitsPage {
            why,
            limit: limit.map(|limit| limit.as_str().to_owned()),
            until: until.map(|until| until.to_string()),
        });
        Self {
            id: id.to_string(),
            state: state.as_str().to_owned(),
            tenant: tenant.to_string(),
            mailbox: mailbox.map(|mailbox| mailbox.to_string()),
            accepted: id.accepted().to_string(),
            waits,
        }
    }
}

pub(super) async fn message(State(desk): Page, Path(id): Path<String>) -> Response {
    let id = match parse(&id) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    match desk.shown.inspector.inspect(id).await {
        Some(standing) => Json(MessagePage::of(id, standing)).into_response(),
        None => missing(id),
    }
}

pub(super) fn parse(id: &str) -> Result<MessageId, Box<Response>> {
    let wrong = |error: InvalidMessageId| failed(StatusCode::BAD_REQUEST, error.to_string());
    id.parse().map_err(|error| Box::new(wrong(error)))
}

pub(super) fn missing(id: MessageId) -> Response {
    let error = format!("there is no message {id} in the queue: it has left it, or was never in it");
    failed(StatusCode::NOT_FOUND, error)
}

pub(super) fn failed(status: StatusCode, error: String) -> Response {
    (status, Json(ErrorPage { error })).into_response()
}
