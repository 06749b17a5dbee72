//! One tenant's folder: finds files, takes a few at a time, pauses when the relay is full.

use std::{collections::HashSet, ffi::OsString, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    SLOW_SCAN, blocking,
    candidates::{Candidates, Then},
    claim,
    intake::{Begun, FileOutcome, Intake, StoredFile},
    place::{Listing, OpenFolder},
    watch::Hint,
    way::Barrier,
};
use crate::{ingress::Refusal, telemetry::Refused};
use relay_mail::{Ingress, TenantName, share::Share};

/// Files of one folder in progress at a time: enough for one commit of the spool to carry many.
const FILES: usize = 256;
/// Files claimed in one go, if the folder's share of all places has room for that.
const CLAIMED_TOGETHER: usize = 128;
/// The pause between two scans, however many files wait for the second look.
const SCAN_PAUSE: Duration = Duration::from_millis(200);
/// With this many files to take, there is no need to look for more.
const BACKLOG: usize = 1000;
/// How long files that were begun may take after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(10);

pub(super) struct Folder {
    path: Arc<Path>,
    tenant: TenantName,
    intake: Arc<Intake>,
    hints: mpsc::Receiver<Hint>,
    candidates: Candidates,
    steps: JoinSet<Step>,
    /// Files claimed or about to be, whatever step they are at.
    under_way: usize,
    is_claiming: bool,
    is_finishing: bool,
    /// Files whose messages are in the spool.
    stored: Vec<(OsString, StoredFile, OwnedSemaphorePermit)>,
    pause: Pause,
    next_scan: Instant,
    last_scan: Instant,
    /// Names that a warning was logged for.
    warned: HashSet<OsString>,
    /// Why the folder is not read.
    unusable: Option<String>,
}

/// A step that has been taken.
enum Step {
    Claimed(Vec<(OsString, Result<Begun, FileOutcome>)>, Option<OwnedSemaphorePermit>),
    Submitted(OsString, Result<StoredFile, FileOutcome>, OwnedSemaphorePermit),
    Finished(Vec<(OsString, FileOutcome)>),
}

impl Folder {
    pub(super) fn new(
        path: Arc<Path>,
        tenant: TenantName,
        intake: Arc<Intake>,
        hints: mpsc::Receiver<Hint>,
    ) -> Self {
        let now = Instant::now();
        Self {
            path,
            tenant,
            intake,
            hints,
            candidates: Candidates::default(),
            steps: JoinSet::new(),
            under_way: 0,
            is_claiming: false,
            is_finishing: false,
            stored: Vec::new(),
            pause: Pause::default(),
            next_scan: now,
            last_scan: now,
            warned: HashSet::new(),
            unusable: None,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.claim();
            self.finish();
            let resume = self.pause.until.filter(|_| self.candidates.has_next());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(hint) = self.hints.recv() => self.hear(hint),
                Some(ended) = self.steps.join_next() => self.go_on(ended),
                () = sleep_until(self.next_scan) => self.scan().await,
                () = sleep_until(resume.unwrap_or(self.next_scan)), if resume.is_some() => self.pause.end(),
            }
        }
        let tenant = self.tenant.clone();
        if timeout(GRACE, self.drain()).await.is_err() {
            warn!(%tenant, "pickup stopped with files in progress; the next start settles them");
        }
    }

    /// Ends what was begun, and begins nothing.
    async fn drain(mut self) {
        loop {
            self.finish();
            let Some(ended) = self.steps.join_next().await else { return };
            self.go_on(ended);
        }
    }

    /// Claims a few files, unless something is in the way.
    fn claim(&mut self) {
        let room = FILES.saturating_sub(self.under_way).min(CLAIMED_TOGETHER);
        let is_busy = self.is_claiming || room == 0 || self.pause.until.is_some() || self.unusable.is_some();
        if is_busy || !self.candidates.has_next() {
            return;
        }
        if let Err(refusal) = self.intake.door.is_open_to(&self.tenant) {
            return self.wait(&refusal);
        }
        let Some((room, slots)) = self.places(room) else { return };
        let files: Vec<_> = std::iter::from_fn(|| self.candidates.next()).take(room).collect();
        self.under_way += files.len();
        self.is_claiming = true;
        let path = self.path.clone();
        let tenant = self.tenant.clone();
        let intake = self.intake.clone();
        self.steps.spawn(async move {
            let slots = match slots {
                Some(slots) => Some(slots),
                // In turn. The semaphore is never closed.
                None => intake.slots.clone().acquire_owned().await.ok(),
            };
            Step::Claimed(intake.claim(&tenant, path, files).await, slots)
        });
    }

    /// How many of `wanted` files may be claimed now, with their places; if there are no places, one must be
    /// waited for. `None`: the folder has its share, and the next of its own files that ends makes room.
    fn places(&self, wanted: usize) -> Option<(usize, Option<OwnedSemaphorePermit>)> {
        let slots = &self.intake.slots;
        let share =
            Share::LASTING.most(self.under_way as u64, wanted as u64, slots.available_permits() as u64);
        if share > 0
            && let Ok(taken) = slots.clone().try_acquire_many_owned(share as u32)
        {
            return Some((share as usize, Some(taken)));
        }
        (self.under_way == 0).then_some((1, None))
    }

    /// Unlinks all files whose messages are in the spool by now.
    fn finish(&mut self) {
        if self.is_finishing || self.stored.is_empty() {
            return;
        }
        self.is_finishing = true;
        let mut files = Vec::new();
        let mut slots = Vec::new();
        for (name, stored, slot) in self.stored.drain(..) {
            files.push((name, stored));
            slots.push(slot);
        }
        let tenant = self.tenant.clone();
        let intake = self.intake.clone();
        self.steps.spawn(async move {
            let finished = intake.finish(&tenant, files).await;
            drop(slots);
            Step::Finished(finished)
        });
    }

    fn go_on(&mut self, ended: Result<Step, JoinError>) {
        match ended {
            Ok(Step::Claimed(files, mut slots)) => {
                self.is_claiming = false;
                for (name, claimed) in files {
                    let slot = slots.as_mut().and_then(|slots| slots.split(1));
                    match claimed.map(|begun| (begun, slot)) {
                        Ok((begun, Some(slot))) => self.submit(name, begun, slot),
                        Ok((_, None)) => self.settle(name, FileOutcome::Stuck),
                        Err(outcome) => self.settle(name, outcome),
                    }
                }
            }
            Ok(Step::Submitted(name, Ok(stored), slot)) => self.stored.push((name, stored, slot)),
            Ok(Step::Submitted(name, Err(outcome), _)) => self.settle(name, outcome),
            Ok(Step::Finished(files)) => {
                self.is_finishing = false;
                files.into_iter().for_each(|(name, outcome)| self.settle(name, outcome));
            }
            Err(error) => {
                // Most likely while reading one file's message: nothing else parses a stranger's octets. Its
                // name stays busy: what caused one panic would cause another.
                self.under_way -= 1;
                error!(tenant = %self.tenant, %error, "pickup failed");
            }
        }
    }

    fn submit(&mut self, name: OsString, begun: Begun, slot: OwnedSemaphorePermit) {
        let tenant = self.tenant.clone();
        let intake = self.intake.clone();
        self.steps.spawn(async move {
            let stored = intake.store(&tenant, begun).await;
            Step::Submitted(name, stored, slot)
        });
    }

    fn hear(&mut self, hint: Hint) {
        let now = Instant::now();
        match hint {
            Hint::Created(name) => {
                self.candidates.created(name, now);
            }
            Hint::Completed(name) => self.candidates.completed(name, now),
            Hint::Missed => self.scan_by(now),
        }
    }

    /// The file is no longer in progress.
    fn settle(&mut self, name: OsString, outcome: FileOutcome) {
        self.under_way -= 1;
        let then = match outcome {
            FileOutcome::Accepted => {
                if self.pause.succeed() {
                    info!(tenant = %self.tenant, "pickup resumed");
                }
                Then::Forget
            }
            FileOutcome::Rejected | FileOutcome::Gone => Then::Forget,
            FileOutcome::NoPlace => {
                self.scan_by(Instant::now());
                Then::Forget
            }
            FileOutcome::Unfinished { found, released } => Then::Wait { found, released },
            FileOutcome::Later(refusal) => {
                self.wait(&refusal);
                Then::Retry
            }
            FileOutcome::Odd(what) => {
                self.warn_once(&name, &what);
                Then::Forget
            }
            FileOutcome::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let user = rustix::process::geteuid().as_raw();
                self.warn_once(&name, &format_args!(
                    "{error}: user {user}, which this relay runs as, must be able to read and rename it: run \
                     chmod g+r on the file, \
                     and chmod -t on the folder if it has the sticky bit"
                ));
                Then::Wait { found: None, released: true }
            }
            FileOutcome::Unreadable(error) => {
                self.warn_once(&name, &error);
                Then::Wait { found: None, released: true }
            }
            FileOutcome::Stuck => Then::Never,
        };
        self.candidates.done(name, then, Instant::now());
        if let Some(at) = self.candidates.look_again() {
            self.scan_by(at);
        }
    }

    fn wait(&mut self, refusal: &Refusal) {
        if let Some(wait) = self.pause.begin(Instant::now()) {
            let seconds = wait.as_secs();
            self.intake.metrics.refused(Ingress::Pickup, refusal.reason);
            warn!(tenant = %self.tenant, %refusal, seconds, "pickup paused");
        }
    }

    async fn scan(&mut self) {
        self.last_scan = Instant::now();
        self.next_scan = self.last_scan + SLOW_SCAN;
        if self.candidates.backlog() > BACKLOG {
            self.next_scan = self.last_scan + Duration::from_secs(1);
            return;
        }
        let path = self.path.clone();
        let looks = self.intake.looks.clone();
        // If there are thousands of folders, a few are looked into at a time. The semaphore is never closed.
        let _look = looks.acquire().await;
        let listed = blocking(move || {
            let io_at = |source| Barrier::Io { path: path.to_path_buf(), source };
            Ok(OpenFolder::open(&path).and_then(|place| Ok((place.list().map_err(io_at)?, place))))
        });
        let failed = |source| Err(Barrier::Io { path: self.path.to_path_buf(), source });
        match listed.await.unwrap_or_else(failed) {
            Ok((listing, place)) => {
                if self.unusable.take().is_some() {
                    info!(folder = %self.path.display(), "pickup folder usable again");
                }
                self.listed(listing, place).await;
            }
            Err(barrier) => {
                self.intake.metrics.refused(Ingress::Pickup, Refused::Folder);
                let why = barrier.to_string();
                if self.unusable.as_ref() != Some(&why) {
                    error!(tenant = %self.tenant, folder = %self.path.display(), why, "pickup folder unusable; no files are picked up from it");
                    self.unusable = Some(why);
                }
            }
        }
    }

    async fn listed(&mut self, listing: Listing, place: Arc<OpenFolder>) {
        let Listing { files, claimed, odd } = listing;
        let there: HashSet<&OsString> = files
            .iter()
            .map(|file| &file.name)
            .chain(claimed.iter().map(|claim| &claim.original))
            .chain(odd.iter().map(|(name, _)| name))
            .collect();
        self.warned.retain(|name| there.contains(name));
        for claim in claimed {
            let name = claim.original.clone();
            let id = claim.id;
            if self.candidates.is_busy(&name) || self.warned.contains(&name) {
                continue;
            }
            let place = place.clone();
            match blocking(move || claim::take_over(&place, claim)).await {
                Ok(Some(_)) => self.warn_once(&name, &format_args!(
                    "its name says that a relay claimed it as message {id} and ended: the next start of that \
                     relay settles it, if that is so; otherwise remove the file if it has been sent, or \
                     rename it"
                )),
                Ok(None) => {}
                Err(error) => self.warn_once(&name, &error),
            }
        }
        for (name, what) in odd {
            self.warn_once(&name, &what);
        }
        let now = Instant::now();
        self.candidates.listed(files, now);
        if let Some(at) = self.candidates.look_again() {
            self.scan_by(at);
        }
    }

    fn scan_by(&mut self, at: Instant) {
        self.next_scan = self.next_scan.min(at).max(self.last_scan + SCAN_PAUSE);
    }

    fn warn_once(&mut self, name: &OsString, why: &dyn std::fmt::Display) {
        if self.warned.insert(name.clone()) {
            let folder = self.path.display();
            let file = name.display();
            warn!(%folder, %file, %why, "file not picked up");
        }
    }
}

/// Waits that grow from 1 second to 60 for as long as nothing is accepted.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    last: Duration,
}

impl Pause {
    /// Begins a pause. Returns its length, if it is a new one.
    fn begin(&mut self, now: Instant) -> Option<Duration> {
        if self.until.is_some() {
            return None;
        }
        self.last = (self.last * 2).clamp(Duration::from_secs(1), Duration::from_secs(60));
        self.until = Some(now + self.last);
        Some(self.last)
    }

    fn end(&mut self) {
        self.until = None;
    }

    /// Ends the pause. Returns whether there was one.
    fn succeed(&mut self) -> bool {
        !std::mem::take(&mut self.last).is_zero()
    }
}
