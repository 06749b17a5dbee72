//! The Graph route: what becomes of one message, by which calls.
//!
//! Graph has no envelope, so the header is made to name exactly the envelope's recipients first. Then:
//!
//! 1. A message in doubt is looked for; if it was sent, that is all. It is sent again only when `settle_after` has passed.
//! 2. One with more recipients than a message may have is split.
//! 3. Up to `graph.max_mime` it goes as MIME, octet for octet: as a draft that is then sent where outcomes are
//!    [confirmed](confirm) so, else by `sendMail`.
//! 4. What is larger is taken apart and built again as a draft with [attachments](large).
//!
//! What an answer means is decided in [`answer`] and [`errors`], and never by what a message of it says.
//!
//! On a crash: what was remembered of a draft is in the spool, and the message is in doubt.

mod answer;
mod confirm;
mod content;
mod conversation;
mod draft;
mod errors;
mod large;
mod probe;
mod resource;
mod upload;

use std::{io, sync::Arc, time::Duration};

use http::Method;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{Attempted, Disposition, Reason};
use crate::{
    clock::{self, Timestamp},
    config::{Confirm, EnvelopeMismatch, GraphConfig, Tenant},
    message::{
        HeaderBlock, HeaderScanner, MAX_STORED_HEADER, MailboxAddress, SplitMessage, Visible, address_to,
    },
    spool::{BodyReader, Claim, DamagedBody, OpenBody, Spool},
    telemetry::{Metrics, Resolved},
};
use answer::{CallError, Effect};
use confirm::{FIRST_LOOK, Finding, Refusals, next_look};
pub use conversation::Means;
use conversation::{Body, Conversation, Mime, Request, put_off};
use draft::{Draft, NotSent};
pub use probe::{Probed, Tried, probe};

pub struct Graph {
    config: GraphConfig,
    settle_after: Duration,
    means: Means,
    spool: Spool,
    metrics: Metrics,
    refusals: Refusals,
    /// Places for large messages.
    large: Semaphore,
}

/// A message made ready for a service without an envelope.
struct Prepared {
    mime: Mime,
    /// With its angle brackets.
    message_id: Option<String>,
    visible: Visible,
}

/// How an attempt goes on.
enum Course {
    End(Disposition),
    /// The message is too large for this way, whatever its size is said to be.
    TooLarge,
    /// This way is not open to the app.
    Denied(Disposition),
}

/// One message on its way.
struct Passage<'a> {
    graph: &'a Graph,
    claim: &'a Claim,
    talk: Conversation<'a>,
    draft: Option<Draft>,
    mime: Mime,
    message_id: Option<String>,
}

impl Graph {
    pub fn new(
        config: GraphConfig,
        settle_after: Duration,
        means: Means,
        spool: Spool,
        metrics: Metrics,
    ) -> Self {
        let (refusals, large) = (Refusals::default(), Semaphore::new(large::AT_ONCE));
        Self { config, settle_after, means, spool, metrics, refusals, large }
    }

    /// Sends the message from `mailbox`. `Err`: its body is damaged or cannot be read now, and nothing was sent.
    pub async fn deliver(
        &self,
        tenant: &Arc<Tenant>,
        mailbox: &MailboxAddress,
        claim: &Claim,
    ) -> Result<Attempted, DamagedBody> {
        let Prepared { mime, message_id, visible } = prepare(claim).await?;
        if visible == Visible::Reduced && tenant.envelope_mismatch == EnvelopeMismatch::Refuse {
            // Accepted before that was configured.
            let diagnostic = "To or Cc names somebody who is not among the recipients".into();
            let disposition = Disposition::Failed(Reason { status: answer::status(5, 7, 1), diagnostic });
            return Ok(Attempted { disposition, doubt: claim.doubt, timed_out: false });
        }
        let talk = Conversation::new(&self.means, tenant, mailbox);
        let draft = Draft::read(claim.note.as_ref(), mailbox);
        let mut passage = Passage { graph: self, claim, talk, draft, mime, message_id };
        if let Err(disposition) = passage.settle_doubt().await {
            return Ok(passage.attempted(disposition, claim.doubt));
        }
        let disposition = if claim.message.envelope.recipients().len() > self.config.max_recipients as usize {
            Disposition::Split { most: self.config.max_recipients as usize }
        } else {
            passage.send_within_the_day().await
        };
        Ok(passage.attempted(disposition, None))
    }

    /// The message is given up: tries to delete the draft that was kept for its next attempt. One that may have been sent stays,
    /// as its id is that of the sent message, too.
    pub async fn discard(&self, tenant: &Arc<Tenant>, mailbox: &MailboxAddress, claim: &Claim) {
        if let (Some(draft), None) = (Draft::read(claim.note.as_ref(), mailbox), claim.doubt) {
            draft.delete(&mut Conversation::new(&self.means, tenant, mailbox)).await;
        }
    }

    /// When the service can be asked what became of a call of this tenant that broke off.
    fn look_after(&self, tenant: &Tenant) -> Option<Duration> {
        self.refusals.can_ask(tenant).then_some(FIRST_LOOK)
    }
}

impl Passage<'_> {
    fn attempted(&self, disposition: Disposition, doubt: Option<Timestamp>) -> Attempted {
        Attempted { disposition, doubt, timed_out: self.talk.timed_out }
    }

    /// Sends it if the day has recipients left. Those of a message that was not sent are given back.
    async fn send_within_the_day(&mut self) -> Disposition {
        let count = self.claim.message.envelope.recipients().len();
        let taken = match self.talk.allowance.take_recipients(u32::try_from(count).unwrap_or(u32::MAX)) {
            Ok(taken) => taken,
            Err(exhausted) => return put_off(exhausted, self.talk.mailbox),
        };
        let disposition = self.send().await;
        if !matches!(disposition, Disposition::Delivered(_) | Disposition::Unknown { .. }) {
            taken.give_back();
        }
        disposition
    }

    /// `Ok`: no earlier attempt of this message was sent, as far as anybody can know.
    async fn settle_doubt(&mut self) -> Result<(), Disposition> {
        let Some(since) = self.claim.doubt else { return Ok(()) };
        let (tenant, id) = (self.talk.tenant, self.claim.lease.id);
        let (age, settle_after) = (clock::now().since(since), self.graph.settle_after);
        let (draft, envelope) = (self.draft.as_ref(), &self.claim.message.envelope);
        let looked =
            self.graph.refusals.look(&mut self.talk, draft, self.message_id.as_deref(), envelope).await;
        let next_look = next_look(age, settle_after);
        let is_settled = age >= settle_after;
        let open = |look_after, why: &str| Err(Disposition::Unsettled { look_after, why: why.to_owned() });
        let resolved = match looked {
            Err(error) => return Err(still_open(error, self.talk.mailbox, next_look)),
            Ok(Finding::Sent(answer)) => {
                info!(%id, tenant = %tenant.name, "an earlier attempt had arrived");
                self.graph.metrics.unknown_outcome(&tenant.name, Resolved::Arrived);
                return Err(Disposition::Delivered(answer.receipt(true)));
            }
            Ok(Finding::CannotAsk) if !is_settled => {
                return open(
                    settle_after - age,
                    "nobody can be asked whether it was sent: it is sent again later",
                );
            }
            Ok(Finding::StillDraft) if !is_settled => {
                return open(next_look, "its draft has not been sent so far");
            }
            Ok(_) if !is_settled => return open(next_look, "no copy of it has appeared so far"),
            Ok(Finding::CannotAsk) => {
                warn!(%id, tenant = %tenant.name, "sending again a message that may have been sent before");
                Resolved::Resent
            }
            Ok(Finding::Leftover(drafts)) => {
                for draft in drafts {
                    draft.delete(&mut self.talk).await;
                }
                Resolved::NotSent
            }
            Ok(Finding::StillDraft | Finding::Nothing) => Resolved::NotSent,
        };
        info!(%id, tenant = %tenant.name, resolved = resolved.as_str(), "the earlier attempt is concluded");
        self.graph.metrics.unknown_outcome(&tenant.name, resolved);
        Ok(())
    }

    async fn send(&mut self) -> Disposition {
        if self.mime.len() > self.graph.config.max_mime.0 {
            return self.send_large().await;
        }
        let mut course = if self.graph.refusals.drafts(self.talk.tenant) || self.draft.is_some() {
            self.send_as_draft().await
        } else {
            self.send_mail().await
        };
        if matches!(course, Course::Denied(_)) && self.talk.tenant.confirm != Confirm::Draft {
            course = self.send_mail().await;
            if matches!(course, Course::End(Disposition::Delivered(_))) {
                // It is drafts that the app may not make, and not the whole mailbox that is closed to it.
                self.graph.refusals.drafts_refused(self.talk.tenant);
                let tenant = &self.talk.tenant.name;
                info!(%tenant, "the app may make no drafts: outcomes are confirmed another way");
            }
        }
        match course {
            Course::End(disposition) => disposition,
            Course::Denied(refusal) => refusal,
            Course::TooLarge => {
                let (id, octets) = (self.claim.lease.id, self.mime.len());
                warn!(%id, octets, "Graph did not take the message as MIME, although it is within graph.max_mime: lower that");
                self.send_large().await
            }
        }
    }

    async fn send_mail(&mut self) -> Course {
        let request = Request::new(Method::POST, &["sendMail"], Body::Mime(self.mime.clone()));
        match self.talk.call(request).await {
            Ok(answer) if answer.status == 202 => Course::End(Disposition::Delivered(answer.receipt(false))),
            // Seen for messages above the size limit, which were not sent. Any other 2xx is as far from documented.
            Ok(_) => Course::TooLarge,
            Err(error) if error.is_too_large() => Course::TooLarge,
            Err(error) => Course::End(self.failed(error, Effect::Sends)),
        }
    }

    async fn send_as_draft(&mut self) -> Course {
        // A draft that has gone is made again, once.
        for _ in 0..2 {
            let draft = match self.draft.take() {
                Some(draft) => draft,
                None => match self.make_draft().await {
                    Ok(draft) => draft,
                    Err(course) => return course,
                },
            };
            if let Some(disposition) = self.send_draft(&draft).await {
                return Course::End(disposition);
            }
        }
        Course::End(Disposition::Retry { after: None, why: "the draft was gone twice".into() })
    }

    async fn make_draft(&mut self) -> Result<Draft, Course> {
        let body = Body::Mime(self.mime.clone());
        match Draft::make(&mut self.talk, body, &self.graph.spool, self.claim.lease).await {
            Ok(Some(draft)) => Ok(draft),
            Ok(None) => Err(Course::TooLarge),
            Err(error) if error.is_too_large() => Err(Course::TooLarge),
            Err(error) if error.is_denied() => Err(Course::Denied(self.failed(error, Effect::Harmless))),
            Err(error) => Err(Course::End(self.failed(error, Effect::Harmless))),
        }
    }

    /// `None`: it is gone.
    async fn send_draft(&mut self, draft: &Draft) -> Option<Disposition> {
        match draft.send(&mut self.talk).await {
            Ok(answer) => Some(Disposition::Delivered(answer.receipt(false))),
            Err(NotSent::Gone) => None,
            Err(NotSent::Call(error)) => {
                let disposition = self.failed(error, Effect::Sends);
                if matches!(disposition, Disposition::Failed(_)) {
                    draft.delete(&mut self.talk).await;
                }
                Some(disposition)
            }
        }
    }

    fn failed(&self, error: CallError, effect: Effect) -> Disposition {
        error.dispose(effect, self.talk.mailbox, self.graph.look_after(self.talk.tenant))
    }
}

/// The service cannot be asked now. What stops the mailbox or the tenant is said; else the message is looked for later.
fn still_open(error: CallError, mailbox: &MailboxAddress, look_after: Duration) -> Disposition {
    match error.dispose(Effect::Harmless, mailbox, None) {
        blocked @ (Disposition::TenantBlocked { .. } | Disposition::MailboxBlocked { .. }) => blocked,
        Disposition::Retry { after, why } => {
            Disposition::Unsettled { look_after: look_after.max(after.unwrap_or_default()), why }
        }
        Disposition::Failed(Reason { diagnostic: why, .. }) => Disposition::Unsettled { look_after, why },
        other => other,
    }
}

/// Opens the body, takes the header off and makes it name the envelope's recipients.
async fn prepare(claim: &Claim) -> Result<Prepared, DamagedBody> {
    let (SplitMessage { header, body }, rest) = read_header(&claim.body).await?;
    let message_id = message_id(&header);
    let addressed = address_to(&header, &claim.message.envelope);
    let mut header = addressed.header.into_bytes();
    header.extend_from_slice(b"\r\n");
    let mime = Mime { header: header.into(), begun: body.into(), rest };
    Ok(Prepared { mime, message_id, visible: addressed.visible })
}

/// With its angle brackets.
fn message_id(header: &HeaderBlock) -> Option<String> {
    let field = header.named("Message-ID").next()?;
    let value = field.value();
    let text = std::str::from_utf8(&value).ok()?;
    let (start, end) = (text.find('<')?, text.find('>')?);
    text.get(start..=end).map(str::to_owned)
}

/// The header of a stored message, the octets of body that came with it, and the rest.
pub(super) async fn read_header(body: &BodyReader) -> Result<(SplitMessage, OpenBody), DamagedBody> {
    let mut open = body.open().await?;
    let mut scanner = HeaderScanner::with_limit(MAX_STORED_HEADER);
    let unreadable = |e: String| body.damaged(io::Error::new(io::ErrorKind::InvalidData, e));
    while let Some(part) = open.next().await.map_err(|e| body.damaged(e))? {
        if let Some(split) = scanner.push(&part).map_err(|e| unreadable(e.to_string()))? {
            return Ok((split, open));
        }
    }
    let split = scanner.finish().map_err(|e| unreadable(e.to_string()))?;
    Ok((split, open))
}
