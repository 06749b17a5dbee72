//! A message, its attachments and upload sessions as Graph's JSON (Microsoft Graph v1.0: `message`,
//! `fileAttachment`, `attachmentItem`, `uploadSession`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use relay_mail::{Importance, Mailbox, Properties};

/// Without a sender, which Graph sets itself: one that is not the mailbox would be refused.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message<'a> {
    pub(super) subject: String,
    pub(super) body: &'a ItemBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Recipient>,
    #[serde(flatten)]
    pub(super) recipients: Recipients,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) reply_to: Vec<Recipient>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) importance: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_read_receipt_requested: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_delivery_receipt_requested: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) internet_message_id: Option<String>,
    /// One to five, each named x-…: an empty list is refused, as is any other name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) internet_message_headers: Vec<InternetMessageHeader>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) single_value_extended_properties: Vec<ExtendedProperty>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ItemBody {
    pub(super) content_type: &'static str,
    pub(super) content: String,
}

/// Whom a message names, as the relay gives it or as the service has understood it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Recipients {
    pub(super) to_recipients: Vec<Recipient>,
    pub(super) cc_recipients: Vec<Recipient>,
    pub(super) bcc_recipients: Vec<Recipient>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Recipient {
    email_address: EmailAddress,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct EmailAddress {
    /// `None`: the service has found none.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct InternetMessageHeader {
    name: String,
    value: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ExtendedProperty {
    id: Cow<'static, str>,
    value: String,
}

/// PidTagInReplyToId and PidTagInternetReferences ([MS-OXPROPS]): JSON has no other way to thread a message.
const IN_REPLY_TO: &str = "String 0x1042";
const REFERENCES: &str = "String 0x1039";
/// Exchange makes a field of each string with a name in this set, PS_INTERNET_HEADERS ([MS-OXCMAIL]; not
/// verified for properties that are set by Graph).
const INTERNET_HEADERS: &str = "String {00020386-0000-0000-C000-000000000046} Name";

/// The body of `POST …/attachments`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileAttachment<'a> {
    #[serde(rename = "@odata.type")]
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    pub(super) content_type: &'a str,
    pub(super) is_inline: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_id: Option<&'a str>,
    /// Base64.
    pub(super) content_bytes: String,
}

pub(super) const FILE_ATTACHMENT: &str = "#microsoft.graph.fileAttachment";

/// The body of `POST …/attachments/createUploadSession`.
#[derive(Debug, Serialize)]
pub(super) struct CreateUploadSession<'a> {
    #[serde(rename = "AttachmentItem")]
    pub(super) item: AttachmentItem<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttachmentItem<'a> {
    pub(super) attachment_type: &'static str,
    pub(super) name: &'a str,
    pub(super) size: u64,
    pub(super) content_type: &'a str,
    pub(super) is_inline: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_id: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UploadSession {
    /// A secret: it is its own permission.
    pub(super) upload_url: String,
}

/// The answer to a piece. It spells its names differently from the answer to `createUploadSession`.
#[derive(Debug, Deserialize)]
pub(super) struct UploadProgress {
    #[serde(alias = "nextExpectedRanges", alias = "NextExpectedRanges", default)]
    next: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) value: Vec<serde::de::IgnoredAny>,
    /// Where the list continues.
    #[serde(rename = "@odata.nextLink")]
    pub(super) next: Option<String>,
}

impl UploadProgress {
    /// The first octet that the service waits for. It is written `"0-"`, `"2097152"` or `"26-51"`.
    pub(super) fn next(&self) -> Option<u64> {
        self.next.iter().filter_map(|range| range.split('-').next()?.trim().parse().ok()).min()
    }
}

impl<'a> Message<'a> {
    pub(super) fn new(properties: Properties, body: &'a ItemBody) -> Self {
        let threading = [(IN_REPLY_TO, properties.in_reply_to), (REFERENCES, properties.references)];
        let threading = threading
            .into_iter()
            .filter_map(|(id, value)| Some(ExtendedProperty { id: id.into(), value: value? }));
        let others = properties.others.into_iter().map(|(name, value)| {
            let id = format!("{INTERNET_HEADERS} {name}").into();
            ExtendedProperty { id, value }
        });
        let headers = properties.x_headers.into_iter().take(5);
        Self {
            subject: properties.subject,
            body,
            from: properties.from.map(Recipient::from),
            recipients: Recipients::new(properties.to, properties.cc, properties.bcc),
            reply_to: recipients(properties.reply_to),
            importance: properties.importance.map(|importance| match importance {
                Importance::Low => "low",
                Importance::Normal => "normal",
                Importance::High => "high",
            }),
            is_read_receipt_requested: properties.wants_read_receipt,
            is_delivery_receipt_requested: properties.wants_delivery_receipt,
            internet_message_id: properties.message_id,
            internet_message_headers: headers
                .map(|(name, value)| InternetMessageHeader { name, value })
                .collect(),
            single_value_extended_properties: threading.chain(others).collect(),
        }
    }
}

fn recipients(mailboxes: Vec<Mailbox>) -> Vec<Recipient> {
    mailboxes.into_iter().map(Recipient::from).collect()
}

impl Recipients {
    pub(super) fn new(to: Vec<Mailbox>, cc: Vec<Mailbox>, bcc: Vec<Mailbox>) -> Self {
        Self { to_recipients: recipients(to), cc_recipients: recipients(cc), bcc_recipients: recipients(bcc) }
    }

    /// In all three lists. What the service calls a recipient need not be an address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        let lists = [&self.to_recipients, &self.cc_recipients, &self.bcc_recipients];
        lists.into_iter().flatten().map(|one| one.email_address.address.as_deref().unwrap_or_default())
    }
}

impl From<Mailbox> for Recipient {
    fn from(Mailbox { name, address }: Mailbox) -> Self {
        Self { email_address: EmailAddress { address: Some(address), name } }
    }
}

#[cfg(test)]
mod tests;
