//! Why small bodies share segments: 64 writers with one file per message, beside the same octets appended to
//! a segment.
//!
//! Each writer creates a file, writes the body and syncs it. The folder is synced once for all writers that
//! wait for it at the time. That is the least that makes the names durable, and the fairest to the files: the
//! spool itself does it that way for bodies that have a file of their own. The segment is synced once for
//! each 64 messages.
//!
//! Much mail passes through a mail queue, so a fresh folder says little. The other folder had many files of
//! one block, which were on the disk before they were removed. Their removal is on the disk as well before
//! anything is measured. The folder stays as large as it was, and on ext4 each new file must find an inode
//! among those that were just freed, which ext4 avoids for some minutes.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::time::Instant;

use crate::{
    raw::{Around, GROUP},
    setting::Setting,
    table::{Comparison, Planned, size_name},
    units::Grouped,
};

/// Octets of a message, and how many messages.
const SIZES: [(usize, usize); 5] =
    [(1_000, 20_000), (10_000, 20_000), (64_000, 10_000), (100_000, 8_000), (1_000_000, 1_000)];

/// In folders that stay until the end, so that no row suffers from the removal of another's files.
pub(crate) fn in_fresh_folders(setting: &Setting) -> Vec<Planned> {
    let row = |(size, count)| {
        let count = setting.count(count);
        Planned::comparison(format!("files, {}, fresh folder", size_name(size)), move |setting| {
            compare(setting, &setting.kept_tempdir(), size, count)
        })
    };
    SIZES.map(row).into()
}

/// In folders from which many files were just removed.
pub(crate) fn in_used_folders(setting: &Setting) -> Vec<Planned> {
    let removed = setting.count(100_000);
    let row = |(size, count)| {
        let count = setting.count(count);
        let name = format!("files, {}, after {} removed", size_name(size), Grouped(removed as f64));
        Planned::comparison(name, move |setting| {
            let dir = setting.tempdir();
            use_up(setting, dir.path(), removed);
            compare(setting, dir.path(), size, count)
        })
    };
    SIZES.map(row).into()
}

fn compare(setting: &Setting, folder: &Path, size: usize, count: usize) -> Comparison {
    let (files, segment) = Around::measure(setting, size, count, || rate(folder, size, count));
    Comparison { files, segment }
}

/// Makes that many files, and removes them.
fn use_up(setting: &Setting, folder: &Path, files: usize) {
    let path = |n| folder.join(format!("removed-{n}"));
    (0..files).for_each(|n| fs::write(path(n), [7; 1_000]).unwrap());
    setting.settle();
    (0..files).for_each(|n| fs::remove_file(path(n)).unwrap());
    setting.settle();
}

fn rate(folder: &Path, size: usize, count: usize) -> f64 {
    let content = vec![7; size];
    let directory = Directory::open(folder);
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|threads| {
        for _ in 0..GROUP {
            threads.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let mut file = File::create_new(directory.path.join(n.to_string())).unwrap();
                    file.write_all(&content).unwrap();
                    file.sync_data().unwrap();
                    directory.sync();
                }
            });
        }
    });
    count as f64 / started.elapsed().as_secs_f64()
}

/// A folder that is synced for all waiting writers at once.
struct Directory {
    path: PathBuf,
    handle: File,
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    begun: u64,
    ended: u64,
}

impl Directory {
    fn open(path: &Path) -> Self {
        let handle = File::open(path).unwrap();
        Self { path: path.to_path_buf(), handle, rounds: Mutex::default(), ended: Condvar::new() }
    }

    /// Returns after a sync that began after this call.
    fn sync(&self) {
        let mut rounds = self.rounds.lock().unwrap();
        let needed = rounds.begun + 1;
        while rounds.ended < needed {
            if rounds.begun > rounds.ended {
                rounds = self.ended.wait(rounds).unwrap();
                continue;
            }
            rounds.begun += 1;
            drop(rounds);
            self.handle.sync_all().unwrap();
            rounds = self.rounds.lock().unwrap();
            rounds.ended = rounds.begun;
            self.ended.notify_all();
        }
    }
}
