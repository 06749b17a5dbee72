//! The index: sled 0.34.7, used within what it can do.
//!
//! * `flush()` writes but does not sync the drive, so every commit ends with our own `fdatasync` on sled's file.
//! * Values stay far below the size at which sled would put them into files of their own, which it never syncs and
//!   never removes; that is why bodies and envelopes are not in here.
//! * A left-over `snap.*.generating` of an unfinished snapshot would keep sled from opening: it is moved aside.
//! * One tree, so that a batch over all kinds of records is atomic without sled's optimistic transactions.
//! * Damage to its file sled meets in one of three ways: it panics, it answers an error, or it silently leaves out some
//!   records. Against the last there is a [`Sum`] of everything that is in the index, stored with each batch.
//!
//! Keys sort as ids do: a kind octet, then the id or lane number, big-endian.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use sled::{Batch, Db, Tree};
use tracing::warn;

use super::super::{Change, Lane, LaneId, State, StoreError};
use crate::message::MessageId;

/// Octets of sled's page cache. It counts octets on disk, so the process takes more.
const CACHE: u64 = 64 * 1024 * 1024;

const LANE: u8 = b'l';
const STATE: u8 = b's';
const SUM: &[u8] = b"c";

/// What all records of the index amount to: how many they are, and a hash that does not depend on their order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    records: u64,
    hash: u64,
}

impl Sum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.hash = self.hash.wrapping_add(mix(key, value));
    }

    fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(mix(key, value));
    }

    fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.records.to_be_bytes());
        out[8..].copy_from_slice(&self.hash.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (records, hash) = bytes.split_first_chunk()?;
        Some(Self { records: u64::from_be_bytes(*records), hash: u64::from_be_bytes(hash.try_into().ok()?) })
    }
}

/// Spreads two checksums over 64 bits, so that a sum of many says something. (The finish of SplitMix64.)
fn mix(key: &[u8], value: &[u8]) -> u64 {
    let mut x = u64::from(crc32fast::hash(key)) << 32 | u64::from(crc32fast::hash(value));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(super) struct Index {
    db: Db,
    tree: Tree,
    /// Sled's own file, for the sync that sled does not do.
    file: File,
    sum: Sum,
}

impl Index {
    /// Opens the index in `dir`, or makes one, which `may_be_new` has to allow: where there was one, an empty one is damage.
    pub(super) fn open(dir: &Path, may_be_new: bool) -> Result<Self, StoreError> {
        let io = |what| move |source| StoreError::Io { what, source };
        put_aside_unfinished_snapshots(dir).map_err(io("cannot move an unfinished snapshot aside"))?;
        let db = open_sled(dir)?;
        let tree = db.open_tree("spool")?;
        let sum = match tree.get(SUM)? {
            Some(sum) => Sum::decode(&sum),
            None if may_be_new && tree.is_empty() => {
                tree.insert(SUM, Sum::default().encode().as_slice())?;
                Some(Sum::default())
            }
            None => None,
        };
        let sum = sum.ok_or_else(|| StoreError::Damaged("it is empty, or not an index".into()))?;
        db.flush()?;
        let file = File::open(dir.join("db")).map_err(io("cannot open the index's file"))?;
        // Sled syncs none of these at creation: without this, a power loss leaves empty files.
        let created = [dir.join("db"), dir.join("conf"), dir.to_path_buf()];
        created
            .iter()
            .try_for_each(|path| File::open(path)?.sync_all())
            .map_err(io("cannot sync the index's files"))?;
        Ok(Self { db, tree, file, sum })
    }

    /// Every lane, and what they amount to. Unreadable ones are left out, which the sum tells.
    pub(super) fn lanes(&self) -> Result<(Vec<(LaneId, Lane)>, Sum), StoreError> {
        let (mut lanes, mut sum) = (Vec::new(), Sum::default());
        for entry in self.tree.scan_prefix([LANE]) {
            let (key, value) = entry?;
            sum.add(&key, &value);
            let id = key.get(1..5).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
            match (id, postcard::from_bytes(&value)) {
                (Some(id), Ok(lane)) => lanes.push((LaneId(id), lane)),
                _ => warn!(key = ?key.as_ref(), "the index has an unreadable lane"),
            }
        }
        Ok((lanes, sum))
    }

    /// Every state, oldest message first; the raw octets where they are no state. Adds to the `sum` of the lanes.
    pub(super) fn states(
        &self,
        sum: &mut Sum,
        found: &mut dyn FnMut(MessageId, Result<State, Vec<u8>>),
    ) -> Result<(), StoreError> {
        for entry in self.tree.scan_prefix([STATE]) {
            let (key, value) = entry?;
            sum.add(&key, &value);
            if let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes) {
                found(id, State::decode(&value).ok_or_else(|| value.to_vec()));
            }
        }
        Ok(())
    }

    /// Whether everything that was stored is there, and nothing else.
    pub(super) fn check(&self, found: Sum) -> Result<(), StoreError> {
        if found == self.sum {
            return Ok(());
        }
        let (found, stored) = (found.records, self.sum.records);
        Err(StoreError::Damaged(format!("it has {found} records, not the {stored} that were stored")))
    }

    pub(super) fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        let Some(value) = self.tree.get(key(STATE, id))? else { return Ok(None) };
        State::decode(&value)
            .map(Some)
            .ok_or_else(|| StoreError::Damaged(format!("the state of {id} is unreadable")))
    }

    /// Writes `changes` in one batch and syncs.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let (mut batch, mut sum) = (Batch::default(), self.sum);
        for change in changes {
            match change {
                Change::AddLane { id, lane } => {
                    let (key, value) = (lane_key(*id), lane_value(lane));
                    sum.add(&key, &value);
                    batch.insert(&key, value);
                }
                Change::DropLane { id, lane } => {
                    let key = lane_key(*id);
                    sum.subtract(&key, &lane_value(lane));
                    batch.remove(&key);
                }
                Change::Insert { id, state } => {
                    let (key, value) = (key(STATE, *id), state.encode());
                    sum.add(&key, &value);
                    batch.insert(&key, value.as_slice());
                }
                Change::Update { id, was, state } => {
                    let (key, value) = (key(STATE, *id), state.encode());
                    sum.subtract(&key, &was.encode());
                    sum.add(&key, &value);
                    batch.insert(&key, value.as_slice());
                }
                Change::Remove { id, was } => {
                    let key = key(STATE, *id);
                    sum.subtract(&key, &was.encode());
                    batch.remove(&key);
                }
            }
        }
        batch.insert(SUM, &sum.encode());
        self.tree.apply_batch(batch)?;
        self.db.flush()?;
        self.file.sync_data().map_err(|source| StoreError::Io { what: "cannot sync the index", source })?;
        self.sum = sum;
        Ok(())
    }
}

fn lane_value(lane: &Lane) -> Vec<u8> {
    // Serialising into a growing vector fails only for types that refuse it; a lane does not.
    postcard::to_stdvec(lane).expect("a lane can be serialised")
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
