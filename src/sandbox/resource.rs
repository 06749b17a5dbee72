//! Graph's `message` resource: read from JSON, and built into MIME when it is sent.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mail_builder::{
    MessageBuilder,
    headers::{address::Address, raw::Raw},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    errors::GraphError,
    mime::{Submission, parse_address},
    server::random_uuid,
    store::DeliveredAttachment,
};
use crate::message::MailboxAddress;

/// From this size on an attachment goes by upload session, below it by one POST. Microsoft says 3 MB and does not say
/// which; 3 MiB is what fits a 4 MiB request as base64.
pub(super) const UPLOAD_FROM: usize = 3 << 20;

/// The properties that this service knows; others are taken and forgotten. `None`: not given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MessageResource {
    pub(super) subject: Option<String>,
    pub(super) body: Option<ItemBody>,
    pub(super) from: Option<Recipient>,
    pub(super) to_recipients: Option<Vec<Recipient>>,
    pub(super) cc_recipients: Option<Vec<Recipient>>,
    pub(super) bcc_recipients: Option<Vec<Recipient>>,
    pub(super) reply_to: Option<Vec<Recipient>>,
    pub(super) sender: Option<Recipient>,
    pub(super) importance: Option<String>,
    pub(super) is_read_receipt_requested: Option<bool>,
    pub(super) is_delivery_receipt_requested: Option<bool>,
    pub(super) internet_message_id: Option<String>,
    #[serde(skip_serializing)]
    pub(super) single_value_extended_properties: Option<Vec<ExtendedProperty>>,
    /// Not given back by the service.
    #[serde(skip_serializing)]
    pub(super) internet_message_headers: Option<Vec<HeaderField>>,
    #[serde(skip_serializing)]
    pub(super) attachments: Option<Vec<FileAttachment>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ItemBody {
    pub(super) content_type: String,
    pub(super) content: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recipient {
    email_address: EmailAddress,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct EmailAddress {
    #[serde(default)]
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// A MAPI property: `"String 0x1042"`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ExtendedProperty {
    id: String,
    value: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct HeaderField {
    name: String,
    value: String,
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

#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) name: String,
    pub(super) content_type: String,
    pub(super) inline: bool,
    pub(super) content_id: Option<String>,
    pub(super) content: Bytes,
}

/// Larger attachments are not kept with the message.
pub(super) const KEPT: usize = 8_000_000;

impl Attachment {
    fn delivered(&self) -> DeliveredAttachment {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.content);
        DeliveredAttachment {
            name: self.name.clone(),
            content_type: self.content_type.clone(),
            is_inline: self.inline,
            content_id: self.content_id.clone(),
            size: self.content.len(),
            sha256: digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect(),
        }
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, GraphError> {
    serde_json::from_slice(body).map_err(|error| {
        GraphError::bad("UnableToDeserializePostBody", format!("were unable to deserialize: {error}"))
    })
}

impl Recipient {
    pub(super) fn new(address: &MailboxAddress) -> Self {
        Self { email_address: EmailAddress { address: address.as_str().to_owned(), name: None } }
    }
}

impl MessageResource {
    fn extended(&self, tag: &str) -> Option<&str> {
        let wanted = |property: &&ExtendedProperty| {
            property.id.split_once(' ').is_some_and(|(_, found)| found.eq_ignore_ascii_case(tag))
        };
        self.single_value_extended_properties
            .iter()
            .flatten()
            .find(wanted)
            .map(|property| property.value.as_str())
    }

    /// The rules on custom headers: one to five, each named `x-…`.
    pub(super) fn check(&self) -> Result<(), GraphError> {
        let Some(headers) = &self.internet_message_headers else { return Ok(()) };
        if headers.is_empty() || headers.len() > 5 {
            let message = "internetMessageHeaders takes one to five headers.";
            return Err(GraphError::bad("InvalidInternetMessageHeaderCollection", message));
        }
        match headers.iter().find(|h| !h.name.get(..2).is_some_and(|x| x.eq_ignore_ascii_case("x-"))) {
            Some(header) => {
                let message = format!(
                    "The internet message header name '{}' should start with 'x-' or 'X-'.",
                    header.name
                );
                Err(GraphError::bad("InvalidInternetMessageHeader", message))
            }
            None => Ok(()),
        }
    }

    /// Takes over what `change` gives.
    pub(super) fn merge(&mut self, change: Self) {
        fn set<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        set(&mut self.subject, change.subject);
        set(&mut self.body, change.body);
        set(&mut self.from, change.from);
        set(&mut self.to_recipients, change.to_recipients);
        set(&mut self.cc_recipients, change.cc_recipients);
        set(&mut self.bcc_recipients, change.bcc_recipients);
        set(&mut self.reply_to, change.reply_to);
        set(&mut self.internet_message_id, change.internet_message_id);
        set(&mut self.internet_message_headers, change.internet_message_headers);
        set(&mut self.sender, change.sender);
        set(&mut self.importance, change.importance);
        set(&mut self.is_read_receipt_requested, change.is_read_receipt_requested);
        set(&mut self.is_delivery_receipt_requested, change.is_delivery_receipt_requested);
        set(&mut self.single_value_extended_properties, change.single_value_extended_properties);
    }

    /// Whether it changes nothing but who gets the message.
    pub(super) fn only_recipients(&self) -> bool {
        self.subject.is_none()
            && self.body.is_none()
            && self.from.is_none()
            && self.reply_to.is_none()
            && self.internet_message_id.is_none()
            && self.internet_message_headers.is_none()
            && self.importance.is_none()
            && self.is_read_receipt_requested.is_none()
            && self.is_delivery_receipt_requested.is_none()
            && self.single_value_extended_properties.is_none()
    }

    pub(super) fn inline_attachments(&self) -> Result<Vec<Attachment>, GraphError> {
        self.attachments.iter().flatten().map(FileAttachment::decode).collect()
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
        Ok(Attachment {
            name: self.name.clone(),
            content_type: self.content_type.clone().unwrap_or_else(|| "application/octet-stream".into()),
            inline: self.is_inline,
            content_id: self.content_id.clone(),
            content: content.into(),
        })
    }
}

/// Who a message is from and to, by its properties. The author is the mailbox where none is given.
pub(super) fn address(
    message: &MessageResource,
    mailbox: &str,
    raw: Bytes,
) -> Result<Submission, GraphError> {
    let list = |list: &Option<Vec<Recipient>>| {
        list.iter().flatten().map(|r| parse_address(&r.email_address.address)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Submission {
        from: parse_address(message.from.as_ref().map_or(mailbox, |from| &from.email_address.address))?,
        to: list(&message.to_recipients)?,
        cc: list(&message.cc_recipients)?,
        bcc: list(&message.bcc_recipients)?,
        subject: message.subject.clone().unwrap_or_default(),
        message_id: message.internet_message_id.clone().unwrap_or_default(),
        raw,
        attachments: Vec::new(),
    })
}

/// The message as MIME. Bcc is in the submission, not in the text.
pub(super) fn build(
    message: &MessageResource,
    attachments: &[Attachment],
    mailbox: &str,
) -> Result<Submission, GraphError> {
    message.check()?;
    let mut submission = address(message, mailbox, Bytes::new())?;
    if submission.message_id.is_empty() {
        submission.message_id = new_message_id();
    }
    let mut builder = MessageBuilder::new()
        .message_id(submission.message_id.trim_matches(['<', '>']).to_owned())
        .from(submission.from.as_str())
        .subject(submission.subject.as_str());
    for (name, list) in
        [("To", &message.to_recipients), ("Cc", &message.cc_recipients), ("Reply-To", &message.reply_to)]
    {
        let list: Vec<Address<'_>> = list
            .iter()
            .flatten()
            .map(|r| Address::new_address(r.email_address.name.as_deref(), r.email_address.address.as_str()))
            .collect();
        if !list.is_empty() {
            builder = builder.header(name, Address::new_list(list));
        }
    }
    for (name, property) in [("In-Reply-To", "0x1042"), ("References", "0x1039")] {
        if let Some(value) = message.extended(property) {
            builder = builder.header(name, Raw::new(value.to_owned()));
        }
    }
    if let Some(importance) = &message.importance {
        builder = builder.header("Importance", Raw::new(importance.as_str()));
    }
    for (name, is_wanted) in [
        ("Disposition-Notification-To", message.is_read_receipt_requested),
        ("Return-Receipt-To", message.is_delivery_receipt_requested),
    ] {
        if is_wanted == Some(true) {
            builder = builder.header(name, Raw::new(mailbox.to_owned()));
        }
    }
    for header in message.internet_message_headers.iter().flatten() {
        builder = builder.header(header.name.as_str(), Raw::new(header.value.as_str()));
    }
    let body = message.body.clone().unwrap_or_default();
    builder = match body.content_type.eq_ignore_ascii_case("html") {
        true => builder.html_body(body.content),
        false => builder.text_body(body.content),
    };
    for attachment in attachments {
        let content_type = attachment.content_type.as_str();
        let delivered = attachment.delivered();
        let content = match attachment.content.len() > KEPT {
            true => format!("({} octets, SHA-256 {})", delivered.size, delivered.sha256).into_bytes(),
            false => attachment.content.to_vec(),
        };
        submission.attachments.push(delivered);
        builder = match &attachment.content_id {
            Some(id) if attachment.inline => builder.inline(content_type, id.as_str(), content),
            _ => builder.attachment(content_type, attachment.name.as_str(), content),
        };
    }
    let failed = |_| GraphError::bad("ErrorContentConversionFailed", "The message could not be converted.");
    submission.raw = builder.write_to_vec().map_err(failed)?.into();
    Ok(submission)
}

pub(super) fn new_message_id() -> String {
    format!("<{}@sandbox.invalid>", random_uuid().simple())
}
