//! Where and how much is measured.

use std::{cell::RefCell, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) struct Setting {
    pub(crate) quick: bool,
    pub(crate) runtime: Runtime,
    kept: RefCell<Vec<TempDir>>,
}

impl Setting {
    pub(crate) fn new(quick: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        Self { quick, runtime, kept: RefCell::default() }
    }

    /// The folder on the measured disk.
    pub(crate) fn base(&self) -> PathBuf {
        std::env::var_os("SPOOL_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()).into()
    }

    /// A folder of its own for a row.
    pub(crate) fn tempdir(&self) -> TempDir {
        tempfile::tempdir_in(self.base()).unwrap()
    }

    /// Like [`tempdir`](Self::tempdir), but stays until the end of the run. For rows that make many files:
    /// once those are removed, ext4 makes new ones much slower for some minutes, since it avoids inodes that
    /// were just freed.
    pub(crate) fn kept_tempdir(&self) -> PathBuf {
        let dir = self.tempdir();
        let path = dir.path().to_path_buf();
        self.kept.borrow_mut().push(dir);
        path
    }

    pub(crate) fn count(&self, count: usize) -> usize {
        if self.quick { count / 10 } else { count }
    }

    /// The minimum time to measure raw, if it is not slow anyway.
    pub(crate) fn at_least(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { 2_000 })
    }

    /// Waits until the disk has finished all earlier work, so that no row pays for another.
    pub(crate) fn settle(&self) {
        rustix::fs::syncfs(std::fs::File::open(self.base()).unwrap()).unwrap();
    }
}
