//! Upload sessions: attachments from 3 to 150 MB, in pieces, to a URL that is its own permission.

use std::sync::{Arc, Mutex};

use axum::{body::Body, response::Response};
use bytes::BytesMut;
use http::{HeaderValue, StatusCode, header};
use ring::digest;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    attachment::{Attachment, UPLOAD_FROM, hex},
    caller::Caller,
    delivered::DeliveredAttachment,
    errors::{GraphError, iso, json_response},
    exchange::{BodyError, Exchange, Outcome, empty},
    fault_answers::with_faults,
    faults::On,
    limits::Permit,
    resource,
    store::lock,
    upload_sessions::{Received, Session},
    urlencoded::pairs,
    world::World,
};
use crate::clock;

const LARGEST: usize = 150 << 20;

#[derive(Deserialize)]
struct CreateUploadSession {
    #[serde(rename = "AttachmentItem", alias = "attachmentItem")]
    item: AttachmentItem,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentItem {
    attachment_type: String,
    name: String,
    size: usize,
    content_type: Option<String>,
    #[serde(default)]
    is_inline: bool,
    content_id: Option<String>,
}

/// `createUploadSession` of a draft.
pub(super) fn begin(caller: &Caller<'_>, id: &str, body: &[u8]) -> Result<Response, GraphError> {
    let CreateUploadSession { item } = resource::parse(body)?;
    if !item.attachment_type.eq_ignore_ascii_case("file") {
        return Err(GraphError::bad("ErrorInvalidRequest", "attachmentType must be file."));
    }
    if item.size < UPLOAD_FROM {
        let message = "Attachment size should not be less than the minimum size of an upload session.";
        return Err(GraphError::bad("ErrorAttachmentSizeShouldNotBeLessThanMinimumSize", message));
    }
    if item.size > LARGEST {
        let message = "The attachment exceeds the 150 MB that can be attached.";
        return Err(GraphError::bad("ErrorAttachmentSizeLimitExceeded", message));
    }
    let draft = lock(&caller.mailbox.items).draft(id, &caller.mailbox.address)?.0;
    let lifetime = caller.world.options.upload_lifetime;
    let session = Session {
        tenant: caller.tenant.clone(),
        mailbox: caller.mailbox.clone(),
        draft,
        expires: Instant::now() + lifetime,
        expires_at: clock::now() + lifetime,
        about: DeliveredAttachment::announced(
            item.name,
            item.content_type,
            item.is_inline,
            item.content_id,
            item.size,
        ),
        received: Mutex::new(Some(Received {
            content: BytesMut::new(),
            hash: digest::Context::new(&digest::SHA256),
        })),
    };
    let expires_at = session.expires_at;
    let token = caller.world.uploads.begin(session);
    let url = format!(
        "{}/api/v2.0/Users('{}')/Messages('{id}')/AttachmentSessions('{draft}')?authtoken={token}",
        caller.world.url, caller.mailbox.address
    );
    let answer = json!({
        "@odata.context": format!("{}/v1.0/$metadata#microsoft.graph.uploadSession", caller.world.url),
        "uploadUrl": url,
        "expirationDateTime": iso(expires_at),
        "nextExpectedRanges": ["0-"],
    });
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// A call of an upload URL.
pub(super) async fn answer(world: &World, exchange: &mut Exchange, body: Body) -> Outcome {
    let token = exchange.uri.query().and_then(|query| pairs(query).find(|(name, _)| name == "authtoken"));
    let token = token.map(|(_, token)| token).unwrap_or_default();
    let session = world.uploads.find(&token);
    let tenant = session.as_ref().map(|session| session.tenant.clone());
    exchange.mailbox = session.as_ref().map(|session| session.mailbox.address.clone());
    exchange.directory = tenant.as_ref().map(|tenant| tenant.directory.name().to_owned());
    let admitted = admit(world, exchange, session);
    // "Below 4 MB each": the cap itself is too much.
    let body = match exchange.read(body, world.options.limits.request_bytes.saturating_sub(1)).await {
        Ok(body) => Ok(body),
        Err(BodyError::TooLarge) => Err(GraphError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "maxFragmentLengthExceeded",
            "A piece of an upload must be smaller than 4 MB.",
        )),
        Err(BodyError::Broken) => return Outcome::Cut,
    };
    let directory = tenant.as_ref().map(|tenant| &tenant.directory);
    with_faults(world, On::Upload, directory, exchange, |exchange| {
        let result = admitted.and_then(|(session, _permit)| {
            let limits = &world.options.limits;
            let charged = session.mailbox.gate.upload(exchange.body_len, limits, Instant::now());
            charged.map_err(|t| GraphError::throttled(t, &world.options.retry_after))?;
            perform(world, exchange, &token, &session, &body?)
        });
        result.unwrap_or_else(|error| error.into_response(exchange))
    })
    .await
}

fn admit(
    world: &World,
    exchange: &Exchange,
    session: Option<Arc<Session>>,
) -> Result<(Arc<Session>, Permit), GraphError> {
    if exchange.header("authorization").is_some() {
        return Err(GraphError::token("An upload URL takes no Authorization header."));
    }
    let session = session.ok_or_else(gone)?;
    let permit = Permit::take(&session.mailbox.gate, &world.options.limits, Instant::now())
        .map_err(|throttled| GraphError::throttled(throttled, &world.options.retry_after))?;
    Ok((session, permit))
}

fn perform(
    world: &World,
    exchange: &Exchange,
    token: &str,
    session: &Session,
    piece: &[u8],
) -> Result<Response, GraphError> {
    match exchange.method.as_str() {
        "PUT" => put(world, exchange, token, session, piece),
        "GET" => {
            let received = lock(&session.received);
            Ok(progress(session, received.as_ref().ok_or_else(gone)?.content.len()))
        }
        "DELETE" => {
            world.uploads.end(token);
            Ok(empty(StatusCode::NO_CONTENT))
        }
        method => Err(GraphError::bad("BadRequest", format!("An upload URL does not take {method}."))),
    }
}

fn put(
    world: &World,
    exchange: &Exchange,
    token: &str,
    session: &Session,
    piece: &[u8],
) -> Result<Response, GraphError> {
    let wrong =
        |code, message: &'static str| GraphError::new(StatusCode::RANGE_NOT_SATISFIABLE, code, message);
    let range = exchange.header("content-range").and_then(parse_range);
    let (first, last, total) = range
        .ok_or_else(|| GraphError::bad("invalidRange", "Content-Range must be: bytes first-last/total."))?;
    if total != session.about.size {
        return Err(wrong("invalidRange", "The total in Content-Range is not the size of the session."));
    }
    if last < first || last >= total || last - first + 1 != piece.len() {
        return Err(wrong("invalidRange", "Content-Range does not fit the body or the total."));
    }
    let mut slot = lock(&session.received);
    let received = slot.as_mut().ok_or_else(gone)?;
    match first.cmp(&received.content.len()) {
        std::cmp::Ordering::Less => return Err(wrong("fragmentOverlap", "These octets have been received.")),
        std::cmp::Ordering::Greater => {
            return Err(wrong("fragmentOutOfOrder", "Pieces must follow one another without a gap."));
        }
        std::cmp::Ordering::Equal => {}
    }
    // All of it at once: growing by pieces would copy it again and again.
    received.content.reserve(total - first);
    received.content.extend_from_slice(piece);
    received.hash.update(piece);
    let so_far = received.content.len();
    if so_far < total {
        return Ok(progress(session, so_far));
    }
    let Some(Received { content, hash }) = slot.take() else { return Err(gone()) };
    world.uploads.end(token);
    let about = DeliveredAttachment { sha256: hex(hash.finish()), ..session.about.clone() };
    let attachment = Attachment { about, content: content.freeze() };
    let attached = lock(&session.mailbox.items).attach_upload(session.draft, attachment);
    let id = attached.ok_or_else(GraphError::no_such_item)?;
    let mut response = empty(StatusCode::CREATED);
    let mailbox = &session.mailbox.address;
    let location = format!("{}/api/v2.0/Users('{mailbox}')/Messages/Attachments('{id}')", world.url);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// The spelling differs from `createUploadSession`'s, and the range has no dash: the real service does the
/// same.
fn progress(session: &Session, received: usize) -> Response {
    let answer = json!({
        "ExpirationDateTime": iso(session.expires_at),
        "nextExpectedRanges": [received.to_string()],
    });
    json_response(StatusCode::OK, &answer)
}

fn gone() -> GraphError {
    GraphError::new(
        StatusCode::NOT_FOUND,
        "uploadSessionNotFound",
        "The upload session is unknown or has expired.",
    )
}

fn parse_range(value: &str) -> Option<(usize, usize, usize)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}
