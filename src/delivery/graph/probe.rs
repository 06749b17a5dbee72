//! What the app may do with a mailbox, found out by trying: nothing is sent, and nothing is left behind.
//!
//! Called by `tenant check`.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::{
    answer::{CallError, Effect},
    confirm,
    conversation::{Body, Conversation, GraphContext, Request},
    draft::Draft,
};
use crate::{
    config::Tenant,
    delivery::{Disposition, Reason, Tried, letter::Mime},
};
use relay_mail::MailboxAddress;
use relay_spool::OpenBody;

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    pub sends: Tried,
    pub drafts: Tried,
    pub reads: Tried,
}

pub async fn probe(means: &GraphContext, tenant: &Arc<Tenant>, mailbox: &MailboxAddress) -> Probed {
    let mut talk = Conversation::new(means, tenant, mailbox);
    let sends = sends(&mut talk).await;
    let drafts = drafts(&mut talk).await;
    let nothing = confirm::query(&format!("<{}@check.invalid>", uuid::Uuid::new_v4()));
    let reads = match talk.call(Request::get(&["messages"], nothing)).await {
        Ok(_) => Tried::Works,
        Err(error) => tried(error, mailbox),
    };
    Probed { sends, drafts, reads }
}

/// Asks for a message to nobody to be sent. An app that may send is told that there are no recipients; one
/// that may not send is told so.
async fn sends(talk: &mut Conversation<'_>) -> Tried {
    let header = format!("From: <{}>\r\nSubject: m365-relay tenant check\r\n\r\n", talk.mailbox);
    let mime = Mime { header: header.into(), begun: Bytes::new(), rest: OpenBody::Whole(Bytes::new()) };
    match talk.call(Request::new(Method::POST, &["sendMail"], Body::Mime(mime))).await {
        Ok(_) => Tried::Works,
        Err(error) if error.is_status(400) => Tried::Works,
        Err(error) => tried(error, talk.mailbox),
    }
}

/// Makes a draft, and deletes it.
async fn drafts(talk: &mut Conversation<'_>) -> Tried {
    let json = Body::Json(Bytes::from_static(br#"{"subject":"m365-relay tenant check"}"#));
    match talk.call(Request::new(Method::POST, &["messages"], json)).await {
        Ok(answer) => match Draft::created(&answer, talk.mailbox) {
            Some((draft, _)) => {
                draft.delete(talk).await;
                Tried::Works
            }
            None => Tried::Failed(format!("Graph answered {} and made no draft", answer.status)),
        },
        Err(error) => tried(error, talk.mailbox),
    }
}

fn tried(error: CallError, mailbox: &MailboxAddress) -> Tried {
    let is_denied = error.is_status(403);
    let is_missing = error.is_status(404);
    let why = match error.dispose(Effect::Harmless, mailbox, None) {
        Disposition::Failed(Reason { why, .. })
        | Disposition::Retry { why, .. }
        | Disposition::Refused { why, .. }
        | Disposition::Unknown { why, .. }
        | Disposition::Unsettled { why, .. }
        | Disposition::MailboxBlocked { why, .. }
        | Disposition::TenantBlocked { why, .. } => why.text,
        other => format!("{other:?}"),
    };
    match (is_denied, is_missing) {
        (true, _) => Tried::Denied(why),
        (_, true) => Tried::NoMailbox(why),
        _ => Tried::Failed(why),
    }
}
