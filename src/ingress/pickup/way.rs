//! The way to a tenant's folder: every folder on it is opened by descriptor, one after the other, from `/`
//! down, and nobody but root and the relay can put another in the place of any of them. Everything here
//! blocks.
//!
//! A user who can rename a folder on the way can have one tenant's folder read as another's, and so send as
//! that other tenant. So:
//!
//! * A folder on the way belongs to root or to the relay's user, and neither its group nor everybody can
//!   write to it. One with the sticky bit, such as /tmp, may be written to by others: they cannot rename what
//!   is not theirs, and what is on the way is root's or the relay's. But names may be made in it, so the last
//!   one, which holds the tenants' folders, is never sticky.
//! * The tenant's folder belongs to one of the two as well, and not everybody can write to it. Its group may:
//!   that is the login.
//! * A symbolic link is followed if it belongs to one of the two; then the rules hold for where it leads.
//!   Nothing is made there: what it leads to may be a disk that is not mounted.
//!
//! Rights from an access control list are covered by those that the mode shows: where there is a list, the
//! group's bits are its mask, which bounds every entry but the owner's and everybody's (acl(5)). Default
//! lists give no right to the folder itself.
//!
//! What is returned is a descriptor, and all that is done with the folder afterwards is done by it. So a
//! change between the check and the use does not matter.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, fchmod, fstat, mkdirat, openat,
        readlinkat,
    },
    io::Errno,
    process::geteuid,
};

/// As many as Linux follows.
const MOST_LINKS: usize = 40;
/// The mode of a folder on the way that the relay makes, whatever the umask: tenants' programs pass through,
/// and see nothing.
const PASSAGE: Mode = Mode::from_raw_mode(0o711);
/// The mode of a tenant's folder that the relay makes, less the umask.
const DROP: Mode = Mode::from_raw_mode(0o770);

/// Who walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walker {
    /// The relay: its user is this process's.
    Relay {
        /// Missing folders.
        makes: bool,
    },
    /// A command that is run by the relay's user, or by root, and makes nothing.
    Check,
    /// A program of any user that leaves mail. The relay's user is the owner of the first folder on the way
    /// that is not root's, if that owner is this user, or if root has put the folder there: what is in a
    /// folder that only root can write to is there by root's will.
    Sender,
}

/// Why a folder is not used. Each says which one, and what to type.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Barrier {
    #[error(
        "{who} can write to {path} and so put another folder in the place of a tenant's: run chmod {mode} {path}",
        path = .path.display()
    )]
    Writable { path: PathBuf, who: &'static str, mode: &'static str },
    #[error(
        "anybody on this machine can write to {path} and so send mail as the tenant: run chmod o-w {path}",
        path = .0.display()
    )]
    Open(PathBuf),
    #[error(
        "{path} belongs to user {user}, who could put another folder in the place of a tenant's: run chown {to} {path}",
        path = .path.display()
    )]
    Stranger { path: PathBuf, user: u32, to: u32 },
    #[error(
        "{path} is a symbolic link that user {user} has made, and only root and the relay's own user may say where mail is \
         read from: run chown -h {to} {path}",
        path = .path.display()
    )]
    StrangersLink { path: PathBuf, user: u32, to: u32 },
    #[error("{path} is not a folder", path = .0.display())]
    NoFolder(PathBuf),
    #[error(
        "user {user} needs to read, write and search {path}: give it rwx there (chown, chgrp, chmod)",
        path = .path.display()
    )]
    Denied { path: PathBuf, user: u32 },
    #[error(
        "user {user} needs to search {path}: run chmod a+x {path}",
        path = .path.display()
    )]
    Closed { path: PathBuf, user: u32 },
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Barrier {
    /// Nothing is there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A folder on the way, open for looking up what is in it.
struct Step {
    folder: OwnedFd,
    stat: Stat,
    path: PathBuf,
}

/// The tenant's folder at `path`, open for reading.
pub(crate) fn open(path: &Path, walker: Walker) -> Result<OwnedFd, Barrier> {
    let failed = |source| Barrier::Io { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(failed)?;
    let mut walk = Walk::begin(walker)?;
    let mut ahead = names(&path);
    // This many names are left when a link has been followed to its end.
    let mut behind_link = usize::MAX;
    while let Some(name) = ahead.pop_front() {
        match name.as_bytes() {
            b".." => walk.up(),
            _ => {
                let may_make = ahead.len() < behind_link;
                if let Some(target) = walk.down(&name, ahead.is_empty(), may_make)? {
                    behind_link = behind_link.min(ahead.len());
                    if target.is_absolute() {
                        walk.start_over();
                    }
                    let mut new = names(&target);
                    new.append(&mut ahead);
                    ahead = new;
                }
            }
        }
    }
    walk.end()
}

/// Without the root and `.`.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

struct Walk {
    walker: Walker,
    me: u32,
    /// The relay's user; `None`: not known yet.
    relay: Option<u32>,
    links: usize,
    root: Step,
    /// Below the root.
    steps: Vec<Step>,
}

impl Walk {
    fn begin(walker: Walker) -> Result<Self, Barrier> {
        let path = PathBuf::from("/");
        let failed = |error: Errno| Barrier::Io { path: path.clone(), source: error.into() };
        let folder = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let folder = folder.map_err(failed)?;
        let stat = fstat(&folder).map_err(failed)?;
        let me = geteuid().as_raw();
        let relay = match walker {
            Walker::Relay { .. } => Some(me),
            Walker::Check => Some(me).filter(|me| *me != 0),
            Walker::Sender => None,
        };
        let mut walk =
            Self { walker, me, relay, links: 0, root: Step { folder, stat, path }, steps: Vec::new() };
        walk.check_owner(stat.st_uid, true, |to| Barrier::Stranger {
            path: "/".into(),
            user: stat.st_uid,
            to,
        })?;
        Ok(walk)
    }

    fn here(&self) -> &Step {
        self.steps.last().unwrap_or(&self.root)
    }

    fn up(&mut self) {
        self.steps.pop();
    }

    fn start_over(&mut self) {
        self.steps.clear();
    }

    /// Goes one step down. Returns where to go if `name` is a symbolic link. `is_last`: it is the tenant's
    /// folder.
    fn down(&mut self, name: &OsStr, is_last: bool, may_make: bool) -> Result<Option<PathBuf>, Barrier> {
        let by_others = self.check_passage(is_last)?;
        let path = self.here().path.join(name);
        let me = self.me;
        let failed = |error: Errno| match error {
            Errno::ACCESS => {
                let above = path.parent().unwrap_or(&path).to_owned();
                Barrier::Closed { path: above, user: me }
            }
            error => Barrier::Io { path: path.clone(), source: error.into() },
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match openat(&self.here().folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if self.walker == (Walker::Relay { makes: true }) && may_make => {
                self.make(name, is_last).map_err(failed)?;
                openat(&self.here().folder, name, flags, Mode::empty())
            }
            opened => opened,
        };
        let folder = folder.map_err(failed)?;
        let stat = fstat(&folder).map_err(failed)?;
        let user = stat.st_uid;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                self.check_owner(user, !by_others, |to| Barrier::StrangersLink {
                    path: path.clone(),
                    user,
                    to,
                })?;
                self.links += 1;
                if self.links > MOST_LINKS {
                    return Err(failed(Errno::LOOP));
                }
                let target = readlinkat(&folder, c"", Vec::new()).map_err(failed)?;
                Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))))
            }
            FileType::Directory => {
                self.check_owner(user, !by_others, |to| Barrier::Stranger { path: path.clone(), user, to })?;
                self.steps.push(Step { folder, stat, path });
                Ok(None)
            }
            _ => Err(Barrier::NoFolder(path)),
        }
    }

    /// Checks that what is here stays here. Returns whether others can add to it.
    fn check_passage(&self, is_last: bool) -> Result<bool, Barrier> {
        let Step { stat, path, .. } = self.here();
        let mode = Mode::from_raw_mode(stat.st_mode);
        let group = mode.contains(Mode::WGRP);
        let all = mode.contains(Mode::WOTH);
        if !(group || all) {
            return Ok(false);
        }
        if mode.contains(Mode::SVTX) && !is_last {
            return Ok(true);
        }
        let (who, mode) = match (group, all) {
            (true, false) => ("its group", "g-w"),
            (false, true) => ("anybody on this machine", "o-w"),
            _ => ("anybody on this machine", "go-w"),
        };
        Err(Barrier::Writable { path: path.clone(), who, mode })
    }

    /// `by_root`: only root and the relay could have put it there.
    fn check_owner(
        &mut self,
        user: u32,
        by_root: bool,
        barrier: impl FnOnce(u32) -> Barrier,
    ) -> Result<(), Barrier> {
        if user == 0 || self.relay == Some(user) {
            return Ok(());
        }
        let is_me = self.walker == Walker::Sender && user == self.me;
        if self.relay.is_none() && (by_root || is_me) {
            self.relay = Some(user);
            return Ok(());
        }
        Err(barrier(self.relay.unwrap_or(0)))
    }

    fn make(&self, name: &OsStr, is_last: bool) -> Result<(), Errno> {
        let above = &self.here().folder;
        match mkdirat(above, name, if is_last { DROP } else { PASSAGE }) {
            Ok(()) if is_last => Ok(()),
            Ok(()) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(above, name, flags, Mode::empty())?;
                // Where others can make names, this could be another user's by now; then it is refused.
                if fstat(&made)?.st_uid == self.me { fchmod(made, PASSAGE) } else { Ok(()) }
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The tenant's folder, which is where the way has led.
    fn end(self) -> Result<OwnedFd, Barrier> {
        let Step { folder, stat, path } = self.here();
        if Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) {
            return Err(Barrier::Open(path.clone()));
        }
        let denied = || Barrier::Denied { path: path.clone(), user: self.me };
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        accessat(folder, ".", all, AtFlags::EACCESS).map_err(|_| denied())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(folder, ".", flags, Mode::empty()).map_err(|error| match error {
            Errno::ACCESS => denied(),
            error => Barrier::Io { path: path.clone(), source: error.into() },
        })
    }
}
