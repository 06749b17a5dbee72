//! `sendMail`, and the rules that every message meets on its way out, however it was made.

use std::collections::HashSet;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    caller::Caller,
    delivered::{Delivered, Via},
    errors::GraphError,
    exchange::{Exchange, empty, is_media_type},
    mime::{self, Submission},
    options::Unresolvable,
    rendering,
    resource::{self, MessageResource},
    store::lock,
};
use crate::clock;
use relay_mail::MailboxAddress;

#[derive(Deserialize)]
struct SendMail {
    #[serde(alias = "Message")]
    message: Option<MessageResource>,
    #[serde(default = "yes", alias = "SaveToSentItems", rename = "saveToSentItems")]
    save: serde_json::Value,
}

fn yes() -> serde_json::Value {
    true.into()
}

pub(super) fn send_mail(
    caller: &Caller<'_>,
    exchange: &Exchange,
    body: Bytes,
) -> Result<Response, GraphError> {
    let (submission, message, save) = if is_media_type(exchange, "text/plain") {
        let raw = mime::decode(&body)?;
        if caller.world.options.limits.mime_bytes.is_some_and(|most| raw.len() > most) {
            // Neither an error nor 202: observed, and never explained (microsoft-graph-docs#13979).
            return Ok(empty(StatusCode::OK));
        }
        let submission = mime::read(raw)?;
        let message = MessageResource::of(&submission);
        (submission, message, true)
    } else if is_media_type(exchange, "application/json") {
        let request: SendMail = resource::parse(&body)?;
        let empty =
            || GraphError::bad("ErrorInvalidParameter", "The value of the parameter 'Message' is empty.");
        let mut message = request.message.ok_or_else(empty)?.checked()?;
        // Microsoft's own sample sends the text "false".
        let save = request.save != false && request.save != "false";
        let attachments = message.take_attachments()?;
        message.internet_message_id.get_or_insert_with(rendering::new_message_id);
        (rendering::build(&message, &attachments, &caller.mailbox.address)?, message, save)
    } else {
        // Graph's answer to other types is not documented.
        let message = "Content-Type must be text/plain (MIME in base64) or application/json.";
        return Err(GraphError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message));
    };
    let attachments = submission.attachments.clone();
    submit(caller, submission, Via::SendMail)?;
    if save {
        let mut message = message;
        message.internet_message_id.get_or_insert_with(rendering::new_message_id);
        let after = caller.world.options.sent_items_after;
        lock(&caller.mailbox.items).keep_sent(message, attachments, after);
    }
    Ok(empty(StatusCode::ACCEPTED))
}

/// Judges the message and delivers it.
pub(super) fn submit(caller: &Caller<'_>, message: Submission, via: Via) -> Result<(), GraphError> {
    let options = &caller.world.options;
    let limits = &options.limits;
    may_send_as(caller, &message.from)?;
    if let Some(sender) = &message.sender {
        // It is not documented what the real service does with a sender that is not the mailbox.
        may_send_as(caller, sender)?;
    }
    let recipients = recipients(&message)?;
    if limits.recipients.is_some_and(|most| recipients.len() > most) {
        // Exchange may also accept it and bounce; which code Graph uses is not documented.
        let message =
            format!("The message has {} recipients, more than the mailbox may use.", recipients.len());
        return Err(GraphError::bad("ErrorInvalidRecipients", message));
    }
    if let Some(Unresolvable { address, is_named }) = &options.unresolvable
        && recipients.iter().any(|recipient| recipient.eq_ignore_ascii_case(address))
    {
        return Err(if *is_named { mime::unresolved(address) } else { mime::invalid_recipients() });
    }
    if limits.message_bytes.is_some_and(|most| message.size > most) {
        let message = "The message exceeds the maximum supported size.";
        return Err(GraphError::bad("ErrorMessageSizeExceeded", message));
    }
    let admitted = caller.mailbox.gate.message(limits, Instant::now());
    admitted.map_err(|throttled| GraphError::throttled(throttled, &options.retry_after))?;
    caller.world.store.deliver(Delivered {
        number: 0,
        directory: caller.tenant.directory.name().to_owned(),
        mailbox: caller.mailbox.address.clone(),
        from: message.from.as_str().to_owned(),
        recipients,
        bare_lf: mime::has_bare_lf(&message.raw),
        raw: message.raw,
        attachments: message.attachments,
        subject: message.subject,
        message_id: message.message_id,
        via,
        accepted_at_ms: clock::now().as_millis(),
        envelope: None,
    });
    Ok(())
}

fn may_send_as(caller: &Caller<'_>, from: &MailboxAddress) -> Result<(), GraphError> {
    let mailbox = &caller.mailbox.address;
    let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    let allowed = same(from.as_str(), mailbox)
        || caller
            .tenant
            .directory
            .send_as
            .iter()
            .any(|(owner, other)| same(owner, mailbox) && same(other, from.as_str()));
    if allowed {
        return Ok(());
    }
    Err(GraphError::new(
        StatusCode::FORBIDDEN,
        "ErrorSendAsDenied",
        "The user account which was used to submit this request does not have the right to send mail on behalf of the \
         specified sending account., Cannot submit message.",
    ))
}

/// To, Cc and Bcc, each address once.
fn recipients(message: &Submission) -> Result<Vec<String>, GraphError> {
    let mut seen = HashSet::new();
    let all = message.to.iter().chain(&message.cc).chain(&message.bcc);
    let recipients: Vec<String> =
        all.filter(|address| seen.insert(*address)).map(|address| address.as_str().to_owned()).collect();
    if recipients.is_empty() {
        let message = "The message contains no recipients., Cannot submit message.";
        return Err(GraphError::bad("ErrorInvalidRecipients", message));
    }
    Ok(recipients)
}
