//! Who can write to the files that the relay believes.
//!
//! Whoever can write to the configuration decides as whom the relay logs in and whose mail it takes; whoever
//! can write to the folder of a file can put another in its place. So for each file of the configuration, and
//! each that it names (secrets, keys, certificates), these must be out of others' reach: the file, the folder
//! that it is in, and each symbolic link on the way with its folder. Others are all users except root and the
//! user that this process runs as.
//!
//! * The group's bit counts as others', whoever is in the group. With an access control list that bit is the
//!   list's mask (acl(5)), so whatever a list lets somebody write is seen too, and `chmod g-w` ends it.
//! * In a folder with the sticky bit only the owner of a file can replace it (unlink(2)), and the owner is
//!   checked. So such a folder may be open to all: Kubernetes mounts its secrets and configuration maps this
//!   way, with root's links in it (`name -> ..data/name`, `..data -> ..2026_01_01…`).
//! * Not checked: the folders further up, and what a file system that has no owners reports.
//!
//! A missing file is not this module's business: the code that reads the file reports it.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// Whose files are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// Root's and those of the user that this process runs as.
    RootAndSelf,
    /// Anybody's: for programs that a user other than the relay's calls, and who does not know the relay's
    /// user.
    Any,
}

/// Somebody else can write there. Says what to type.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exposed {
    #[error("{whose} can write to {} and so control the relay: chmod {bits}-w {}", path.display(), path.display())]
    Writable { path: PathBuf, whose: &'static str, bits: &'static str },
    #[error(
        "{} belongs to user {owner}, who can therefore control the relay and is neither root nor the user \
         that this runs as ({user}): chown {}root {}",
        path.display(), if *link { "-h " } else { "" }, path.display()
    )]
    Owner { path: PathBuf, owner: u32, user: u32, link: bool },
    #[error("cannot determine who can write to {}: {error}", path.display())]
    Unknown { path: PathBuf, error: io::Error },
}

/// As many symbolic links as Linux follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

const GROUP: u32 = 0o020;
const OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Checks a file or a folder, the folder that it is in, and the links that lead there.
pub(super) fn check(path: &Path, owners: Owners) -> Result<(), Exposed> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Some(found) = there(&path, fs::symlink_metadata(&path))? else { return Ok(()) };
        let above = match path.parent() {
            Some(above) if above != Path::new("") => above.to_owned(),
            Some(_) => PathBuf::from("."),
            // The root folder.
            None => return check_one(&path, &found, owners),
        };
        if let Some(folder) = there(&above, fs::metadata(&above))? {
            check_one(&above, &folder, owners)?;
        }
        check_one(&path, &found, owners)?;
        if !found.is_symlink() {
            return Ok(());
        }
        let Some(target) = there(&path, fs::read_link(&path))? else { return Ok(()) };
        path = above.join(target);
    }
    // The code that opens it reports that it leads nowhere.
    Ok(())
}

/// `None`: it is not there, or no longer.
fn there<T>(path: &Path, found: io::Result<T>) -> Result<Option<T>, Exposed> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        // It cannot be opened either, which is reported then.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(Exposed::Unknown { path: path.to_owned(), error }),
    }
}

fn check_one(path: &Path, found: &Metadata, owners: Owners) -> Result<(), Exposed> {
    let owner = found.uid();
    let user = geteuid().as_raw();
    if owners == Owners::RootAndSelf && owner != 0 && owner != user {
        return Err(Exposed::Owner { path: path.to_owned(), owner, user, link: found.is_symlink() });
    }
    // The mode of a link says nothing.
    if found.is_symlink() || found.is_dir() && found.mode() & STICKY != 0 {
        return Ok(());
    }
    // Something that is not a file, such as a pipe of the shell's, has no content to overwrite.
    if !found.is_dir() && !found.is_file() {
        return Ok(());
    }
    let (whose, bits) = match (found.mode() & GROUP != 0, found.mode() & OTHERS != 0) {
        (false, false) => return Ok(()),
        (true, false) => ("the group", "g"),
        (false, true) => ("every user of this machine", "o"),
        (true, true) => ("every user of this machine", "go"),
    };
    Err(Exposed::Writable { path: path.to_owned(), whose, bits })
}

/// Test files must be as an administrator makes them, even if the umask lets the group write.
#[cfg(test)]
pub(crate) fn umask_for_tests() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            umask_for_tests();
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.path("etc")).unwrap();
            fs::write(place.path("etc/file"), "x").unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn chmod(&self, name: &str, mode: u32) {
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        /// What is said, without the folder.
        fn said(&self, name: &str) -> String {
            let said = check(&self.path(name), Owners::RootAndSelf)
                .map_or_else(|e| e.to_string(), |()| "fine".into());
            said.replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    #[test]
    fn others_must_not_write_to_the_file_or_its_folder() {
        let place = Place::new();
        assert_eq!(place.said("etc/file"), "fine");
        for (mode, bits) in [(0o664, "g"), (0o646, "o"), (0o666, "go"), (0o620, "g")] {
            place.chmod("etc/file", mode);
            let said = place.said("etc/file");
            assert!(said.ends_with(&format!(": chmod {bits}-w etc/file")), "{said}");
        }
        for mode in [0o400, 0o640, 0o644, 0o600, 0o755] {
            place.chmod("etc/file", mode);
            assert_eq!(place.said("etc/file"), "fine");
        }
        for (mode, end) in [(0o775, "chmod g-w etc"), (0o757, "chmod o-w etc"), (0o777, "chmod go-w etc")] {
            place.chmod("etc", mode);
            assert!(place.said("etc/file").ends_with(end), "{}", place.said("etc/file"));
            assert!(place.said("etc").ends_with(end));
        }
        // Only the owner of a file can put another in its place there.
        place.chmod("etc", 0o1777);
        assert_eq!(place.said("etc/file"), "fine");
        assert_eq!(place.said("etc/no-such-file"), "fine");
        assert_eq!(place.said("no-such-folder/file"), "fine");
    }

    #[test]
    fn links_count_with_the_folders_that_they_are_in() {
        let place = Place::new();
        fs::create_dir(place.path("open")).unwrap();
        symlink("../etc/file", place.path("open/link")).unwrap();
        symlink("open/link", place.path("link")).unwrap();
        assert_eq!(place.said("link"), "fine");
        place.chmod("open", 0o777);
        assert!(place.said("link").ends_with("chmod go-w open"), "{}", place.said("link"));
        place.chmod("open", 0o755);
        place.chmod("etc/file", 0o666);
        assert!(place.said("link").ends_with("chmod go-w open/../etc/file"), "{}", place.said("link"));
        symlink("loop", place.path("loop")).unwrap();
        symlink("nowhere", place.path("dangling")).unwrap();
        assert_eq!([place.said("loop"), place.said("dangling")], ["fine", "fine"]);
    }

    #[test]
    fn as_kubernetes_mounts_it() {
        let place = Place::new();
        fs::create_dir_all(place.path("mount/..2026_01_01")).unwrap();
        fs::write(place.path("mount/..2026_01_01/secret"), "x").unwrap();
        symlink("..2026_01_01", place.path("mount/..data")).unwrap();
        symlink("..data/secret", place.path("mount/secret")).unwrap();
        for mode in [0o1777, 0o3777] {
            place.chmod("mount", mode);
            assert_eq!(place.said("mount/secret"), "fine");
        }
        place.chmod("mount/..2026_01_01/secret", 0o660);
        assert!(place.said("mount/secret").contains("chmod g-w"), "{}", place.said("mount/secret"));
    }

    /// Only root can give files away, and the checks in CI run as root.
    #[test]
    fn strangers_own_nothing_of_it() {
        if !geteuid().is_root() {
            return;
        }
        let place = Place::new();
        chown(place.path("etc/file"), Some(4711), None).unwrap();
        let said = place.said("etc/file");
        assert!(
            said.starts_with("etc/file belongs to user 4711, ") && said.ends_with("(0): chown root etc/file"),
            "{said}"
        );
        assert!(check(&place.path("etc/file"), Owners::Any).is_ok());
        chown(place.path("etc/file"), Some(0), None).unwrap();
        chown(place.path("etc"), Some(4711), None).unwrap();
        assert!(place.said("etc/file").ends_with(": chown root etc"), "{}", place.said("etc/file"));
        chown(place.path("etc"), Some(0), None).unwrap();
        symlink("etc/file", place.path("link")).unwrap();
        lchown(place.path("link"), Some(4711), None).unwrap();
        assert!(place.said("link").ends_with(": chown -h root link"), "{}", place.said("link"));
    }
}
