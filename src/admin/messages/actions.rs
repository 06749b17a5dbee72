//! What an operator does to messages: `POST /api/v1/messages/{id}/hold` and so on, `DELETE`, and `POST
//! /api/v1/messages/actions` for many at a time.
//!
//! The answer comes when it is durable, and says of each message what was done or why not. A message that is
//! being delivered is left alone. Each action is logged with who did it, to what, and why.

use std::collections::{HashMap, HashSet};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{field::display, info};

use super::{Desk, Page, failed, missing, no_message, parse};
use crate::{
    admin::gate::Actor,
    delivery::ByHandError,
    schedule::{MessageState, MessageStatus},
    telemetry::LimitKind,
};
use relay_mail::{MessageId, TenantName, outside::Outside};
use relay_spool::{Found, HoldReason, SpoolError};

/// The body of a request for one message, which may be empty.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionRequest {
    /// In words: for the log, for whoever asks why a message is held, and for the sender of one that is
    /// bounced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of a request for many messages: 500 at most.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionsRequest {
    pub action: Action,
    pub ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ActionsResponse {
    /// In the order of the request.
    pub results: Vec<ActionResponse>,
}

/// What became of one message: `done`, or `error`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ActionResponse {
    pub id: String,
    /// `retried`, `held`, `released`, `bounced`, `deleted` or `requeued`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// The id of the message that has taken its place: of the report to its sender, or of the same message
    /// that begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is tried now, whatever it waits for, and so is what has stopped its mailbox or tenant. Limits hold.
    Retry,
    Hold,
    Release,
    /// It leaves, and its sender is told.
    Bounce,
    /// It leaves, and its sender is not told.
    Delete,
    /// It begins anew, as if it had just arrived.
    Requeue,
}

/// Messages of one request.
const MOST: usize = 500;
/// Messages that are acted on at a time: they are stored in one group, for which deliveries wait,
const AT_A_TIME: usize = 8;
/// and then deliveries have the disk to themselves for so many times as long.
const PAUSE: u32 = 4;

/// Why nothing was done to a message.
enum Undone {
    NoMessage,
    Conflict(String),
    Unavailable(String),
}

pub(super) async fn act_on_one(
    State(desk): Page,
    Path((id, action)): Path<(String, String)>,
    Extension(by): Extension<Actor>,
    body: Bytes,
) -> Response {
    let action = match Action::named(&action) {
        Some(action) => action,
        None => {
            let error = format!("there is no action {}", Outside::new(action));
            return failed(StatusCode::NOT_FOUND, error);
        }
    };
    one(&desk, action, &id, &by, &body).await
}

pub(super) async fn delete(
    State(desk): Page,
    Path(id): Path<String>,
    Extension(by): Extension<Actor>,
    body: Bytes,
) -> Response {
    one(&desk, Action::Delete, &id, &by, &body).await
}

async fn one(desk: &Desk, action: Action, id: &str, by: &Actor, body: &[u8]) -> Response {
    let id = match parse(id) {
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
    let wish = Wish { action, reason: reason.filter(|reason| !reason.is_empty()), by };
    let mut results = wish.act(desk, vec![id]).await;
    match results.pop() {
        Some((id, Ok(done))) => Json(response(id, Ok(done))).into_response(),
        Some((_, Err(Undone::Conflict(error)))) => failed(StatusCode::CONFLICT, error),
        Some((_, Err(Undone::Unavailable(error)))) => failed(StatusCode::SERVICE_UNAVAILABLE, error),
        Some((_, Err(Undone::NoMessage))) | None => missing(id),
    }
}

pub(super) async fn act_on_many(State(desk): Page, Extension(by): Extension<Actor>, body: Bytes) -> Response {
    let ActionsRequest { action, ids, reason } = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return failed(StatusCode::BAD_REQUEST, format!("the body: {error}")),
    };
    if ids.len() > MOST {
        let error = format!("ids: {} are too many: {MOST} at a time", ids.len());
        return failed(StatusCode::BAD_REQUEST, error);
    }
    let ids = match ids.iter().map(|id| parse(id)).collect::<Result<Vec<_>, _>>() {
        Ok(ids) => ids,
        Err(answer) => return *answer,
    };
    let wish = Wish { action, reason: reason.filter(|reason| !reason.is_empty()), by: &by };
    let results = wish.act(&desk, ids).await;
    let results = results.into_iter().map(|(id, result)| response(id, result)).collect();
    Json(ActionsResponse { results }).into_response()
}

fn response(id: MessageId, result: Result<Done, Undone>) -> ActionResponse {
    let mut response = ActionResponse { id: id.to_string(), ..ActionResponse::default() };
    match result {
        Ok(Done { action, now }) => {
            response.done = Some(action.past().to_owned());
            response.now = now.map(|id| id.to_string());
        }
        Err(Undone::NoMessage) => response.error = Some(no_message(id)),
        Err(Undone::Conflict(error) | Undone::Unavailable(error)) => response.error = Some(error),
    }
    response
}

struct Wish<'a> {
    action: Action,
    reason: Option<String>,
    by: &'a Actor,
}

struct Done {
    action: Action,
    now: Option<MessageId>,
}

impl Wish<'_> {
    /// In the order of `ids`.
    async fn act(&self, desk: &Desk, ids: Vec<MessageId>) -> Vec<(MessageId, Result<Done, Undone>)> {
        let mut stopped = HashSet::new();
        let mut results = Vec::with_capacity(ids.len());
        for part in ids.chunks(AT_A_TIME) {
            let began = Instant::now();
            let found = match desk.shown.spool.find(part.to_vec()).await {
                Ok(found) => found,
                Err(error) => {
                    let undone = |id: &MessageId| (*id, Err(Undone::Unavailable(error.to_string())));
                    results.extend(part.iter().map(undone));
                    continue;
                }
            };
            if self.action == Action::Retry {
                find_stopped(desk, &found, &mut stopped).await;
            }
            let acts = part.iter().map(|id| {
                let (id, found) = (*id, found.get(id).cloned());
                async move {
                    match found {
                        Some(found) => (id, self.act_on(desk, id, found).await),
                        None => (id, Err(Undone::NoMessage)),
                    }
                }
            });
            results.extend(join_all(acts).await);
            if results.len() < ids.len() {
                sleep(began.elapsed() * PAUSE).await;
            }
        }
        for tenant in stopped {
            // `None`: the relay is stopping. `Some(false)`: the tenant has been removed meanwhile.
            desk.shown.reloads.retry(tenant).await;
        }
        results
    }

    async fn act_on(&self, desk: &Desk, id: MessageId, found: Found) -> Result<Done, Undone> {
        let Self { action, reason, by } = self;
        let spool = &desk.shown.spool;
        let tenant = found.lane.tenant.clone();
        let mut now = None;
        match action {
            Action::Retry => spool.retry(id).await.map_err(undone)?,
            Action::Hold => {
                let why =
                    reason.as_ref().map(|reason| HoldReason::new(&format!("an operator holds it: {reason}")));
                spool.hold(id, why).await.map_err(undone)?;
            }
            Action::Release => spool.release(id).await.map_err(undone)?,
            Action::Delete => spool.remove(id).await.map_err(undone)?,
            Action::Bounce => {
                let why = reason.as_deref().unwrap_or("an operator of the relay has returned the message");
                now = desk.shown.by_hand.bounce(id, found, why).await.map_err(not_by_hand)?;
            }
            Action::Requeue => {
                now = Some(desk.shown.by_hand.requeue(id, found).await.map_err(not_by_hand)?);
            }
        }
        let done = action.past();
        let reason = reason.as_ref().map(|reason| display(Outside::new(reason)));
        let as_id = now.map(display);
        info!(%id, %tenant, %by, reason, now = as_id, "message {done} by an operator");
        Ok(Done { action: *action, now })
    }
}

/// Adds the tenants of these messages that are stopped by something that may have been mended.
async fn find_stopped(desk: &Desk, found: &HashMap<MessageId, Found>, stopped: &mut HashSet<TenantName>) {
    for (id, found) in found {
        let tenant = &found.lane.tenant;
        if stopped.contains(tenant) {
            continue;
        }
        let status = desk.shown.inspector.inspect_of(tenant, *id).await;
        let Some(MessageStatus { state, waits, .. }) = status else { continue };
        let is_mailbox = waits.is_some_and(|waits| waits.limit == Some(LimitKind::Mailbox));
        if state == MessageState::Blocked || is_mailbox {
            stopped.insert(tenant.clone());
        }
    }
}

fn undone(error: SpoolError) -> Undone {
    match error {
        SpoolError::NoSuchMessage(_) => Undone::NoMessage,
        SpoolError::InDelivery(id) => {
            Undone::Conflict(format!("message {id} is being delivered: try again when its attempt has ended"))
        }
        SpoolError::Held(id) => Undone::Conflict(format!("message {id} is held: release it")),
        other => Undone::Unavailable(other.to_string()),
    }
}

fn not_by_hand(error: ByHandError) -> Undone {
    match error {
        ByHandError::Spool(error) => undone(error),
        other => Undone::Conflict(other.to_string()),
    }
}

impl Action {
    const ALL: [Self; 6] =
        [Self::Retry, Self::Hold, Self::Release, Self::Bounce, Self::Delete, Self::Requeue];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Delete => "delete",
            Self::Requeue => "requeue",
        }
    }

    pub const fn past(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Bounce => "bounced",
            Self::Delete => "deleted",
            Self::Requeue => "requeued",
        }
    }
}
