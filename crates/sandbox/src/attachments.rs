//! Attachments: posted whole or put together from pieces, listed, and told apart by their hash once delivered.

use std::fmt::Write;

use axum::response::Response;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::StatusCode;
use mail_parser::{MessageParser, MimeHeaders};
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    drafts::select,
    errors::{GraphError, json_response},
    graph::Caller,
    items::attachment_id,
    resource,
    server::Exchange,
    store::lock,
};

/// From this size on an attachment goes by upload session, below it by one POST. Microsoft says 3 MB and does not say
/// which; 3 MiB is what fits a 4 MiB request as base64.
pub(super) const UPLOAD_FROM: usize = 3 << 20;

/// An attachment of a message that was built from JSON. Its content is not kept: compare size and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveredAttachment {
    pub name: String,
    pub content_type: String,
    pub is_inline: bool,
    pub content_id: Option<String>,
    /// Octets of its content.
    pub size: usize,
    /// SHA-256 of its content, in lower-case hexadecimal digits.
    pub sha256: String,
}

#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) about: DeliveredAttachment,
    pub(super) content: Bytes,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileAttachment {
    #[serde(rename = "@odata.type")]
    kind: String,
    name: String,
    content_type: Option<String>,
    content_bytes: Option<String>,
    #[serde(default)]
    is_inline: bool,
    content_id: Option<String>,
}

impl DeliveredAttachment {
    /// Of a content that is still to come: its hash is empty.
    pub(super) fn announced(
        name: String,
        content_type: Option<String>,
        is_inline: bool,
        content_id: Option<String>,
        size: usize,
    ) -> Self {
        let content_type = content_type.unwrap_or_else(|| "application/octet-stream".into());
        Self { name, content_type, is_inline, content_id, size, sha256: String::new() }
    }

    /// As Graph shows it.
    fn resource(&self, id: String) -> Value {
        json!({
            "@odata.type": "#microsoft.graph.fileAttachment",
            "id": id,
            "name": self.name,
            "contentType": self.content_type,
            "isInline": self.is_inline,
            "contentId": self.content_id,
            "size": self.size,
        })
    }
}

impl Attachment {
    fn new(mut about: DeliveredAttachment, content: Bytes) -> Self {
        about.sha256 = hex(digest::digest(&digest::SHA256, &content));
        Self { about, content }
    }
}

impl FileAttachment {
    pub(super) fn decode(&self) -> Result<Attachment, GraphError> {
        if self.kind != "#microsoft.graph.fileAttachment" {
            let message = "Only #microsoft.graph.fileAttachment can be attached here.";
            return Err(GraphError::bad("ErrorInvalidRequest", message));
        }
        let bytes = self.content_bytes.as_deref().unwrap_or_default();
        let content = BASE64_STANDARD
            .decode(bytes)
            .map_err(|_| GraphError::bad("RequestBodyRead", "contentBytes is not base64."))?;
        if content.len() >= UPLOAD_FROM {
            let message = "An attachment of 3 MB or more needs an upload session.";
            return Err(GraphError::bad("ErrorAttachmentSizeLimitExceeded", message));
        }
        let about = DeliveredAttachment::announced(
            self.name.clone(),
            self.content_type.clone(),
            self.is_inline,
            self.content_id.clone(),
            content.len(),
        );
        Ok(Attachment::new(about, content.into()))
    }
}

pub(super) fn attach(caller: &Caller<'_>, id: &str, body: &[u8]) -> Result<Response, GraphError> {
    let attachment = resource::parse::<FileAttachment>(body)?.decode()?;
    let about = attachment.about.clone();
    let mut items = lock(&caller.mailbox.items);
    let (number, draft) = items.draft(id, &caller.mailbox.address)?;
    let id = draft.add(number, attachment);
    Ok(json_response(StatusCode::CREATED, &about.resource(id)))
}

/// What is attached to a draft or a sent copy, without the contents. Understands `$select`.
pub(super) fn list(caller: &Caller<'_>, exchange: &Exchange, id: &str) -> Result<Response, GraphError> {
    let items = lock(&caller.mailbox.items);
    let item = items.find(id, &caller.mailbox.address)?;
    let value: Vec<Value> = (1..)
        .zip(item.attachments())
        .map(|(nth, about)| select(exchange, about.resource(attachment_id(item.number(), nth))))
        .collect();
    let context = format!(
        "{}/v1.0/$metadata#users('{}')/messages('{id}')/attachments",
        caller.world.url, caller.mailbox.address
    );
    Ok(json_response(StatusCode::OK, &json!({ "@odata.context": context, "value": value })))
}

/// The attachments in a MIME message.
pub(super) fn in_mime(raw: &[u8]) -> Vec<Attachment> {
    let Some(parsed) = MessageParser::default().parse(raw) else { return Vec::new() };
    let attachments = parsed.attachments().map(|part| {
        let kind = part.content_type();
        let about = DeliveredAttachment::announced(
            part.attachment_name().unwrap_or("attachment").to_owned(),
            kind.map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("octet-stream"))),
            part.content_disposition().is_some_and(|d| d.is_inline()),
            part.content_id().map(str::to_owned),
            part.contents().len(),
        );
        Attachment::new(about, Bytes::copy_from_slice(part.contents()))
    });
    attachments.collect()
}

pub(super) fn hex(digest: digest::Digest) -> String {
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, octet| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}
