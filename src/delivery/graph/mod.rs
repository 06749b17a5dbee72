//! The Graph route: what happens to one message, and by which calls.
//!
//! Graph has no envelope, so the header is made to name exactly the envelope's recipients first. Then:
//!
//! 1. A message in doubt, by whatever route, is looked for; if it was sent, that is all. It is sent again
//!    only when `settle_after` has passed.
//! 2. A message with more recipients than it may have is split.
//! 3. Up to `graph.max_mime` it is sent as MIME, octet for octet: as a draft that is then sent if outcomes
//!    are [confirmed](confirm) that way, else by `sendMail`.
//! 4. A larger message is taken apart and built again as a draft with [attachments](large).
//! 5. A draft is sent only when the service has [confirmed](recipients) whom it goes to.
//!
//! What an answer means is decided in [`answer`] and [`errors`], and never by the text of its message.
//!
//! On a crash: what was remembered of a draft is in the spool, and the message is in doubt.

mod answer;
mod blame;
mod confirm;
mod content;
mod content_reader;
mod conversation;
mod draft;
mod errors;
mod large;
mod named;
mod probe;
mod recipients;
mod resource;
mod upload;

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{info, warn};

use super::{
    Attempted, Disposition, Reason, Trouble,
    letter::{Letter, Mime},
    put_off,
};
use crate::{
    clock,
    config::{Confirm, GraphConfig, Tenant},
    telemetry::{ErrorClass, Metrics, Resolved, Route},
};
use answer::{CallError, Effect};
use confirm::{FIRST_LOOK, Finding, Refusals, next_look};
pub use conversation::GraphContext;
use conversation::{Body, Conversation, Request};
use draft::{Draft, NotSent};
pub use probe::{Probed, probe};
use relay_mail::{ByteSize, MailboxAddress, Timestamp};
use relay_spool::{Claim, Spool};

pub struct Graph {
    config: GraphConfig,
    settle_after: Duration,
    means: GraphContext,
    spool: Spool,
    metrics: Metrics,
    refusals: Refusals,
    /// Places for large messages.
    large: Semaphore,
}

/// How an attempt continues.
enum Course {
    End(Disposition),
    /// The message is too large for this way, whatever its size is said to be.
    TooLarge,
    /// This way is not open to the app.
    Denied(Disposition),
}

/// One message on its way.
pub(super) struct Passage<'a> {
    graph: &'a Graph,
    claim: &'a Claim,
    letter: &'a Letter,
    talk: Conversation<'a>,
    draft: Option<Draft>,
    /// With a header that names the envelope's recipients.
    mime: Mime,
    is_unsuited: bool,
}

/// What a copy of a message in Sent Items proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Its header names everybody whom it was sent to.
    Copy,
    /// The same, by Graph. By SMTP another message may have left a copy that names more people, whoever
    /// received it. A copy is this message's if it names nobody else.
    OwnCopy,
    /// It may have been sent to others than its header names, so that copies of two messages look the same.
    None,
}

impl Graph {
    pub fn new(
        config: GraphConfig,
        settle_after: Duration,
        means: GraphContext,
        spool: Spool,
        metrics: Metrics,
    ) -> Self {
        let refusals = Refusals::default();
        let large = Semaphore::new(large::AT_ONCE);
        Self { config, settle_after, means, spool, metrics, refusals, large }
    }

    /// A message that is to be sent from `mailbox`, or looked for.
    pub(super) fn passage<'a>(
        &'a self,
        tenant: &'a Arc<Tenant>,
        mailbox: &'a MailboxAddress,
        claim: &'a Claim,
        letter: &'a Letter,
    ) -> Passage<'a> {
        let talk = Conversation::new(&self.means, tenant, mailbox);
        let draft = Draft::read(claim.note.as_ref(), mailbox);
        Passage { graph: self, claim, letter, talk, draft, mime: letter.addressed(), is_unsuited: false }
    }

    /// The message is given up: tries to delete the draft that was kept for its next attempt. A draft that
    /// may have been sent stays, as the sent message has the same id.
    pub async fn discard(&self, tenant: &Arc<Tenant>, mailbox: &MailboxAddress, claim: &Claim) {
        if let (Some(draft), None) = (Draft::read(claim.note.as_ref(), mailbox), claim.doubt) {
            draft.delete(&mut Conversation::new(&self.means, tenant, mailbox)).await;
        }
    }

    /// A larger message cannot be sent as MIME.
    pub(super) fn max_mime(&self) -> ByteSize {
        self.config.max_mime
    }

    /// When the service can be asked about the outcome of an interrupted attempt of this tenant.
    pub(super) fn look_after(&self, tenant: &Tenant) -> Option<Duration> {
        self.refusals.can_ask(tenant).then_some(FIRST_LOOK)
    }
}

impl Passage<'_> {
    /// Sends the message by Graph.
    pub(super) async fn deliver(&mut self) -> Attempted {
        let most = self.graph.config.max_recipients as usize;
        let disposition = if self.claim.message.envelope.recipients().len() > most {
            Disposition::Split { most }
        } else {
            self.send_within_the_day().await
        };
        self.attempted(disposition, None)
    }

    /// `doubt`: since when the outcome of earlier attempts has been open.
    pub(super) fn attempted(&self, disposition: Disposition, doubt: Option<Timestamp>) -> Attempted {
        let Self { talk: Conversation { timed_out, .. }, is_unsuited, .. } = *self;
        Attempted { disposition, doubt, timed_out, is_unsuited }
    }

    /// Deletes the draft that an earlier attempt left, and forgets it: the message takes another way.
    pub(super) async fn forget_draft(&mut self) -> Result<(), Disposition> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        draft.delete(&mut self.talk).await;
        // If it stayed remembered, a later doubt would be settled by it.
        let forgotten = self.graph.spool.remember(self.claim.lease, None).await;
        forgotten.map_err(|error| Disposition::Retry {
            after: None,
            why: Trouble::new(ErrorClass::Relay, error.to_string()),
        })
    }

    /// Sends it if the day has recipients left. The recipients of a message that was not sent are given back.
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

    /// `Ok`: no earlier attempt of this message was sent, by any route, as far as anybody can know.
    pub(super) async fn settle_doubt(&mut self, route: Route, evidence: Evidence) -> Result<(), Disposition> {
        let Some(since) = self.claim.doubt else { return Ok(()) };
        let tenant = self.talk.tenant;
        let id = self.claim.lease.id;
        let age = clock::now().since(since);
        let settle_after = self.graph.settle_after;
        let next_look = next_look(age, settle_after);
        let is_settled = age >= settle_after;
        let open = |look_after, why: &str| {
            Err(Disposition::Unsettled { look_after, why: Trouble::new(ErrorClass::Interrupted, why) })
        };
        let resolved = match self.look(route, evidence).await {
            Err(error) => return Err(still_open(error, self.talk.mailbox, next_look, route)),
            Ok(Finding::Sent(answer)) => {
                info!(%id, tenant = %tenant.name, "message delivered by an earlier attempt");
                self.graph.metrics.unknown_outcome(&tenant.name, Resolved::Arrived);
                return Err(Disposition::Delivered(answer.receipt(true)));
            }
            Ok(Finding::CannotAsk) if !is_settled => {
                return open(
                    settle_after - age,
                    "nothing can tell whether it was sent: it is sent again later",
                );
            }
            Ok(Finding::StillDraft) if !is_settled => {
                return open(next_look, "its draft has not been sent so far");
            }
            Ok(_) if !is_settled => return open(next_look, "no copy of it has appeared so far"),
            Ok(Finding::CannotAsk) => {
                warn!(%id, tenant = %tenant.name, "resending message with unknown outcome");
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
        info!(%id, tenant = %tenant.name, resolved = resolved.as_str(), "unknown outcome resolved");
        self.graph.metrics.unknown_outcome(&tenant.name, resolved);
        Ok(())
    }

    async fn look(&mut self, route: Route, evidence: Evidence) -> Result<Finding, CallError> {
        if evidence == Evidence::None && self.draft.is_none() {
            return Ok(Finding::CannotAsk);
        }
        let draft = self.draft.as_ref();
        let envelope = &self.claim.message.envelope;
        let message_id = self.letter.message_id().filter(|_| evidence != Evidence::None);
        let to_nobody_else = evidence == Evidence::OwnCopy;
        match self.graph.refusals.look(&mut self.talk, draft, message_id, envelope, to_nobody_else).await {
            // Mail that is sent by SMTP does not wait for a fix that only Graph needs.
            Err(error) if route == Route::Smtp && error.is_closed() => Ok(Finding::CannotAsk),
            looked => looked,
        }
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
                // The app may not make drafts; the mailbox as a whole is not closed to it.
                self.graph.refusals.drafts_refused(self.talk.tenant);
                let tenant = &self.talk.tenant.name;
                info!(%tenant, "drafts not permitted for the app; outcomes are confirmed another way");
            }
        }
        match course {
            Course::End(disposition) => disposition,
            Course::Denied(refusal) => refusal,
            Course::TooLarge => {
                let id = self.claim.lease.id;
                let octets = self.mime.len();
                warn!(%id, octets, "MIME message rejected by Graph although it is within graph.max_mime: lower graph.max_mime");
                self.send_large().await
            }
        }
    }

    async fn send_mail(&mut self) -> Course {
        let request = Request::new(Method::POST, &["sendMail"], Body::Mime(self.mime.clone()));
        match self.talk.call(request).await {
            Ok(answer) if answer.status == 202 => Course::End(Disposition::Delivered(answer.receipt(false))),
            // Seen for messages above the size limit, which were not sent. Any other 2xx is just as
            // undocumented.
            Ok(_) => Course::TooLarge,
            Err(error) if error.is_too_large() => Course::TooLarge,
            Err(error) => Course::End(self.failed(error, Effect::Sends)),
        }
    }

    async fn send_as_draft(&mut self) -> Course {
        // A draft that is gone is made again, once.
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
        let why = Trouble::new(ErrorClass::Service, "the draft was gone twice");
        Course::End(Disposition::Retry { after: None, why })
    }

    async fn make_draft(&mut self) -> Result<Draft, Course> {
        match self.new_draft(Body::Mime(self.mime.clone())).await {
            Ok(Some(draft)) => Ok(draft),
            Ok(None) => Err(Course::TooLarge),
            Err(error) if error.is_too_large() => Err(Course::TooLarge),
            Err(error) if error.is_denied() => Err(Course::Denied(self.failed(error, Effect::Harmless))),
            Err(error) => Err(Course::End(self.failed(error, Effect::Harmless))),
        }
    }

    /// `None`: the draft is gone.
    async fn send_draft(&mut self, draft: &Draft) -> Option<Disposition> {
        match draft.send(&mut self.talk).await {
            Ok(answer) => Some(Disposition::Delivered(answer.receipt(false))),
            Err(NotSent::Gone) => None,
            Err(NotSent::Call(error)) => {
                let disposition = self.failed(error, Effect::Sends);
                if matches!(disposition, Disposition::Failed(_) | Disposition::Divided(_)) {
                    draft.delete(&mut self.talk).await;
                }
                Some(disposition)
            }
        }
    }

    fn failed(&self, error: CallError, effect: Effect) -> Disposition {
        let said = error.about_recipients().map(str::to_owned);
        let disposition = error.dispose(effect, self.talk.mailbox, self.graph.look_after(self.talk.tenant));
        match (disposition, said) {
            (Disposition::Failed(reason), Some(said)) => {
                blame::blame(reason, &said, &self.claim.message.envelope)
            }
            (disposition, _) => disposition,
        }
    }
}

/// The service cannot be asked now. If the mail is sent by Graph, the disposition says what stops the mailbox
/// or the tenant; else the message is looked for later.
fn still_open(error: CallError, mailbox: &MailboxAddress, next_look: Duration, route: Route) -> Disposition {
    let later = |after: Duration, why| Disposition::Unsettled { look_after: next_look.max(after), why };
    match (error.dispose(Effect::Harmless, mailbox, None), route) {
        (Disposition::Retry { after, why }, _) => later(after.unwrap_or_default(), why),
        (Disposition::Failed(Reason { why, .. }), _) => later(Duration::ZERO, why),
        (Disposition::TenantBlocked { why, retry_after, .. }, Route::Smtp) => later(retry_after, why),
        (Disposition::MailboxBlocked { until, why, .. }, Route::Smtp) => {
            later(until.saturating_duration_since(Instant::now()), why)
        }
        (other, _) => other,
    }
}
