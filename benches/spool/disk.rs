//! How much disk the spool takes while mail passes through, and whether it gives it back.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use relay_mail::MessageId;
use relay_spool::Spool;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use crate::{
    mail::{accept, claim_and_end, close, open_only},
    raw::GROUP,
    setting::Setting,
    table::{Figure, Planned, size_name},
    units::{Grouped, Megabytes},
};

/// Messages that are queued all the time.
const DEPTH: usize = 1_000;
/// Messages between looks at the disk.
const EVERY: usize = 2_000;
/// What the spool may take in addition to twice the queued octets.
const ALLOWANCE: u64 = 128_000_000;

pub(crate) fn rows(setting: &Setting) -> Vec<Planned> {
    let total = setting.count(100_000);
    let row = |size| {
        let name = format!("disk, {} of {} passed, depth 1,000", Grouped(total as f64), size_name(size));
        Planned::figure(name, move |setting| measure(setting, size, total))
    };
    [1_000, 10_000, 100_000, 1_000_000].map(row).into()
}

fn measure(setting: &Setting, size: usize, total: usize) -> Figure {
    let dir = setting.tempdir();
    let flow = Arc::new(Flow {
        spool: open_only(dir.path()),
        dir: dir.path().to_path_buf(),
        content: vec![7; size],
        queue: Mutex::default(),
        begun: AtomicUsize::new(0),
        passed: AtomicUsize::new(0),
        peak: AtomicU64::new(0),
        total,
    });
    let (end, drained) = setting.runtime.block_on(async {
        flow.at_once(Flow::fill).await;
        flow.look().await;
        flow.at_once(Flow::pass).await;
        let end = flow.look().await;
        flow.at_once(Flow::drain).await;
        (end, flow.rest().await)
    });
    let Flow { spool, peak, .. } = Arc::into_inner(flow).expect("its workers have ended");
    close(spool, dir.path());
    let peak = peak.into_inner();
    let live = (DEPTH * size) as u64;
    let goal = 2 * live + ALLOWANCE;
    Figure {
        measured: format!("max {}, end {}, empty {}", Megabytes(peak), Megabytes(end), Megabytes(drained)),
        goal: format!("max and end {}", Megabytes(goal)),
        raw: Megabytes(live).to_string(),
        ratio: Some(end as f64 / live as f64),
        is_met: peak <= goal && end <= goal,
    }
}

struct Flow {
    spool: Spool,
    dir: PathBuf,
    content: Vec<u8>,
    /// Oldest first.
    queue: Mutex<VecDeque<MessageId>>,
    begun: AtomicUsize,
    passed: AtomicUsize,
    /// The most seen on the disk since the queue was full.
    peak: AtomicU64,
    total: usize,
}

impl Flow {
    /// Runs 64 workers that do the same.
    async fn at_once<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        work: impl Fn(Arc<Self>) -> F,
    ) {
        let mut workers = JoinSet::new();
        for _ in 0..GROUP {
            drop(workers.spawn(work(self.clone())));
        }
        workers.join_all().await;
    }

    async fn fill(self: Arc<Self>) {
        while self.begun.fetch_add(1, Ordering::Relaxed) < DEPTH {
            self.accept().await;
        }
        self.begun.store(DEPTH, Ordering::Relaxed);
    }

    /// One message arrives and the oldest leaves, until `total` have arrived.
    async fn pass(self: Arc<Self>) {
        while self.begun.fetch_add(1, Ordering::Relaxed) < self.total {
            self.accept().await;
            self.end_oldest().await;
            let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
            if passed.is_multiple_of(EVERY) {
                self.look().await;
            }
            if passed.is_multiple_of(self.total / 5) {
                eprintln!("  {passed} of {} messages have passed", self.total);
            }
        }
    }

    async fn drain(self: Arc<Self>) {
        while self.end_oldest().await {}
    }

    async fn accept(&self) {
        let id = accept(&self.spool, &self.content).await;
        self.queue.lock().unwrap().push_back(id);
    }

    /// Whether there was a message to end.
    async fn end_oldest(&self) -> bool {
        let oldest = self.queue.lock().unwrap().pop_front();
        if let Some(id) = oldest {
            claim_and_end(&self.spool, id).await;
        }
        oldest.is_some()
    }

    /// Octets on the disk now.
    async fn look(&self) -> u64 {
        let dir = self.dir.clone();
        let octets = spawn_blocking(move || occupied(&dir).unwrap()).await.unwrap();
        self.peak.fetch_max(octets, Ordering::Relaxed);
        octets
    }

    /// Octets on the disk once the spool, which is idle, gives nothing more back.
    async fn rest(&self) -> u64 {
        let mut last = self.look().await;
        loop {
            sleep(Duration::from_secs(2)).await;
            let now = self.look().await;
            if now >= last {
                return now;
            }
            last = now;
        }
    }
}

/// Counted as `du` counts.
fn occupied(path: &Path) -> io::Result<u64> {
    // Files appear and disappear while we look.
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(error) };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return gone(error),
    };
    let mut octets = metadata.blocks() * 512;
    if metadata.is_dir() {
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    octets += occupied(&entry?.path())?;
                }
            }
            Err(error) => return gone(error),
        }
    }
    Ok(octets)
}
