//! One file, from its folder to wherever it ends. Everything here blocks.
//!
//! A claim is a lock and a name. The lock (`flock`) shows other processes that the owner lives; the name
//! `.NAME.claimed` keeps the file from being taken for a new one, and shows which file was under way in a crash. The
//! folder may be written by anybody whom the tenant lets in, so links are never followed, and no name is overwritten.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, openat, renameat_with},
    io::Errno,
};

use super::{
    BAD,
    candidates::{Listed, Stamp, is_candidate},
    is_hidden,
};
use crate::message::{HeaderScanner, SplitMessage};

/// Octets read at a time.
const CHUNK: u64 = 64 * 1024;
const SUFFIX: &[u8] = b".claimed";

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Oldest first.
    pub(super) files: Vec<Listed>,
    /// Names that claimed files had.
    pub(super) claimed: Vec<OsString>,
    /// What does not belong there, with what it is.
    pub(super) odd: Vec<(OsString, &'static str)>,
}

/// What became of an attempt to claim a file.
pub(super) enum Opened {
    Claimed(Claim, Content),
    /// Its header has not come to an end yet.
    Incomplete(Stamp),
    /// Another process has it.
    Locked,
    /// It is not there, or it is another file by now.
    Gone,
    Odd(&'static str),
}

/// What a claimed file begins with.
pub(super) enum Content {
    /// The rest of the body is still to be read.
    Message(SplitMessage),
    /// Never a message. Says why.
    Malformed(String),
}

/// The right to do something with a file. Dropped, it leaves the file where it is, for [`recover`].
#[derive(Debug, Clone)]
pub(super) struct Claim {
    folder: Arc<Path>,
    name: OsString,
    file: Arc<File>,
    stamp: Stamp,
}

pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if is_hidden(&name) {
            listing.claimed.extend(original(&name).filter(|_| kind.is_file()));
        } else if kind.is_dir() {
            if name != BAD {
                listing.odd.push((name, "a folder in a tenant's folder"));
            }
        } else if is_candidate(&name) {
            if kind.is_symlink() {
                listing.odd.push((name, "a symbolic link"));
            } else if !kind.is_file() {
                listing.odd.push((name, "not a plain file"));
            } else if let Ok(metadata) = entry.metadata() {
                listing.files.push(Listed { name, stamp: Stamp::of(&metadata)? });
            }
        }
    }
    listing.files.sort_by_key(|file| file.stamp.modified);
    Ok(listing)
}

/// Claims the file, if its header is complete. On the last chance it is claimed in any case, to be refused.
pub(super) fn open(folder: &Arc<Path>, name: OsString, last_chance: bool) -> io::Result<Opened> {
    let file = match open_plain(&folder.join(&name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
        Err(error) if is(&error, Errno::LOOP) => return Ok(Opened::Odd("a symbolic link")),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Opened::Odd("not a plain file"));
    }
    if !lock(&file)? {
        return Ok(Opened::Locked);
    }
    let stamp = Stamp::of(&metadata)?;
    let content = match (read_header(&file)?, last_chance) {
        (Some(content), _) => content,
        (None, false) => return Ok(Opened::Incomplete(stamp)),
        (None, true) if stamp.size == 0 => Content::Malformed("the file is empty".into()),
        (None, true) => Content::Malformed("the header does not end: an empty line has to follow it".into()),
    };
    let claim = Claim { folder: folder.clone(), name, file: Arc::new(file), stamp };
    match rename_new(&claim.path(), CWD, &claim.claimed_path()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
        // An earlier file of that name is under way in another process, or waits for recovery.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Opened::Locked),
        Err(error) => return Err(error),
    }
    // Between opening and renaming, another file may have taken the name.
    if claim.claimed_path().symlink_metadata()?.ino() != metadata.ino() {
        claim.release()?;
        return Ok(Opened::Gone);
    }
    Ok(Opened::Claimed(claim, content))
}

/// Gives a file back that a dead process had claimed. `false`: the process lives, or the name is taken.
pub(super) fn recover(folder: &Arc<Path>, name: OsString) -> io::Result<bool> {
    let (path, claimed) = (folder.join(&name), claimed_path(folder, &name));
    let file = match open_plain(&claimed) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !lock(&file)? {
        return Ok(false);
    }
    match rename_new(&claimed, CWD, &path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

impl Claim {
    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The next part of the file, empty at its end.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::new();
        (&*self.file).take(CHUNK).read_to_end(&mut chunk)?;
        Ok(chunk)
    }

    /// What the file is like now: its writer may not have been done.
    pub(super) fn stamp_now(&self) -> io::Result<Stamp> {
        Stamp::of(&self.file.metadata()?)
    }

    /// Gives the file its name back. If another has taken that, the file waits for [`recover`].
    pub(super) fn release(&self) -> io::Result<()> {
        match rename_new(&self.claimed_path(), CWD, &self.path()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            renamed => renamed,
        }
    }

    /// The message is in the spool.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(self.claimed_path())
    }

    /// Moves the file to `bad/`, with `reason` beside it. Returns the name that it has there.
    pub(super) fn reject(&self, reason: &str) -> io::Result<OsString> {
        let bad = self.folder.join(BAD);
        match std::fs::DirBuilder::new().mode(0o770).create(&bad) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let bad = openat(CWD, &bad, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let mut number = 0;
        loop {
            let mut name = self.name.clone();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            number += 1;
            let mut beside = name.clone();
            beside.push(".reason.txt");
            let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let explanation = match openat(&bad, &beside, new, Mode::from_raw_mode(0o660)) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            };
            let moved = (&explanation)
                .write_all(reason.as_bytes())
                .and_then(|()| rename_new(&self.claimed_path(), &bad, Path::new(&name)));
            match moved {
                Ok(()) => return Ok(name),
                Err(error) => {
                    rustix::fs::unlinkat(&bad, &beside, rustix::fs::AtFlags::empty())?;
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn claimed_path(&self) -> PathBuf {
        claimed_path(&self.folder, &self.name)
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> io::Result<Self> {
        Ok(Self { size: metadata.len(), modified: metadata.modified()? })
    }
}

fn claimed_path(folder: &Path, name: &OsStr) -> PathBuf {
    folder.join(OsString::from_vec([b".", name.as_bytes(), SUFFIX].concat()))
}

/// The name that a claimed file had.
fn original(claimed: &OsStr) -> Option<OsString> {
    let name = claimed.as_bytes().strip_prefix(b".")?.strip_suffix(SUFFIX)?;
    is_candidate(OsStr::from_bytes(name)).then(|| OsString::from_vec(name.to_vec()))
}

/// Opens for reading, but not a link, and without waiting for the other end of a pipe.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// `false`: another process has it.
fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `None`: the file ends before its header does.
fn read_header(file: &File) -> io::Result<Option<Content>> {
    let mut scanner = HeaderScanner::default();
    loop {
        let mut chunk = Vec::new();
        if file.take(CHUNK).read_to_end(&mut chunk)? == 0 {
            return Ok(None);
        }
        match scanner.push(&chunk) {
            Ok(None) => {}
            Ok(Some(message)) => return Ok(Some(Content::Message(message))),
            Err(error) => return Ok(Some(Content::Malformed(error.to_string()))),
        }
    }
}

/// Renames without overwriting: then the error's kind is `AlreadyExists`.
fn rename_new(from: &Path, to_folder: impl rustix::fd::AsFd, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, &to_folder, to, RenameFlags::NOREPLACE) {
        // Some network file systems cannot. Looking first leaves a moment for another file to take the name; it would
        // have to be one of the same name, claimed at the same time by another process.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match rustix::fs::statat(&to_folder, to, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(Errno::NOENT) => Ok(rustix::fs::renameat(CWD, from, &to_folder, to)?),
                Err(error) => Err(error.into()),
            }
        }
        renamed => Ok(renamed?),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
