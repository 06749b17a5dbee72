//! Inspecting a spool that no relay has open, and moving its mail elsewhere.
//!
//! # Contract
//!
//! * [`check()`] and [`export()`] change nothing in the spool: nothing is swept or quarantined, and no lease
//!   is released.
//! * An export is a folder of pairs, `ID.eml` (the octets of the body) and `ID.json` (all else, see
//!   `entry.rs`). The JSON comes last, and only when both are on stable storage: a message that has one is
//!   complete. A second run does what is left.
//! * [`import()`] makes messages durable in groups, and takes their files out of the way (to `imported/`)
//!   after that: a second run imports nothing twice, even if a relay has delivered in between.
//! * One damaged message or wrong file does not stop the others: it is reported, and left where it is.
//! * Mail of a tenant that no configuration has is treated like any other mail.
//!
//! Called by `m365-relay spool`. Everything here blocks, so async tasks must not call it.

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
use super::{BodyReader, DiskStore, Found, Message, OpenError, Phase, StoreError, disk::inspection};
use entry::{Entry, ExportedState};
use relay_mail::MessageId;

/// A message that cannot be read as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    pub id: String,
    pub reason: String,
    /// Where the damage is: a file of the spool, or the folder of the index.
    pub file: PathBuf,
}

/// How far the work has come.
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

/// Opens a spool that exists.
fn open(spool: &Path) -> Result<DiskStore, ArchiveError> {
    // Opening would make what is missing.
    if !spool.join("VERSION").is_file() {
        return Err(ArchiveError::NoSpool(spool.to_path_buf()));
    }
    refuse_root(spool)?;
    Ok(DiskStore::open(spool)?)
}

/// Refuses to run as root in a spool that belongs to the relay's user: root may do everything there, and the
/// relay can then do nothing with the files that result.
fn refuse_root(path: &Path) -> Result<(), ArchiveError> {
    let owner = path.metadata().map_err(ArchiveError::io(path))?.uid();
    if rustix::process::geteuid().is_root() && owner != 0 {
        return Err(ArchiveError::AsRoot { path: path.to_path_buf(), owner });
    }
    Ok(())
}

/// `ID.json` of a message in a running relay, as an [`export()`] writes it. `is_held`: it is held in the
/// export, too; else it is due at once when it is imported.
pub fn described(
    id: MessageId,
    found: &Found,
    message: &Message,
    body: &BodyReader,
    is_held: bool,
) -> Vec<u8> {
    let standing = if is_held {
        ExportedState::Held { reason: found.held.clone() }
    } else {
        ExportedState::Waiting { due: None }
    };
    // What becomes of an attempt that is in progress is not known here.
    let is_leased = found.phase == Phase::Leased;
    let entry = Entry {
        id,
        message: message.clone(),
        standing,
        attempts: found.attempts.saturating_add(u16::from(is_leased)),
        in_doubt: found.doubt.is_some() || is_leased,
        size: found.size,
        crc32: body.crc32(),
    };
    entry.to_json()
}
