//! The limit: octets appended to one file and synced.

use std::{fs::File, io::Write, path::Path, time::Duration};

use tokio::time::Instant;

use crate::{setting::Setting, units::Grouped};

/// Messages that are synced together: as many as there are writers.
pub(crate) const GROUP: usize = 64;

/// What raw did before and after a row, in messages a second.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    before: f64,
    after: f64,
}

impl Around {
    /// Measures raw, then `work`, then raw again, with bodies of `size` octets.
    pub(crate) fn measure<T>(
        setting: &Setting,
        size: usize,
        count: usize,
        work: impl FnOnce() -> T,
    ) -> (T, Self) {
        let before = rate(setting, size, count);
        setting.settle();
        let done = work();
        setting.settle();
        (done, Self { before, after: rate(setting, size, count) })
    }

    pub(crate) fn mean(&self) -> f64 {
        f64::midpoint(self.before, self.after)
    }
}

impl std::fmt::Display for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { before, after } = *self;
        if before.max(after) / before.min(after) > 1.5 {
            write!(f, "{}/s, then {}/s", Grouped(before), Grouped(after))
        } else {
            write!(f, "{}/s", Grouped(self.mean()))
        }
    }
}

/// Messages a second if the only work were appending their bodies to one file, with one sync per group. At
/// least as many messages as the row has, and for a minimum time: a fast disk finishes some rows in an
/// instant.
fn rate(setting: &Setting, size: usize, count: usize) -> f64 {
    let dir = setting.tempdir();
    let mut raw = Raw::create(dir.path(), size * GROUP);
    let (mut messages, mut took) = (0, Duration::ZERO);
    while messages < count || took < setting.at_least() {
        took += raw.append();
        messages += GROUP;
    }
    messages as f64 / took.as_secs_f64()
}

/// One file that grows.
pub(crate) struct Raw {
    file: File,
    octets: Vec<u8>,
}

impl Raw {
    /// Creates a file to which each [`append`](Self::append) adds this many octets.
    pub(crate) fn create(folder: &Path, octets: usize) -> Self {
        Self { file: File::create(folder.join("raw")).unwrap(), octets: vec![7; octets] }
    }

    /// Appends and syncs; returns how long that took.
    pub(crate) fn append(&mut self) -> Duration {
        let started = Instant::now();
        self.file.write_all(&self.octets).unwrap();
        self.file.sync_data().unwrap();
        started.elapsed()
    }
}
