//! One file becomes one message.
//!
//! The steps, in this order: claim the file under the id of its message; hand the message to the spool;
//! unlink the file; announce the message. Whichever step a crash comes after, the next start can tell which
//! it was (see `leftovers`). If the file cannot be unlinked, the message is unwound, and the file stays.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    sync::Arc,
};

use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use super::{
    blocking,
    candidates::{Ready, Stamp},
    claim::{self, Claimant, FileClaim, FileContent, Opened},
    dots::{self, Unstuffer},
    marks::Marks,
    place::OpenFolder,
};
use crate::{
    clock,
    config::Dots,
    ingress::{
        Door, Origin, Refusal, Submission,
        newlines::{BareNewline, Lenience, Newlines},
    },
    telemetry::{List, Metrics, Refused},
};
use relay_mail::{
    Envelope, HeaderBlock, Ingress, InvalidPickup, SplitMessage, TenantName, injected_envelope,
    outside::Outside, pickup_envelope,
};
use relay_spool::{Accepted, BodyWriter};

/// Most characters of the reason that is given for a refused file.
const LONGEST_REASON: usize = 2000;

/// What all folders share.
pub(super) struct Intake {
    pub(super) door: Door,
    pub(super) hostname: String,
    pub(super) dots: Dots,
    pub(super) metrics: Metrics,
    /// The marks of this relay's claims.
    pub(super) marks: Marks,
    /// Files in progress.
    pub(super) slots: Arc<Semaphore>,
    /// Folders that are being looked into.
    pub(super) looks: Arc<Semaphore>,
}

/// The outcome of a file.
#[derive(Debug)]
pub(super) enum FileOutcome {
    /// The spool has its message, and the file is gone.
    Accepted,
    /// The file is `.bad` now.
    Rejected,
    /// The file is no longer there.
    Gone,
    /// The folder cannot be used.
    NoPlace,
    /// The file is not whole, or another process has it. `released`: it was claimed and has its name back.
    Unfinished {
        found: Option<Stamp>,
        released: bool,
    },
    /// The relay cannot take it now. The file has its name back.
    Later(Refusal),
    Odd(&'static str),
    /// The file cannot be read or renamed.
    Unreadable(io::Error),
    /// The file is still there under its claimed name, and cannot be moved.
    Stuck,
}

/// A file that has been claimed, and the beginning of its message.
pub(super) struct Begun {
    pub(super) claim: FileClaim,
    pub(super) content: FileContent,
    pub(super) body: BodyWriter,
}

/// A message in the spool whose file is still there.
pub(super) struct StoredFile {
    pub(super) claim: FileClaim,
    pub(super) message: InSpool,
}

pub(super) struct InSpool {
    pub(super) accepted: Accepted,
    sender: String,
    recipients: List,
    /// Octets of the file.
    size: u64,
}

/// Why a claimed file is not a message in the spool.
enum Failure {
    Refused(Refusal),
    Malformed(String),
    /// Its writer had not finished.
    Changed(Stamp),
    Unreadable(io::Error),
}

impl Intake {
    /// Claims files, all in one go. Returns the outcome for each.
    pub(super) async fn claim(
        &self,
        tenant: &TenantName,
        folder: Arc<Path>,
        files: Vec<Ready>,
    ) -> Vec<(OsString, Result<Begun, FileOutcome>)> {
        let names: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
        let spool = self.door.spool().clone();
        let tenant = tenant.clone();
        let marks = self.marks.clone();
        let claimed = blocking(move || {
            let Ok(place) = OpenFolder::open(&folder) else {
                // The next look reports why.
                return Ok(files.into_iter().map(|file| (file.name, Err(FileOutcome::NoPlace))).collect());
            };
            let claim = |Ready { name, last_chance }: Ready| {
                let (id, body) = spool.begin_for(&tenant);
                let claimant = Claimant { tenant: &tenant, id, marks: &marks };
                let begun = match claim::open(&place, &name, &claimant, last_chance) {
                    Ok(Opened::Claimed(claim, content)) => Ok(Begun { claim, content, body }),
                    Ok(Opened::Incomplete(stamp)) => {
                        Err(FileOutcome::Unfinished { found: Some(stamp), released: false })
                    }
                    Ok(Opened::Locked) => Err(FileOutcome::Unfinished { found: None, released: false }),
                    Ok(Opened::Gone) => Err(FileOutcome::Gone),
                    Ok(Opened::Odd(what)) => Err(FileOutcome::Odd(what)),
                    Err(error) => Err(FileOutcome::Unreadable(error)),
                };
                (name, begun)
            };
            Ok(files.into_iter().map(claim).collect())
        });
        claimed.await.unwrap_or_else(|error| {
            error!(%error, "file claim failed: the files are left until the next start");
            names.into_iter().map(|name| (name, Err(FileOutcome::Stuck))).collect()
        })
    }

    /// Hands a message to the spool. If that fails, the file gets its name back or is refused.
    pub(super) async fn store(&self, tenant: &TenantName, begun: Begun) -> Result<StoredFile, FileOutcome> {
        let Begun { claim, content, body } = begun;
        let submitted = match content {
            FileContent::Message { begun, is_whole } => {
                self.submit(tenant, &claim, body, begun, is_whole).await
            }
            FileContent::Malformed(reason) => Err(Failure::Malformed(reason)),
        };
        match submitted {
            Ok((accepted, envelope)) => {
                let sender = envelope.sender().map_or("", |sender| sender.as_str()).to_owned();
                let recipients = List::of_recipients(envelope.recipients());
                let size = claim.stamp().size;
                Ok(StoredFile { claim, message: InSpool { accepted, sender, recipients, size } })
            }
            Err(failure) => Err(self.settle(claim, failure).await),
        }
    }

    /// Unlinks the files, all in one go, and announces their messages.
    pub(super) async fn finish(
        &self,
        tenant: &TenantName,
        files: Vec<(OsString, StoredFile)>,
    ) -> Vec<(OsString, FileOutcome)> {
        let (claims, messages): (Vec<_>, Vec<_>) =
            files.into_iter().map(|(name, StoredFile { claim, message })| (claim, (name, message))).unzip();
        let unlink = |claim: FileClaim| match claim.remove() {
            // The last close of an unlinked file is what removes it, which takes longer than all the rest. So
            // it is closed here.
            Ok(None) => None,
            Ok(Some(now)) => Some((claim, Failure::Changed(now))),
            Err(error) => Some((claim, Failure::Unreadable(error))),
        };
        let unlinked = blocking(move || Ok(claims.into_iter().map(unlink).collect::<Vec<_>>())).await;
        let unlinked = unlinked.unwrap_or_else(|error| {
            // Some may be unlinked and some not: picking a file up twice is better than never.
            error!(%tenant, %error, "file removal failed: files may be picked up twice");
            messages.iter().map(|_| None).collect()
        });
        let mut outcomes = Vec::with_capacity(messages.len());
        for ((name, message), kept) in messages.into_iter().zip(unlinked) {
            let outcome = match kept {
                None => {
                    self.announce(tenant, &name, message);
                    FileOutcome::Accepted
                }
                Some((claim, why)) => self.unwind(claim, message, why).await,
            };
            outcomes.push((name, outcome));
        }
        outcomes
    }

    fn announce(&self, tenant: &TenantName, name: &OsStr, message: InSpool) {
        let InSpool { accepted, sender, recipients, size } = message;
        self.metrics.received(tenant, Ingress::Pickup);
        let id = accepted.id();
        info!(%id, %tenant, sender, ?recipients, size, file = %name.display(), "message accepted");
        accepted.announce();
    }

    /// The file stays, so the message must not.
    async fn unwind(&self, claim: FileClaim, message: InSpool, why: Failure) -> FileOutcome {
        if let Err(error) = message.accepted.unwind().await {
            let file = claim.claimed_path();
            error!(
                file = %file.display(), %error,
                "message not withdrawn although its file remains: it may be sent twice"
            );
            return FileOutcome::Stuck;
        }
        self.settle(claim, why).await
    }

    async fn submit(
        &self,
        tenant: &TenantName,
        claim: &FileClaim,
        body: BodyWriter,
        begun: SplitMessage,
        mut is_whole: bool,
    ) -> Result<(Accepted, Envelope), Failure> {
        let SplitMessage { header, body: mut chunk } = begun;
        let (envelope, header, is_injected) = envelope(&header)?;
        let are_doubled = match (self.dots, claim.file()) {
            (Dots::Keep, _) => false,
            (dots, file) => blocking(move || dots::are_doubled(dots, is_injected, &file)).await?,
        };
        let mut unstuffer = are_doubled.then(Unstuffer::default);
        let grant = self.door.admit_file(tenant, envelope.sender(), claim.stamp().size)?;
        let origin = Origin { client: None, by: self.hostname.clone() };
        let begun = (claim.id(), body);
        let mut submission = Submission::begin_with(&self.door, begun, grant, envelope.clone(), origin);
        submission.write(header.as_bytes()).await?;
        submission.write(b"\r\n").await?;

        let mut newlines = Newlines::new(Lenience::LineFeed);
        loop {
            let mended = newlines.mend(&chunk)?;
            match &mut unstuffer {
                Some(unstuffer) => submission.write(&unstuffer.unstuff(&mended)).await?,
                None => submission.write(&mended).await?,
            }
            if is_whole {
                break;
            }
            let reader = claim.clone();
            let (next, now) = blocking(move || Ok((reader.read()?, reader.stamp_now()?))).await?;
            if now != claim.stamp() {
                return Err(Failure::Changed(now));
            }
            is_whole = next.is_empty();
            chunk = next;
        }
        newlines.finish()?;
        if let Some(unstuffer) = unstuffer {
            submission.write(unstuffer.finish()).await?;
        }
        Ok((submission.finish().await?, envelope))
    }

    /// Does with the file what the failure asks for.
    async fn settle(&self, claim: FileClaim, failure: Failure) -> FileOutcome {
        let path = claim.claimed_path();
        self.try_settle(claim, failure).await.unwrap_or_else(|error| {
            error!(file = %path.display(), %error, "picked-up file not moved; it is left until the next start");
            FileOutcome::Stuck
        })
    }

    async fn try_settle(&self, claim: FileClaim, failure: Failure) -> io::Result<FileOutcome> {
        let (reason, text) = match failure {
            Failure::Refused(refusal) if refusal.is_temporary() => {
                blocking(move || claim.release()).await?;
                return Ok(FileOutcome::Later(refusal));
            }
            Failure::Changed(stamp) => {
                blocking(move || claim.release()).await?;
                return Ok(FileOutcome::Unfinished { found: Some(stamp), released: true });
            }
            Failure::Unreadable(error) => {
                blocking(move || claim.release()).await?;
                return Ok(FileOutcome::Unreadable(error));
            }
            Failure::Refused(refusal) => (refusal.reason, refusal.to_string()),
            Failure::Malformed(text) => (Refused::Malformed, text),
        };
        self.metrics.refused(Ingress::Pickup, reason);
        // It quotes what was in the file.
        let text = Outside::up_to(LONGEST_REASON, text).to_string();
        let explanation = format!("{}: {text}\n", clock::wall());
        let rejected = claim.clone();
        let name = blocking(move || rejected.reject(&explanation)).await?;
        warn!(file = %name.display(), reason = reason.as_str(), detail = text, "file refused and renamed");
        Ok(FileOutcome::Rejected)
    }
}

/// The envelope, the header of the message, and whether the envelope was in lines of its own.
fn envelope(header: &HeaderBlock) -> Result<(Envelope, HeaderBlock, bool), InvalidPickup> {
    match injected_envelope(header)? {
        Some((envelope, header)) => Ok((envelope, header, true)),
        None => pickup_envelope(header).map(|(envelope, header)| (envelope, header, false)),
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

impl From<BareNewline> for Failure {
    fn from(error: BareNewline) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}
