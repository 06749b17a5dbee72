//! What is in a mailbox: drafts, copies in Sent Items, and their ids.
//!
//! A message has two ids. The regular one changes when the message moves from Drafts to Sent Items; the
//! immutable one stays. Either kind is understood in a URL. An id of another mailbox names nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE};
use bytes::Bytes;
use mail_parser::{HeaderName, MessageParser};
use tokio::time::Instant;

use super::{
    attachment::{self, Attachment},
    delivered::DeliveredAttachment,
    errors::GraphError,
    mime,
    rendering::new_message_id,
    resource::{ItemBody, MessageResource},
};
use crate::clock;
use relay_mail::Timestamp;

/// Copies in Sent Items that are remembered: the last ones of each mailbox.
const KEEP_SENT: usize = 200;

/// The messages of one mailbox, by number. A number is never used twice, and a draft keeps its number when it
/// is sent.
#[derive(Default)]
pub(super) struct Items {
    last: u64,
    drafts: BTreeMap<u64, Draft>,
    sent: BTreeMap<u64, Sent>,
    /// Numbers of sent messages, oldest first. A draft may be older than its sending.
    order: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folder {
    All,
    Drafts,
    SentItems,
}

pub(super) struct Draft {
    pub(super) message: MessageResource,
    /// The MIME it was made from, as long as only its recipients were changed: then it is sent octet for
    /// octet.
    pub(super) mime: Option<Bytes>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) created: Timestamp,
}

/// A copy in Sent Items: its properties, without its body.
pub(super) struct Sent {
    pub(super) message: MessageResource,
    /// The attachments of a message made from JSON; those of MIME are not remembered.
    pub(super) attachments: Vec<DeliveredAttachment>,
    pub(super) created: Timestamp,
    pub(super) at: Timestamp,
    /// It cannot be found before this time.
    visible: Instant,
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
    /// Inserts a new draft, with a Message-ID if it has none.
    pub(super) fn insert(&mut self, mut draft: Draft) -> Item<'_> {
        draft.message.internet_message_id.get_or_insert_with(new_message_id);
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

    /// How many drafts there are.
    pub(super) fn drafts(&self) -> usize {
        self.drafts.len()
    }

    /// The messages that can be found now; drafts first, each kind newest first.
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

    /// Removes the draft and returns its number.
    pub(super) fn remove(&mut self, id: &str, mailbox: &str) -> Result<u64, GraphError> {
        let number = self.find(id, mailbox)?.number();
        self.drafts.remove(&number);
        self.sent.remove(&number);
        Ok(number)
    }

    /// Attaches a complete upload. Returns the id of the attachment, or `None` if the draft is gone.
    pub(super) fn attach_upload(&mut self, number: u64, attachment: Attachment) -> Option<String> {
        Some(self.drafts.get_mut(&number)?.add(number, attachment))
    }

    /// Moves the draft `number` to Sent Items. The copy can be found after the time `after`.
    pub(super) fn move_to_sent(&mut self, number: u64, after: Duration) {
        let Some(draft) = self.drafts.remove(&number) else { return };
        let attachments = draft.attachments.into_iter().map(|attachment| attachment.about).collect();
        self.put_into_sent(number, draft.message, attachments, draft.created, after);
    }

    /// Keeps a message in Sent Items that was never a draft visible to a client.
    pub(super) fn keep_sent(
        &mut self,
        message: MessageResource,
        attachments: Vec<DeliveredAttachment>,
        after: Duration,
    ) {
        self.last += 1;
        self.put_into_sent(self.last, message, attachments, clock::now(), after);
    }

    fn put_into_sent(
        &mut self,
        number: u64,
        message: MessageResource,
        attachments: Vec<DeliveredAttachment>,
        created: Timestamp,
        after: Duration,
    ) {
        let message = MessageResource { body: None, attachments: None, ..message };
        let visible = Instant::now() + after;
        self.sent.insert(number, Sent { message, attachments, created, at: clock::now(), visible });
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

    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Draft(number, _) | Self::Sent(number, _) => *number,
        }
    }

    pub(super) fn message(&self) -> &MessageResource {
        match self {
            Self::Draft(_, draft) => &draft.message,
            Self::Sent(_, sent) => &sent.message,
        }
    }

    pub(super) fn internet_message_id(&self) -> &str {
        self.message().internet_message_id.as_deref().unwrap_or_default()
    }

    pub(super) fn attachments(&self) -> Vec<DeliveredAttachment> {
        match self {
            Self::Draft(_, draft) => draft.described(),
            Self::Sent(_, sent) => sent.attachments.clone(),
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
        let message = MessageResource::of(&read);
        Ok(Self { message, mime: Some(read.raw), attachments: Vec::new(), created: clock::now() })
    }

    /// Takes the MIME apart into properties, because it no longer describes what will be sent. Whether the
    /// real service keeps the MIME of a draft that gets attachments is not documented; this is the harsher
    /// answer.
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
        self.attachments.extend(attachment::in_mime(&raw));
    }

    /// Descriptions of its attachments, the parts of its MIME included.
    fn described(&self) -> Vec<DeliveredAttachment> {
        match &self.mime {
            Some(raw) => attachment::in_mime(raw).into_iter().map(|attachment| attachment.about).collect(),
            None => self.attachments.iter().map(|attachment| attachment.about.clone()).collect(),
        }
    }

    /// For MIME, by its first header line about it, because its parts are not worth parsing at every call.
    pub(super) fn has_attachments(&self) -> bool {
        let Some(raw) = &self.mime else { return !self.attachments.is_empty() };
        let headers = MessageParser::default().parse_headers(&**raw);
        headers.is_some_and(|message| {
            let kind = message.header(HeaderName::ContentType).and_then(|value| value.as_content_type());
            kind.is_some_and(|kind| {
                kind.ctype().eq_ignore_ascii_case("multipart")
                    && kind.subtype().is_some_and(|sub| sub.eq_ignore_ascii_case("mixed"))
            })
        })
    }

    pub(super) fn add(&mut self, number: u64, attachment: Attachment) -> String {
        self.open();
        self.attachments.push(attachment);
        attachment_id(number, self.attachments.len())
    }
}

/// The id of the `nth` attachment of a message, counted from 1.
pub(super) fn attachment_id(number: u64, nth: usize) -> String {
    BASE64_URL_SAFE.encode(format!("attachment:{number}:{nth}"))
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
