//! One spool with a million messages, for all rows that need one.

use std::{
    cell::{Cell, OnceCell},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    arguments::FILL,
    mail::{accept_from, open_only},
    process::Relay,
    setting::Setting,
};

pub(crate) const SIZE: usize = 1_000;
const AUTHORS: usize = 100;
const WRITERS: usize = 256;
/// Messages that are with a worker when the process dies.
const LEASED: usize = 64;
const FILLED: &str = "filled";

/// Filled when it is first needed.
pub(crate) struct Million {
    pub(crate) count: usize,
    dir: OnceCell<TempDir>,
    /// The last process that had it open was killed.
    is_crashed: Cell<bool>,
}

impl Million {
    pub(crate) fn new(setting: &Setting) -> Self {
        Self { count: setting.count(1_000_000), dir: OnceCell::new(), is_crashed: Cell::new(false) }
    }

    /// The folder of the spool, as the last process left it.
    pub(crate) fn dir(&self, setting: &Setting) -> PathBuf {
        let dir = self.dir.get_or_init(|| {
            let dir = setting.tempdir();
            fill_and_crash(dir.path(), self.count);
            self.is_crashed.set(true);
            setting.settle();
            dir
        });
        dir.path().to_path_buf()
    }

    /// Left by a process that was killed.
    pub(crate) fn crashed(&self, setting: &Setting) -> PathBuf {
        let dir = self.dir(setting);
        assert!(self.is_crashed.get(), "the row after a crash comes first");
        dir
    }

    /// Left by a relay that was told to stop, and did.
    pub(crate) fn stopped(&self, setting: &Setting) -> PathBuf {
        let dir = self.dir(setting);
        if self.is_crashed.get() {
            self.stop(setting.runtime.block_on(Relay::start(&dir)).0);
        }
        dir
    }

    pub(crate) fn stop(&self, relay: Relay) {
        relay.stop();
        self.is_crashed.set(false);
    }
}

/// Fills the spool from a process of its own, which is killed.
fn fill_and_crash(dir: &Path, count: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg(FILL)
        .arg(dir)
        .arg(count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), FILLED, "the child that fills the spool has failed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// In the child: fills the spool, leases some messages, reports that, and waits to be killed.
pub(crate) fn fill_and_wait(setting: &Setting, dir: &Path, count: usize) {
    let spool = open_only(dir);
    let done = Arc::new(AtomicUsize::new(0));
    setting.runtime.block_on(async {
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (spool, done) = (spool.clone(), done.clone());
            writers.spawn(async move {
                let mut last = None;
                loop {
                    let n = done.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return last;
                    }
                    last = Some(accept_from(&spool, n % AUTHORS, &[7; SIZE]).await);
                    if n > 0 && n.is_multiple_of(100_000) {
                        eprintln!("  {n} of {count} messages are in the spool");
                    }
                }
            });
        }
        for id in writers.join_all().await.into_iter().flatten().take(LEASED) {
            spool.claim(id).await.unwrap();
        }
    });
    println!("{FILLED}");
    std::io::stdout().flush().unwrap();
    // Ends when its parent does, should that end first.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
