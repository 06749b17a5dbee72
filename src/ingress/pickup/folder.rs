//! One tenant's folder: finds files, takes a few at a time, pauses when the relay is full.

use std::{collections::HashSet, ffi::OsString, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    SLOW_SCAN, blocking,
    candidates::{Candidates, Ready, Then},
    claim::{self, Listing},
    intake::{Intake, Outcome},
    make,
    watch::Hint,
};
use crate::{config::TenantName, ingress::Refusal};

/// Files of one folder under way at a time: enough for one commit of the spool to carry many.
const FILES: usize = 16;
/// Between two scans, however many files wait for the second look.
const SCAN_PAUSE: Duration = Duration::from_millis(200);
/// With so many files to take, there is no need to look for more.
const BACKLOG: usize = 1000;
/// How long files that were begun may take after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(10);

pub(super) struct Folder {
    path: Arc<Path>,
    tenant: TenantName,
    intake: Arc<Intake>,
    hints: mpsc::Receiver<Hint>,
    candidates: Candidates,
    files: JoinSet<(OsString, Outcome)>,
    pause: Pause,
    next_scan: Instant,
    last_scan: Instant,
    /// Names that a warning was logged for.
    warned: HashSet<OsString>,
    /// The folder could not be read.
    broken: bool,
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
            files: JoinSet::new(),
            pause: Pause::default(),
            next_scan: now,
            last_scan: now,
            warned: HashSet::new(),
            broken: false,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.begin_files();
            let resume = self.pause.until.filter(|_| self.candidates.has_next());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(hint) = self.hints.recv() => self.hear(hint),
                Some(ended) = self.files.join_next() => match ended {
                    Ok((name, outcome)) => self.settle(name, outcome),
                    // Its name stays busy: what made it panic once would do so again.
                    Err(error) => error!(tenant = %self.tenant, %error, "picking up a file failed"),
                },
                () = sleep_until(self.next_scan) => self.scan().await,
                () = sleep_until(resume.unwrap_or(self.next_scan)), if resume.is_some() => self.pause.end(),
            }
        }
        let drain = async { while self.files.join_next().await.is_some() {} };
        if timeout(GRACE, drain).await.is_err() {
            warn!(tenant = %self.tenant, "picked-up files were still under way: they go back at the next start");
        }
    }

    fn begin_files(&mut self) {
        while self.files.len() < FILES && self.pause.until.is_none() && self.candidates.has_next() {
            if let Err(refusal) = self.intake.door.is_open() {
                return self.wait(&refusal);
            }
            let Some(ready) = self.candidates.next() else { return };
            self.begin(ready);
        }
    }

    fn begin(&mut self, ready: Ready) {
        let (path, tenant, intake) = (self.path.clone(), self.tenant.clone(), self.intake.clone());
        let name = ready.name.clone();
        self.files.spawn(async move { (name, intake.take(path, &tenant, ready).await) });
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

    fn settle(&mut self, name: OsString, outcome: Outcome) {
        let then = match outcome {
            Outcome::Accepted => {
                if self.pause.succeed() {
                    info!(tenant = %self.tenant, "picking up files again");
                }
                Then::Forget
            }
            Outcome::Rejected | Outcome::Gone => Then::Forget,
            Outcome::Unfinished { found, released } => Then::Wait { found, released },
            Outcome::Later(refusal) => {
                self.wait(&refusal);
                Then::Retry
            }
            Outcome::Odd(what) => {
                self.warn_once(&name, &what);
                Then::Forget
            }
            Outcome::Unreadable(error) => {
                self.warn_once(&name, &error);
                Then::Wait { found: None, released: true }
            }
            Outcome::Stuck => Then::Never,
        };
        self.candidates.done(name, then, Instant::now());
        if let Some(at) = self.candidates.look_again() {
            self.scan_by(at);
        }
    }

    fn wait(&mut self, refusal: &Refusal) {
        if let Some(wait) = self.pause.begin(Instant::now()) {
            let seconds = wait.as_secs();
            warn!(tenant = %self.tenant, %refusal, seconds, "the pickup folder waits");
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
        match blocking(move || list_or_make(&path)).await {
            Ok(listing) => {
                if std::mem::take(&mut self.broken) {
                    info!(folder = %self.path.display(), "the pickup folder can be read again");
                }
                self.listed(listing).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.broken, true) {
                    error!(folder = %self.path.display(), %error, "cannot read a pickup folder");
                }
            }
        }
    }

    async fn listed(&mut self, listing: Listing) {
        let Listing { files, claimed, odd } = listing;
        let there: HashSet<&OsString> = files
            .iter()
            .map(|file| &file.name)
            .chain(&claimed)
            .chain(odd.iter().map(|(name, _)| name))
            .collect();
        self.warned.retain(|name| there.contains(name));
        for name in claimed {
            if self.candidates.is_busy(&name) {
                continue;
            }
            let (path, original) = (self.path.clone(), name.clone());
            match blocking(move || claim::recover(&path, original)).await {
                Ok(true) => {
                    let (folder, file) = (self.path.display(), name.display());
                    warn!(%folder, %file, "a process ended while it picked up this file: taken again");
                    // It was whole when it was claimed.
                    self.candidates.completed(name, Instant::now());
                }
                Ok(false) => {}
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
            let (folder, file) = (self.path.display(), name.display());
            warn!(%folder, %file, %why, "not picked up");
        }
    }
}

/// Somebody may have removed the folder, or it could not be made before.
fn list_or_make(path: &Path) -> io::Result<Listing> {
    match claim::list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(path)?;
            claim::list(path)
        }
        listed => listed,
    }
}

/// Waits that grow from 1 second to 60 for as long as nothing is accepted.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    last: Duration,
}

impl Pause {
    /// How long, if it is a new pause.
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

    /// Whether there had been a pause.
    fn succeed(&mut self) -> bool {
        !std::mem::take(&mut self.last).is_zero()
    }
}
