//! Certificates of listeners, kept up to date: a renewal needs no restart.
//!
//! The files are looked at when the system reports that something happened in their folders, and each minute,
//! since the system does not see what happens behind a symbolic link. A good new pair is used for new
//! connections; a bad one changes nothing and is an error in the log, once for each change of the files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rustls::ServerConfig;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::tls::{self, Current};
use crate::{
    config::{Certificate, LoadedCertificate},
    fingerprint::Fingerprint,
    telemetry::Metrics,
};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Certificate and key are two files, and a renewal writes one after the other.
const SETTLE: Duration = Duration::from_millis(500);

/// One pair of files.
pub(super) struct LiveCertificate {
    files: Certificate,
    /// What the files looked like when they were last read.
    seen: Seen,
    not_after: i64,
    sender: watch::Sender<Arc<ServerConfig>>,
    /// The listeners that use it, for the metric.
    listeners: Vec<String>,
}

/// Of each file; `None` where there is none.
type Seen = [Option<Fingerprint>; 2];

impl LiveCertificate {
    pub(super) async fn load(files: &Certificate) -> io::Result<Self> {
        let (seen, loaded) = look_and_read(files.clone()).await?;
        let (config, not_after) = loaded?;
        let (sender, _) = watch::channel(config);
        Ok(Self { files: files.clone(), seen, not_after, sender, listeners: Vec::new() })
    }

    pub(super) fn files(&self) -> &Certificate {
        &self.files
    }

    /// Serves the certificate to a listener of that name.
    pub(super) fn serve(&mut self, listener: String) -> Current {
        self.listeners.push(listener);
        self.sender.subscribe()
    }

    /// Watches the files until `shutdown`.
    pub(super) async fn keep(mut self, metrics: Metrics, shutdown: CancellationToken) {
        self.show(&metrics);
        let (sender, mut hints) = mpsc::channel(1);
        let watcher = watcher(&self.files, sender);
        // The first look is at once: a change between reading and watching has not been reported.
        let mut minute = interval(LOOK_EVERY);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(()) = hints.recv() => {
                    if shutdown.run_until_cancelled(sleep(SETTLE)).await.is_none() {
                        break;
                    }
                    // The look that follows sees what happened meanwhile.
                    let _ = hints.try_recv();
                }
                _ = minute.tick() => {}
            }
            self.look(&metrics).await;
        }
        drop(watcher);
    }

    async fn look(&mut self, metrics: &Metrics) {
        let before = self.seen;
        let files = self.files.clone();
        let (seen, loaded) = match spawn_blocking(move || look(&files)).await {
            Ok(seen) if seen == before => return,
            Ok(_) => match look_and_read(self.files.clone()).await {
                Ok(found) => found,
                Err(error) => return error!(%error, "certificate check failed"),
            },
            Err(error) => return error!(%error, "certificate check failed"),
        };
        self.seen = seen;
        let certificate = self.files.chain.display();
        let key = self.files.key.display();
        match loaded {
            Ok((config, not_after)) => {
                self.not_after = not_after;
                self.sender.send_replace(config);
                self.show(metrics);
                info!(%certificate, %key, not_after, "certificate reloaded; new connections use it");
            }
            Err(error) => {
                error!(%error, %certificate, %key, "certificate reload failed; the old certificate stays in use");
            }
        }
    }

    fn show(&self, metrics: &Metrics) {
        for listener in &self.listeners {
            metrics.certificate_expires(listener, self.not_after);
        }
    }
}

type Read = io::Result<(Arc<ServerConfig>, i64)>;

/// The look comes first: a change after it is seen the next time.
async fn look_and_read(files: Certificate) -> io::Result<(Seen, Read)> {
    spawn_blocking(move || {
        let seen = look(&files);
        let loaded = files.read().map_err(io::Error::other);
        let with_config = |loaded: LoadedCertificate| {
            let config = tls::server_config(&loaded).map_err(io::Error::other)?;
            Ok((config, loaded.not_after))
        };
        (seen, loaded.and_then(with_config))
    })
    .await
    .map_err(io::Error::other)
}

fn look(files: &Certificate) -> Seen {
    [&files.chain, &files.key].map(|path| Fingerprint::of(path))
}

/// Tells `sender` when something happens in the folders of the files. Without inotify there is a warning, and
/// the look each minute.
fn watcher(files: &Certificate, sender: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // Reading the files is such an event too, and would lead to reading them again.
        if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event.kind)) {
            // If there is no room, a hint is waiting already.
            let _ = sender.try_send(());
        }
    };
    let mut folders: Vec<PathBuf> = [&files.chain, &files.key].map(|path| folder(path)).into();
    folders.dedup();
    let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
        folders.iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
        Ok(watcher)
    });
    if let Err(error) = &watching {
        warn!(%error, "certificate watch unavailable; changes are seen within a minute");
    }
    watching.ok()
}

fn is_written(kind: &notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(kind, notify::EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
