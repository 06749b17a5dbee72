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
        Ok(page) => Json(page).into_response(),
        Err(why) => failed(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// The error says why nobody can tell.
async fn page(desk: &Desk, filter: Filter) -> Result<MessagesPage, String> {
    let began = Instant::now();
    let mut page = MessagesPage::default();
    let mut after = filter.after;
    loop {
        let room = filter.limit - page.messages.len();
        let most = if filter.is_selective() { ASKED_AT_A_TIME } else { room };
        let listing = desk.shown.inspector.list(filter.selection.clone(), after, most).await;
        let Listing { found, looked_at, next } = listing.ok_or("the relay is stopping")?;
        page.looked_at += looked_at;
        after = next;
        let only_listed = |found: Vec<_>| {
            found.into_iter().map(|(id, status)| Known { id, status, stored: None }).collect()
        };
        let known = if filter.needs_spool() {
            match desk.look_up(found.clone()).await {
                Ok(known) => known,
                // Nothing may seem to be there because it cannot be looked at.
                Err(error) if filter.is_selective() => return Err(error.to_string()),
                Err(_) => only_listed(found),
            }
        } else {
            only_listed(found)
        };
        let mut known = known.into_iter().peekable();
        while let Some(message) = known.next() {
            if filter.has(&message).await {
                page.messages.push(message.page(false));
            }
            // A filter may have to read bodies, which takes as long as they are large.
            if page.messages.len() == filter.limit || began.elapsed() > WITHIN {
                let is_last = known.peek().is_none();
                page.next = if is_last { after } else { Some(message.id) }.map(|id| id.to_string());
                return Ok(page);
            }
        }
        if after.is_none() || began.elapsed() > WITHIN {
            page.next = after.map(|id| id.to_string());
            return Ok(page);
        }
    }
}
