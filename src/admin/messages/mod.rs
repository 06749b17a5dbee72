//! Messages in the queues: `/api/v1/messages`.
//!
//! Two rooms know of them. The scheduler knows where a message is and what it waits for, the spool whose it
//! is and what has become of its attempts. An answer puts both together. A message may end between the two
//! looks: what is no longer known is left out.

mod actions;
mod content;
mod list;
mod query;
mod summary;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{Desk, Page, error_page::failed};
use crate::schedule::{MessageStatus, Waits};
use relay_mail::{InvalidMessageId, MessageId};
use relay_spool::{BodyReader, FailedAttempt, Found, Message, SpoolError};

pub use actions::{Action, ActionRequest, ActionResponse, ActionsRequest, ActionsResponse};
pub use list::MessagesPage;
pub use query::MessageQuery;
pub use summary::{SummaryPage, SummaryRow};

pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/messages", get(list::list))
        .route("/messages/actions", post(actions::act_on_many))
        .route("/messages/{id}", get(message).delete(actions::delete))
        .route("/messages/{id}/content", get(content::content))
        .route("/messages/{id}/description", get(content::description))
        .route("/messages/{id}/{action}", post(actions::act_on_one))
        .route("/queue", get(summary::summary))
}

/// The answer as JSON. Times are RFC 3339 in UTC.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessagePage {
    pub id: String,
    /// `ready`, `scheduled`, `leased`, `held` or `blocked`.
    pub state: String,
    pub tenant: String,
    pub mailbox: Option<String>,
    pub accepted: String,
    /// Octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The envelope sender; empty for the null sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The envelope recipients: all of them, or the first in a list of messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    /// Attempts that counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u16>,
    /// Since when it is unknown whether an attempt was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_doubt_since: Option<String>,
    pub waits: Option<WaitsPage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<AttemptPage>,
    /// The last attempts that failed, oldest first. Not in a list of messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_attempts: Vec<AttemptPage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitsPage {
    /// In one word.
    #[serde(default)]
    pub class: String,
    pub why: String,
    /// As in the metrics' label `limit`.
    pub limit: Option<String>,
    pub until: Option<String>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptPage {
    pub at: String,
    /// As in the metrics' label `error`.
    pub class: String,
    /// The service's code; empty if it gave none.
    pub code: String,
    pub text: String,
    /// Empty if the service gave none.
    pub request_id: String,
}

/// Recipients in a list of messages.
const RECIPIENTS_LISTED: usize = 5;
/// Messages that the spool is asked for at a time: others wait meanwhile.
const ASKED_AT_A_TIME: usize = 128;

/// A message, as both rooms know it.
pub(super) struct Known {
    pub(super) id: MessageId,
    pub(super) status: MessageStatus,
    /// `None`: the spool was not asked, or cannot answer.
    pub(super) stored: Option<Stored>,
}

/// What the spool has of it.
pub(super) struct Stored {
    pub(super) found: Found,
    /// `None`: it cannot be read.
    pub(super) content: Option<(Arc<Message>, BodyReader)>,
}

impl Known {
    /// `whole`: with all recipients and attempts.
    fn page(&self, whole: bool) -> MessagePage {
        let MessageStatus { state, tenant, mailbox, waits } = &self.status;
        let waits = waits.as_ref().map(|Waits { class, why, limit, until }| WaitsPage {
            class: (*class).to_owned(),
            why: why.clone(),
            limit: limit.map(|limit| limit.as_str().to_owned()),
            until: until.map(|until| until.to_string()),
        });
        let mut page = MessagePage {
            id: self.id.to_string(),
            state: state.as_str().to_owned(),
            tenant: tenant.to_string(),
            mailbox: mailbox.as_ref().map(ToString::to_string),
            accepted: self.id.accepted().to_string(),
            waits,
            ..MessagePage::default()
        };
        let Some(Stored { found, content }) = &self.stored else { return page };
        page.size = Some(found.size);
        page.attempts = Some(found.attempts);
        page.in_doubt_since = found.doubt.map(|since| since.to_string());
        let mut failed: Vec<_> = found.failed.list().iter().map(AttemptPage::of).collect();
        page.last_error = failed.last().cloned();
        if whole {
            page.failed_attempts = std::mem::take(&mut failed);
        }
        if let Some((message, _)) = content {
            let recipients = message.envelope.recipients();
            let listed = if whole { recipients.len() } else { RECIPIENTS_LISTED };
            page.from = Some(message.envelope.sender().map(ToString::to_string).unwrap_or_default());
            page.to = recipients.iter().take(listed).map(ToString::to_string).collect();
            page.recipients = Some(recipients.len());
        }
        page
    }
}

impl AttemptPage {
    fn of(attempt: &FailedAttempt) -> Self {
        let FailedAttempt { at, class, code, text, request_id } = attempt;
        Self {
            at: at.to_string(),
            class: class.to_string(),
            code: code.to_string(),
            text: text.to_string(),
            request_id: request_id.to_string(),
        }
    }
}

impl Desk {
    /// What the spool has of these. Messages that it no longer has are left out.
    async fn look_up(&self, listed: Vec<(MessageId, MessageStatus)>) -> Result<Vec<Known>, SpoolError> {
        let mut known = Vec::with_capacity(listed.len());
        let mut listed = listed.into_iter().peekable();
        while listed.peek().is_some() {
            let part: Vec<_> = listed.by_ref().take(ASKED_AT_A_TIME).collect();
            let found = self.shown.spool.find(part.iter().map(|(id, _)| *id).collect()).await?;
            let mut stored = read(found).await;
            known
                .extend(part.into_iter().filter_map(|(id, status)| {
                    Some(Known { id, status, stored: Some(stored.remove(&id)?) })
                }));
        }
        Ok(known)
    }

    /// `Ok(None)`: there is no such message. `Err`: nobody can tell.
    async fn find(&self, id: MessageId) -> Result<Option<Found>, SpoolError> {
        Ok(self.shown.spool.find(vec![id]).await?.remove(&id))
    }

    async fn known(&self, id: MessageId) -> Option<Known> {
        let inspector = &self.shown.inspector;
        match self.find(id).await {
            Ok(None) => None,
            Ok(Some(found)) => {
                let status = inspector.inspect_of(&found.lane.tenant, id).await?;
                let mut stored = read(HashMap::from([(id, found)])).await;
                Some(Known { id, status, stored: stored.remove(&id) })
            }
            // The scheduler knows it all the same.
            Err(_) => Some(Known { id, status: inspector.inspect(id).await?, stored: None }),
        }
    }
}

/// Reads whose these messages are.
async fn read(found: HashMap<MessageId, Found>) -> HashMap<MessageId, Stored> {
    let read = move || {
        let read = |(id, found): (_, Found)| {
            let content = found.clone().read().ok();
            (id, Stored { found, content })
        };
        found.into_iter().map(read).collect()
    };
    // Blocking work is interrupted only when the runtime ends.
    spawn_blocking(read).await.unwrap_or_default()
}

async fn message(State(desk): Page, Path(id): Path<String>) -> Response {
    let id = match parse(&id) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    match desk.known(id).await {
        Some(known) => Json(known.page(true)).into_response(),
        None => missing(id),
    }
}

fn parse(id: &str) -> Result<MessageId, Box<Response>> {
    let wrong = |error: InvalidMessageId| failed(StatusCode::BAD_REQUEST, error.to_string());
    id.parse().map_err(|error| Box::new(wrong(error)))
}

fn no_message(id: MessageId) -> String {
    format!("there is no message {id} in the queue: it has left it, or was never in it")
}

fn missing(id: MessageId) -> Response {
    failed(StatusCode::NOT_FOUND, no_message(id))
}
