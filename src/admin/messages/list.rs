//! `GET /api/v1/messages`: the messages that a query asks for, oldest first, a page at a time.
//!
//! A page is given after a while even if it is not full: a query that few of a million messages meet is
//! answered in many pages, which say how many messages have been looked at.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    ASKED_AT_A_TIME, Known, MessagePage, failed,
    query::{Filter, MessageQuery},
};
use crate::{
    admin::{Desk, Page},
    schedule::Listing,
};
use relay_mail::MessageId;

/// The time after which a page is given as it is.
const WITHIN: Duration = Duration::from_millis(250);

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct MessagesPage {
    pub messages: Vec<MessagePage>,
    /// Messages that were looked at for this page.
    pub looked_at: usize,
    /// For the query's `cursor`. `None`: there are no more.
    pub next: Option<String>,
}

pub(super) async fn list(State(desk): Page, uri: Uri) -> Response {
    let query = Query::<MessageQuery>::try_from_uri(&uri).map_err(|error| error.to_string());
    let filter = match query.and_then(|Query(query)| query.parse()) {
        Ok(filter) => filter,
        Err(error) => return failed(StatusCode::BAD_REQUEST, error),
    };
    match page(&desk, filter).await {
        Some(page) => Json(page).into_response(),
        None => failed(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping".into()),
    }
}

/// `None`: the scheduler has stopped.
async fn page(desk: &Desk, filter: Filter) -> Option<MessagesPage> {
    let began = Instant::now();
    let mut page = MessagesPage::default();
    let mut after = filter.after;
    loop {
        let room = filter.limit - page.messages.len();
        let most = if filter.is_selective() { ASKED_AT_A_TIME } else { room };
        let Listing { found, looked_at, next } =
            desk.shown.inspector.list(filter.selection.clone(), after, most).await?;
        page.looked_at += looked_at;
        after = next;
        let known = if filter.needs_spool() {
            desk.look_up(found).await
        } else {
            found.into_iter().map(|(id, status)| Known { id, status, stored: None }).collect()
        };
        let mut known = known.into_iter().peekable();
        while let Some(message) = known.next() {
            if !filter.has(&message).await {
                continue;
            }
            page.messages.push(message.page(false));
            if page.messages.len() == filter.limit {
                let is_last = known.peek().is_none();
                page.next = if is_last { after } else { Some(message.id) }.map(text);
                return Some(page);
            }
        }
        if after.is_none() || began.elapsed() > WITHIN {
            page.next = after.map(text);
            return Some(page);
        }
    }
}

fn text(id: MessageId) -> String {
    id.to_string()
}
