//! Pickup folders: programs leave messages as files in `pickup/<tenant>/`, and the folder's permissions are their login.
//!
//! # Contract
//!
//! * A file `*.eml` is taken once its writer is done with it: moved in, closed, or else quiet for a while (see
//!   `candidates`). The best way to hand a message over is to write it elsewhere on the same file system and move it in.
//! * A file is gone once the spool has its message on stable storage, and not before. One that can never be sent is moved
//!   to `bad/` with a file beside it that says why. One that cannot be taken now stays, and its folder waits.
//! * The format is RFC 5322, with lines that end in CR LF or LF. X-Sender and X-Receiver lines at the top are the envelope
//!   (Exchange Replay, IIS, .NET); without them the header is (Exchange Pickup).
//! * Links, folders and other files that are no plain files are never followed or opened for reading.
//! * A folder of one tenant that is broken, full or paused does not hold up another's.
//!
//! # Crashes
//!
//! A file is claimed by renaming it to `.NAME.claimed` in its folder, under a lock (`flock`) that ends with the process.
//! A claim without a lock was left by a process that died; it goes back to its name.
//!
//! No message is lost: the file is unlinked after the spool has said that the message is durable. The folder is not
//! synced after that, since the worst that a power failure can do is to bring the file back.
//!
//! A message can be doubled: if the process dies after the spool has accepted it and before the file is unlinked, or the
//! power fails before the file system has written the unlinking down, the file is found again and taken a second time.
//!
//! ```text
//! watch (inotify) ──hints──> folder (one a tenant) ──> intake (one file) ──> door, submission
//! slow scan ────────────────>   candidates               claim (lock, rename, unlink, bad)
//! ```
//!
//! Called by the relay, once.

mod candidates;
mod claim;
mod folder;
mod intake;
pub(crate) mod newlines;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::interval,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Door;
use crate::{config::TenantName, telemetry::Metrics};
use folder::Folder;
use intake::Intake;

/// Between two looks at folders whatever the system says about them: events can be missed, and network file systems have
/// none.
const SLOW_SCAN: Duration = Duration::from_secs(10);
/// Files under way at a time, over all folders.
const MAX_FILES: usize = 64;

/// Where refused files go, in their folder.
const BAD: &str = "bad";

/// All pickup folders.
pub struct Pickup {
    path: PathBuf,
    tenants: Vec<TenantName>,
    intake: Intake,
}

impl Pickup {
    /// `path` holds a folder for each tenant. `hostname` is this relay's, for `Received`.
    pub fn new(
        path: PathBuf,
        tenants: Vec<TenantName>,
        door: Door,
        hostname: String,
        metrics: Metrics,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_FILES));
        Self { path, tenants, intake: Intake { door, hostname, metrics, slots } }
    }

    /// Takes files until `shutdown`, then finishes those that were begun, which takes 10 seconds at most.
    ///
    /// Missing folders are made. One that cannot be made is an error in the log, and is tried again at each slow scan.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { path, tenants, intake } = self;
        // Events name absolute paths.
        let path = std::path::absolute(&path).unwrap_or(path);
        let mut watch = watch::Watch::new();
        let intake = Arc::new(intake);
        let mut folders = JoinSet::new();
        for tenant in &tenants {
            let folder: Arc<Path> = path.join(tenant.as_str()).into();
            let made = blocking({
                let folder = folder.clone();
                move || make(&folder)
            });
            if let Err(error) = made.await {
                error!(folder = %folder.display(), %error, "cannot make a pickup folder");
            }
            // Watched before it is looked into, so that no file falls between.
            let hints = watch.add(&folder);
            folders.spawn(Folder::new(folder, tenant.clone(), intake.clone(), hints).run(shutdown.clone()));
        }
        let known = tenants.iter().map(|tenant| tenant.as_str().into()).collect();
        let mut strangers = Strangers { path, known };
        let mut slow_scan = interval(SLOW_SCAN);
        while shutdown.run_until_cancelled(slow_scan.tick()).await.is_some() {
            strangers = strangers.report().await;
        }
        while let Some(ended) = folders.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a pickup folder failed");
            }
        }
    }
}

/// Names under the pickup path that belong to no tenant: most likely a misspelt one, whose mail would wait for ever.
struct Strangers {
    path: PathBuf,
    /// The tenants, and what was reported already.
    known: HashSet<OsString>,
}

impl Strangers {
    async fn report(mut self) -> Self {
        let path = self.path.clone();
        let found = blocking(move || {
            let entries = fs::read_dir(path)?.filter_map(Result::ok);
            Ok(entries.map(|entry| entry.file_name()).collect::<Vec<_>>())
        });
        for name in found.await.unwrap_or_default() {
            if !is_hidden(&name) && self.known.insert(name.clone()) {
                let path = self.path.join(name);
                warn!(path = %path.display(), "there is no tenant of that name: nothing is picked up here");
            }
        }
        self
    }
}

/// Makes the folder with those above it. Its group may leave files; nobody else can look inside.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o770).create(folder)
}

/// Names with a leading dot belong to whoever is still at work: this relay, or a program that writes a file before it
/// renames it.
fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // Blocking work is cancelled only when the runtime ends.
    spawn_blocking(work).await.unwrap_or_else(|broken| Err(io::Error::other(broken)))
}
