//! One file becomes one message.

use std::{io, path::Path, sync::Arc};

use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use super::{
    blocking,
    candidates::{Ready, Stamp},
    claim::{self, Claim, Content, Opened},
    newlines::{BareCarriageReturn, Newlines},
};
use crate::{
    clock,
    config::TenantName,
    ingress::{Door, Origin, Refusal, Submission},
    message::{
        Envelope, HeaderBlock, InvalidPickup, MessageId, SplitMessage, injected_envelope, pickup_envelope,
    },
    telemetry::{Ingress, Metrics, Refused},
};

/// What all folders share.
pub(super) struct Intake {
    pub(super) door: Door,
    pub(super) hostname: String,
    pub(super) metrics: Metrics,
    /// Files under way.
    pub(super) slots: Arc<Semaphore>,
}

/// What became of a file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The spool has its message, and the file is gone.
    Accepted,
    /// The file is in `bad/`.
    Rejected,
    /// The file is not there any more.
    Gone,
    /// The file is not whole, or somebody else has it. `released`: it was claimed and has its name back.
    Unfinished {
        found: Option<Stamp>,
        released: bool,
    },
    /// The relay cannot take it now. The file has its name back.
    Later(Refusal),
    Odd(&'static str),
    /// The file cannot be read.
    Unreadable(io::Error),
    /// The file was settled but is still there under its claimed name: touched again, its message would be doubled.
    Stuck,
}

/// Why a claimed file is not a message in the spool.
enum Failure {
    Refused(Refusal),
    Malformed(String),
    /// Its writer was not done.
    Changed(Stamp),
    Unreadable(io::Error),
}

struct Accepted {
    id: MessageId,
    envelope: Envelope,
}

impl Intake {
    /// Takes the file, unless something is in the way.
    pub(super) async fn take(&self, folder: Arc<Path>, tenant: &TenantName, ready: Ready) -> Outcome {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let Ready { name, last_chance } = ready;
        let file = name.clone();
        let opened = blocking(move || claim::open(&folder, name, last_chance)).await;
        let (claim, content) = match opened {
            Ok(Opened::Claimed(claim, content)) => (claim, content),
            Ok(Opened::Incomplete(stamp)) => {
                return Outcome::Unfinished { found: Some(stamp), released: false };
            }
            Ok(Opened::Locked) => return Outcome::Unfinished { found: None, released: false },
            Ok(Opened::Gone) => return Outcome::Gone,
            Ok(Opened::Odd(what)) => return Outcome::Odd(what),
            Err(error) => return Outcome::Unreadable(error),
        };
        let submitted = match content {
            Content::Message(message) => self.submit(tenant, &claim, message).await,
            Content::Malformed(reason) => Err(Failure::Malformed(reason)),
        };
        let settled = match submitted {
            Ok(Accepted { id, envelope }) => {
                self.metrics.received(tenant, Ingress::Pickup);
                let sender = envelope.sender().map_or("", |sender| sender.as_str());
                let (recipients, size) = (envelope.recipients().len(), claim.stamp().size);
                info!(%id, %tenant, sender, recipients, size, file = %file.display(), "accepted");
                blocking(move || claim.remove()).await.map(|()| Outcome::Accepted)
            }
            Err(failure) => self.settle(claim, failure).await,
        };
        settled.unwrap_or_else(|error| {
            let file = file.display();
            error!(%tenant, %file, %error, "cannot move or remove a picked-up file: left with the name .NAME.claimed");
            Outcome::Stuck
        })
    }

    async fn submit(
        &self,
        tenant: &TenantName,
        claim: &Claim,
        message: SplitMessage,
    ) -> Result<Accepted, Failure> {
        let SplitMessage { header, body } = message;
        let (envelope, header) = envelope(&header)?;
        let grant = self.door.admit_file(tenant, envelope.sender(), claim.stamp().size)?;
        let origin = Origin { client: None, by: self.hostname.clone() };
        let mut submission = Submission::begin(&self.door, grant, envelope.clone(), origin);
        submission.write(header.as_bytes()).await?;
        submission.write(b"\r\n").await?;

        let mut newlines = Newlines::default();
        let mut chunk = body;
        let mut mended = Vec::new();
        loop {
            newlines.mend(&chunk, &mut mended)?;
            submission.write(&mended).await?;
            let reader = claim.clone();
            let (next, now) = blocking(move || Ok((reader.read()?, reader.stamp_now()?))).await?;
            if now != claim.stamp() {
                return Err(Failure::Changed(now));
            }
            if next.is_empty() {
                break;
            }
            chunk = next;
        }
        newlines.finish()?;
        let accepted = submission.finish().await?;
        let id = accepted.id();
        accepted.announce();
        Ok(Accepted { id, envelope })
    }

    /// Does with the file what the failure asks for.
    async fn settle(&self, claim: Claim, failure: Failure) -> io::Result<Outcome> {
        let (reason, text) = match failure {
            Failure::Refused(refusal) if refusal.is_temporary() => {
                self.metrics.refused(Ingress::Pickup, refusal.reason);
                blocking(move || claim.release()).await?;
                return Ok(Outcome::Later(refusal));
            }
            Failure::Changed(stamp) => {
                blocking(move || claim.release()).await?;
                return Ok(Outcome::Unfinished { found: Some(stamp), released: true });
            }
            Failure::Unreadable(error) => {
                blocking(move || claim.release()).await?;
                return Ok(Outcome::Unreadable(error));
            }
            Failure::Refused(refusal) => (refusal.reason, refusal.to_string()),
            Failure::Malformed(text) => (Refused::Malformed, text),
        };
        self.metrics.refused(Ingress::Pickup, reason);
        let explanation = format!("Not accepted at {}: {text}.\n", clock::now());
        let rejected = claim.clone();
        let name = blocking(move || rejected.reject(&explanation)).await?;
        warn!(file = %name.display(), reason = reason.as_str(), detail = text, "file refused and moved to bad/");
        Ok(Outcome::Rejected)
    }
}

fn envelope(header: &HeaderBlock) -> Result<(Envelope, HeaderBlock), InvalidPickup> {
    match injected_envelope(header)? {
        Some(found) => Ok(found),
        None => pickup_envelope(header),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<InvalidPickup> for Failure {
    fn from(error: InvalidPickup) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<BareCarriageReturn> for Failure {
    fn from(error: BareCarriageReturn) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}
