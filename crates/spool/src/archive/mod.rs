//! Looking into a spool that no relay has open, and carrying it elsewhere.
//!
//! # Contract
//!
//! * [`check()`] and [`export()`] change nothing in the spool: nothing is swept or put aside, and no lease is
//!   released.
//! * An export is a folder of pairs, `ID.eml` (the octets of the body) and `ID.json` (all else, see
//!   `entry.rs`). The JSON comes last and only when both are on stable storage: what has one is complete. A
//!   second run does what is left.
//! * [`import()`] makes messages durable in groups, and takes their files out of the way (to `imported/`)
//!   after that: a second run imports nothing twice, even if a relay has delivered in between.
//! * One damaged message or wrong file does not keep the others: it is reported, and left where it is.
//! * What belongs to a tenant that no configuration has is mail like any other.
//!
//! Called by `m365-relay spool`. Everything here blocks, and is not for async tasks to call.

mod check;
mod entry;
mod export;
mod folder;
mod import;
mod text;

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use check::{Checked, check};
pub use export::{Exported, Source, export};
pub use import::{Imported, Problem, Target, import};

pub use super::disk::inspection::Unowned;
use super::{DiskStore, OpenError, StoreError, disk::inspection};

/// A message that cannot be read as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    pub id: String,
    pub reason: String,
    /// Where the damage is: a file of the spool, or the folder of the index.
    pub file: PathBuf,
}

/// How far a work has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Step {
    pub done: usize,
    /// Messages in all.
    pub total: usize,
    /// Octets of bodies so far.
    pub octets: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{0}: there is no spool")]
    NoSpool(PathBuf),
    #[error(
        "{path} belongs to user {owner}: run this as that user, for example with sudo -u '#{owner}', since \
         the relay could not use files of root in it"
    )]
    AsRoot { path: PathBuf, owner: u32 },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{path}: {source}")]
    Store { path: PathBuf, source: StoreError },
    #[error("{folder} is inside the spool {spool}: choose a folder outside it")]
    Inside { folder: PathBuf, spool: PathBuf },
    #[error(
        "{path}: the index is damaged: {why}; start the relay once, which rebuilds it from the bodies, then \
         stop it"
    )]
    DamagedIndex { path: PathBuf, why: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: too little space is left on this disk: free some, and run this again")]
    Full { path: PathBuf },
}

impl ArchiveError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    fn store(path: &Path) -> impl FnOnce(StoreError) -> Self {
        let path = path.to_path_buf();
        move |source| match source {
            StoreError::Damaged(why) => Self::DamagedIndex { path, why },
            source => Self::Store { path, source },
        }
    }
}

impl Damaged {
    fn new(id: relay_mail::MessageId, damage: inspection::Damage) -> Self {
        Self { id: id.to_string(), reason: damage.reason, file: damage.file }
    }
}

/// Opens a spool that is there.
fn open(spool: &Path) -> Result<DiskStore, ArchiveError> {
    // Opening makes what is missing.
    if !spool.join("VERSION").is_file() {
        return Err(ArchiveError::NoSpool(spool.to_path_buf()));
    }
    refuse_root(spool)?;
    Ok(DiskStore::open(spool)?)
}

/// Root may do everything in a spool that belongs to the relay's user, and the relay then nothing with the
/// outcome.
fn refuse_root(path: &Path) -> Result<(), ArchiveError> {
    let owner = path.metadata().map_err(ArchiveError::io(path))?.uid();
    if rustix::process::geteuid().is_root() && owner != 0 {
        return Err(ArchiveError::AsRoot { path: path.to_path_buf(), owner });
    }
    Ok(())
}
