//! One attachment with its content: from JSON, or from the parts of a MIME message.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mail_parser::{MessageParser, MimeHeaders};
use ring::digest;
use serde::Deserialize;

use super::{delivered::DeliveredAttachment, errors::GraphError};

/// From this size on an attachment is sent by upload session, below it by one POST. Microsoft gives 3 MB and
/// does not say which; 3 MiB is what fits a 4 MiB request as base64.
pub(super) const UPLOAD_FROM: usize = 3 << 20;

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
