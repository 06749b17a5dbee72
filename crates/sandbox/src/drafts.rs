//! Calls on messages: drafts are created, read, changed and sent; sent messages can be found again.
//!
//! `Prefer: IdType="ImmutableId"` decides which kind of id an answer gives.

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{
    caller::Caller,
    delivered::Via,
    errors::{GraphError, iso, json_response},
    exchange::{Exchange, empty, is_media_type},
    items::{Draft, Folder, Item},
    mime, rendering,
    resource::{self, MessageResource},
    send::submit,
    store::lock,
    urlencoded::pairs,
};
use crate::clock;

pub(super) fn create(caller: &Caller<'_>, exchange: &Exchange, body: Bytes) -> Result<Response, GraphError> {
    let mut draft = if is_media_type(exchange, "text/plain") {
        let raw = mime::decode(&body)?;
        if caller.world.options.limits.mime_bytes.is_some_and(|most| raw.len() > most) {
            // As with sendMail: no error, and nothing created (microsoft-graph-docs#13979).
            return Ok(empty(StatusCode::OK));
        }
        Draft::from_mime(raw)?
    } else {
        let mut message = resource::parse::<MessageResource>(&body)?.checked()?;
        Draft { attachments: message.take_attachments()?, message, mime: None, created: clock::now() }
    };
    misread(exchange, &mut draft.message);
    let mut items = lock(&caller.mailbox.items);
    let item = items.insert(draft);
    Ok(answer(caller, exchange, StatusCode::CREATED, render(caller, exchange, item)))
}

pub(super) fn read(caller: &Caller<'_>, exchange: &Exchange, id: &str) -> Result<Response, GraphError> {
    let items = lock(&caller.mailbox.items);
    let item = items.find(id, &caller.mailbox.address)?;
    Ok(answer(caller, exchange, StatusCode::OK, render(caller, exchange, item)))
}

/// Understands `$filter=internetMessageId eq '…'` and `$select`.
pub(super) fn list(caller: &Caller<'_>, exchange: &Exchange, folder: Folder) -> Result<Response, GraphError> {
    let wanted = query(exchange, "$filter").map(|filter| parse_filter(&filter)).transpose()?;
    let items = lock(&caller.mailbox.items);
    let value: Vec<Value> = items
        .all()
        .filter(|item| match folder {
            Folder::All => true,
            Folder::Drafts => matches!(item, Item::Draft(..)),
            Folder::SentItems => matches!(item, Item::Sent(..)),
        })
        .filter(|item| wanted.as_deref().is_none_or(|wanted| wanted == item.internet_message_id()))
        .map(|item| render(caller, exchange, item))
        .collect();
    Ok(answer(caller, exchange, StatusCode::OK, json!({ "value": value })))
}

pub(super) fn update(
    caller: &Caller<'_>,
    exchange: &Exchange,
    id: &str,
    body: &[u8],
) -> Result<Response, GraphError> {
    let change = resource::parse::<MessageResource>(body)?.checked()?;
    let mut items = lock(&caller.mailbox.items);
    let (number, draft) = items.draft(id, &caller.mailbox.address)?;
    if !change.only_recipients() {
        draft.open();
    }
    draft.message.merge(change);
    misread(exchange, &mut draft.message);
    let item = Item::Draft(number, draft);
    Ok(answer(caller, exchange, StatusCode::OK, render(caller, exchange, item)))
}

pub(super) fn delete(caller: &Caller<'_>, id: &str) -> Result<Response, GraphError> {
    let number = lock(&caller.mailbox.items).remove(id, &caller.mailbox.address)?;
    caller.world.uploads.end_all(&caller.mailbox, number);
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The mailbox is locked throughout, so that two calls cannot send one draft twice.
pub(super) fn send(caller: &Caller<'_>, exchange: &Exchange, id: &str) -> Result<Response, GraphError> {
    if exchange.header("content-length").is_none() && exchange.header("transfer-encoding").is_none() {
        let message = "A POST without a body needs Content-Length: 0.";
        return Err(GraphError::new(StatusCode::LENGTH_REQUIRED, "LengthRequired", message));
    }
    let mut items = lock(&caller.mailbox.items);
    let mailbox = &caller.mailbox.address;
    let (number, draft) = items.draft(id, mailbox)?;
    let submission = match &draft.mime {
        Some(raw) => rendering::address(&draft.message, mailbox, raw.clone())?,
        None => rendering::build(&draft.message, &draft.attachments, mailbox)?,
    };
    submit(caller, submission, Via::Draft)?;
    items.move_to_sent(number, caller.world.options.sent_items_after);
    drop(items);
    caller.world.uploads.end_all(&caller.mailbox, number);
    Ok(empty(StatusCode::ACCEPTED))
}

fn misread(exchange: &Exchange, message: &mut MessageResource) {
    if let Some(misreading) = &exchange.misreading {
        message.misread(misreading);
    }
}

/// Keeps the properties that `$select` names.
fn render(caller: &Caller<'_>, exchange: &Exchange, item: Item<'_>) -> Value {
    let mut message = serde_json::to_value(item.message()).unwrap_or_default();
    message["isDraft"] = matches!(item, Item::Draft(..)).into();
    match item {
        Item::Draft(_, draft) => {
            message["parentFolderId"] = "drafts".into();
            message["hasAttachments"] = draft.has_attachments().into();
            message["createdDateTime"] = iso(draft.created).into();
        }
        Item::Sent(_, sent) => {
            message["parentFolderId"] = "sentitems".into();
            message["hasAttachments"] = (!sent.attachments.is_empty()).into();
            message["createdDateTime"] = iso(sent.created).into();
            message["sentDateTime"] = iso(sent.at).into();
        }
    }
    if let Some(fields) = message.as_object_mut().filter(|_| !caller.reads_bodies) {
        fields.remove("body");
    }
    message["id"] = item.id(&caller.mailbox.address, wants_immutable(exchange)).into();
    select(exchange, message)
}

/// Drops the properties that `$select` does not name. The id and what OData itself adds always stay.
pub(super) fn select(exchange: &Exchange, mut message: Value) -> Value {
    if let (Some(names), Some(fields)) = (query(exchange, "$select"), message.as_object_mut()) {
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        fields.retain(|name, _| name == "id" || name.starts_with('@') || names.contains(&name.as_str()));
    }
    message
}

fn answer(caller: &Caller<'_>, exchange: &Exchange, status: StatusCode, mut body: Value) -> Response {
    let mailbox = &caller.mailbox.address;
    let base = &caller.world.url;
    body["@odata.context"] = format!("{base}/v1.0/$metadata#users('{mailbox}')/messages").into();
    let mut response = json_response(status, &body);
    if wants_immutable(exchange) {
        let applied = HeaderValue::from_static("IdType=\"ImmutableId\"");
        response.headers_mut().insert("preference-applied", applied);
    }
    let id = body["id"].as_str().filter(|_| status == StatusCode::CREATED);
    let location = id.map(|id| format!("{base}/v1.0/users/{mailbox}/messages/{id}"));
    if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn wants_immutable(exchange: &Exchange) -> bool {
    let wish = exchange.header("prefer").unwrap_or_default().replace([' ', '"'], "");
    wish.split([',', ';']).any(|part| part.eq_ignore_ascii_case("IdType=ImmutableId"))
}

fn parse_filter(filter: &str) -> Result<String, GraphError> {
    let literal = filter
        .trim()
        .strip_prefix("internetMessageId")
        .and_then(|rest| rest.trim_start().strip_prefix("eq "))
        .and_then(|rest| rest.trim().strip_prefix('\'')?.strip_suffix('\''));
    match literal {
        // A quote inside is written twice.
        Some(text) if !text.replace("''", "").contains('\'') => Ok(text.replace("''", "'")),
        _ => Err(GraphError::bad("BadRequest", format!("Invalid filter clause: {filter}"))),
    }
}

fn query(exchange: &Exchange, name: &str) -> Option<String> {
    pairs(exchange.uri.query()?).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
