//! How long one client waits for its 250 when it is alone.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    mail::{accept, close, open_only},
    raw::Raw,
    setting::Setting,
    table::{Figure, Planned},
};

const SIZE: usize = 10_000;
/// Accepts and appends alternate in blocks of this many, so that both see the same moods of the machine.
const BLOCK: usize = 50;
const GOAL: f64 = 2.0;

pub(crate) fn rows(setting: &Setting) -> Vec<Planned> {
    let blocks = setting.count(20);
    vec![Planned::figure("accept, 10 KB, 1 writer, p50", move |setting| measure(setting, blocks))]
}

fn measure(setting: &Setting, blocks: usize) -> Figure {
    let dir = setting.tempdir();
    let spool_dir = dir.path().join("spool");
    let spool = open_only(&spool_dir);
    let content = vec![7; SIZE];
    let mut raw = Raw::create(dir.path(), SIZE);
    let (mut accepts, mut appends) = (Vec::new(), Vec::new());
    for block in 0..=blocks {
        let appended: Vec<_> = (0..BLOCK).map(|_| raw.append()).collect();
        let accepted = setting.runtime.block_on(async {
            let mut took = Vec::new();
            for _ in 0..BLOCK {
                let started = Instant::now();
                accept(&spool, &content).await;
                took.push(started.elapsed());
            }
            took
        });
        // The first of each warms up.
        if block > 0 {
            appends.extend(appended);
            accepts.extend(accepted);
        }
    }
    close(spool, &spool_dir);
    let p99 = percentile(&mut accepts, 99);
    let (accept, append) = (percentile(&mut accepts, 50), percentile(&mut appends, 50));
    let ratio = accept.as_secs_f64() / append.as_secs_f64();
    Figure {
        measured: format!("{} µs (p99 {} µs)", accept.as_micros(), p99.as_micros()),
        goal: format!("{GOAL} x raw"),
        raw: format!("{} µs", append.as_micros()),
        ratio: Some(ratio),
        is_met: ratio <= GOAL,
    }
}

fn percentile(took: &mut [Duration], percent: usize) -> Duration {
    took.sort_unstable();
    took[took.len() * percent / 100]
}
