//! The store on disk.
//!
//! ```text
//! spool/
//!   LOCK               held by the process that has the spool open
//!   VERSION            of this layout
//!   index/             sled: lanes, states, envelopes; small values only
//!   body/N.seg         segments: small bodies, appended by the committer
//!   body/large/ID      one file for each large body
//!   quarantine/        what was damaged, with the reason beside it
//! ```
//!
//! The order of a commit is what its promise rests on: bodies written and synced, directories with new files synced, the
//! index written and synced. Only then does anything that removes run: a body whose removal did not happen is found at
//! the next start to belong to nobody, and swept.

mod index;
pub(super) mod inspection;
mod quarantine;
mod segment;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

use self::{
    index::{Index, Indexed},
    quarantine::Found,
    segment::Segments,
};
use super::{
    Body, BodyPlace, BodyReader, Change, Lane, LaneId, Message, State, Store, StoreError, body::Spill,
    body_record::RecordHeader,
};
use crate::message::MessageId;

const VERSION: &str = "m365-relay spool 1\n";

pub struct DiskStore {
    index: Index,
    segments: Segments,
    large: Arc<Path>,
    large_dir: File,
    root: PathBuf,
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
    /// Opens the spool in `root`, or makes a new one there.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let io_at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Io { path, source }
        };
        let (index_dir, body, large) = (root.join("index"), root.join("body"), root.join("body/large"));
        let is_new = !root.exists();
        for dir in [root, &index_dir, &large, &root.join("quarantine")] {
            create_private_dir(dir).map_err(io_at(dir))?;
        }
        let lock = lock(&root.join("LOCK"))?;
        check_version(&root.join("VERSION"))?;
        let at_index = |source| OpenError::Store { path: index_dir.clone(), source };
        let index = Index::open(&index_dir).map_err(at_index)?;
        let segments =
            Segments::open(&body).map_err(|source| OpenError::Store { path: body.clone(), source })?;
        for dir in [root, &body, &large] {
            sync_dir(dir).map_err(io_at(dir))?;
        }
        if is_new {
            // Its own name must survive a power failure, too.
            let parent =
                root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            sync_dir(parent).map_err(io_at(parent))?;
        }
        let large_dir = File::open(&large).map_err(io_at(&large))?;
        Ok(Self { index, segments, large: large.into(), large_dir, root: root.to_path_buf(), _lock: lock })
    }

    fn path(&self, id: MessageId, place: BodyPlace) -> Arc<Path> {
        match place.segment {
            Some(segment) => self.segments.path(segment),
            None => self.large_path(id).into(),
        }
    }

    /// The envelope that is stored with the body.
    fn message_with_body(&self, id: MessageId, place: BodyPlace) -> io::Result<Option<Message>> {
        let file = File::open(self.path(id, place))?;
        match RecordHeader::read(&file, place.offset)? {
            Some(header) if header.id == id => header.read_message(&file, place.offset),
            _ => Ok(None),
        }
    }

    fn quarantine(&self, id: MessageId, body: Option<Found>, reason: &str) -> io::Result<()> {
        let message = match self.index.message(id).map_err(io::Error::other)? {
            Indexed::Here(message) => Some(message),
            Indexed::WithBody | Indexed::Unreadable => None,
        };
        quarantine::put_aside(&self.root, id, message.as_ref(), body, reason)
    }

    fn large_path(&self, id: MessageId) -> PathBuf {
        self.large.join(id.to_string())
    }

    /// Removes large bodies that no message has: they were never acknowledged, or their message has ended.
    fn sweep(&self, is_live: impl Fn(MessageId) -> bool) -> io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.large)? {
            let entry = entry?;
            let live = entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(&is_live);
            if !live {
                fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn store_bodies(&mut self, changes: &mut [Change]) -> Result<(), StoreError> {
        let cannot = "cannot write bodies";
        let unwritten = |source| StoreError::Unwritten { what: "cannot begin a segment", source };
        self.segments.prepare(changes).map_err(unwritten)?;
        self.segments.append(changes).map_err(io_error(cannot))?;
        if changes.iter().any(|change| matches!(change, Change::Insert { body: Body::File(_), .. })) {
            self.large_dir.sync_all().map_err(io_error(cannot))?;
        }
        Ok(())
    }

    /// Where the octets of a body are that may be damaged; `None` if there are none.
    fn find(&self, id: MessageId, place: BodyPlace) -> Option<Found> {
        match place.segment {
            Some(segment) => {
                let path = Path::new(&*self.segments.path(segment)).into();
                Some(Found::Within { path, offset: place.offset, body_len: place.len })
            }
            None => {
                Some(self.large_path(id)).filter(|path| path.exists()).map(|path| Found::Own(path.into()))
            }
        }
    }

    /// A message whose state is unreadable: nobody knows where its body is, but the body knows whose it is.
    fn search(&self, id: MessageId) -> io::Result<Option<Found>> {
        let own = BodyPlace { segment: None, offset: 0, len: 0 };
        if let Some(found) = self.find(id, own) {
            return Ok(Some(found));
        }
        Ok(self.segments.find(id)?.and_then(|place| self.find(id, place)))
    }

    /// After the commit: what is no longer needed goes. A failure leaves an orphan for the next start.
    fn release(&mut self, id: MessageId, body: BodyPlace) {
        let released = match body.segment {
            Some(segment) => self.segments.release(segment),
            None => fs::remove_file(self.large_path(id)),
        };
        if let Err(error) = released {
            warn!(%id, %error, "cannot remove a body that is no longer needed");
        }
    }
}

impl Store for DiskStore {
    fn spill(&self) -> Spill {
        Spill::Folder(self.large.clone())
    }

    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        self.index.lanes()
    }

    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        let (mut large, mut damaged) = (HashSet::new(), Vec::new());
        self.index.states(&mut |id, state| match state {
            Err(raw) => damaged.push((id, None, format!("its state is unreadable: {raw:02x?}"))),
            Ok(state) => {
                let there = match state.body.segment {
                    Some(segment) => self.segments.holds(segment, state.body),
                    None => {
                        large.insert(id);
                        self.large.join(id.to_string()).exists()
                    }
                };
                if there {
                    state.body.segment.into_iter().for_each(|segment| self.segments.count(segment));
                    found(id, state);
                } else {
                    damaged.push((id, Some(state.body), "its body is missing".into()));
                }
            }
        })?;
        let count = damaged.len();
        for (id, place, reason) in damaged {
            warn!(%id, reason, "a damaged message is put aside");
            let put_aside = match place {
                // There is no body to put aside.
                Some(_) => self.quarantine(id, None, &reason),
                None => self.search(id).and_then(|body| self.quarantine(id, body, &reason)),
            };
            put_aside.map_err(io_error("cannot write to quarantine"))?;
            self.index.remove(id)?;
        }
        let swept =
            self.sweep(|id| large.contains(&id)).map_err(io_error("cannot sweep the large bodies"))?;
        let segments = self.segments.sweep().map_err(io_error("cannot sweep the segments"))?;
        if swept + segments > 0 {
            info!(large_bodies = swept, segments, "swept bodies that no message has");
        }
        Ok(count)
    }

    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        self.index.state(id)
    }

    fn message(&self, id: MessageId, place: BodyPlace) -> Result<Option<Message>, StoreError> {
        match self.index.message(id)? {
            Indexed::Here(message) => Ok(Some(message)),
            Indexed::Unreadable => Ok(None),
            Indexed::WithBody => match self.message_with_body(id, place) {
                Ok(message) => Ok(message),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                    Ok(None)
                }
                Err(source) => Err(StoreError::Unwritten { what: "cannot read an envelope", source }),
            },
        }
    }

    fn body(&self, id: MessageId, place: BodyPlace) -> BodyReader {
        BodyReader::file(id, place, self.path(id, place))
    }

    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> io::Result<()> {
        self.quarantine(id, self.find(id, place), reason)
    }

    fn commit(&mut self, changes: &mut [Change]) -> Result<(), StoreError> {
        self.store_bodies(changes)?;
        // From here on a large body may be in the index, whatever the index says about it.
        for change in &mut *changes {
            if let Change::Insert { body, .. } = change {
                body.keep();
            }
        }
        self.index.apply(changes)?;
        for change in changes {
            if let Change::Remove { id, body } = change {
                self.release(*id, *body);
            }
        }
        Ok(())
    }
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { what, source }
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
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: path.to_path_buf() }),
        Err(e) => Err(io(e.into())),
    }
}

fn check_version(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_path_buf(), source };
    match fs::read_to_string(path) {
        Ok(found) if found == VERSION => Ok(()),
        // An empty file is what a crash during the very first start leaves.
        Ok(found) if !found.is_empty() => Err(OpenError::Version { path: path.to_path_buf(), found }),
        Ok(_) => write_version(path).map_err(io),
        Err(e) if e.kind() == io::ErrorKind::NotFound => write_version(path).map_err(io),
        Err(e) => Err(io(e)),
    }
}

fn write_version(path: &Path) -> io::Result<()> {
    fs::write(path, VERSION)?;
    File::open(path)?.sync_all()
}
