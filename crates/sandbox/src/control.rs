//! `/_sandbox/…`: what the service holds and what it should do wrong, over HTTP, for people and for outside
//! tests.
//!
//! | call | what |
//! |---|---|
//! | `GET /_sandbox/messages[?count=N&timeout=10s]` | delivered messages; with `count`, waits for that many |
//! | `GET /_sandbox/messages/{n}` | one, with its source as `raw` in base64 |
//! | `GET /_sandbox/messages/{n}/source` | its source, as plain text |
//! | `GET /_sandbox/calls` | the log of calls |
//! | `POST /_sandbox/device` | a user types in a device code: `{"user_code":…,"user":…,"approve":true}` |
//! | `POST /_sandbox/roles` | grants the app these roles from now on: `{"directory":…,"roles":["Mail.Send"]}` |
//! | `GET /_sandbox/counts` | totals, and `drafts`: how many are left |
//! | `GET /_sandbox/smtp` | SMTP: totals as `sessions`, the last lines of all sessions as `log` |
//! | `GET`, `POST`, `DELETE /_sandbox/faults` | list, add one, clear |

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{delivered::Delivered, faults::Fault, world::World};

#[derive(Deserialize)]
pub(super) struct Wait {
    count: Option<u64>,
    timeout: Option<String>,
}

#[derive(Serialize)]
struct Listed<'a> {
    id: u64,
    size: usize,
    #[serde(flatten)]
    message: &'a Delivered,
}

fn listed(message: &Delivered) -> Value {
    let listed = Listed { id: message.number, size: message.raw.len(), message };
    serde_json::to_value(listed).unwrap_or_default()
}

pub(super) async fn messages(State(world): State<Arc<World>>, Query(wait): Query<Wait>) -> Response {
    if let Some(count) = wait.count {
        let timeout = match wait.timeout.as_deref().map(humantime::parse_duration) {
            None => Duration::from_secs(10),
            Some(Ok(timeout)) => timeout,
            Some(Err(error)) => {
                return (StatusCode::BAD_REQUEST, format!("timeout: {error}\n")).into_response();
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(timeout, world.store.accepted(count)) => {}
            () = world.stop.cancelled() => {}
        }
    }
    let messages: Vec<Value> = world.store.messages().iter().map(|message| listed(message)).collect();
    Json(messages).into_response()
}

pub(super) async fn message(State(world): State<Arc<World>>, Path(number): Path<u64>) -> Response {
    let Some(message) = world.store.message(number) else { return not_kept() };
    let mut body = listed(&message);
    body["raw"] = BASE64_STANDARD.encode(&message.raw).into();
    Json(body).into_response()
}

pub(super) async fn source(State(world): State<Arc<World>>, Path(number): Path<u64>) -> Response {
    let Some(message) = world.store.message(number) else { return not_kept() };
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        // It is mail: whatever its type claims, it must not run.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ];
    (headers, message.raw.clone()).into_response()
}

fn not_kept() -> Response {
    (StatusCode::NOT_FOUND, "no such message, or it is no longer kept\n").into_response()
}

pub(super) async fn calls(State(world): State<Arc<World>>) -> Response {
    Json(world.store.calls()).into_response()
}

pub(super) async fn counts(State(world): State<Arc<World>>) -> Response {
    let mut counts = serde_json::to_value(world.store.counts()).unwrap_or_default();
    counts["drafts"] = world.drafts().into();
    Json(counts).into_response()
}

pub(super) async fn smtp(State(world): State<Arc<World>>) -> Response {
    Json(json!({ "sessions": world.smtp_sessions(), "log": world.smtp.record.lines() })).into_response()
}

pub(super) async fn faults(State(world): State<Arc<World>>) -> Response {
    Json(world.faults.active()).into_response()
}

/// The body is JSON whatever its type says, so that a bare `curl -d` works.
pub(super) async fn inject(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let fault = serde_json::from_slice::<Fault>(&body).map_err(|error| error.to_string());
    match fault.and_then(|fault| fault.check().map(|()| fault).map_err(|error| error.to_string())) {
        Ok(fault) => {
            world.faults.inject(fault);
            (StatusCode::CREATED, Json(json!({ "active": world.faults.active() }))).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("this is not a fault: {error}\n")).into_response(),
    }
}

/// The user's answer in the device code flow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    user_code: String,
    /// The user's name; not needed for a no.
    #[serde(default)]
    user: String,
    approve: bool,
}

pub(super) async fn device(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let answer = match serde_json::from_slice::<Answer>(&body) {
        Ok(answer) => answer,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("this is not an answer: {error}\n")).into_response();
        }
    };
    let devices = &world.logins.devices;
    let heard = if answer.approve {
        devices.approve(&world.tenants, &answer.user_code, &answer.user)
    } else {
        devices.decline(&answer.user_code)
    };
    if heard {
        StatusCode::NO_CONTENT.into_response()
    } else {
        (StatusCode::NOT_FOUND, "no such code is waiting, or that user cannot log in\n").into_response()
    }
}

/// What an administrator grants.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Roles {
    directory: String,
    roles: Vec<String>,
}

pub(super) async fn roles(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let Roles { directory, roles } = match serde_json::from_slice(&body) {
        Ok(roles) => roles,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("these are no roles: {error}\n")).into_response();
        }
    };
    if world.set_roles(&directory, roles) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        (StatusCode::NOT_FOUND, "no such organisation\n").into_response()
    }
}

pub(super) async fn clear_faults(State(world): State<Arc<World>>) -> StatusCode {
    world.faults.clear();
    StatusCode::NO_CONTENT
}
