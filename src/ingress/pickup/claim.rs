//! One file, from its folder to its outcome. Everything here blocks.
//!
//! A claim is a lock and a name. The lock (`flock`) shows other processes that the owner lives; the name
//! keeps the file from being taken for a new one, and shows after a crash which message of the spool the file
//! was about to become. The folder may be written to by anybody whom the tenant lets in, so links are never
//! followed, and no name is overwritten. A name that says that a file was claimed is believed only as far as
//! its mark proves it (`marks`).

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use rustix::{
    fs::{FlockOperation, flock, fstat},
    io::Errno,
};

use super::{
    candidates::Stamp,
    marks::Marks,
    names::{self, ClaimName},
    place::{self, OpenFolder},
};
use relay_mail::{HeaderScanner, MessageId, SplitMessage, TenantName};

/// Octets read at a time.
const CHUNK: u64 = 64 * 1024;

/// What became of an attempt to claim a file.
pub(super) enum Opened {
    Claimed(FileClaim, FileContent),
    /// Its header has not come to an end yet, or it grows.
    Incomplete(Stamp),
    /// Another process has it.
    Locked,
    /// It is not there, or is another file by now.
    Gone,
    Odd(&'static str),
}

/// What a claimed file begins with.
pub(super) enum FileContent {
    /// `is_whole`: there is nothing more to read.
    Message { begun: SplitMessage, is_whole: bool },
    /// Never a message, with the reason.
    Malformed(String),
}

/// The right to do something with a file. Dropped, it leaves the file where it is, for the next start.
#[derive(Debug, Clone)]
pub(super) struct FileClaim {
    place: Arc<OpenFolder>,
    name: ClaimName,
    file: Arc<File>,
    stamp: Stamp,
}

/// The tenant that a file is claimed for, and the message that it is to become.
pub(super) struct Claimant<'a> {
    pub(super) tenant: &'a TenantName,
    pub(super) id: MessageId,
    pub(super) marks: &'a Marks,
}

/// Claims the file if its header is complete. On the last chance it is claimed in any case, to be refused.
pub(super) fn open(
    place: &Arc<OpenFolder>,
    name: &OsStr,
    claimant: &Claimant<'_>,
    last_chance: bool,
) -> io::Result<Opened> {
    let file = match place.open_file(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
        Err(error) if is(&error, Errno::LOOP) => return Ok(Opened::Odd(place::SYMBOLIC_LINK)),
        // A socket.
        Err(error) if is(&error, Errno::NXIO) => return Ok(Opened::Odd("not a plain file")),
        Err(error) => return Err(error),
    };
    let stat = fstat(&file)?;
    if let Some(odd) = place::odd(&stat) {
        return Ok(Opened::Odd(odd));
    }
    if !lock(&file)? {
        return Ok(Opened::Locked);
    }
    let stamp = Stamp::of(&stat);
    let content = match (read_header(&file, stamp.size)?, last_chance) {
        (Some(content), _) => content,
        (None, false) => return Ok(Opened::Incomplete(stamp)),
        (None, true) if stamp.size == 0 => FileContent::Malformed("the file is empty".into()),
        (None, true) => {
            FileContent::Malformed("the header does not end: an empty line must follow it".into())
        }
    };
    let now = Stamp::of_file(&file)?;
    if now != stamp {
        return Ok(Opened::Incomplete(now));
    }
    let Claimant { tenant, id, marks } = claimant;
    let mark = Some(marks.mark(tenant, *id, stat.st_ino));
    let claim_name = ClaimName { original: name.to_owned(), id: *id, mark };
    let claim = FileClaim { place: place.clone(), name: claim_name, file: Arc::new(file), stamp };
    match place.rename_new(name, &claim.file_name()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
        Err(error) => return Err(error),
    }
    // Between opening and renaming, another file may have taken the name; or it was renamed again by now.
    match place.stat(&claim.file_name()) {
        Ok(found) if (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino) => {
            Ok(Opened::Claimed(claim, content))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => match claim.release() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Opened::Gone),
        },
    }
}

/// Takes over a file whose claiming process is gone. `None`: the process lives, or the file is no longer
/// there, or it is not a plain file.
pub(super) fn take_over(place: &Arc<OpenFolder>, name: ClaimName) -> io::Result<Option<FileClaim>> {
    let file = match place.open_file(&name.file_name()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() || !lock(&file)? {
        return Ok(None);
    }
    let stamp = Stamp::of_file(&file)?;
    Ok(Some(FileClaim { place: place.clone(), name, file: Arc::new(file), stamp }))
}

impl FileClaim {
    pub(super) fn id(&self) -> MessageId {
        self.name.id
    }

    /// Whether the relay with these marks has claimed this very file for the tenant. `None`: its name does
    /// not say, like those of earlier versions.
    pub(super) fn is_marked(&self, tenant: &TenantName, marks: &Marks) -> io::Result<Option<bool>> {
        let inode = fstat(&*self.file)?.st_ino;
        Ok(self.name.mark.map(|mark| mark == marks.mark(tenant, self.name.id, inode)))
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Reads the next part of the file, empty at its end.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::new();
        (&*self.file).take(CHUNK).read_to_end(&mut chunk)?;
        Ok(chunk)
    }

    /// The file, for reads that do not move it on.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// What the file is like now: its writer may not have finished.
    pub(super) fn stamp_now(&self) -> io::Result<Stamp> {
        Stamp::of_file(&self.file)
    }

    /// Gives the file its name back, or another if that has been taken meanwhile. A file that has been
    /// renamed keeps the name that it has now.
    pub(super) fn release(&self) -> io::Result<()> {
        let names = [self.name.original.clone()].into_iter().chain(names::others(&self.name.original));
        for name in names {
            match self.place.rename_new(&self.file_name(), &name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                renamed => return renamed,
            }
        }
        Ok(())
    }

    /// Unlinks the file, whose message is in the spool. `Some`: it is still there, because it has been
    /// written to or renamed meanwhile.
    pub(super) fn remove(&self) -> io::Result<Option<Stamp>> {
        let stat = fstat(&*self.file)?;
        let now = Stamp::of(&stat);
        if now != self.stamp {
            return Ok(Some(now));
        }
        let is_here = match self.place.stat(&self.file_name()) {
            Ok(found) => (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if is_here {
            match self.unlink() {
                Ok(()) => return Ok(None),
                // Renamed since the look at it, or removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if fstat(&*self.file)?.st_nlink > 0 {
            // Under its new name it is taken again.
            return Ok(Some(now));
        }
        // It has been removed, or another file is in its place; that one is not in progress.
        self.release()?;
        Ok(None)
    }

    /// Unlinks the file, whatever has happened to it.
    pub(super) fn unlink(&self) -> io::Result<()> {
        self.place.remove(&self.file_name())
    }

    /// Renames the file to `.bad`, with `reason` beside it. Returns the name that it has then.
    pub(super) fn reject(&self, reason: &str) -> io::Result<OsString> {
        for name in names::bad(&self.name.original) {
            let beside = names::reason(&name);
            // The reason comes first, so that it is complete when the file shows up.
            match self.place.write_new(&beside, reason.as_bytes()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            match self.place.rename_new(&self.file_name(), &name) {
                Ok(()) => return Ok(name),
                Err(error) => {
                    self.place.remove(&beside)?;
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn file_name(&self) -> OsString {
        self.name.file_name()
    }

    /// For the log.
    pub(super) fn claimed_path(&self) -> PathBuf {
        self.place.path_of(&self.file_name())
    }
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
fn read_header(file: &File, size: u64) -> io::Result<Option<FileContent>> {
    let mut scanner = HeaderScanner::default();
    loop {
        // One octet more, so that the end is seen without another call.
        let mut chunk = Vec::with_capacity(size.min(CHUNK) as usize + 1);
        if file.take(CHUNK).read_to_end(&mut chunk)? == 0 {
            return Ok(None);
        }
        let is_whole = (chunk.len() as u64) < CHUNK;
        match scanner.push(&chunk) {
            Ok(None) => {}
            Ok(Some(begun)) => return Ok(Some(FileContent::Message { begun, is_whole })),
            Err(error) => return Ok(Some(FileContent::Malformed(error.to_string()))),
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
