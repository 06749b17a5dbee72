//! Pickup folders: programs leave messages as files in `pickup/<tenant>/`, and the folder's permissions are
//! their login.
//!
//! # Contract
//!
//! * A file `*.eml` is taken once its writer has finished with it: moved in, closed, or else quiet for a
//!   while (see `candidates`). The best way to hand a message over is to write it elsewhere on the same file
//!   system and move it in.
//! * A file is gone once the spool has its message on stable storage, and not before. One that can never be
//!   sent is renamed to `.bad`, with a file `.bad.txt` beside it that says why. One that cannot be taken now
//!   stays, and its folder waits.
//! * The format is RFC 5322, with lines that end in CR LF or LF. X-Sender and X-Receiver lines at the top are
//!   the envelope (Exchange Replay, IIS, .NET); without them the header is (Exchange Pickup).
//! * Links, folders and anything else that is not a plain file are never followed or opened for reading.
//! * Nobody but root and the relay can put another folder in the place of a tenant's (`way`). A folder where
//!   that is not so is not read, and is looked at again until it is fixed.
//! * A folder of one tenant that is broken, full or paused does not hold up another's.
//!
//! # Crashes
//!
//! Each file becomes one message, whenever the process dies.
//!
//! | step                                          | a crash after it: the next start finds          | and               |
//! |-----------------------------------------------|-------------------------------------------------|-------------------|
//! | 1. `NAME` is renamed to `.NAME.ID-MARK.claimed`, under a lock (`flock`) that ends with the process | a claimed file, no message `ID` | gives the file its name back |
//! | 2. the spool accepts message `ID`             | a claimed file, message `ID`                    | unlinks the file  |
//! | 3. the file is unlinked                       | message `ID`                                    |                   |
//! | 4. the message is announced to the scheduler  | message `ID`, or that it has left               |                   |
//!
//! A message is delivered only after step 4. So while its file is there, the spool has the message if it was
//! accepted, and [`settle_leftovers`] can tell by looking, provided that it is called before the scheduler
//! begins. If step 3 fails, the message is unwound, and the file stays.
//!
//! A folder's users can make any name in it. So a leftover is unlinked only if message `ID` is its tenant's
//! and came by pickup, and it takes a message out of the spool (if it cannot be unlinked) only if `MARK` fits
//! that very file as well: see `marks` and `leftovers`.
//!
//! All this is about processes that die. Folders are not synced: when the power fails, the file system may
//! forget a renaming or an unlinking, and bring a file back. If its message is still in the spool and the
//! file has its claimed name, it is unlinked as above; otherwise it is sent a second time. Even then, nothing
//! is lost.
//!
//! A folder belongs to one relay, since only that relay's spool knows what became of a claimed file.
//!
//! ```text
//! watch (inotify) ──hints──> folder (one a tenant) ──> intake (one file) ──> door, submission
//! slow scan (place) ────────>   candidates               claim (lock, rename, unlink, bad), names
//! start ──> leftovers ──> claim, marks
//! ```
//!
//! Called by the relay, once.

mod candidates;
mod claim;
mod dots;
mod folder;
mod intake;
mod leftovers;
mod marks;
mod names;
mod place;
#[cfg(test)]
mod tests;
mod watch;
pub(crate) mod way;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
    time::interval,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Door;
use crate::{
    config::{LiveRoster, PickupConfig, Roster},
    telemetry::Metrics,
};
use folder::Folder;
use intake::Intake;
pub use leftovers::settle_leftovers;
pub use marks::Marks;
use relay_mail::TenantName;

/// Between two looks at folders, whatever the system reports about them: events can be missed, and network
/// file systems have none.
const SLOW_SCAN: Duration = Duration::from_secs(10);
/// Files in progress at a time, over all folders; each folder has its share. At most 128 KiB of each are in
/// memory, or what the spool has room for.
pub const MAX_FILES: usize = 512;
/// Folders looked into at a time.
const MAX_LOOKS: usize = 4;

/// Returns what keeps the folders of these tenants from being read, and what to type; each once. Makes
/// nothing. Blocks.
pub fn barriers<'a>(path: &Path, tenants: impl IntoIterator<Item = &'a TenantName>) -> Vec<String> {
    let mut found = Vec::new();
    for tenant in tenants {
        let Err(barrier) = way::open(&path.join(tenant.as_str()), way::Walker::Check) else { continue };
        // The relay makes it.
        if barrier.is_missing() {
            continue;
        }
        let text = format!("nothing will be picked up: {barrier}");
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// All pickup folders.
pub struct Pickup {
    path: PathBuf,
    roster: LiveRoster,
    intake: Intake,
}

/// The folders that are looked after.
struct Folders {
    path: PathBuf,
    intake: Arc<Intake>,
    watch: watch::Watch,
    running: HashMap<TenantName, Running>,
    shutdown: CancellationToken,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Pickup {
    /// `hostname` is this relay's, for `Received`; `marks` are its spool's.
    pub fn new(
        config: &PickupConfig,
        roster: LiveRoster,
        door: Door,
        hostname: String,
        marks: Marks,
        metrics: Metrics,
    ) -> Self {
        let slots = Semaphore::new(MAX_FILES).into();
        let looks = Semaphore::new(MAX_LOOKS).into();
        let PickupConfig { path, dots } = config.clone();
        Self { path, roster, intake: Intake { door, hostname, dots, metrics, marks, slots, looks } }
    }

    /// Takes files until `shutdown`, then finishes those that were begun, which takes 10 seconds at most. A
    /// folder whose tenant is removed does the same.
    ///
    /// Missing folders are made. One that cannot be made is an error in the log, and is tried again at each
    /// slow scan.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { path, mut roster, intake } = self;
        // Events name absolute paths.
        let path = std::path::absolute(&path).unwrap_or(path);
        let mut strangers = Strangers { path: path.clone(), reported: HashSet::new() };
        let mut folders = Folders {
            path,
            intake: Arc::new(intake),
            watch: watch::Watch::new(),
            running: HashMap::new(),
            shutdown: shutdown.clone(),
        };
        let mut now = roster.now();
        folders = folders.follow(&now).await;
        let mut slow_scan = interval(SLOW_SCAN);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                new = roster.next() => {
                    now = new;
                    folders = folders.follow(&now).await;
                }
                _ = slow_scan.tick() => {
                    strangers = strangers.report(&now).await;
                    // A folder whose task has failed is started again: the trouble is one tenant's.
                    folders = folders.follow(&now).await;
                }
            }
        }
        for (tenant, folder) in folders.running {
            if let Err(error) = folder.task.await {
                error!(%tenant, %error, "pickup folder failed");
            }
        }
    }
}

impl Folders {
    /// Starts on the folders of new tenants, and stops on those of tenants that are gone.
    async fn follow(mut self, roster: &Roster) -> Self {
        for (name, folder) in &self.running {
            if roster.tenant(name).is_none() {
                folder.stop.cancel();
            }
        }
        self.running.retain(|_, folder| !folder.task.is_finished());
        let is_new =
            |name: &&TenantName| self.running.get(*name).is_none_or(|folder| folder.stop.is_cancelled());
        let new: Vec<TenantName> = roster.tenants().keys().filter(is_new).cloned().collect();
        if new.is_empty() {
            return self;
        }
        let Self { path, intake, mut watch, mut running, shutdown } = self;
        let paths: Vec<Arc<Path>> = new.iter().map(|tenant| path.join(tenant.as_str()).into()).collect();
        // Blocking work is cancelled only when the runtime ends.
        let watched = spawn_blocking(move || {
            let watched: Vec<_> = paths
                .into_iter()
                .map(|folder| {
                    // A folder that cannot be made is an error of its first scan.
                    let _ = place::OpenFolder::open(&folder);
                    // Watched before it is looked into, so that no file is missed in between.
                    let hints = watch.add(&folder);
                    (folder, hints)
                })
                .collect();
            (watch, watched)
        });
        let (watch, watched) = match watched.await {
            Ok(watched) => watched,
            Err(error) => {
                error!(%error, "pickup stopped unexpectedly");
                (watch::Watch::new(), Vec::new())
            }
        };
        for (tenant, (folder, hints)) in new.into_iter().zip(watched) {
            let stop = shutdown.child_token();
            let folder = Folder::new(folder, tenant.clone(), intake.clone(), hints);
            let before = running.remove(&tenant);
            let stopped = stop.clone();
            let task = tokio::spawn(async move {
                // A tenant may come back at once: its folder has one task at a time.
                if let Some(before) = before {
                    let _ = before.task.await;
                }
                folder.run(stopped).await;
            });
            running.insert(tenant, Running { stop, task });
        }
        Self { path, intake, watch, running, shutdown }
    }
}

/// Names under the pickup path that belong to no tenant: most likely one is misspelt, and its mail would wait
/// for ever.
struct Strangers {
    path: PathBuf,
    reported: HashSet<OsString>,
}

impl Strangers {
    async fn report(mut self, roster: &Roster) -> Self {
        let path = self.path.clone();
        let found = blocking(move || {
            let entries = fs::read_dir(path)?.filter_map(Result::ok);
            Ok(entries.map(|entry| entry.file_name()).collect::<Vec<_>>())
        });
        for name in found.await.unwrap_or_default() {
            let is_tenant = name.to_str().is_some_and(|name| {
                roster.tenants().contains_key(name) || roster.invalid().tenants.contains_key(name)
            });
            if !is_tenant && !names::is_hidden(&name) && self.reported.insert(name.clone()) {
                let path = self.path.join(name);
                warn!(path = %path.display(), "pickup folder ignored: no tenant has this name");
            }
        }
        self
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // Blocking work is cancelled only when the runtime ends.
    spawn_blocking(work).await.unwrap_or_else(|broken| Err(io::Error::other(broken)))
}
