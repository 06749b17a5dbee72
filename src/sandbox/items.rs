//! What is in a mailbox: drafts, copies in Sent Items, and the ids they go by.
//!
//! A message has two ids. The regular one changes when the message moves from Drafts to Sent Items; the immutable one
//! stays. Either kind is understood in a URL. An id of another mailbox names nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE};
use bytes::Bytes;
use mail_parser::{MessageParser, MimeHeaders};
use tokio::time::Instant;

use super::{
    errors::GraphError,
    mime::{self, Submission},
    resource::{self, Attachment, ItemBody, MessageResource, Recipient},
};
use crate::clock::{self, Timestamp};

/// Copies in Sent Items that are remembered, the last ones of each mailbox.
const KEEP_SENT: usize = 200;

/// The messages of one mailbox, by number; a number is never used twice, and a draft keeps it when it is sent.
#[derive(Default)]
pub(super) struct Items {
    last: u64,
    drafts: BTreeMap<u64, Draft>,
    sent: BTreeMap<u64, Sent>,
    /// Numbers of what was sent, oldest first. A draft may be older than its sending.
    order: VecDeque<u64>,
}

pub(super) struct Draft {
    pub(super) message: MessageResource,
    /// The MIME it was made from, as long as only its recipients were changed: then it is sent octet for octet.
    pub(super) mime: Option<Bytes>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) created: Timestamp,
}

/// What became of a message that was sent.
pub(super) struct Sent {
    pub(super) to: Vec<Recipient>,
    pub(super) cc: Vec<Recipient>,
    pub(super) bcc: Vec<Recipient>,
    pub(super) internet_message_id: String,
    pub(super) subject: String,
    pub(super) at: Timestamp,
    /// It cannot be found before.
    visible: Instant,
}

/// A message that is sent, for its copy.
pub(super) struct SentMessage {
    internet_message_id: String,
    subject: String,
    to: Vec<Recipient>,
    cc: Vec<Recipient>,
    bcc: Vec<Recipient>,
}

impl SentMessage {
    pub(super) fn of(submission: &Submission) -> Self {
        let list = |list: &[_]| list.iter().map(Recipient::new).collect();
        let internet_message_id = match submission.message_id.as_str() {
            "" => resource::new_message_id(),
            id => id.to_owned(),
        };
        Self {
            internet_message_id,
            subject: submission.subject.clone(),
            to: list(&submission.to),
            cc: list(&submission.cc),
            bcc: list(&submission.bcc),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Item<'a> {
    Draft(u64, &'a Draft),
    Sent(u64, &'a Sent),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IdKind {
    Immutable,
    InDrafts,
    InSentItems,
}

impl Items {
    /// A new draft, with a Message-ID if it has none.
    pub(super) fn insert(&mut self, mut draft: Draft) -> Item<'_> {
        draft.message.internet_message_id.get_or_insert_with(resource::new_message_id);
        self.last += 1;
        Item::Draft(self.last, self.drafts.entry(self.last).or_insert(draft))
    }

    pub(super) fn find(&self, id: &str, mailbox: &str) -> Result<Item<'_>, GraphError> {
        let (kind, number) = parse_id(id, mailbox)?;
        let draft = self.drafts.get(&number).filter(|_| kind != IdKind::InSentItems);
        let sent = self.sent.get(&number).filter(|sent| kind != IdKind::InDrafts && sent.is_visible());
        draft
            .map(|draft| Item::Draft(number, draft))
            .or_else(|| sent.map(|sent| Item::Sent(number, sent)))
            .ok_or_else(GraphError::no_such_item)
    }

    pub(super) fn draft_count(&self) -> usize {
        self.drafts.len()
    }

    /// What can be found now; drafts first, each kind newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = Item<'_>> {
        let drafts = self.drafts.iter().rev().map(|(number, draft)| Item::Draft(*number, draft));
        let sent = self.sent.iter().rev().filter(|(_, sent)| sent.is_visible());
        drafts.chain(sent.map(|(number, sent)| Item::Sent(*number, sent)))
    }

    pub(super) fn draft(&mut self, id: &str, mailbox: &str) -> Result<(u64, &mut Draft), GraphError> {
        let (kind, number) = parse_id(id, mailbox)?;
        if kind == IdKind::Immutable && self.sent.contains_key(&number) {
            // The code for this is not documented.
            let message = "The message has been sent and is no draft any more.";
            return Err(GraphError::bad("ErrorInvalidOperation", message));
        }
        let draft = self.drafts.get_mut(&number).filter(|_| kind != IdKind::InSentItems);
        Ok((number, draft.ok_or_else(GraphError::no_such_item)?))
    }

    pub(super) fn remove(&mut self, id: &str, mailbox: &str) -> Result<(), GraphError> {
        let number = match self.find(id, mailbox)? {
            Item::Draft(number, _) | Item::Sent(number, _) => number,
        };
        self.drafts.remove(&number);
        self.sent.remove(&number);
        Ok(())
    }

    /// An upload that is complete. The id of the attachment, or `None` if the draft is gone.
    pub(super) fn attach_upload(&mut self, number: u64, attachment: Attachment) -> Option<String> {
        Some(self.drafts.get_mut(&number)?.add(number, attachment))
    }

    /// Moves the draft `number`, or a message that never was a draft a client could see, to Sent Items. The copy can
    /// be found `after` a while.
    pub(super) fn keep_sent(&mut self, number: Option<u64>, sent: SentMessage, after: Duration) {
        let number = number.unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        self.drafts.remove(&number);
        let visible = Instant::now() + after;
        let SentMessage { internet_message_id, subject, to, cc, bcc } = sent;
        let sent = Sent { to, cc, bcc, internet_message_id, subject, at: clock::now(), visible };
        self.sent.insert(number, sent);
        self.order.push_back(number);
        if self.order.len() > KEEP_SENT {
            self.order.pop_front().and_then(|oldest| self.sent.remove(&oldest));
        }
    }
}

impl Item<'_> {
    pub(super) fn id(&self, mailbox: &str, immutable: bool) -> String {
        let (number, prefix) = match self {
            Self::Draft(number, _) => (number, "AAMkAD"),
            Self::Sent(number, _) => (number, "AAMkAS"),
        };
        let prefix = if immutable { "AAkALg" } else { prefix };
        format!("{prefix}{}", BASE64_URL_SAFE.encode(format!("{number}:{mailbox}")))
    }

    pub(super) fn internet_message_id(&self) -> &str {
        match self {
            Self::Draft(_, draft) => draft.message.internet_message_id.as_deref().unwrap_or_default(),
            Self::Sent(_, sent) => &sent.internet_message_id,
        }
    }
}

impl Sent {
    fn is_visible(&self) -> bool {
        self.visible <= Instant::now()
    }
}

impl Draft {
    pub(super) fn from_mime(raw: Bytes) -> Result<Self, GraphError> {
        let read = mime::read(raw)?;
        let list = |list: &[_]| Some(list.iter().map(Recipient::new).collect());
        let message = MessageResource {
            subject: Some(read.subject),
            from: Some(Recipient::new(&read.from)),
            to_recipients: list(&read.to),
            cc_recipients: list(&read.cc),
            bcc_recipients: list(&read.bcc),
            internet_message_id: Some(read.message_id).filter(|id| !id.is_empty()),
            ..MessageResource::default()
        };
        Ok(Self { message, mime: Some(read.raw), attachments: Vec::new(), created: clock::now() })
    }

    /// Takes the MIME apart into properties, because it no longer says what is to be sent. Whether the real service
    /// keeps the MIME of a draft that gets attachments is not documented; this is the harsher answer.
    pub(super) fn open(&mut self) {
        let Some(raw) = self.mime.take() else { return };
        let Some(parsed) = MessageParser::default().parse(&*raw) else { return };
        let html =
            parsed.html_body.first().and_then(|part| parsed.part(*part)).is_some_and(|p| p.is_text_html());
        let content = if html { parsed.body_html(0) } else { parsed.body_text(0) };
        self.message.body = Some(ItemBody {
            content_type: if html { "html" } else { "text" }.into(),
            content: content.unwrap_or_default().into_owned(),
        });
        self.attachments.extend(parsed.attachments().map(|part| {
            let kind = part.content_type();
            Attachment {
                name: part.attachment_name().unwrap_or("attachment").to_owned(),
                content_type: kind.map_or_else(
                    || "application/octet-stream".into(),
                    |kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("octet-stream")),
                ),
                inline: part.content_disposition().is_some_and(|d| d.is_inline()),
                content_id: part.content_id().map(str::to_owned),
                content: Bytes::copy_from_slice(part.contents()),
            }
        }));
    }

    pub(super) fn add(&mut self, number: u64, attachment: Attachment) -> String {
        self.open();
        self.attachments.push(attachment);
        BASE64_URL_SAFE.encode(format!("attachment:{number}:{}", self.attachments.len()))
    }
}

fn parse_id(id: &str, mailbox: &str) -> Result<(IdKind, u64), GraphError> {
    let parse = || {
        let (prefix, rest) = id.split_at_checked(6)?;
        let kind = match prefix {
            "AAkALg" => IdKind::Immutable,
            "AAMkAD" => IdKind::InDrafts,
            "AAMkAS" => IdKind::InSentItems,
            _ => return None,
        };
        let text = String::from_utf8(BASE64_URL_SAFE.decode(rest).ok()?).ok()?;
        let (number, address) = text.split_once(':')?;
        (address == mailbox).then_some((kind, number.parse().ok()?))
    };
    let malformed = || GraphError::bad("ErrorInvalidIdMalformed", "Id is malformed.");
    parse().ok_or_else(malformed)
}
