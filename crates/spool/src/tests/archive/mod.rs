//! Checking, exporting and importing: nothing changes that should not, nothing is lost, nothing comes twice.

mod check;
mod export;
mod import;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::*;
use crate::archive::{
    ArchiveError, Checked, Exported, Imported, Source, Step, Target, Unowned, check, export, import,
};

/// A spool that no process has open, and a folder for exports.
struct Scene {
    place: Place,
    out: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { place: Place::Disk(tempfile::tempdir().unwrap()), out: tempfile::tempdir().unwrap() }
    }

    fn spool(&self) -> &Path {
        let Place::Disk(dir) = &self.place else { unreachable!() };
        dir.path()
    }

    /// Stops the spool, and waits until its lock is released.
    fn stop(&self, spool: (Spool, Heard)) {
        drop(spool);
        drop(self.place.store());
    }

    fn check(&self) -> Checked {
        check(self.spool(), &mut |_| {}).unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.out.path().join("out")
    }

    fn export(&self) -> Exported {
        let source = Source { spool: self.spool().into(), settle_after: SETTLE_AFTER };
        export(&source, &self.folder(), &mut |_| {}).unwrap()
    }

    fn import(&self, from: &Path) -> Imported {
        import_blocking(&self.target(), from).unwrap()
    }

    fn target(&self) -> Target {
        Target { spool: self.spool().into(), floor: Floor { octets: 0, inodes: 0 } }
    }

    fn entry(&self, id: MessageId) -> Value {
        serde_json::from_slice(&fs::read(self.folder().join(format!("{id}.json"))).unwrap()).unwrap()
    }
}

/// Imports on a thread of its own, since an import has a runtime of its own.
fn import_blocking(target: &Target, from: &Path) -> Result<Imported, ArchiveError> {
    std::thread::scope(|scope| scope.spawn(|| import(target, from, &mut |_| {})).join().unwrap())
}

/// Every file below `dir`, with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (path, content) in files(from) {
        fs::write(to.join(path.file_name().unwrap()), content).unwrap();
    }
}

/// Flips a bit in the index's record of each message's state.
fn damage_state(scene: &Scene, ids: &[MessageId]) {
    let db = sled::Config::new().path(scene.spool().join("index")).open().unwrap();
    let tree = db.open_tree("spool").unwrap();
    for id in ids {
        let key = [&b"s"[..], &id.to_bytes()].concat();
        let mut value = tree.get(&key).unwrap().unwrap().to_vec();
        value[20] ^= 1;
        tree.insert(key, value).unwrap();
    }
    db.flush().unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}
