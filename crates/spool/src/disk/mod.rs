//! The store on disk.
//!
//! ```text
//! spool/
//!   LOCK               held by the process that has the spool open
//!   VERSION            of this layout
//!   index/             sled: lanes and states; small values only
//!   body/N.seg         segments: bodies, appended one group after the other, each with its envelope
//!   body/large/ID      one file for each large body
//!   quarantine/        what was damaged, with the reason beside it
//! ```
//!
//! The promise of a commit rests on its order: bodies written and synced, directories with new files synced,
//! the index written and synced. Only then is anything removed. The next start finds that a body whose
//! removal did not happen belongs to nobody, and sweeps it.

mod appender;
mod index;
pub(super) mod inspection;
mod quarantine;
mod rescue;
mod segments;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

pub use self::segments::OPEN_LISTS;
use self::{
    appender::Appender,
    index::{Index, Seen},
    segments::{BodyFile, Segments},
};
use super::{
    BodyPlace, Change, FailedAttempts, Lane, LaneId, Remembered, State, Store, StoreError,
    arriving::Spill,
    body_record::RecordHeader,
    store::{Bodies, guarded},
    stored::StoredRecord,
};
use relay_mail::MessageId;

const VERSION: &str = "m365-relay spool 2\n";

pub struct DiskStore {
    /// `None`: it cannot be opened, or is about to be opened again.
    index: Option<Index>,
    /// Why it cannot be opened.
    broken: String,
    /// The sum of the lanes, and of what is remembered, that were read last.
    seen: Seen,
    segments: Arc<Segments>,
    large: Arc<Path>,
    root: PathBuf,
    /// Nothing is on its way in yet, so bodies without a message may be counted and swept.
    is_starting: bool,
    /// Messages with a large body that a start has found: all others are swept.
    large_found: HashSet<MessageId>,
    /// Releases the lock when the store is dropped, and not before.
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: another process has this spool open")]
    Locked { path: PathBuf },
    #[error("{path}: not a spool of this version, it says {found:?}")]
    Version { path: PathBuf, found: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Store { path: PathBuf, source: StoreError },
}

impl DiskStore {
    /// Opens the spool in `root`, or makes a new one there. A damaged index is not an error: a start rebuilds
    /// it.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let io_at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Io { path, source }
        };
        let index_dir = root.join("index");
        let body = root.join("body");
        let large = root.join("body/large");
        let is_new = !root.exists();
        for dir in [root, &index_dir, &large, &root.join("quarantine")] {
            create_private_dir(dir).map_err(io_at(dir))?;
        }
        let lock = lock(&root.join("LOCK"))?;
        check_version(&root.join("VERSION"))?;
        let segments = Segments::open(&body).map_err(io_at(&body))?;
        let mut store = Self {
            index: None,
            broken: String::new(),
            seen: Seen::default(),
            segments: Arc::new(segments),
            large: large.clone().into(),
            root: root.to_path_buf(),
            is_starting: true,
            large_found: HashSet::new(),
            _lock: lock,
        };
        let has_bodies = store.has_bodies().map_err(io_at(&body))?;
        match guarded(|| Index::open(&index_dir, !has_bodies)) {
            Ok(index) => store.index = Some(index),
            Err(source) if is_disk(&source) => {
                return Err(OpenError::Store { path: index_dir, source });
            }
            Err(damage) => store.broken = damage.to_string(),
        }
        for dir in [root, &body, &large] {
            sync_dir(dir).map_err(io_at(dir))?;
        }
        if is_new {
            // The spool's own name must survive a power failure, too.
            let parent =
                root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            sync_dir(parent).map_err(io_at(parent))?;
        }
        Ok(store)
    }

    fn has_bodies(&self) -> io::Result<bool> {
        Ok(!self.segments.numbers().is_empty() || fs::read_dir(&self.large)?.next().is_some())
    }

    fn index(&self) -> Result<&Index, StoreError> {
        self.index.as_ref().ok_or_else(|| self.no_index())
    }

    fn no_index(&self) -> StoreError {
        if self.broken.is_empty() { StoreError::Closed } else { StoreError::Damaged(self.broken.clone()) }
    }

    fn path(&self, id: MessageId, place: BodyPlace) -> PathBuf {
        match place.segment {
            Some(segment) => self.segments.path_of(segment),
            None => self.large_path(id),
        }
    }

    fn large_path(&self, id: MessageId) -> PathBuf {
        self.large.join(id.to_string())
    }

    /// Whether there is a file that is long enough for this body. Its checksum is compared when it is read.
    fn is_there(&self, id: MessageId, place: BodyPlace) -> bool {
        match place.segment {
            Some(segment) => self.segments.holds(segment, place),
            None => fs::metadata(self.large_path(id))
                .is_ok_and(|file| file.len() >= place.len.saturating_add(RecordHeader::LEN as u64)),
        }
    }

    /// Removes a body that is no longer needed. A failure leaves an orphan for the next start.
    fn release(&self, id: MessageId, body: BodyPlace, ended: bool) {
        match body.segment {
            Some(segment) => self.segments.release(id, segment, body, ended),
            None => {
                if let Err(error) = fs::remove_file(self.large_path(id)) {
                    warn!(%id, %error, "body removal failed");
                }
            }
        }
    }

    /// Removes large bodies that no message has: they were never acknowledged, or their message has ended.
    fn sweep_large(&self, live: &HashSet<MessageId>) -> io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.large)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if !id.is_some_and(|id| live.contains(&id)) {
                fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Store for DiskStore {
    fn spill(&self) -> Spill {
        Spill::Folder(self.large.clone())
    }

    fn bodies(&self) -> io::Result<Box<dyn Bodies>> {
        Ok(Box::new(Appender::new(self.segments.clone(), &self.root.join("body"), &self.large)?))
    }

    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        let (lanes, seen) = self.index()?.lanes()?;
        self.seen = seen;
        Ok(lanes)
    }

    fn remembered(&mut self) -> Result<Vec<(MessageId, Remembered)>, StoreError> {
        let mut seen = self.seen;
        let remembered = self.index()?.remembered(&mut seen)?;
        self.seen = seen;
        Ok(remembered)
    }

    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        if self.is_starting {
            self.segments.forget_counts();
        }
        let mut seen = self.seen;
        let mut unreadable = None;
        let mut missing = Vec::new();
        let mut large = HashSet::new();
        let index = self.index()?;
        index.states(&mut seen, &mut |id, state| match state {
            Err(_) => unreadable = Some(id),
            Ok(state) if !self.is_there(id, state.body) => missing.push((id, state)),
            Ok(state) => {
                if self.is_starting {
                    match state.body.segment {
                        Some(segment) => self.segments.count(segment, state.body),
                        None => drop(large.insert(id)),
                    }
                }
                found(id, state);
            }
        })?;
        self.index.as_mut().ok_or(StoreError::Closed)?.check(seen)?;
        self.large_found = large;
        if let Some(id) = unreadable {
            return Err(StoreError::Damaged(format!("the state of {id} is unreadable")));
        }
        let damaged = missing.len();
        let mut changes = Vec::new();
        for (id, was) in missing {
            let reason = "its body is missing or cut short";
            warn!(%id, reason, "damaged message quarantined");
            self.put_aside(id, was.body, reason).map_err(io_error("cannot write to quarantine"))?;
            changes.push(Change::Remove { id, was });
        }
        if !changes.is_empty() {
            self.index.as_mut().ok_or(StoreError::Closed)?.apply(&changes)?;
        }
        Ok(damaged)
    }

    fn walk(
        &self,
        after: Option<MessageId>,
        most: usize,
        found: &mut dyn FnMut(MessageId, State),
    ) -> Result<Option<MessageId>, StoreError> {
        self.index()?.walk(after, most, found)
    }

    fn rescue(&mut self, found: &dyn Fn(LaneId, BodyPlace) -> State) -> Result<usize, StoreError> {
        self.make_index_anew(found)
    }

    fn sweep(&mut self) -> Result<(), StoreError> {
        let large = std::mem::take(&mut self.large_found);
        let bodies = self.sweep_large(&large).map_err(io_error("cannot sweep the large bodies"))?;
        let segments = self.segments.sweep().map_err(io_error("cannot sweep the segments"))?;
        self.is_starting = false;
        if bodies + segments > 0 {
            info!(large_bodies = bodies, segments, "orphaned bodies removed");
        }
        Ok(())
    }

    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        self.index()?.state(id)
    }

    fn attempts(&self, id: MessageId) -> Result<FailedAttempts, StoreError> {
        self.index()?.attempts(id)
    }

    fn record(&self, id: MessageId, place: BodyPlace) -> StoredRecord {
        let file = match place.segment {
            Some(segment) => self.segments.file(segment),
            None => Arc::new(BodyFile::new(self.large_path(id))),
        };
        StoredRecord::File { id, place, file }
    }

    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> io::Result<()> {
        quarantine::put_aside(&self.root, id, place, &self.path(id, place), reason)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.index.as_mut().ok_or(StoreError::Closed)?.apply(changes)?;
        for change in changes {
            match change {
                Change::Remove { id, was } => self.release(*id, was.body, true),
                Change::Update { id, was, state, .. } if was.body != state.body => {
                    self.release(*id, was.body, false);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn discard(&mut self, id: MessageId, place: BodyPlace, ended: bool) {
        self.release(id, place, ended);
    }

    fn sparse_segment(&mut self) -> Option<u32> {
        self.segments.sparsest()
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        try_to_write(&self.root.join("PROBE")).map_err(io_error("cannot write a file to try"))?;
        // Sled answers everything with its first error until it is opened again. While the old one is open,
        // it cannot be opened a second time, so the old one must be gone first.
        if let Some(old) = self.index.take() {
            close(old)?;
        }
        self.broken.clear();
        match guarded(|| Index::open(&self.root.join("index"), false)) {
            Ok(index) => self.index = Some(index),
            Err(error) if is_disk(&error) => return Err(error),
            Err(damage) => self.broken = damage.to_string(),
        }
        Ok(())
    }
}

/// Drops the index. Sled writes as it is dropped, and may panic then.
fn close(index: Index) -> Result<(), StoreError> {
    guarded(|| {
        drop(index);
        Ok(())
    })
}

/// Whether the disk fails, and not the index is damaged.
fn is_disk(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::Index(sled::Error::Io(_)))
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { what, source }
}

/// Writes as much as a busy second needs, and removes it again.
fn try_to_write(path: &Path) -> io::Result<()> {
    let tried = fs::write(path, vec![0; 1 << 20]).and_then(|()| File::open(path)?.sync_all());
    // A reason why it cannot be written is more useful than one why it cannot be removed.
    let removed = fs::remove_file(path);
    tried.and(removed)
}

/// Makes a directory that only this user can enter: mail is private.
fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_path_buf(), source };
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(io)?;
    // Any user that can open it can lock it. Earlier versions made it with the umask alone.
    make_private(&file).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: path.to_path_buf() }),
        Err(e) => Err(io(e.into())),
    }
}

fn check_version(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_path_buf(), source };
    match fs::read_to_string(path) {
        Ok(found) if found == VERSION => File::open(path).and_then(|file| make_private(&file)).map_err(io),
        // A crash during the very first start leaves an empty file.
        Ok(found) if !found.is_empty() => Err(OpenError::Version { path: path.to_path_buf(), found }),
        Ok(_) => write_version(path).map_err(io),
        Err(e) if e.kind() == io::ErrorKind::NotFound => write_version(path).map_err(io),
        Err(e) => Err(io(e)),
    }
}

fn write_version(path: &Path) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(VERSION.as_bytes())?;
    file.sync_all()
}

/// The relay's group may pass through the spool's folder, to the socket for commands.
fn make_private(file: &File) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { file.set_permissions(fs::Permissions::from_mode(0o600)) }
}
