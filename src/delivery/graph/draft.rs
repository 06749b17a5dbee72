//! A message sent as a draft: made first, its [recipients](super::recipients) confirmed, its immutable id
//! stored, then sent.
//!
//! The id is on stable storage before `/send` is called. So whatever fails afterwards, the service can be
//! asked by that id whether the message was sent, and a draft that was not sent can be sent again without
//! ever being sent twice. A draft that is no longer needed is deleted.

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{
    Passage,
    answer::{CallError, GraphResponse},
    conversation::{Body, Conversation, Request},
    resource::{Recipient, Recipients},
};
use relay_mail::MailboxAddress;
use relay_spool::Note;

/// What is remembered of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Draft {
    /// An id is valid in its own mailbox only.
    pub(super) mailbox: MailboxAddress,
    pub(super) id: String,
}

/// How a call with `/send` may go wrong.
#[derive(Debug)]
pub(super) enum NotSent {
    /// The draft is gone: another must be made.
    Gone,
    Call(CallError),
}

/// How an attachment got into a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    Once,
    /// A call for it was interrupted, and may yet add it once more.
    PerhapsTwice,
}

/// The answer that creates a draft. It has the whole message, so it is read once.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    id: String,
    to_recipients: Option<Vec<Recipient>>,
    cc_recipients: Option<Vec<Recipient>>,
    bcc_recipients: Option<Vec<Recipient>>,
}

impl Draft {
    /// `None`: nothing is remembered, or nothing for this mailbox.
    pub(super) fn read(note: Option<&Note>, mailbox: &MailboxAddress) -> Option<Self> {
        let draft: Self = postcard::from_bytes(note?.as_bytes()).ok()?;
        (draft.mailbox == *mailbox).then_some(draft)
    }

    fn note(&self) -> Option<Note> {
        Note::new(&postcard::to_stdvec(self).ok()?).ok()
    }

    /// The draft that was made, if one was, and whom it names.
    pub(super) fn created(answer: &GraphResponse, mailbox: &MailboxAddress) -> Option<(Self, Recipients)> {
        let Created { id, to_recipients, cc_recipients, bcc_recipients } =
            answer.json().filter(|_| answer.status == 201)?;
        let recipients = Recipients {
            to_recipients: to_recipients.unwrap_or_default(),
            cc_recipients: cc_recipients.unwrap_or_default(),
            bcc_recipients: bcc_recipients.unwrap_or_default(),
        };
        Some((Self { mailbox: mailbox.clone(), id }, recipients))
    }

    pub(super) async fn send(&self, conversation: &mut Conversation<'_>) -> Result<GraphResponse, NotSent> {
        let request = Request::new(Method::POST, &["messages", &self.id, "send"], Body::Empty);
        match conversation.call(request).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.is_status(404) => Err(NotSent::Gone),
            Err(error) => Err(NotSent::Call(error)),
        }
    }

    /// Tries to delete it. If that fails, a draft that nobody receives stays in the mailbox.
    pub(super) async fn delete(&self, conversation: &mut Conversation<'_>) {
        // A deleted item would be kept in Deleted Items with all its content.
        let thorough = Request::new(Method::POST, &["messages", &self.id, "permanentDelete"], Body::Empty);
        let deleted = match conversation.call(thorough).await {
            // Not every cloud has it.
            Err(error) if [400, 405, 501].into_iter().any(|status| error.is_status(status)) => {
                conversation.call(Request::new(Method::DELETE, &["messages", &self.id], Body::Empty)).await
            }
            deleted => deleted,
        };
        match deleted {
            Ok(_) => debug!(mailbox = %self.mailbox, "unneeded draft deleted"),
            Err(error) if error.is_status(404) => {}
            Err(error) => {
                warn!(mailbox = %self.mailbox, ?error, "unneeded draft not deleted; it stays in the mailbox");
            }
        }
    }
}

impl Passage<'_> {
    /// Makes a draft of `body`, has its recipients confirmed, and stores its id: a draft that is remembered
    /// may be sent. `Ok(None)`: the service did not make it and reported no error, as it has been seen to do
    /// with messages above its size limit.
    pub(super) async fn new_draft(&mut self, body: Body) -> Result<Option<Draft>, CallError> {
        let answer = self.talk.call(Request::new(Method::POST, &["messages"], body)).await?;
        let Some((draft, named)) = Draft::created(&answer, self.talk.mailbox) else { return Ok(None) };
        drop(answer);
        if let Err(error) = self.make_ready(&draft, &named).await {
            // A draft must not be sent to others, or if nobody would know of it.
            draft.delete(&mut self.talk).await;
            return Err(error);
        }
        Ok(Some(draft))
    }

    async fn make_ready(&mut self, draft: &Draft, named: &Recipients) -> Result<(), CallError> {
        self.confirm_recipients(draft, named).await?;
        let note = draft.note().ok_or_else(|| CallError::stopped("the id of the draft is too long"))?;
        let remembered = self.graph.spool.remember(self.claim.lease, Some(note)).await;
        remembered.map_err(|error| CallError::stopped_here(error.to_string()))
    }
}

/// The body of a call with a message, or a part of one, in JSON.
pub(super) fn json_body(message: &impl Serialize) -> Body {
    // These are structs of text, which can always be written as JSON.
    Body::Json(Bytes::from(serde_json::to_vec(message).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_remembered_for_its_mailbox_only() {
        let mailbox: MailboxAddress = "a@contoso.example".parse().unwrap();
        let draft = Draft { mailbox: mailbox.clone(), id: "AAkALg".repeat(40) };
        let note = draft.note().unwrap();
        assert_eq!(Draft::read(Some(&note), &mailbox), Some(draft));
        assert_eq!(Draft::read(Some(&note), &"b@contoso.example".parse().unwrap()), None);
        assert_eq!(Draft::read(None, &mailbox), None);
        assert_eq!(Draft::read(Some(&Note::new(b"?").unwrap()), &mailbox), None);
        assert_eq!(Draft { mailbox, id: "x".repeat(Note::MAX_LEN) }.note(), None);
    }
}
