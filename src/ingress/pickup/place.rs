//! A tenant's folder as a place: is it safe to read, and what is in it. Everything here blocks.
//!
//! Whoever can write to the folder sends as the tenant. So a folder that everybody on the machine can write to is not read at
//! all, and neither is one in a folder of folders where everybody could put another in its place.
//!
//! The folder may be a symbolic link, since an administrator may have reason to keep it on another disk; but only if root or the
//! relay's own user made the link: who makes it decides whose files are sent.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    process::geteuid,
};

use super::{
    candidates::{Listed, Stamp},
    names::{self, ClaimName},
};

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Oldest first.
    pub(super) files: Vec<Listed>,
    /// What is named as claimed files are.
    pub(super) claimed: Vec<ClaimName>,
    /// What does not belong there, with what it is.
    pub(super) odd: Vec<(OsString, &'static str)>,
}

/// Why a folder is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(
        "everybody on this machine can write to {path} and so send mail as any tenant in it: run chmod o-w {path}",
        path = .0.display()
    )]
    Open(PathBuf),
    #[error(
        "{path} is a symbolic link that user {user} has made: only root and the relay's own user may say where mail is read from",
        path = .path.display()
    )]
    StrangersLink { path: PathBuf, user: u32 },
    #[error("{path} is not a folder", path = .0.display())]
    NoFolder(PathBuf),
    #[error(
        "user {user}, which this relay runs as, needs to read, write and search {path}: give it rwx there (chown, chgrp, chmod)",
        path = .path.display()
    )]
    Denied { path: PathBuf, user: u32 },
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What is in `folder`, if that is safe to read. Makes it, if it is missing: somebody may have removed it.
pub(super) fn list(folder: &Path) -> Result<Listing, Unusable> {
    let failed = |source| Unusable::Io { path: folder.into(), source };
    if let Err(error) = folder.symlink_metadata()
        && error.kind() == io::ErrorKind::NotFound
    {
        make(folder).map_err(failed)?;
    }
    check(folder)?;
    entries(folder).map_err(failed)
}

/// Makes the folder with those above it. Its group may leave files; nobody else can look inside.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o770).create(folder)
}

fn check(folder: &Path) -> Result<(), Unusable> {
    let user = geteuid().as_raw();
    let metadata = |path: &Path, found: io::Result<Metadata>| match found {
        Ok(metadata) => Ok(metadata),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Unusable::Denied { path: path.into(), user })
        }
        Err(source) => Err(Unusable::Io { path: path.into(), source }),
    };
    if let Some(above) = folder.parent() {
        refuse_open(above, &metadata(above, above.metadata())?)?;
    }
    let itself = metadata(folder, folder.symlink_metadata())?;
    if itself.is_symlink() && ![0, user].contains(&itself.uid()) {
        return Err(Unusable::StrangersLink { path: folder.into(), user: itself.uid() });
    }
    let target = metadata(folder, folder.metadata())?;
    if !target.is_dir() {
        return Err(Unusable::NoFolder(folder.into()));
    }
    refuse_open(folder, &target)?;
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, folder, all, AtFlags::EACCESS).map_err(|_| Unusable::Denied { path: folder.into(), user })
}

fn refuse_open(path: &Path, metadata: &Metadata) -> Result<(), Unusable> {
    // The sticky bit does not help: it keeps people from removing others' files, not from adding their own.
    if metadata.mode() & 0o002 != 0 { Err(Unusable::Open(path.into())) } else { Ok(()) }
}

fn entries(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if names::is_hidden(&name) {
            listing.claimed.extend(ClaimName::read(&name).filter(|_| kind.is_file()));
        } else if kind.is_dir() {
            listing.odd.push((name, "a folder in a tenant's folder"));
        } else if names::is_message(&name) {
            if kind.is_symlink() {
                listing.odd.push((name, SYMBOLIC_LINK));
            } else if !kind.is_file() {
                listing.odd.push((name, NO_PLAIN_FILE));
            } else if name.len() > names::LONGEST {
                listing.odd.push((name, "its name is too long: 215 octets are possible"));
            } else if let Ok(metadata) = entry.metadata() {
                match odd(&metadata) {
                    Some(what) => listing.odd.push((name, what)),
                    None => listing.files.push(Listed { name, stamp: Stamp::of(&metadata)? }),
                }
            }
        }
    }
    listing.files.sort_by_key(|file| file.stamp.modified);
    Ok(listing)
}

pub(super) const SYMBOLIC_LINK: &str = "a symbolic link";
const NO_PLAIN_FILE: &str = "not a plain file";

/// Why a file is none that this relay takes.
pub(super) fn odd(metadata: &Metadata) -> Option<&'static str> {
    if !metadata.is_file() {
        return Some(NO_PLAIN_FILE);
    }
    // Whoever cannot read a file may still be able to give it another name, and the relay would read it for them.
    (metadata.nlink() > 1)
        .then_some("a hard link: the file has another name, perhaps one that its sender must not read")
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { size: metadata.len(), modified: metadata.modified()? })
    }
}
