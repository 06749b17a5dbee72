//! What the system reports about the folders, by inotify.
//!
//! Hints make pickup fast and nothing else: one that never comes, or that finds its folder's queue full,
//! costs time until the next scan.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};
use tokio::sync::mpsc;
use tracing::warn;

use super::names::{is_hidden, is_message};

/// Hints that wait for one folder.
const WAITING: usize = 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A writer made the file and has it open, as far as is known.
    Created(OsString),
    /// The file was closed by its writer or moved in.
    Completed(OsString),
    /// Hints were lost.
    Missed,
}

type Receivers = Arc<Mutex<HashMap<PathBuf, mpsc::Sender<Hint>>>>;

pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    receivers: Receivers,
}

impl Watch {
    /// Without inotify, there are no hints, but a warning.
    pub(super) fn new() -> Self {
        let receivers = Receivers::default();
        let handler = {
            let receivers = receivers.clone();
            move |event| pass_on(event, &lock(&receivers))
        };
        let watcher = notify::recommended_watcher(handler);
        if let Err(error) = &watcher {
            warn!(%error, "pickup folder watch unavailable; files are found only by slow scans");
        }
        Self { watcher: watcher.ok(), receivers }
    }

    /// Hints about files in `folder`, which is an absolute path.
    pub(super) fn add(&mut self, folder: &Path) -> mpsc::Receiver<Hint> {
        let (sender, receiver) = mpsc::channel(WAITING);
        lock(&self.receivers).insert(folder.to_owned(), sender);
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
        {
            let folder = folder.display();
            warn!(%folder, %error, "pickup folder watch failed; its files are found only by slow scans");
        }
        receiver
    }
}

fn pass_on(event: notify::Result<Event>, receivers: &HashMap<PathBuf, mpsc::Sender<Hint>>) {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            warn!(%error, "pickup folder watch interrupted");
            return tell_all(receivers);
        }
    };
    if event.need_rescan() {
        return tell_all(receivers);
    }
    let hint = match event.kind {
        EventKind::Create(CreateKind::File) => Hint::Created,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Hint::Completed,
        _ => return,
    };
    for path in event.paths {
        let Some((folder, name)) = path.parent().zip(path.file_name()) else { continue };
        let Some(receiver) = receivers.get(folder) else { continue };
        if is_hidden(name) || !is_message(name) {
            continue;
        }
        // The last slot is kept for the news that hints were lost.
        let hint = if receiver.capacity() > 1 { hint(name.to_owned()) } else { Hint::Missed };
        let _ = receiver.try_send(hint);
    }
}

/// If a queue is full, the news that hints were lost is in it already.
fn tell_all(receivers: &HashMap<PathBuf, mpsc::Sender<Hint>>) {
    for receiver in receivers.values() {
        let _ = receiver.try_send(Hint::Missed);
    }
}

fn lock(receivers: &Receivers) -> MutexGuard<'_, HashMap<PathBuf, mpsc::Sender<Hint>>> {
    // Entries are inserted whole, so a panic elsewhere leaves the map in order.
    receivers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
