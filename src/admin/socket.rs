//! The Unix socket that the commands use: a process that may open it may ask everything.
//!
//! It is 0660, for the relay's user and group. A socket that an earlier process left there is replaced. A
//! socket that a process listens on is not, nor is anything else that is there, and no link is followed. It
//! is removed when the relay stops.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::{sleep, timeout},
};
use tracing::warn;

use crate::config::AdminSocket;

const MODE: u32 = 0o660;
/// In the system's queue.
const BACKLOG: u32 = 128;
/// A socket whose queue is full has a listener behind it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Socket {
    pub(super) listener: UnixListener,
    pub(super) place: SocketFile,
}

/// Removed when it is dropped, if it is still the same.
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    inode: (u64, u64),
}

#[derive(Debug, thiserror::Error)]
#[error("admin.socket: {}: {why}", path.display())]
pub struct SocketError {
    pub path: PathBuf,
    pub why: SocketFault,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketFault {
    #[error("another process listens there: has a relay been started twice?")]
    Taken,
    #[error("this exists and is not a socket: remove it, or name another path")]
    NoSocket,
    #[error("its folder {} cannot be used: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("others can write to its folder: {remedy}, or name another folder in admin.socket")]
    Exposed { remedy: String },
    #[error("cannot listen there: {0}")]
    Io(#[from] io::Error),
}

impl Socket {
    pub(super) async fn bind(config: &AdminSocket) -> Result<Self, SocketError> {
        let path = &config.path;
        let bound = Self::bind_at(path, config.is_default).await;
        bound.map_err(|why| SocketError { path: path.clone(), why })
    }

    async fn bind_at(path: &Path, is_in_spool: bool) -> Result<Self, SocketFault> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let at_folder = |source| SocketFault::Folder { folder: folder.to_owned(), source };
        let opened = File::open(folder).map_err(at_folder)?;
        check_folder(folder, &opened, is_in_spool)?;
        take_turns(&opened).await;
        make_way(path).await?;
        let socket = UnixSocket::new_stream()?;
        // The file is made with the mode of the socket, less the umask (unix(7)), so it is never open to
        // more.
        fchmod(&socket, Mode::from_raw_mode(MODE)).map_err(io::Error::from)?;
        socket.bind(path)?;
        let place = SocketFile::settle(path)?;
        if is_in_spool && let Err(error) = let_the_group_through(folder, &opened, path) {
            let folder = folder.display();
            warn!(%folder, %error, "command socket not opened to the relay's group: only root and the relay's user can connect");
        }
        Ok(Self { listener: socket.listen(BACKLOG)?, place })
    }
}

impl SocketFile {
    /// Finds out what was made, whatever is in its place by now, and sets its mode.
    fn settle(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let made = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let metadata = made.metadata()?;
        if !metadata.file_type().is_socket() {
            return Err(io::Error::other("something else has taken its place"));
        }
        if metadata.permissions().mode() & 0o777 != MODE {
            // The very file that is open: a path could lead elsewhere by now.
            let itself = format!("/proc/self/fd/{}", made.as_raw_fd());
            fs::set_permissions(itself, fs::Permissions::from_mode(MODE))?;
        }
        Ok(Self { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_the_same = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if is_the_same && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Of two relays that start, one clears the way and listens before the other looks. The turn ends with
/// `folder`. Any process that can read the folder can hold it up, so no relay waits for long: without the
/// turn, only care in a rare case is missing.
async fn take_turns(folder: &File) {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let turn = async {
        while flock(folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            sleep(LOOK_EVERY).await;
        }
    };
    let _ = timeout(ANSWERS_WITHIN, turn).await;
}

/// Another user who can write to the folder could put a socket in place of this one.
fn check_folder(folder: &Path, opened: &File, is_spool: bool) -> Result<(), SocketFault> {
    let metadata = opened.metadata()?;
    let mode = metadata.permissions().mode();
    let own = rustix::process::geteuid().as_raw();
    let shown = folder.display();
    let groups = rustix::process::getgroups().unwrap_or_default();
    let is_own_group =
        groups.iter().chain([&rustix::process::getegid()]).any(|group| group.as_raw() == metadata.gid());
    let remedy = match metadata.uid() {
        // Root may run the relay in the spool of the user that runs it usually.
        uid if uid != own && uid != 0 && !(own == 0 && is_spool) => {
            format!("chown it to the relay's user or to root: chown root {shown}")
        }
        _ if mode & 0o002 != 0 => format!("chmod o-w {shown}"),
        // The group can open the socket in any case.
        _ if mode & 0o020 != 0 && !is_own_group => format!("chmod g-w {shown}"),
        _ => return Ok(()),
    };
    Err(SocketFault::Exposed { remedy })
}

/// The spool's folder is made for the relay alone. Its group can reach the socket, and sees no more: it
/// cannot list the folder, and all else in it is private.
fn let_the_group_through(folder: &Path, opened: &File, socket: &Path) -> io::Result<()> {
    let mode = opened.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o777 != 0o700 {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if path != socket && metadata.permissions().mode() & 0o070 != 0 && !metadata.is_symlink() {
            return Err(io::Error::other(format!("the group could open {}: chmod go= it", path.display())));
        }
    }
    Ok(fchmod(opened, Mode::from_raw_mode(mode | 0o010))?)
}

/// Removes a socket that nobody listens on.
async fn make_way(path: &Path) -> Result<(), SocketFault> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketFault::NoSocket),
        Ok(_) => {}
    }
    match timeout(ANSWERS_WITHIN, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => Err(error.into()),
        _ => Err(SocketFault::Taken),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Made as a spool's folder is.
    fn private_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn at(path: PathBuf) -> AdminSocket {
        AdminSocket { path, is_default: true }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_is_left_is_replaced_and_what_lives_is_not() {
        let folder = private_folder();
        let config = at(folder.path().join("admin.sock"));
        // As a killed process leaves it.
        drop(std::os::unix::net::UnixListener::bind(&config.path).unwrap());
        assert!(config.path.exists());
        let socket = Socket::bind(&config).await.unwrap();
        assert_eq!((mode(&config.path), mode(folder.path())), (0o660, 0o710));
        let error = Socket::bind(&config).await.err().unwrap().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        UnixStream::connect(&config.path).await.unwrap();
        drop(socket);
        assert!(!config.path.exists());
    }

    #[tokio::test]
    async fn whoever_holds_the_folder_holds_nobody_up() {
        let folder = private_folder();
        let held = File::open(folder.path()).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let config = at(folder.path().join("admin.sock"));
        let _socket = Socket::bind(&config).await.unwrap();
        UnixStream::connect(&config.path).await.unwrap();
    }

    #[tokio::test]
    async fn the_group_is_not_let_through_to_anything_else() {
        let folder = private_folder();
        let config = at(folder.path().join("admin.sock"));
        let other = folder.path().join("other");
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o640)).unwrap();
        drop(Socket::bind(&config).await.unwrap());
        assert_eq!(mode(folder.path()), 0o700);
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        drop(Socket::bind(&config).await.unwrap());
        assert_eq!(mode(folder.path()), 0o710);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_neither_removed_nor_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "here").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        let lives = folder.path().join("lives.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&lives).unwrap();
        let config = at(folder.path().join("admin.sock"));
        for target in [&precious, &lives, &folder.path().join("nowhere"), folder.path()] {
            symlink(target, &config.path).unwrap();
            let error = Socket::bind(&config).await.err().unwrap();
            assert!(matches!(error.why, SocketFault::NoSocket), "{error}");
            assert!(config.path.is_symlink());
            fs::remove_file(&config.path).unwrap();
        }
        fs::write(&config.path, "a file").unwrap();
        assert!(matches!(Socket::bind(&config).await.err().unwrap().why, SocketFault::NoSocket));
        assert_eq!(fs::read_to_string(&config.path).unwrap(), "a file");
        assert_eq!((fs::read_to_string(&precious).unwrap(), mode(&precious)), ("here".into(), 0o600));
    }

    #[tokio::test]
    async fn what_has_come_into_its_place_stays() {
        let folder = private_folder();
        let config = at(folder.path().join("admin.sock"));
        let socket = Socket::bind(&config).await.unwrap();
        fs::remove_file(&config.path).unwrap();
        fs::write(&config.path, "another's").unwrap();
        drop(socket);
        assert!(config.path.exists());
    }

    #[tokio::test]
    async fn a_folder_that_others_can_write_to_is_refused_with_what_to_type() {
        let folder = private_folder();
        let config = at(folder.path().join("admin.sock"));
        for mode in [0o777, 0o702, 0o1777] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = Socket::bind(&config).await.err().unwrap().to_string();
            assert!(error.contains(&format!("chmod o-w {}", folder.path().display())), "{error}");
        }
        let missing = at(folder.path().join("missing/admin.sock"));
        let error = Socket::bind(&missing).await.err().unwrap().to_string();
        assert!(error.contains("its folder") && error.contains("missing"), "{error}");
    }
}
