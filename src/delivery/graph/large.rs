//! Mail above the MIME limit: a draft in JSON, its attachments one after the other, then `/send`.
//!
//! The message is read from disk as it is sent, twice: once to see what it consists of, once for its content.
//! Of an attachment, one piece of some 4 MB is in memory at a time, and at most [`AT_ONCE`] such messages are
//! in flight at a time.
//!
//! Attachments are added in order, and the draft says how many it has. So an interrupted attempt is resumed
//! where it stopped, by the draft that was remembered; one that fails for good deletes the draft. An
//! interrupted call may do its work later than anybody looks, even after a crash of the relay. So a draft to
//! which that happened is counted once more before it is sent, and made again if it has more than it should.

use std::{collections::VecDeque, io, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use tracing::{info, warn};

use super::{
    Passage,
    answer::{CallError, Effect, status},
    content_reader::ContentReader,
    conversation::Request,
    draft::{Added, Draft, json_body},
    named::PageUrl,
    resource::{FILE_ATTACHMENT, FileAttachment, ItemBody, Listed, Message},
    upload,
};
use crate::{
    delivery::{Disposition, Reason, Trouble, letter::Mime},
    telemetry::ErrorClass,
};
use relay_mail::{
    Attachment, BodyText, HeaderScanner, Properties, StructureScanner, TransferEncoding, decode_text, outline,
};

/// Large messages in flight at a time, one per mailbox: each takes some 12 MB of memory.
pub(super) const AT_ONCE: usize = 32;
/// From this size on, an attachment is sent by upload session, below it by one POST (Microsoft, "Attach large
/// files to Outlook messages": 3 MB).
const UPLOAD_FROM: u64 = 3_000_000;
/// An attachment whose POST was interrupted is looked for, and posted again this often.
const TRIES: u32 = 4;
/// Pages of a list of attachments: a message has some hundreds of them at most.
const MOST_PAGES: usize = 100;

/// `bodyType` of Graph.
const TEXT: &str = "text";
const HTML: &str = "html";

/// What a message consists of, for Graph's JSON.
struct Apart {
    properties: Properties,
    body: ItemBody,
    attachments: Vec<Attachment>,
}

impl Passage<'_> {
    pub(super) async fn send_large(&mut self) -> Disposition {
        let allowance = self.talk.allowance.clone();
        let _turn = allowance.large_turn().await;
        // The semaphore is never closed.
        let _place = self.graph.large.acquire().await;
        let apart = match self.take_apart().await {
            Ok(apart) => apart,
            Err(disposition) => return disposition,
        };
        // A draft that cannot be used is made again, once.
        for _ in 0..2 {
            let was_begun = self.draft.is_some();
            let (draft, done) = match self.large_draft(&apart).await {
                Ok(draft) => draft,
                Err(disposition) => return disposition,
            };
            match self.fill(&draft, &apart.attachments, done, was_begun).await {
                Ok(true) => {}
                Ok(false) => {
                    warn!(id = %self.claim.lease.id, "draft has unexpected attachments; creating another");
                    draft.delete(&mut self.talk).await;
                    self.draft = None;
                    continue;
                }
                Err(error) => {
                    let disposition = self.failed(error, Effect::Harmless);
                    return self.give_up_draft(draft, disposition).await;
                }
            }
            match self.send_draft(&draft).await {
                Some(disposition) => return disposition,
                None => self.draft = None,
            }
        }
        Disposition::Retry {
            after: None,
            why: Trouble::new(ErrorClass::Service, "the draft was gone or had unexpected attachments, twice"),
        }
    }

    /// Adds the attachments that the draft does not have yet. `false`: it has others besides.
    async fn fill(
        &mut self,
        draft: &Draft,
        attachments: &[Attachment],
        done: usize,
        was_begun: bool,
    ) -> Result<bool, CallError> {
        let mut is_in_doubt = was_begun;
        for (before, attachment) in attachments.iter().enumerate().skip(done) {
            let added = self.attach(draft, attachment, before).await?;
            is_in_doubt |= added == Added::PerhapsTwice;
        }
        Ok(!is_in_doubt || self.attached(draft).await? == attachments.len())
    }

    /// What the message consists of. `Err`: Graph cannot carry it this way.
    async fn take_apart(&mut self) -> Result<Apart, Disposition> {
        let mut is_unsuited = false;
        let apart = self.look_through(&mut is_unsuited).await;
        self.is_unsuited |= is_unsuited;
        apart
    }

    async fn look_through(&self, is_unsuited: &mut bool) -> Result<Apart, Disposition> {
        let mut refused = |why: String| {
            *is_unsuited = true;
            let octets = self.mime.len();
            let text = format!(
                "the message has {octets} bytes; above {} bytes Graph takes a message only in parts, which \
                 is not possible here: {why}",
                self.graph.config.max_mime.0
            );
            let why = Trouble::new(ErrorClass::TooLarge, text);
            Disposition::Failed(Reason { status: status(5, 3, 4), why })
        };
        let header =
            HeaderScanner::split_message(&self.mime.header).map_err(|e| refused(e.to_string()))?.header;
        let mut scanner = StructureScanner::new(&header);
        scanner.push(&self.mime.begun);
        let mut rest = self.mime.rest.clone();
        let unreadable = |e: io::Error| self.failed(CallError::cannot_read(&e), Effect::Harmless);
        while let Some(chunk) = rest.next().await.map_err(unreadable)? {
            scanner.push(&chunk);
        }
        let structure = scanner.finish().map_err(|e| refused(e.to_string()))?;
        let mut outline = outline(&structure).map_err(|e| refused(e.to_string()))?;
        let body = match &outline.body {
            Some(body) => self.text(body).await.map_err(unreadable)?,
            None => ItemBody { content_type: TEXT, content: String::new() },
        };
        if body.content_type == HTML {
            outline.find_inline(&body.content);
        }
        let mut properties = Properties::of(&header);
        if !self.graph.config.keep_headers {
            properties.others.clear();
        }
        Ok(Apart { properties, body, attachments: outline.attachments })
    }

    /// The draft to fill, and how many attachments it has.
    async fn large_draft(&mut self, apart: &Apart) -> Result<(Draft, usize), Disposition> {
        if let Some(draft) = self.draft.take() {
            match self.attached(&draft).await {
                Ok(done) if done <= apart.attachments.len() => {
                    info!(id = %self.claim.lease.id, done, of = apart.attachments.len(), "draft resumed");
                    return Ok((draft, done));
                }
                Ok(_) => draft.delete(&mut self.talk).await,
                Err(error) if error.is_status(404) => {}
                Err(error) => return Err(self.failed(error, Effect::Harmless)),
            }
        }
        let mut made = self.draft_of(apart, apart.properties.clone()).await;
        if let Err(error) = &made
            && error.is_status(400)
            && error.about_recipients().is_none()
            && !apart.properties.others.is_empty()
        {
            warn!(
                id = %self.claim.lease.id, ?error,
                "draft refused; creating it without the fields that graph.keep_headers keeps"
            );
            let properties = Properties { others: Vec::new(), ..apart.properties.clone() };
            made = self.draft_of(apart, properties).await;
        }
        match made {
            Ok(Some(draft)) => Ok((draft, 0)),
            Ok(None) => Err(Disposition::Retry {
                after: None,
                why: Trouble::new(ErrorClass::Service, "Graph made no draft and reported no error"),
            }),
            // Holding it back would stop the mailbox's small mail, too.
            Err(error) if error.is_denied() => {
                self.is_unsuited = true;
                let said = match self.failed(error, Effect::Harmless) {
                    Disposition::MailboxBlocked { why, .. } => why,
                    _ => Trouble::new(ErrorClass::Permission, ""),
                };
                let octets = self.mime.len();
                let most = self.graph.config.max_mime.0;
                let why = said.explained(|said| {
                    format!(
                        "the message has {octets} bytes; for more than {most} the app needs the permission \
                         Mail.ReadWrite, which it does not have; {said}"
                    )
                });
                let why = Trouble { class: ErrorClass::Permission, ..why };
                Err(Disposition::Failed(Reason { status: status(5, 7, 0), why }))
            }
            Err(error) => Err(self.failed(error, Effect::Harmless)),
        }
    }

    async fn draft_of(&mut self, apart: &Apart, properties: Properties) -> Result<Option<Draft>, CallError> {
        self.new_draft(json_body(&Message::new(properties, &apart.body))).await
    }

    /// How many attachments the draft has.
    pub(super) async fn attached(&mut self, draft: &Draft) -> Result<usize, CallError> {
        let request = Request::get(&["messages", &draft.id, "attachments"], "$select=id".to_owned());
        let unreadable = || CallError::stopped("Graph's list of attachments cannot be read");
        let mut answer = self.talk.call(request).await?;
        let mut count = 0;
        for _ in 0..MOST_PAGES {
            let listed = answer.json::<Listed>().ok_or_else(unreadable)?;
            count += listed.value.len();
            let Some(next) = listed.next else { return Ok(count) };
            let page = PageUrl::parse(&next, &self.talk.tenant.cloud);
            let page = page.map_err(|foreign| CallError::stopped(foreign.to_string()))?;
            answer = self.talk.call(Request::page(&page)).await?;
        }
        Err(CallError::stopped("Graph's list of attachments does not end"))
    }

    /// Adds an attachment to a draft that has `before` of them.
    async fn attach(
        &mut self,
        draft: &Draft,
        attachment: &Attachment,
        before: usize,
    ) -> Result<Added, CallError> {
        if attachment.decoded_len >= UPLOAD_FROM {
            match upload::upload(self, draft, attachment, before).await {
                // The limit is not documented to the octet.
                Err(CallError::Refused(error, _))
                    if error.code == "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize" => {}
                uploaded => return uploaded,
            }
        }
        let mut content = Vec::new();
        let mut reader = self.mime.content(attachment.range.clone(), attachment.encoding);
        while reader.more(&mut content).await.map_err(|e| CallError::cannot_read(&e))? {}
        let body = json_body(&FileAttachment {
            kind: FILE_ATTACHMENT,
            name: &attachment.name,
            content_type: &attachment.content_type,
            is_inline: attachment.is_inline,
            content_id: attachment.content_id.as_deref(),
            content_bytes: STANDARD.encode(&content),
        });
        drop(content);
        let mut tries = 1;
        loop {
            let request = Request::new(Method::POST, &["messages", &draft.id, "attachments"], body.clone());
            let error = match self.talk.call(request).await {
                Ok(_) if tries == 1 => return Ok(Added::Once),
                Ok(_) => return Ok(Added::PerhapsTwice),
                Err(error) => error,
            };
            let Some(pause) = error.worth_waiting(tries).filter(|_| tries < TRIES) else { return Err(error) };
            tries += 1;
            tokio::time::sleep(pause).await;
            // A call that was interrupted may have done its work.
            if self.attached(draft).await? > before {
                return Ok(Added::PerhapsTwice);
            }
        }
    }

    async fn text(&self, body: &BodyText) -> io::Result<ItemBody> {
        let mut octets = Vec::new();
        let mut reader = self.mime.content(body.range.clone(), body.encoding);
        while reader.more(&mut octets).await? {}
        let content = decode_text(&octets, body.charset.as_deref());
        Ok(ItemBody { content_type: if body.is_html { HTML } else { TEXT }, content })
    }

    /// A draft that can still be used is kept: its id is remembered.
    async fn give_up_draft(&mut self, draft: Draft, disposition: Disposition) -> Disposition {
        if matches!(disposition, Disposition::Failed(_) | Disposition::Divided(_)) {
            draft.delete(&mut self.talk).await;
        } else {
            warn!(id = %self.claim.lease.id, "draft kept for the next attempt");
        }
        disposition
    }
}

impl Mime {
    /// `range`: of the encoded content, within the body.
    pub(super) fn content(&self, range: Range<u64>, encoding: TransferEncoding) -> ContentReader {
        let begun_len = self.begun.len() as u64;
        let mut begun = VecDeque::new();
        if range.start < begun_len {
            // Both are within what is in memory.
            begun.push_back(self.begun.slice(range.start as usize..range.end.min(begun_len) as usize));
        }
        let start = range.start.max(begun_len);
        let rest =
            (range.end > start).then(|| self.rest.part(start - begun_len, range.end - start)).flatten();
        ContentReader::new(begun, rest, encoding)
    }
}
