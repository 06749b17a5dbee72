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
mod quarantine;
mod segment;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

use self::{index::Index, segment::Segments};
use super::{
    Body, BodyPlace, BodyReader, Change, Lane, LaneId, Message, State, Store, StoreError, body::Spill,
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
        let large_dir = File::open(&large).map_err(io_at(&large))?;
        Ok(Self { index, segments, large: large.into(), large_dir, root: root.to_path_buf(), _lock: lock })
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

    fn store_bodies(&mut self, changes: &mut [Change]) -> io::Result<()> {
        let mut large = false;
        self.segments.append(changes)?;
        for change in changes {
            if let Change::Insert { body: Body::File(_), .. } = change {
                large = true;
            }
        }
        if large { self.large_dir.sync_all() } else { Ok(()) }
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
        let mut large = std::collections::HashSet::new();
        let mut damaged = Vec::new();
        self.index.states(&mut |id, state| match state {
            Err(raw) => damaged.push((id, format!("its state is unreadable: {raw:02x?}"))),
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
                    damaged.push((id, "its body is missing".into()));
                }
            }
        })?;
        let count = damaged.len();
        for (id, reason) in damaged {
            warn!(%id, reason, "a damaged message is put aside");
            quarantine::put_aside(&self.root, id, self.index.message(id)?.as_ref(), None, &reason)
                .map_err(io_error("cannot write to quarantine"))?;
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

    fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        self.index.message(id)
    }

    fn body(&self, id: MessageId, place: BodyPlace) -> BodyReader {
        let path = match place.segment {
            Some(segment) => self.segments.path(segment),
            None => self.large_path(id).into(),
        };
        BodyReader::file(id, place, path)
    }

    fn commit(&mut self, changes: &mut [Change]) -> Result<(), StoreError> {
        self.store_bodies(changes).map_err(io_error("cannot write bodies"))?;
        for change in &*changes {
            if let Change::Quarantine { id, body, reason } = change {
                let message = self.index.message(*id)?;
                let body = self.body(*id, *body);
                quarantine::put_aside(&self.root, *id, message.as_ref(), Some(&body), reason)
                    .map_err(io_error("cannot write to quarantine"))?;
            }
        }
        self.index.apply(changes)?;
        for change in changes {
            match change {
                Change::Insert { body, .. } => body.keep(),
                Change::Remove { id, body } | Change::Quarantine { id, body, .. } => self.release(*id, *body),
                Change::AddLane { .. } | Change::DropLane(_) | Change::Update { .. } => {}
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
