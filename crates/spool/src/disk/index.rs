//! The index: sled 0.34.7, used within its limits.
//!
//! * `flush()` writes but does not sync the drive, so every commit ends with our own `fdatasync` of sled's
//!   file.
//! * Values stay far below the size at which sled would put them into files of their own, which it never
//!   syncs and never removes. That is why bodies and envelopes are not stored here.
//! * A left-over `snap.*.generating` of an unfinished snapshot would keep sled from opening: it is moved
//!   aside.
//! * One tree, so that a batch over all kinds of records is atomic without sled's optimistic transactions.
//! * Sled reacts to damage of its file in one of three ways: it panics, it returns an error, or it silently
//!   leaves out some records. Against the last there is a [`Sum`] of everything that is in the index, stored
//!   with each batch.
//!
//! Keys sort as ids do: a kind octet, then the id or lane number, big-endian.

mod census;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    ops::Bound,
    path::Path,
    time::Duration,
};

use sled::{Batch, Db, Tree};
use tracing::warn;

pub(crate) use census::Census;

use super::super::{
    Change, FailedAttempts, Lane, LaneId, Remembered, State, StoreError, record::split_state,
};
use relay_mail::MessageId;

/// Octets of sled's page cache. It counts octets on disk, so the process takes more.
const CACHE: u64 = 16 * 1024 * 1024;

const LANE: u8 = b'l';
const REMEMBERED: u8 = b'n';
const STATE: u8 = b's';
const SUM: &[u8] = b"c";

/// The sum of all records of the index: their number, and a hash that does not depend on their order.
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
}

/// The sum after a commit, with the commit's number: the latest one counts.
///
/// A commit of several changes has it in a record of its own. A commit that stores a single state has it
/// after that state: for a batch of two, sled would need a second write after the first, and half as long
/// again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    commit: u64,
    sum: Sum,
}

impl Stamp {
    const LEN: usize = 24;

    fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.commit.to_be_bytes());
        out[8..16].copy_from_slice(&self.sum.records.to_be_bytes());
        out[16..].copy_from_slice(&self.sum.hash.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let [commit, records, hash] =
            [0, 8, 16].map(|at| bytes[at..].first_chunk().map_or(0, |n| u64::from_be_bytes(*n)));
        Some(Self { commit, sum: Sum { records, hash } })
    }

    fn later(self, other: Self) -> Self {
        if other.commit > self.commit { other } else { self }
    }
}

/// What a look through the index has found so far.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    sum: Sum,
    latest: Stamp,
}

/// Spreads two checksums over 64 bits, so that a sum of many is meaningful. (The finish of SplitMix64.)
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
    stamp: Stamp,
}

impl Index {
    /// Opens the index in `dir`, or makes one if `may_be_new` allows it: where there was one before, an empty
    /// one is damage.
    pub(super) fn open(dir: &Path, may_be_new: bool) -> Result<Self, StoreError> {
        let io = |what| move |source| StoreError::Io { what, source };
        put_aside_unfinished_snapshots(dir).map_err(io("cannot move an unfinished snapshot aside"))?;
        let db = open_sled(dir)?;
        let tree = db.open_tree("spool")?;
        let stamp = match tree.get(SUM)? {
            Some(stamp) => Stamp::decode(&stamp),
            None if may_be_new && tree.is_empty() => {
                tree.insert(SUM, Stamp::default().encode().as_slice())?;
                Some(Stamp::default())
            }
            None => None,
        };
        let stamp = stamp.ok_or_else(|| StoreError::Damaged("it is empty, or not an index".into()))?;
        db.flush()?;
        let file = File::open(dir.join("db")).map_err(io("cannot open the index's file"))?;
        // Sled syncs none of these at creation: without this, a power loss leaves empty files.
        let created = [dir.join("db"), dir.join("conf"), dir.to_path_buf()];
        created
            .iter()
            .try_for_each(|path| File::open(path)?.sync_all())
            .map_err(io("cannot sync the index's files"))?;
        Ok(Self { db, tree, file, stamp })
    }

    /// Every lane, and their sum. Unreadable ones are left out, which the sum shows.
    pub(super) fn lanes(&self) -> Result<(Vec<(LaneId, Lane)>, Seen), StoreError> {
        let mut lanes = Vec::new();
        let mut seen = Seen::default();
        for entry in self.tree.scan_prefix([LANE]) {
            let (key, value) = entry?;
            seen.sum.add(&key, &value);
            let id = key.get(1..5).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
            match (id, postcard::from_bytes(&value)) {
                (Some(id), Ok(lane)) => lanes.push((LaneId(id), lane)),
                _ => warn!(key = ?key.as_ref(), "unreadable lane in the index"),
            }
        }
        Ok((lanes, seen))
    }

    /// What is remembered of messages. Adds it to `seen`, which has the lanes.
    pub(super) fn remembered(&self, seen: &mut Seen) -> Result<Vec<(MessageId, Remembered)>, StoreError> {
        let mut remembered = Vec::new();
        for entry in self.tree.scan_prefix([REMEMBERED]) {
            let (key, value) = entry?;
            seen.sum.add(&key, &value);
            let id = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes);
            match (id, Remembered::decode(&value)) {
                (Some(id), Some(found)) => remembered.push((id, found)),
                _ => warn!(key = ?key.as_ref(), "unreadable note in the index"),
            }
        }
        Ok(remembered)
    }

    /// Every state, oldest message first; the raw octets where they are not a state. Adds them to `seen`,
    /// which has the lanes.
    pub(super) fn states(
        &self,
        seen: &mut Seen,
        found: &mut dyn FnMut(MessageId, Result<State, Vec<u8>>),
    ) -> Result<(), StoreError> {
        for entry in self.tree.scan_prefix([STATE]) {
            let (key, value) = entry?;
            let Parts { state, stamp, .. } = split(&value);
            seen.sum.add(&key, state);
            seen.latest = seen.latest.later(stamp);
            if let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes) {
                found(id, State::decode(state).ok_or_else(|| value.to_vec()));
            }
        }
        Ok(())
    }

    /// See [`Store::walk`](super::super::Store::walk).
    pub(super) fn walk(
        &self,
        after: Option<MessageId>,
        most: usize,
        found: &mut dyn FnMut(MessageId, State),
    ) -> Result<Option<MessageId>, StoreError> {
        let begin = match after {
            Some(id) => Bound::Excluded(key(STATE, id).to_vec()),
            None => Bound::Included(vec![STATE]),
        };
        let mut last = None;
        for entry in self.tree.range((begin, Bound::Excluded(vec![STATE + 1]))).take(most) {
            let (key, value) = entry?;
            let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes) else {
                continue;
            };
            last = Some(id);
            // One that cannot be read is found when it is claimed.
            if let Some(state) = State::decode(split(&value).state) {
                found(id, state);
            }
        }
        Ok(last)
    }

    /// Whether everything that was stored was seen, and nothing else.
    pub(super) fn check(&mut self, seen: Seen) -> Result<(), StoreError> {
        self.stamp = self.compare(seen)?;
        Ok(())
    }

    fn compare(&self, seen: Seen) -> Result<Stamp, StoreError> {
        let latest = self.stamp.later(seen.latest);
        if seen.sum == latest.sum {
            return Ok(latest);
        }
        let found = seen.sum.records;
        let stored = latest.sum.records;
        Err(StoreError::Damaged(format!("its {found} records are not the {stored} that were stored")))
    }

    pub(super) fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        let Some(value) = self.tree.get(key(STATE, id))? else { return Ok(None) };
        let unreadable = || StoreError::Damaged(format!("the state of {id} is unreadable"));
        State::decode(split(&value).state).map(Some).ok_or_else(unreadable)
    }

    /// See [`Store::attempts`](super::super::Store::attempts).
    pub(super) fn attempts(&self, id: MessageId) -> Result<FailedAttempts, StoreError> {
        let value = self.tree.get(key(STATE, id))?;
        Ok(value.map_or_else(FailedAttempts::default, |value| FailedAttempts::read(split(&value).attempts)))
    }

    /// The attempts that are stored with `was`. A message that was never claimed has none, and most are
    /// claimed once: the index need not be asked.
    fn attempts_before(&self, id: MessageId, was: &State) -> Result<FailedAttempts, StoreError> {
        if was.epoch == 0 { Ok(FailedAttempts::default()) } else { self.attempts(id) }
    }

    /// Writes `changes` in one batch and syncs.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut sum = self.stamp.sum;
        let commit = self.stamp.commit + 1;
        if let [Change::Insert { id, state } | Change::Update { id, state, .. }] = changes {
            let key = key(STATE, *id);
            let value = state.encode();
            let mut attempts = FailedAttempts::default();
            if let [Change::Update { was, attempts: new, .. }] = changes {
                sum.subtract(&key, &was.encode());
                attempts = match new {
                    Some(attempts) => attempts.clone(),
                    None => self.attempts_before(*id, was)?,
                };
            }
            sum.add(&key, &value);
            let stamp = Stamp { commit, sum };
            self.tree.insert(key, [&value[..], attempts.octets(), &stamp.encode()[..]].concat())?;
            return self.sync(stamp);
        }
        // A message may change more than once.
        let mut attempts_now = HashMap::new();
        for change in changes {
            match change {
                Change::AddLane { id, lane } => {
                    let key = lane_key(*id);
                    let value = lane_value(lane);
                    sum.add(&key, &value);
                    batch.insert(&key, value);
                }
                Change::DropLane { id, lane } => {
                    let key = lane_key(*id);
                    sum.subtract(&key, &lane_value(lane));
                    batch.remove(&key);
                }
                Change::Insert { id, state } => {
                    let key = key(STATE, *id);
                    let value = state.encode();
                    sum.add(&key, &value);
                    batch.insert(&key, &*value);
                }
                Change::Update { id, was, state, attempts } => {
                    let key = key(STATE, *id);
                    let value = state.encode();
                    sum.subtract(&key, &was.encode());
                    sum.add(&key, &value);
                    let attempts = match (attempts, attempts_now.get(id)) {
                        (Some(new), _) => {
                            attempts_now.insert(*id, new.clone());
                            new.clone()
                        }
                        (None, Some(now)) => now.clone(),
                        (None, None) => self.attempts_before(*id, was)?,
                    };
                    batch.insert(&key, [&value[..], attempts.octets()].concat());
                }
                Change::Remove { id, was } => {
                    let key = key(STATE, *id);
                    sum.subtract(&key, &was.encode());
                    batch.remove(&key);
                }
                Change::Remember { id, was, now } => {
                    let key = key(REMEMBERED, *id);
                    if let Some(was) = was.encode() {
                        sum.subtract(&key, &was);
                    }
                    match now.encode() {
                        Some(now) => {
                            sum.add(&key, &now);
                            batch.insert(&key, now);
                        }
                        None => batch.remove(&key),
                    }
                }
            }
        }
        let stamp = Stamp { commit, sum };
        batch.insert(SUM, &stamp.encode());
        self.tree.apply_batch(batch)?;
        self.sync(stamp)
    }

    fn sync(&mut self, stamp: Stamp) -> Result<(), StoreError> {
        self.db.flush()?;
        self.file.sync_data().map_err(|source| StoreError::Io { what: "cannot sync the index", source })?;
        self.stamp = stamp;
        Ok(())
    }
}

/// A stored state, and what is stored behind it: the attempts that failed, and a stamp, if there are any.
struct Parts<'a> {
    state: &'a [u8],
    attempts: &'a [u8],
    stamp: Stamp,
}

fn split(value: &[u8]) -> Parts<'_> {
    let whole = Parts { state: value, attempts: &[], stamp: Stamp::default() };
    let Some((state, tail)) = split_state(value) else { return whole };
    let (attempts, stamp) = FailedAttempts::split(tail);
    match stamp.len() {
        0 => Parts { state, attempts, stamp: Stamp::default() },
        Stamp::LEN => Parts { state, attempts, stamp: Stamp::decode(stamp).unwrap_or_default() },
        // Not a value that was ever stored.
        _ => whole,
    }
}

fn lane_value(lane: &Lane) -> Vec<u8> {
    // Serialising into a growing vector fails only for types that refuse it; a lane does not.
    postcard::to_stdvec(lane).expect("a lane can be serialised")
}

/// Opens sled. We hold the spool's lock, so no other process has it open. Only the threads of a sled that
/// this process has just dropped may still have it: they release its lock a moment later.
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
            warn!(from = %path.display(), to = %aside.display(), "unfinished index snapshot moved aside");
            fs::rename(&path, &aside)?;
        }
    }
    Ok(())
}
