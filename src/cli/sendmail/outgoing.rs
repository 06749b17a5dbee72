//! A message becomes a file in a pickup folder, whole or not at all.
//!
//! It is written as `.sendmail-ID.tmp`, which pickup leaves alone, synced, renamed to `sendmail-ID.eml`, and
//! the folder is synced. The folder is one that nobody but root and the relay can replace
//! (`ingress::pickup::way`), and everything is done by its descriptor. A process that is killed on the way
//! leaves the hidden file behind. The writer holds a lock on that file (`flock`) until just before the
//! renaming, so a later run can tell that nobody is working on it, and removes it after an hour.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use uuid::Uuid;

use super::exit::{Exit, Failure};
use crate::{
    clock,
    ingress::pickup::way::{self, Barrier, Walker},
};

const PREFIX: &str = ".sendmail-";
const SUFFIX: &str = ".tmp";
/// The relay reads it as a member of the folder's group. What the relay moves and removes, it does by the
/// folder's permissions.
const MODE: u32 = 0o640;
/// A file without a lock may be between its unlocking and its renaming, but not for this long.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Names looked at for abandoned files, so that a long queue does not slow down each message.
const MAX_SWEPT: usize = 1000;

/// Removed when it is dropped before [`Outgoing::finish`].
#[derive(Debug)]
pub(super) struct Outgoing {
    folder: PathBuf,
    /// The folder itself, to be synced.
    directory: File,
    file: File,
    hidden: OsString,
    visible: OsString,
    size: u64,
    renamed: bool,
}

impl Outgoing {
    pub(super) fn create(folder: PathBuf) -> Result<Self, Failure> {
        // Syncing needs it open, so a user who may not read the folder learns that before there is a file.
        let directory = File::from(way::open(&folder, Walker::Sender).map_err(|why| barred(&folder, &why))?);
        let owner = directory.metadata().map_err(|error| failure(&folder, "cannot be examined", &error))?;
        sweep(&directory);
        let id = Uuid::new_v4().simple();
        let hidden = OsString::from(format!("{PREFIX}{id}{SUFFIX}"));
        let visible = OsString::from(format!("sendmail-{id}.eml"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, &hidden, flags, Mode::RUSR | Mode::WUSR);
        let file: File =
            file.map_err(|error| failure(&folder, "cannot be written to", &error.into()))?.into();
        let outgoing = Self { folder, directory, file, hidden, visible, size: 0, renamed: false };
        flock(&outgoing.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| outgoing.failure("cannot be written to", &error.into()))?;
        outgoing.hand_over(owner.uid(), owner.gid())?;
        Ok(outgoing)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.size += octets.len() as u64;
        self.file.write_all(octets).map_err(|error| self.failure("cannot be written to", &error))
    }

    /// When this returns `Ok`, the file is durable and may be picked up.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let placed = self.file.sync_all().and_then(|()| {
            // Pickup takes a lock of its own, at once.
            flock(&self.file, FlockOperation::Unlock)?;
            Ok(renameat(&self.directory, &self.hidden, &self.directory, &self.visible)?)
        });
        placed.map_err(|error| self.failure("cannot be written to", &error))?;
        self.renamed = true;
        self.directory.sync_all().map_err(|error| {
            let what = "cannot be synced: the message is stored, but a power failure may lose it; to submit \
                it again now would send it twice";
            self.failure(what, &error)
        })
    }

    /// Lets the relay, which runs as the folder's owner or in its group, read the file.
    fn hand_over(&self, owner: u32, group: u32) -> Result<(), Failure> {
        let failed = |error| self.failure("cannot be written to", &error);
        let metadata = self.file.metadata().map_err(failed)?;
        if metadata.gid() != group
            && let Err(error) = fchown(&self.file, None, Some(group))
            && metadata.uid() != owner
        {
            let shown = self.folder.display();
            return Err(Exit::NoPerm.because(format!(
                "pickup folder {shown}: a new file cannot be given the folder's group {group} ({error}), and the relay could \
                 not read it: chmod g+s {shown}"
            )));
        }
        // Whatever the umask says.
        self.file.set_permissions(Permissions::from_mode(MODE)).map_err(failed)
    }

    fn failure(&self, what: &str, error: &io::Error) -> Failure {
        failure(&self.folder, what, error)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.renamed {
            // If that fails, a later run does it.
            let _ = unlinkat(&self.directory, &self.hidden, AtFlags::empty());
        }
    }
}

/// What the caller is told of a folder that is not there, or not safe.
fn barred(folder: &Path, why: &Barrier) -> Failure {
    match why {
        why if why.is_missing() => failure(folder, "", &io::ErrorKind::NotFound.into()),
        Barrier::Denied { .. } => {
            failure(folder, "cannot be opened", &io::ErrorKind::PermissionDenied.into())
        }
        Barrier::Closed { .. } => Exit::NoPerm.because(format!("pickup folder {}: {why}", folder.display())),
        Barrier::Io { .. } => Exit::TempFail.because(format!("pickup folder {}: {why}", folder.display())),
        _ => Exit::Config.because(format!("pickup folder {}: {why}", folder.display())),
    }
}

/// What the caller is told. After an error that may pass, the caller should try again.
fn failure(folder: &Path, what: &str, error: &io::Error) -> Failure {
    let shown = folder.display();
    match error.kind() {
        io::ErrorKind::NotFound => Exit::TempFail.because(format!(
            "pickup folder {shown} does not exist: start the relay, which makes it, or use \
                mkdir"
        )),
        io::ErrorKind::PermissionDenied => Exit::NoPerm.because(format!(
            "pickup folder {shown} {what}: {error}: the user who sends needs to read, write and search it, \
             best as a member of its group{}",
            group_of(folder)
        )),
        io::ErrorKind::NotADirectory => {
            Exit::Config.because(format!("pickup folder {shown} {what}: {error}"))
        }
        _ => Exit::TempFail.because(format!("pickup folder {shown} {what}: {error}")),
    }
}

fn group_of(folder: &Path) -> String {
    let group = folder.metadata().map(|metadata| metadata.gid());
    group.map(|gid| format!(" ({gid}, see getent group {gid})")).unwrap_or_default()
}

/// Removes what dead processes left, as far as that is allowed.
fn sweep(directory: &File) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries.take(MAX_SWEPT).flatten() {
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if is_ours {
            // Another run may be doing it, too; or the file belongs to a user whose files are out of reach.
            let _ = remove_abandoned(directory, &name);
        }
    }
}

fn remove_abandoned(directory: &File, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let now = clock::now().as_system_time();
    let age = now.duration_since(metadata.modified()?).unwrap_or_default();
    if age < ABANDONED || !metadata.is_file() {
        return Ok(());
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(unlinkat(directory, name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// In a folder that nobody else can write to.
    fn temp() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("contoso");
        fs::create_dir(&folder).unwrap();
        (dir, folder)
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn it_is_hidden_until_it_is_whole() {
        let (_dir, folder) = temp();
        let mut outgoing = Outgoing::create(folder.clone()).unwrap();
        outgoing.write(b"half").unwrap();
        let [name] = names(&folder).try_into().unwrap();
        assert!(name.starts_with(".sendmail-") && name.ends_with(".tmp"), "{name}");
        outgoing.write(b" and half").unwrap();
        assert_eq!(outgoing.size(), 13);
        outgoing.finish().unwrap();
        let [name] = names(&folder).try_into().unwrap();
        assert!(name.starts_with("sendmail-") && name.ends_with(".eml"), "{name}");
        let path = folder.join(name);
        assert_eq!(fs::read(&path).unwrap(), b"half and half");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, MODE);
        drop(Outgoing::create(folder.clone()).unwrap());
        assert_eq!(names(&folder).len(), 1);
    }

    #[test]
    fn what_a_dead_process_left_is_removed_after_an_hour() {
        let (_dir, folder) = temp();
        let old = clock::now().as_system_time() - ABANDONED * 2;
        let leave = |name: &str| {
            let file = File::create(folder.join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        leave(".sendmail-dead.tmp");
        leave(".other.tmp");
        let alive = leave(".sendmail-alive.tmp");
        flock(&alive, FlockOperation::NonBlockingLockExclusive).unwrap();
        File::create(folder.join(".sendmail-young.tmp")).unwrap();
        drop(Outgoing::create(folder.clone()).unwrap());
        let mut left = names(&folder);
        left.sort();
        assert_eq!(left, [".other.tmp", ".sendmail-alive.tmp", ".sendmail-young.tmp"]);
    }

    #[test]
    fn errors_name_the_folder() {
        let (_dir, folder) = temp();
        let failed = |path: PathBuf| Outgoing::create(path).unwrap_err();
        let missing = failed(folder.join("nowhere"));
        assert_eq!(missing.exit, Exit::TempFail);
        assert!(missing.text.contains("nowhere does not exist"), "{missing}");
        File::create(folder.join("file")).unwrap();
        assert_eq!(failed(folder.join("file")).exit, Exit::Config);
        for (kind, exit) in [
            (io::ErrorKind::PermissionDenied, Exit::NoPerm),
            (io::ErrorKind::StorageFull, Exit::TempFail),
            (io::ErrorKind::QuotaExceeded, Exit::TempFail),
            (io::ErrorKind::ReadOnlyFilesystem, Exit::TempFail),
        ] {
            let failure = failure(&folder, "cannot be written to", &kind.into());
            assert_eq!(failure.exit, exit);
            assert!(failure.text.contains(folder.to_str().unwrap()), "{failure}");
        }
    }
}
