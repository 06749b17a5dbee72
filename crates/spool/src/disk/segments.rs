//! Segments: files that bodies are appended to, one group at a time.
//!
//! Appending a group and syncing once is what a disk does fastest; one file for each message would cost a
//! directory entry and a journal commit each. A segment is removed when no message in it is left; one in
//! which few are left is compacted, which moves them. The current segment is not continued after a start: its
//! tail may be torn. What is in the index lies before the tear.
//!
//! This module keeps the account of what is in which segment. Both of the spool's threads update it: the one
//! that appends, and the one that knows what leaves.
//!
//! Beside a segment, `NNNNNNNN.end` lists the ids of messages in it that have ended, eight octets each. It is
//! never synced, and only a rescue reads it: when the index is lost, it tells what need not be sent again.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use super::super::{BodyPlace, body_record::RecordHeader, stored::RecordFile};
use relay_mail::MessageId;

/// Small in tests, so that they see many segments come and go.
pub(super) const UNIT: u64 = if cfg!(test) { 16 * 1024 } else { 1024 * 1024 };
/// A segment that has grown to this size is followed by the next.
pub(super) const FULL: u64 = 16 * UNIT;
/// Dead octets that all segments together may have before any is compacted.
const TOLERATED: u64 = 48 * UNIT;
/// When a segment whose compaction has failed is tried again: what cannot be read now most likely cannot be
/// read for some time.
const PUT_OFF: Duration = Duration::from_secs(600);
/// Lists of ended messages, one a segment, that are open at the same time, whatever is in the spool.
pub const OPEN_LISTS: usize = 64;

/// A segment's file, or a large body's. A retired one is removed when the last reader has released it.
#[derive(Debug)]
pub(super) struct BodyFile {
    path: Box<Path>,
    retired: AtomicBool,
}

impl BodyFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: path.into(), retired: AtomicBool::new(false) }
    }
}

impl RecordFile for BodyFile {
    fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The next start sweeps it.
            warn!(path = %self.path.display(), %error, "segment removal failed");
        }
    }
}

#[derive(Debug)]
struct Segment {
    file: Arc<BodyFile>,
    /// Messages in it, and the octets of their bodies and headers.
    messages: u64,
    used: u64,
    /// Octets appended to it.
    written: u64,
    is_current: bool,
    compaction: Compaction,
    ended: Option<File>,
}

/// Whether a segment may be given out for compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compaction {
    Possible,
    GivenOut,
    /// It has failed.
    NotBefore(Instant),
}

#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    segments: BTreeMap<u32, Segment>,
    last: u32,
    used: u64,
    written: u64,
    /// Segments whose list of ended messages is open, the one opened first in front.
    open_lists: VecDeque<u32>,
}

impl Segments {
    /// Notes the segments in `dir`.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut account = Account::default();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Some(number) = number_of(&entry.file_name().to_string_lossy(), ".seg") {
                account.add(number, entry.path(), entry.metadata()?.len());
            }
        }
        Ok(Self { dir: dir.to_path_buf(), account: Mutex::new(account) })
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Nothing in here panics half-way through a change.
        self.account.lock().unwrap_or_else(|e| e.into_inner())
    }

    // === at the start ===

    pub(super) fn numbers(&self) -> Vec<u32> {
        self.account().segments.keys().copied().collect()
    }

    /// Whether a record of this body can lie where `place` says.
    pub(super) fn holds(&self, segment: u32, place: BodyPlace) -> bool {
        let end = place.offset.saturating_add(used_by(place));
        self.account().segments.get(&segment).is_some_and(|segment| end <= segment.written)
    }

    /// Begins to count again.
    pub(super) fn forget_counts(&self) {
        let mut account = self.account();
        account.used = 0;
        account.segments.values_mut().for_each(|segment| (segment.messages, segment.used) = (0, 0));
    }

    /// Counts one more message in the segment.
    pub(super) fn count(&self, segment: u32, place: BodyPlace) {
        self.account().enter(segment, 1, used_by(place));
    }

    /// After the count: removes segments without live messages, and lists that belong to no segment. Returns
    /// how many.
    pub(super) fn sweep(&self) -> io::Result<usize> {
        let mut account = self.account();
        let empty: Vec<_> =
            account.segments.iter().filter(|(_, s)| s.messages == 0).map(|(n, _)| *n).collect();
        empty.iter().for_each(|number| account.retire(*number));
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let list = number_of(&entry.file_name().to_string_lossy(), ".end");
            if list.is_some_and(|number| !account.segments.contains_key(&number)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(empty.len())
    }

    // === for readers ===

    pub(super) fn file(&self, segment: u32) -> Arc<BodyFile> {
        match self.account().segments.get(&segment) {
            Some(segment) => segment.file.clone(),
            None => Arc::new(BodyFile::new(self.path_of(segment))),
        }
    }

    pub(super) fn path_of(&self, segment: u32) -> PathBuf {
        self.dir.join(format!("{segment:08}.seg"))
    }

    #[cfg(test)]
    pub(super) fn messages_in(&self, segment: u32) -> u64 {
        self.account().segments.get(&segment).map_or(0, |segment| segment.messages)
    }

    fn list_of(&self, segment: u32) -> PathBuf {
        self.dir.join(format!("{segment:08}.end"))
    }

    /// Messages of one segment that are known to have ended.
    pub(super) fn ended_in(&self, segment: u32) -> io::Result<HashSet<MessageId>> {
        match fs::read(self.list_of(segment)) {
            Ok(list) => Ok(list.as_chunks::<8>().0.iter().map(|id| MessageId::from_bytes(*id)).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(e) => Err(e),
        }
    }

    // === for the thread that appends ===

    /// The number for a new segment. It is not given again, whatever happens to that segment, so a file that
    /// is in the way is in the way only once.
    pub(super) fn take_number(&self) -> u32 {
        let mut account = self.account();
        account.last += 1;
        account.last
    }

    /// Begins the segment that bodies are appended to from now on.
    pub(super) fn begin(&self, number: u32) {
        let mut account = self.account();
        account.end_current();
        account.add(number, self.path_of(number), 0);
        if let Some(segment) = account.segments.get_mut(&number) {
            segment.is_current = true;
        }
    }

    /// Takes back a segment that was given out for compaction, when something else has failed: it may be
    /// given out again.
    pub(super) fn take_back(&self, number: u32) {
        self.account().set_compaction(number, Compaction::Possible);
    }

    /// The same, when the segment itself is at fault: it is not given out for some time.
    pub(super) fn put_off(&self, number: u32) {
        self.account().set_compaction(number, Compaction::NotBefore(Instant::now() + PUT_OFF));
    }

    /// Ends the current segment: nothing more is appended to it.
    pub(super) fn end_current(&self) {
        self.account().end_current();
    }

    /// Counts appended records: no message has them yet, but messages will.
    pub(super) fn appended(&self, number: u32, messages: u64, used: u64, written: u64) {
        let mut account = self.account();
        account.enter(number, messages, used);
        account.written += written;
        if let Some(segment) = account.segments.get_mut(&number) {
            segment.written += written;
        }
    }

    // === for the thread that knows what leaves ===

    /// Releases a record that no message has any more. `ended`: the message is gone, too.
    pub(super) fn release(&self, id: MessageId, number: u32, place: BodyPlace, ended: bool) {
        let mut account = self.account();
        let used = used_by(place);
        let Some(segment) = account.segments.get_mut(&number) else { return };
        segment.messages = segment.messages.saturating_sub(1);
        segment.used = segment.used.saturating_sub(used);
        let is_empty = segment.messages == 0 && !segment.is_current;
        account.used = account.used.saturating_sub(used);
        if ended
            && !is_empty
            && let Err(error) = account.list(number, &self.list_of(number), id)
        {
            warn!(%id, %error, "end of a message not recorded beside its body; this matters only if the index is lost");
        }
        if is_empty {
            account.retire(number);
            drop(account);
            // There may be no list.
            let _ = fs::remove_file(self.list_of(number));
        }
    }

    /// The sparsest segment, once dead octets outnumber live ones.
    pub(super) fn sparsest(&self) -> Option<u32> {
        let mut account = self.account();
        if account.written - account.used.min(account.written) < account.used.max(TOLERATED) {
            return None;
        }
        let sparse = account
            .segments
            .iter_mut()
            .filter(|(_, s)| !s.is_current && s.compaction.is_possible() && s.used * 2 < s.written);
        let (number, segment) = sparse.min_by_key(|(_, s)| s.used)?;
        segment.compaction = Compaction::GivenOut;
        Some(*number)
    }
}

impl Account {
    fn add(&mut self, number: u32, path: PathBuf, written: u64) {
        self.last = self.last.max(number);
        self.written += written;
        let file = Arc::new(BodyFile::new(path));
        let segment = Segment {
            file,
            messages: 0,
            used: 0,
            written,
            is_current: false,
            compaction: Compaction::Possible,
            ended: None,
        };
        self.segments.insert(number, segment);
    }

    fn enter(&mut self, number: u32, messages: u64, used: u64) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.messages += messages;
            segment.used += used;
            self.used += used;
        }
    }

    fn end_current(&mut self) {
        let current = self.segments.iter_mut().find(|(_, segment)| segment.is_current);
        if let Some((number, segment)) = current.map(|(number, segment)| (*number, segment)) {
            segment.is_current = false;
            if segment.messages == 0 {
                self.retire(number);
            }
        }
    }

    fn set_compaction(&mut self, number: u32, compaction: Compaction) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.compaction = compaction;
        }
    }

    /// Notes in the segment's list that the message has ended.
    fn list(&mut self, number: u32, path: &Path, id: MessageId) -> io::Result<()> {
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        if let Some(list) = &mut segment.ended {
            return list.write_all(&id.to_bytes());
        }
        let list = segment.ended.insert(File::options().create(true).append(true).open(path)?);
        let listed = list.write_all(&id.to_bytes());
        self.open_lists.push_back(number);
        if self.open_lists.len() > OPEN_LISTS
            && let Some(first) = self.open_lists.pop_front()
            && let Some(segment) = self.segments.get_mut(&first)
        {
            segment.ended = None;
        }
        listed
    }

    /// Forgets a segment. Its file is removed when nobody reads it any more.
    fn retire(&mut self, number: u32) {
        self.open_lists.retain(|open| *open != number);
        if let Some(segment) = self.segments.remove(&number) {
            self.written = self.written.saturating_sub(segment.written);
            self.used = self.used.saturating_sub(segment.used);
            segment.file.retired.store(true, Ordering::Relaxed);
        }
    }
}

impl Compaction {
    fn is_possible(self) -> bool {
        match self {
            Self::Possible => true,
            Self::GivenOut => false,
            Self::NotBefore(at) => Instant::now() >= at,
        }
    }
}

/// Octets of a segment that a message is taken to use, without the envelope.
pub(super) fn used_by(place: BodyPlace) -> u64 {
    RecordHeader::LEN as u64 + place.len
}

fn number_of(name: &str, ending: &str) -> Option<u32> {
    name.strip_suffix(ending)?.parse().ok()
}
