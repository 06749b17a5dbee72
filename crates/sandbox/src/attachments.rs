//! Calls on the attachments of a message: posting one whole, and listing them.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    attachment::FileAttachment,
    caller::Caller,
    delivered::DeliveredAttachment,
    drafts::select,
    errors::{GraphError, json_response},
    exchange::Exchange,
    items::attachment_id,
    resource,
    store::lock,
};

pub(super) fn attach(caller: &Caller<'_>, id: &str, body: &[u8]) -> Result<Response, GraphError> {
    let attachment = resource::parse::<FileAttachment>(body)?.decode()?;
    let about = attachment.about.clone();
    let mut items = lock(&caller.mailbox.items);
    let (number, draft) = items.draft(id, &caller.mailbox.address)?;
    let id = draft.add(number, attachment);
    Ok(json_response(StatusCode::CREATED, &shown(&about, id)))
}

/// Lists the attachments of a draft or a sent copy, without the contents. Understands `$select`.
pub(super) fn list(caller: &Caller<'_>, exchange: &Exchange, id: &str) -> Result<Response, GraphError> {
    let items = lock(&caller.mailbox.items);
    let item = items.find(id, &caller.mailbox.address)?;
    let value: Vec<Value> = (1..)
        .zip(item.attachments())
        .map(|(nth, about)| select(exchange, shown(&about, attachment_id(item.number(), nth))))
        .collect();
    let context = format!(
        "{}/v1.0/$metadata#users('{}')/messages('{id}')/attachments",
        caller.world.url, caller.mailbox.address
    );
    Ok(json_response(StatusCode::OK, &json!({ "@odata.context": context, "value": value })))
}

/// The attachment as Graph shows it.
fn shown(about: &DeliveredAttachment, id: String) -> Value {
    json!({
        "@odata.type": "#microsoft.graph.fileAttachment",
        "id": id,
        "name": about.name,
        "contentType": about.content_type,
        "isInline": about.is_inline,
        "contentId": about.content_id,
        "size": about.size,
    })
}
