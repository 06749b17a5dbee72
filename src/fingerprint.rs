//! Whether a file has changed since it was last looked at.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// What the system states about a file, through symbolic links. Equal fingerprints mean that it has not
/// changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Whether it can be read may depend on its owner and mode.
    changed: (i64, i64),
}

impl Fingerprint {
    /// `None`: there is no file, or it cannot be examined. Blocks.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn whatever_happens_to_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        assert_eq!(Fingerprint::of(&link), None);
        let mut seen = vec![None];
        fs::write(&file, "one").unwrap();
        seen.push(Fingerprint::of(&link));
        assert_eq!(Fingerprint::of(&link), Fingerprint::of(&file));
        fs::write(&file, "two, and longer").unwrap();
        seen.push(Fingerprint::of(&link));
        fs::write(folder.path().join("new"), "two, and longer").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        seen.push(Fingerprint::of(&link));
        let before = Fingerprint::of(&link).unwrap();
        // The clock of a file system has ticks.
        while Fingerprint::of(&link) == Some(before) {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        seen.push(Fingerprint::of(&link));
        let distinct = seen.iter().enumerate().all(|(n, one)| !seen[..n].contains(one));
        assert!(distinct, "{seen:?}");
    }
}
