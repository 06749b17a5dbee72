//! How long a relay takes until it is ready, and how much memory, with a million messages in the spool.

use std::{path::Path, rc::Rc, time::Duration};

use tokio::time::sleep;

use crate::{
    million::Million,
    process::Relay,
    setting::Setting,
    table::{Figure, Planned},
    units::{Grouped, Megabytes},
};

const GOAL: Duration = Duration::from_secs(2);
const MEMORY_GOAL: u64 = 300_000_000;
/// What a relay does after it is ready counts, too: the scheduler takes over all messages.
const AFTER: Duration = Duration::from_secs(3);

pub(crate) fn rows(million: &Rc<Million>) -> Vec<Planned> {
    let queued = Grouped(million.count as f64);
    let (crashed, stopped) = (million.clone(), million.clone());
    vec![
        Planned::figure(format!("start after a crash, {queued} queued"), move |setting| {
            let dir = crashed.crashed(setting);
            measure(setting, &crashed, &dir)
        }),
        Planned::figure(format!("start after a stop, {queued} queued"), move |setting| {
            let dir = stopped.stopped(setting);
            measure(setting, &stopped, &dir)
        }),
    ]
}

fn measure(setting: &Setting, million: &Million, dir: &Path) -> Figure {
    let (relay, took) = setting.runtime.block_on(async {
        let started = Relay::start(dir).await;
        sleep(AFTER).await;
        started
    });
    let (resident, peak) = (relay.memory("VmRSS"), relay.memory("VmHWM"));
    million.stop(relay);
    Figure {
        measured: format!("{:.2} s, {} (peak {})", took.as_secs_f64(), Megabytes(resident), Megabytes(peak)),
        goal: format!("{} s, {}", GOAL.as_secs(), Megabytes(MEMORY_GOAL)),
        raw: "-".into(),
        ratio: None,
        is_met: took <= GOAL && resident.max(peak) < MEMORY_GOAL,
    }
}
