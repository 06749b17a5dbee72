//! `GET /api/v1/messages/{id}/content`: the message as it is stored. Whoever reads it is named in the log.
//!
//! `GET /api/v1/messages/{id}/description`: all else, as the `ID.json` of an export.

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream::try_unfold;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tracing::info;

use super::{failed, missing, parse};
use crate::admin::{Desk, Page, gate::Actor};
use relay_mail::MessageId;
use relay_spool::{DamagedBody, Found, archive};

pub(super) async fn content(
    State(desk): Page,
    Path(id): Path<String>,
    Extension(by): Extension<Actor>,
) -> Response {
    let (id, found) = match stored(&desk, &id).await {
        Ok(stored) => stored,
        Err(answer) => return *answer,
    };
    let tenant = found.lane.tenant.clone();
    let read = spawn_blocking(move || found.read()).await;
    let opened = match read {
        Ok(Ok((_, body))) => body.open().await,
        Ok(Err(damaged)) => Err(damaged),
        Err(error) => return failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    match opened {
        Ok(open) => {
            info!(%id, %tenant, %by, "message content shown");
            let parts = try_unfold(open, |mut open| async move {
                Ok::<_, std::io::Error>(open.next().await?.map(|part| (part, open)))
            });
            ([(CONTENT_TYPE, "message/rfc822")], Body::from_stream(parts)).into_response()
        }
        Err(damaged) => failed(StatusCode::INTERNAL_SERVER_ERROR, damaged.to_string()),
    }
}

/// What the spool has of the message, or the answer that says why there is nothing.
async fn stored(desk: &Desk, id: &str) -> Result<(MessageId, Found), Box<Response>> {
    let id = parse(id)?;
    match desk.find(id).await {
        Ok(Some(found)) => Ok((id, found)),
        Ok(None) => Err(Box::new(missing(id))),
        Err(error) => Err(Box::new(failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescriptionQuery {
    /// Whether it is held for whoever imports it.
    held: bool,
}

pub(super) async fn description(
    State(desk): Page,
    Path(id): Path<String>,
    Query(DescriptionQuery { held }): Query<DescriptionQuery>,
) -> Response {
    let (id, found) = match stored(&desk, &id).await {
        Ok(stored) => stored,
        Err(answer) => return *answer,
    };
    let described = move || {
        let (message, body) = found.clone().read()?;
        Ok::<_, DamagedBody>(archive::described(id, &found, &message, &body, held))
    };
    match spawn_blocking(described).await {
        Ok(Ok(json)) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(damaged)) => failed(StatusCode::INTERNAL_SERVER_ERROR, damaged.to_string()),
        Err(error) => failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
