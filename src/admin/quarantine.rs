//! `/api/v1/quarantine`: what is damaged and was put aside, and what is done to it.

use std::{
    io::{self, Read},
    sync::Arc,
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::info;

use super::{Desk, Page, error_page::failed, gate::Actor};
use relay_spool::{NewMessage, Quarantine, QuarantineName, Quarantined, SpoolError};

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct QuarantinePage {
    /// Messages by age, then damaged indexes.
    pub entries: Vec<QuarantineEntry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// The id of a message, or the name of a damaged index.
    pub id: String,
    /// When it was put there. Empty if that is not known.
    pub time: String,
    pub reason: String,
    /// These three are missing if whose message it is cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Octets of what is left of the body, or of the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What was done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct QuarantineDone {
    pub id: String,
    /// `released` or `deleted`.
    pub done: String,
    /// The id that a released message has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/quarantine", get(list))
        .route("/quarantine/{id}", get(show).delete(delete))
        .route("/quarantine/{id}/content", get(content))
        .route("/quarantine/{id}/release", post(release))
}

impl From<Quarantined> for QuarantineEntry {
    fn from(entry: Quarantined) -> Self {
        let Quarantined { name, time, reason, message, octets } = entry;
        let mut page =
            Self { id: name.to_string(), time, reason, size: octets, ..QuarantineEntry::default() };
        if let Some(message) = message {
            page.tenant = Some(message.tenant.to_string());
            page.from = Some(message.envelope.sender().map(ToString::to_string).unwrap_or_default());
            page.to = message.envelope.recipients().iter().map(ToString::to_string).collect();
        }
        page
    }
}

/// Why there is no answer but an error.
enum Refusal {
    NoEntry(String),
    Unsuited(&'static str),
    Io(io::Error),
    Spool(SpoolError),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NoEntry(id) => failed(StatusCode::NOT_FOUND, format!("there is no {id} in the quarantine")),
            Self::Unsuited(why) => failed(StatusCode::CONFLICT, why.to_owned()),
            Self::Io(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, format!("the quarantine: {error}")),
            Self::Spool(error) => failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    desk: &Desk,
    work: impl FnOnce(&Quarantine) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let quarantine = desk.shown.quarantine.clone();
    spawn_blocking(move || work(&quarantine)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The entry of that name.
async fn find(desk: &Desk, id: &str) -> Result<Quarantined, Refusal> {
    let missing = || Refusal::NoEntry(relay_mail::outside::Outside::new(id).to_string());
    let name: QuarantineName = id.parse().map_err(|_| missing())?;
    blocking(desk, move |quarantine| quarantine.get(&name)).await?.ok_or_else(missing)
}

async fn list(State(desk): Page) -> Result<Json<QuarantinePage>, Refusal> {
    let entries = blocking(&desk, Quarantine::list).await?;
    Ok(Json(QuarantinePage { entries: entries.into_iter().map(QuarantineEntry::from).collect() }))
}

async fn show(State(desk): Page, Path(id): Path<String>) -> Result<Json<QuarantineEntry>, Refusal> {
    Ok(Json(find(&desk, &id).await?.into()))
}

const NO_BODY: Refusal = Refusal::Unsuited("nothing is left of its body");

async fn content(
    State(desk): Page,
    Path(id): Path<String>,
    Extension(by): Extension<Actor>,
) -> Result<Response, Refusal> {
    let name = find(&desk, &id).await?.name;
    let shown = name.clone();
    let opened = blocking(&desk, move |quarantine| quarantine.body(&name)).await?;
    let (body, _) = opened.ok_or(NO_BODY)?;
    info!(entry = %shown, %by, "quarantined message content shown");
    let parts = futures_util::stream::try_unfold(body, |body| async {
        let read = spawn_blocking(|| next_part(body)).await;
        read.unwrap_or_else(|error| Err(io::Error::other(error)))
    });
    Ok(([(CONTENT_TYPE, "message/rfc822")], Body::from_stream(parts)).into_response())
}

/// Octets read at a time.
const PART: u64 = 256 * 1024;

/// The next part of a body, and the rest.
fn next_part<R: Read>(mut body: R) -> io::Result<Option<(Vec<u8>, R)>> {
    let mut part = Vec::new();
    body.by_ref().take(PART).read_to_end(&mut part)?;
    Ok(if part.is_empty() { None } else { Some((part, body)) })
}

/// It enters the spool again as a new message, with what is left of its body, and leaves the quarantine. If
/// the process ends between the two, it is in both.
async fn release(
    State(desk): Page,
    Path(id): Path<String>,
    Extension(by): Extension<Actor>,
) -> Result<Json<QuarantineDone>, Refusal> {
    let Quarantined { name, message, .. } = find(&desk, &id).await?;
    let message =
        message.ok_or(Refusal::Unsuited("whose message it is cannot be read: export it instead"))?;
    let wanted = name.clone();
    let opened = blocking(&desk, move |quarantine| quarantine.body(&wanted)).await?;
    let (mut rest, _) = opened.ok_or(NO_BODY)?;
    let (new_id, mut body) = desk.shown.spool.begin_for(&message.tenant);
    loop {
        let read = spawn_blocking(|| next_part(rest)).await;
        let Some((part, more)) = read.unwrap_or_else(|error| Err(io::Error::other(error)))? else { break };
        body.write(&part).await?;
        rest = more;
    }
    let tenant = message.tenant.clone();
    let new = NewMessage { id: new_id, message, body: body.finish().await? };
    desk.shown.spool.accept(new).await?.announce();
    let released = name.to_string();
    blocking(&desk, move |quarantine| quarantine.remove(&name)).await?;
    info!(id = %new_id, %tenant, entry = released, %by, "message released from quarantine by an operator");
    Ok(Json(QuarantineDone { id: released, done: "released".into(), now: Some(new_id.to_string()) }))
}

async fn delete(
    State(desk): Page,
    Path(id): Path<String>,
    Extension(by): Extension<Actor>,
) -> Result<Json<QuarantineDone>, Refusal> {
    let Quarantined { name, message, .. } = find(&desk, &id).await?;
    let deleted = name.to_string();
    blocking(&desk, move |quarantine| quarantine.remove(&name)).await?;
    let tenant = message.map(|message| message.tenant.to_string());
    info!(entry = deleted, tenant, %by, "quarantined entry deleted by an operator");
    Ok(Json(QuarantineDone { id: deleted, done: "deleted".into(), now: None }))
}
