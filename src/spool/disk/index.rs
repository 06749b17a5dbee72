//! The index: sled 0.34.7, used within what it can do.
//!
//! * `flush()` writes but does not sync the drive, so every commit ends with our own `fdatasync` on sled's file.
//! * Values stay far below the size at which sled would put them into files of their own, which it never syncs and
//!   never removes; that is why bodies are not in here.
//! * A left-over `snap.*.generating` of an unfinished snapshot would keep sled from opening: it is moved aside.
//! * One tree, so that a batch over all kinds of records is atomic without sled's optimistic transactions.
//!
//! Keys sort as ids do: a kind octet, then the id or lane number, big-endian.

mod census;

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use sled::{Batch, Db, Tree};
use tracing::warn;

pub(in crate::spool) use census::Census;

use super::super::{Change, Lane, LaneId, Message, State, StoreError};
use crate::message::MessageId;

/// Octets of sled's page cache. It counts octets on disk, so the process takes more.
const CACHE: u64 = 64 * 1024 * 1024;

const LANE: u8 = b'l';
const STATE: u8 = b's';
const MESSAGE: u8 = b'm';

/// Envelopes of many recipients are larger than this. They are not in the index but with the body only, since sled would
/// put pages of them into files that it never syncs.
const LARGEST_VALUE: usize = 4096;

/// Where a message's immutable part is.
pub(super) enum Indexed {
    Here(Message),
    WithBody,
    Unreadable,
}

pub(super) struct Index {
    db: Db,
    tree: Tree,
    /// Sled's own file, for the sync that sled does not do.
    file: File,
}

impl Index {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |what| move |source| StoreError::Io { what, source };
        put_aside_unfinished_snapshots(dir).map_err(io("cannot move an unfinished snapshot aside"))?;
        let db = open_sled(dir)?;
        let tree = db.open_tree("spool")?;
        db.flush()?;
        let file = File::open(dir.join("db")).map_err(io("cannot open the index's file"))?;
        // Sled syncs none of these at creation: without this, a power loss leaves empty files.
        let created = [dir.join("db"), dir.join("conf"), dir.to_path_buf()];
        created
            .iter()
            .try_for_each(|path| File::open(path)?.sync_all())
            .map_err(io("cannot sync the index's files"))?;
        Ok(Self { db, tree, file })
    }

    pub(super) fn lanes(&self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        let mut lanes = Vec::new();
        for entry in self.tree.scan_prefix([LANE]) {
            let (key, value) = entry?;
            let id = key.get(1..5).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
            match (id, postcard::from_bytes(&value)) {
                (Some(id), Ok(lane)) => lanes.push((LaneId(id), lane)),
                _ => warn!(key = ?key.as_ref(), "the index has an unreadable lane"),
            }
        }
        Ok(lanes)
    }

    /// Every state, oldest message first; the raw octets where they are no state.
    pub(super) fn states(
        &self,
        found: &mut dyn FnMut(MessageId, Result<State, Vec<u8>>),
    ) -> Result<(), StoreError> {
        for entry in self.tree.scan_prefix([STATE]) {
            let (key, value) = entry?;
            if let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes) {
                found(id, State::decode(&value).ok_or_else(|| value.to_vec()));
            }
        }
        Ok(())
    }

    pub(super) fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        Ok(self.tree.get(key(STATE, id))?.and_then(|value| State::decode(&value)))
    }

    /// What the index knows of the immutable part.
    pub(super) fn message(&self, id: MessageId) -> Result<Indexed, StoreError> {
        Ok(match self.tree.get(key(MESSAGE, id))? {
            Some(value) if value.is_empty() => Indexed::WithBody,
            Some(value) => Message::decode(&value).map_or(Indexed::Unreadable, Indexed::Here),
            None => Indexed::Unreadable,
        })
    }

    /// Writes `changes` in one batch and syncs.
    pub(super) fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for change in changes {
            match change {
                Change::AddLane { id, lane } => {
                    // Serialising into a growing vector fails only for types that refuse it; a lane does not.
                    let value = postcard::to_stdvec(&**lane).expect("a lane can be serialised");
                    batch.insert(lane_key(*id).as_slice(), value);
                }
                Change::DropLane(id) => batch.remove(lane_key(*id).as_slice()),
                Change::Insert { id, message, state, .. } => {
                    let value = message.encode();
                    let value = if value.len() <= LARGEST_VALUE { value } else { Vec::new() };
                    batch.insert(&key(MESSAGE, *id), value);
                    batch.insert(&key(STATE, *id), state.encode().as_slice());
                }
                Change::Update { id, state } => batch.insert(&key(STATE, *id), state.encode().as_slice()),
                Change::Remove { id, .. } => remove_from(&mut batch, *id),
            }
        }
        self.write(batch)
    }

    pub(super) fn remove(&self, id: MessageId) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        remove_from(&mut batch, id);
        self.write(batch)
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.tree.apply_batch(batch)?;
        self.db.flush()?;
        self.file.sync_data().map_err(|source| StoreError::Io { what: "cannot sync the index", source })
    }
}

/// Opens sled. We hold the spool's lock, so nobody else has it open, but for the threads of a sled that this process has just
/// dropped: they let go of its lock a moment later.
fn open_sled(dir: &Path) -> sled::Result<Db> {
    const TRIES: u32 = 500;
    let config = sled::Config::new().path(dir).cache_capacity(CACHE).flush_every_ms(Some(500));
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(e)) if e.to_string().contains("could not acquire lock") => {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "the caller's thread may block, and there is nothing to wait on"
                )]
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
    config.open()
}

fn remove_from(batch: &mut Batch, id: MessageId) {
    batch.remove(&key(MESSAGE, id));
    batch.remove(&key(STATE, id));
}

fn key(kind: u8, id: MessageId) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

fn lane_key(id: LaneId) -> [u8; 5] {
    let mut key = [LANE; 5];
    key[1..].copy_from_slice(&id.0.to_be_bytes());
    key
}

fn put_aside_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let aside = path.with_file_name(format!("unfinished-{name}"));
            warn!(from = %path.display(), to = %aside.display(), "an unfinished snapshot of the index is moved aside");
            fs::rename(&path, &aside)?;
        }
    }
    Ok(())
}
