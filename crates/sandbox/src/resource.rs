//! Graph's `message` resource in JSON. `rendering` makes MIME of it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    attachment::{Attachment, FileAttachment},
    errors::GraphError,
    faults::Misreading,
    mime::Submission,
    properties::{self, ExtendedProperty, Header},
};
use relay_mail::MailboxAddress;

/// The properties that this service knows; others are accepted and ignored. `None`: not given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MessageResource {
    pub(super) subject: Option<String>,
    pub(super) body: Option<ItemBody>,
    pub(super) from: Option<Recipient>,
    pub(super) sender: Option<Recipient>,
    pub(super) to_recipients: Option<Vec<Recipient>>,
    pub(super) cc_recipients: Option<Vec<Recipient>>,
    pub(super) bcc_recipients: Option<Vec<Recipient>>,
    pub(super) reply_to: Option<Vec<Recipient>>,
    pub(super) importance: Option<Importance>,
    pub(super) is_read_receipt_requested: Option<bool>,
    pub(super) is_delivery_receipt_requested: Option<bool>,
    pub(super) internet_message_id: Option<String>,
    /// The real service returns them only if `$expand` asks for them; this one never does.
    #[serde(skip_serializing)]
    pub(super) single_value_extended_properties: Option<Vec<ExtendedProperty>>,
    /// Not returned by the service.
    #[serde(skip_serializing)]
    pub(super) internet_message_headers: Option<Vec<HeaderField>>,
    #[serde(skip_serializing)]
    pub(super) attachments: Option<Vec<FileAttachment>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Importance {
    #[serde(alias = "Low")]
    Low,
    #[serde(alias = "Normal")]
    Normal,
    #[serde(alias = "High")]
    High,
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

#[derive(Debug, Clone, Deserialize)]
pub(super) struct HeaderField {
    pub(super) name: String,
    pub(super) value: String,
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

    pub(super) fn address(&self) -> &str {
        &self.email_address.address
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.email_address.name.as_deref().filter(|name| !name.is_empty())
    }
}

impl Importance {
    /// RFC 4021 section 2.1.54.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

impl MessageResource {
    /// The properties that the headers of a MIME message give.
    pub(super) fn of(submission: &Submission) -> Self {
        let list = |list: &[_]| Some(list.iter().map(Recipient::new).collect());
        Self {
            subject: Some(submission.subject.clone()),
            from: Some(Recipient::new(&submission.from)),
            to_recipients: list(&submission.to),
            cc_recipients: list(&submission.cc),
            bcc_recipients: list(&submission.bcc),
            internet_message_id: Some(submission.message_id.clone()).filter(|id| !id.is_empty()),
            ..Self::default()
        }
    }

    /// Refuses headers and properties that the service would refuse, and decides on one Message-ID.
    pub(super) fn checked(mut self) -> Result<Self, GraphError> {
        self.check_headers()?;
        self.single_value_extended_properties.iter().flatten().try_for_each(ExtendedProperty::check)?;
        self.settle();
        Ok(self)
    }

    /// The property wins: `internetMessageId` is only another name for it.
    fn settle(&mut self) {
        if let Some(id) = self.property(Header::MessageId).map(str::to_owned) {
            self.internet_message_id = Some(id);
        }
        self.internet_message_id.take_if(|id| id.is_empty());
    }

    /// A header that was given as a MAPI property.
    pub(super) fn property(&self, header: Header) -> Option<&str> {
        properties::header(self.single_value_extended_properties.as_deref()?, header)
    }

    /// Fields that were given as named MAPI properties.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::fields(self.single_value_extended_properties.as_deref().unwrap_or_default())
    }

    /// The rules on custom headers: one to five, each named `x-…`.
    fn check_headers(&self) -> Result<(), GraphError> {
        let Some(headers) = &self.internet_message_headers else { return Ok(()) };
        if headers.is_empty() || headers.len() > 5 {
            let message = "internetMessageHeaders takes one to five headers.";
            return Err(GraphError::bad("InvalidInternetMessageHeaderCollection", message));
        }
        if let Some(header) = headers.iter().find(|header| header.value.contains(['\r', '\n', '\0'])) {
            let message = format!(
                "The value of the internet message header '{}' is not one line of text.",
                header.name
            );
            return Err(GraphError::bad("InvalidInternetMessageHeader", message));
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

    /// Takes over the properties that `change` gives.
    pub(super) fn merge(&mut self, change: Self) {
        fn set<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        set(&mut self.subject, change.subject);
        set(&mut self.body, change.body);
        set(&mut self.from, change.from);
        set(&mut self.sender, change.sender);
        set(&mut self.to_recipients, change.to_recipients);
        set(&mut self.cc_recipients, change.cc_recipients);
        set(&mut self.bcc_recipients, change.bcc_recipients);
        set(&mut self.reply_to, change.reply_to);
        set(&mut self.importance, change.importance);
        set(&mut self.is_read_receipt_requested, change.is_read_receipt_requested);
        set(&mut self.is_delivery_receipt_requested, change.is_delivery_receipt_requested);
        set(&mut self.internet_message_id, change.internet_message_id);
        set(&mut self.internet_message_headers, change.internet_message_headers);
        if let Some(change) = change.single_value_extended_properties {
            properties::merge(self.single_value_extended_properties.get_or_insert_default(), change);
        }
        self.settle();
    }

    /// Whether it changes only the recipients and which receipts are requested. Thunderbird sends MIME drafts
    /// with both changed, so they must leave the MIME alone.
    pub(super) fn only_recipients(&self) -> bool {
        self.subject.is_none()
            && self.sender.is_none()
            && self.importance.is_none()
            && self.single_value_extended_properties.is_none()
            && self.body.is_none()
            && self.from.is_none()
            && self.reply_to.is_none()
            && self.internet_message_id.is_none()
            && self.internet_message_headers.is_none()
    }

    /// Understands other recipients than it was given.
    pub(super) fn misread(&mut self, Misreading { drop, add, rewrite }: &Misreading) {
        let is = |text: &str, recipient: &Recipient| text.eq_ignore_ascii_case(recipient.address());
        let lists = [&mut self.to_recipients, &mut self.cc_recipients, &mut self.bcc_recipients];
        for list in lists.into_iter().flatten() {
            list.retain(|recipient| !drop.iter().any(|dropped| is(dropped, recipient)));
            for recipient in list {
                if let Some((_, to)) = rewrite.iter().find(|(from, _)| is(from, recipient)) {
                    recipient.email_address.address.clone_from(to);
                }
            }
        }
        let named = |address: &String| Recipient {
            email_address: EmailAddress { address: address.clone(), name: None },
        };
        self.bcc_recipients.get_or_insert_default().extend(add.iter().map(named));
    }

    /// Takes out the attachments that came inside the message.
    pub(super) fn take_attachments(&mut self) -> Result<Vec<Attachment>, GraphError> {
        self.attachments.take().iter().flatten().map(FileAttachment::decode).collect()
    }
}
