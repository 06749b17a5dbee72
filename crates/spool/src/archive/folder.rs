//! The folder of an export: names, modes, and what must be synced. Mail is private, so no other user can read
//! it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use super::ArchiveError;

/// Files synced at a time: file systems make one journal entry for syncs that are requested together.
const SYNCS: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

/// A file that is being written. It gets its name when it is complete.
pub(super) struct Part {
    pub(super) file: File,
    path: PathBuf,
    name: PathBuf,
}

impl Folder {
    /// Opens the folder at `path`, or makes it if it is missing.
    pub(super) fn make(path: &Path) -> Result<Self, ArchiveError> {
        if !path.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .and_then(|()| sync_dir(&path.canonicalize()?.join("..")))
                .map_err(ArchiveError::io(path))?;
        }
        Ok(Self(path.to_path_buf()))
    }

    /// Opens the folder at `path`, which must exist.
    pub(super) fn existing(path: &Path) -> Result<Self, ArchiveError> {
        fs::read_dir(path).map_err(ArchiveError::io(path))?;
        Ok(Self(path.to_path_buf()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// `NAME.json`
    pub(super) fn json(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }

    /// `NAME.eml`
    pub(super) fn eml(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.eml"))
    }

    /// The names of files, in order, except those that begin with a dot.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes what an interrupted export has left.
    pub(super) fn remove_parts(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let is_part = name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".part"));
            if is_part {
                fs::remove_file(self.0.join(name))?;
            }
        }
        Ok(())
    }

    /// Begins a file that will get the path `name`, which is in this folder.
    pub(super) fn begin(&self, name: PathBuf) -> io::Result<Part> {
        let last = name.file_name().unwrap_or_default().to_string_lossy();
        let path = self.0.join(format!(".{last}.part"));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Part { file, path, name })
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        sync_dir(&self.0)
    }
}

impl Part {
    /// Gives the file its name.
    pub(super) fn complete(&self) -> io::Result<()> {
        fs::rename(&self.path, &self.name)
    }

    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

/// Puts all of both kinds on stable storage.
pub(super) fn sync_all(bodies: &[Part], entries: &[Part]) -> io::Result<()> {
    let parts: Vec<&Part> = bodies.iter().chain(entries).collect();
    let share = parts.len().div_ceil(SYNCS).max(1);
    thread::scope(|scope| {
        let sync = |parts: &[&Part]| parts.iter().try_for_each(|part| part.file.sync_all());
        let threads: Vec<_> = parts.chunks(share).map(|parts| scope.spawn(move || sync(parts))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a sync broke off")))
        })
    })
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Refuses a folder inside a spool: neither an export nor an import's source belongs there.
pub(super) fn refuse_inside(folder: &Path, spool: &Path) -> Result<(), ArchiveError> {
    let real = resolve(folder)?;
    let of_spool = resolve(spool)?;
    if real.starts_with(&of_spool) {
        return Err(ArchiveError::Inside { folder: folder.to_path_buf(), spool: spool.to_path_buf() });
    }
    Ok(())
}

/// The real path of a file or folder that may not exist yet.
fn resolve(path: &Path) -> Result<PathBuf, ArchiveError> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match path.file_name() {
                Some(name) if parent != path => Ok(resolve(parent)?.join(name)),
                _ => Err(ArchiveError::io(path)(error)),
            }
        }
        resolved => resolved.map_err(ArchiveError::io(path)),
    }
}
