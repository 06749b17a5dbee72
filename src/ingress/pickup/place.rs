//! A tenant's folder as a place: what is in it, and what is done in it. Everything here blocks.
//!
//! It is open by the descriptor that the way has led to (`way`), and everything is done by that.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, openat, renameat,
        renameat_with, statat, unlinkat,
    },
    io::Errno,
};

use super::{
    candidates::{Listed, Stamp},
    names::{self, ClaimName},
    way::{self, Barrier, Walker},
};

/// A tenant's folder, open.
#[derive(Debug)]
pub(super) struct OpenFolder {
    path: PathBuf,
    folder: OwnedFd,
}

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Oldest first.
    pub(super) files: Vec<Listed>,
    /// Files named as claimed files are.
    pub(super) claimed: Vec<ClaimName>,
    /// What does not belong there, and what it is.
    pub(super) odd: Vec<(OsString, &'static str)>,
}

/// For reading what others write, but no links, and without waiting for the other end of a pipe.
const PLAIN: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// The mode of an explanation, whatever the umask: users who may write to the folder may read it.
const EXPLANATION: Mode = Mode::from_raw_mode(0o640);

impl OpenFolder {
    /// The folder, if nobody can put another in its place. Makes it if it is missing: it may have been
    /// removed.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, Barrier> {
        Self::by(path, Walker::Relay { makes: true })
    }

    /// The same, but a missing one is an error.
    pub(super) fn find(path: &Path) -> Result<Arc<Self>, Barrier> {
        Self::by(path, Walker::Relay { makes: false })
    }

    fn by(path: &Path, walker: Walker) -> Result<Arc<Self>, Barrier> {
        let folder = way::open(path, walker)?;
        Ok(Arc::new(Self { path: path.to_owned(), folder }))
    }

    /// For the log.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        Ok(openat(&self.folder, name, PLAIN | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// What has this name, even if it is a link.
    pub(super) fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    /// Makes a file that the folder's group can read. The name must be free.
    pub(super) fn write_new(&self, name: &OsStr, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(content)?;
        Ok(fchmod(&file, EXPLANATION)?)
    }

    /// Renames without overwriting: if the name is taken, the error's kind is `AlreadyExists`.
    pub(super) fn rename_new(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let folder = &self.folder;
        match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
            // Some network file systems cannot. Looking first leaves a moment for another file to take the
            // name; it would have to be one with the same name, claimed at the same time by another process.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match self.stat(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Ok(renameat(folder, from, folder, to)?)
                }
                Err(error) => Err(error),
            },
            renamed => Ok(renamed?),
        }
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if [&b"."[..], b".."].contains(&name.as_bytes()) {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not say.
                FileType::Unknown => match self.stat(&name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
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
                    listing.odd.push((name, "its name is too long: at most 215 octets are possible"));
                } else if let Ok(stat) = self.stat(&name) {
                    match odd(&stat) {
                        Some(what) => listing.odd.push((name, what)),
                        None => listing.files.push(Listed { name, stamp: Stamp::of(&stat) }),
                    }
                }
            }
        }
        listing.files.sort_by_key(|file| file.stamp.modified);
        Ok(listing)
    }
}

pub(super) const SYMBOLIC_LINK: &str = "a symbolic link";
const NO_PLAIN_FILE: &str = "not a plain file";

/// Why this relay does not take a file.
pub(super) fn odd(stat: &Stat) -> Option<&'static str> {
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Some(NO_PLAIN_FILE);
    }
    // A user who cannot read a file may still be able to give it another name, and the relay would read it
    // for that user.
    (stat.st_nlink > 1)
        .then_some("a hard link: the file has another name, perhaps one that its sender must not read")
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let seconds = Duration::from_secs(stat.st_mtime.unsigned_abs());
        let whole = if stat.st_mtime < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(seconds)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        let modified = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(stat.st_mtime_nsec)));
        Self { size: stat.st_size as u64, modified: modified.unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&fstat(file)?))
    }
}
