//! Whether a claim takes longer when much is queued.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use relay_mail::MessageId;
use relay_spool::{Event, Lease, Spool};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet, time::Instant};

use crate::{
    mail::{accept, close, open, wait_again},
    million::{Million, SIZE},
    raw::GROUP,
    setting::Setting,
    table::{Figure, Planned},
    units::Grouped,
};

const FEW: usize = 1_000;
/// Claims before the other spool has its turn.
const BLOCK: usize = 1_000;
const BLOCKS: usize = 21;
const GOAL: f64 = 1.3;

pub(crate) fn rows(million: &Rc<Million>) -> Vec<Planned> {
    let name = format!("claim, {} queued against {}", Grouped(million.count as f64), Grouped(FEW as f64));
    let million = million.clone();
    vec![Planned::figure(name, move |setting| measure(setting, &million))]
}

fn measure(setting: &Setting, million: &Million) -> Figure {
    let many_dir = million.dir(setting);
    let few_dir = setting.tempdir();
    setting.runtime.block_on(async {
        let (few, waiting) = open(few_dir.path());
        for _ in 0..FEW {
            accept(&few, &[7; SIZE]).await;
        }
        let mut few = Queue::of(few, waiting, FEW).await;
        let (many, waiting) = open(&many_dir);
        let mut many = Queue::of(many, waiting, million.count).await;
        let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
        for block in 0..=BLOCKS {
            let (one, other) = (few.block().await, many.block().await);
            // The first of each warms up.
            if block > 0 {
                of_few.push(one);
                of_many.push(other);
            }
        }
        close(few.spool, few_dir.path());
        close(many.spool, &many_dir);
        let (few, many) = (a_claim(of_few), a_claim(of_many));
        let ratio = many / few;
        Figure {
            measured: format!("{many:.1} µs a claim"),
            goal: format!("{GOAL} x raw"),
            raw: format!("{few:.1} µs a claim"),
            ratio: Some(ratio),
            is_met: ratio <= GOAL,
        }
    })
}

/// In microseconds, from the median of the blocks.
fn a_claim(mut blocks: Vec<Duration>) -> f64 {
    blocks.sort_unstable();
    blocks[blocks.len() / 2].as_secs_f64() * 1e6 / BLOCK as f64
}

/// A spool and what is in it, oldest first.
struct Queue {
    spool: Spool,
    ids: Arc<[MessageId]>,
    at: usize,
}

impl Queue {
    async fn of(spool: Spool, mut waiting: UnboundedReceiver<Event>, count: usize) -> Self {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            ids.push(waiting.recv().await.unwrap().waiting().unwrap().id);
        }
        ids.sort_unstable();
        Self { spool, ids: ids.into(), at: 0 }
    }

    /// How long the next claims take, in the order of acceptance. Afterwards the messages wait again.
    async fn block(&mut self) -> Duration {
        if self.at + BLOCK > self.ids.len() {
            self.at = 0;
        }
        let next = Arc::new(AtomicUsize::new(self.at));
        self.at += BLOCK;
        let end = self.at;
        let mut claimers = JoinSet::new();
        let started = Instant::now();
        for _ in 0..GROUP {
            let (spool, ids, next) = (self.spool.clone(), self.ids.clone(), next.clone());
            claimers.spawn(async move {
                let mut leases = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= end {
                        return leases;
                    }
                    leases.push(spool.claim(ids[at]).await.unwrap().lease);
                }
            });
        }
        let leases = claimers.join_all().await;
        let took = started.elapsed();
        self.give_back(leases).await;
        took
    }

    async fn give_back(&self, leases: Vec<Vec<Lease>>) {
        let mut settlers = JoinSet::new();
        for leases in leases {
            let spool = self.spool.clone();
            settlers.spawn(async move {
                for lease in leases {
                    wait_again(&spool, lease).await;
                }
            });
        }
        settlers.join_all().await;
    }
}
