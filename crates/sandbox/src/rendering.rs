//! A JSON message as MIME, as it would be sent.

use bytes::Bytes;
use mail_builder::{
    MessageBuilder,
    headers::{HeaderType, address::Address, content_type::ContentType, raw::Raw, text::Text},
    mime::MimePart,
};

use super::{
    attachment::Attachment,
    errors::GraphError,
    ids::random_uuid,
    mime::{Submission, parse_address},
    properties::Header,
    resource::{MessageResource, Recipient},
};

/// Larger attachments are left out of the MIME, with a line in their place: a test that has their hash does
/// not need 140 MB of base64, which take long to write.
pub(super) const LEFT_OUT_ABOVE: usize = 8 << 20;

/// Author and recipients of a message, by its properties. The author is the mailbox if none is given.
pub(super) fn address(
    message: &MessageResource,
    mailbox: &str,
    raw: Bytes,
) -> Result<Submission, GraphError> {
    let list = |list: &Option<Vec<Recipient>>| {
        list.iter().flatten().map(|r| parse_address(r.address())).collect::<Result<Vec<_>, _>>()
    };
    Ok(Submission {
        from: parse_address(message.from.as_ref().map_or(mailbox, Recipient::address))?,
        sender: message.sender.as_ref().map(|sender| parse_address(sender.address())).transpose()?,
        to: list(&message.to_recipients)?,
        cc: list(&message.cc_recipients)?,
        bcc: list(&message.bcc_recipients)?,
        subject: message.subject.clone().unwrap_or_default(),
        message_id: message.internet_message_id.clone().unwrap_or_default(),
        size: raw.len(),
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
    let mut submission = address(message, mailbox, Bytes::new())?;
    if submission.message_id.is_empty() {
        submission.message_id = new_message_id();
    }
    let message_id = submission.message_id.trim_matches(['<', '>']).to_owned();
    let author = message.from.as_ref().map_or_else(|| Address::from(mailbox), named);
    let mut builder = MessageBuilder::new()
        .message_id(message_id)
        .from(author.clone())
        .subject(submission.subject.as_str());
    if let Some(sender) =
        message.sender.as_ref().filter(|_| submission.sender.as_ref() != Some(&submission.from))
    {
        builder = builder.sender(named(sender));
    }
    for (name, list) in
        [("To", &message.to_recipients), ("Cc", &message.cc_recipients), ("Reply-To", &message.reply_to)]
    {
        let list: Vec<Address<'_>> = list.iter().flatten().map(named).collect();
        if !list.is_empty() {
            builder = builder.header(name, Address::new_list(list));
        }
    }
    for (name, header) in [("In-Reply-To", Header::InReplyTo), ("References", Header::References)] {
        if let Some(value) = message.property(header) {
            builder = builder.header(name, unstructured(value));
        }
    }
    if let Some(importance) = message.importance {
        builder = builder.header("Importance", Raw::new(importance.as_str()));
    }
    // RFC 8098 section 2.1; the other is older than DSN and is what Exchange writes.
    if message.is_read_receipt_requested == Some(true) {
        builder = builder.header("Disposition-Notification-To", author.clone());
    }
    if message.is_delivery_receipt_requested == Some(true) {
        builder = builder.header("Return-Receipt-To", author);
    }
    for header in message.internet_message_headers.iter().flatten() {
        builder = builder.header(header.name.as_str(), unstructured(&header.value));
    }
    for (name, value) in message.fields() {
        builder = builder.header(name, unstructured(value));
    }
    let body = message.body.as_ref();
    let content = body.map_or("", |body| body.content.as_str());
    let is_html = body.is_some_and(|body| body.content_type.eq_ignore_ascii_case("html"));
    builder = if is_html { builder.html_body(content) } else { builder.text_body(content) };
    if !attachments.is_empty() {
        builder.attachments = Some(attachments.iter().map(part).collect());
    }
    let failed = |_| GraphError::bad("ErrorContentConversionFailed", "The message could not be converted.");
    submission.raw = builder.write_to_vec().map_err(failed)?.into();
    submission.attachments = attachments.iter().map(|attachment| attachment.about.clone()).collect();
    let left_out = attachments.iter().map(|a| a.content.len()).filter(|size| *size > LEFT_OUT_ABOVE);
    // As lines of base64: 57 octets become 76 and a line break.
    let left_out: usize = left_out.map(|size| size.div_ceil(57) * 78).sum();
    submission.size = submission.raw.len() + left_out;
    Ok(submission)
}

fn named(recipient: &Recipient) -> Address<'_> {
    Address::new_address(recipient.name(), recipient.address())
}

fn unstructured(value: &str) -> HeaderType<'_> {
    if value.is_ascii() { Raw::new(value).into() } else { Text::new(value).into() }
}

fn part(attachment: &Attachment) -> MimePart<'_> {
    let about = &attachment.about;
    let disposition = if about.is_inline { "inline" } else { "attachment" };
    let disposition = ContentType::new(disposition).attribute("filename", about.name.as_str());
    let content_type = about.content_type.as_str();
    let part = if attachment.content.len() > LEFT_OUT_ABOVE {
        let line = format!("({} octets left out, sha256 {})\r\n", about.size, about.sha256);
        MimePart::new(content_type, line)
    } else {
        MimePart::new(content_type, &attachment.content[..])
    };
    let part = part.header("Content-Disposition", disposition);
    match &about.content_id {
        Some(id) => part.cid(id.trim_matches(['<', '>'])),
        None => part,
    }
}

pub(super) fn new_message_id() -> String {
    format!("<{}@sandbox.invalid>", random_uuid().simple())
}
