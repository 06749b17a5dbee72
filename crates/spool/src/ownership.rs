//! Whose the files of a spool are.
//!
//! A spool belongs to the user of its folder, which is the one that the relay runs as. What root makes in it,
//! by a command or by a relay started by hand, would be out of that user's reach at the next start: so it is
//! given to that user.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, lchown},
    path::Path,
};

use rustix::process::geteuid;

/// Gives what belongs to root in the spool `root` to the folder's owner and group. Does nothing for all users
/// but root, nor where the folder is root's. Returns how many files and folders that were. Blocks.
pub fn give_to_owner(root: &Path) -> io::Result<u64> {
    if !geteuid().is_root() {
        return Ok(0);
    }
    let folder = match fs::metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        folder => folder?,
    };
    if folder.uid() == 0 {
        return Ok(0);
    }
    give(root, folder.uid(), folder.gid())
}

fn give(folder: &Path, uid: u32, gid: u32) -> io::Result<u64> {
    let mut given = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = match fs::symlink_metadata(&path) {
            // The relay removes files while it runs.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if found.uid() == 0 {
            match lchown(&path, Some(uid), Some(gid)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => continue,
                Ok(()) => given += 1,
            }
        }
        if found.is_dir() {
            given += give(&path, uid, gid)?;
        }
    }
    Ok(given)
}
