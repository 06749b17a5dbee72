//! Messages a second, with 64 writers.

use std::sync::Arc;

use tokio::{task::JoinSet, time::Instant};

use crate::{
    mail::{accept, claim_and_end, close, open_only},
    raw::{Around, GROUP},
    setting::Setting,
    table::{Figure, Planned, size_name},
    units::Grouped,
};

/// What one writer does with one message.
#[derive(Clone, Copy)]
enum Work {
    Accept,
    AcceptClaimSettle,
}

/// The goal, in messages a second.
#[derive(Clone, Copy)]
struct Goal {
    rate: f64,
    /// Fraction of raw that must be reached as well.
    of_raw: Option<f64>,
}

pub(crate) fn rows(setting: &Setting) -> Vec<Planned> {
    let goal = |rate| Goal { rate, of_raw: None };
    let accept = [
        (10_000, 60_000, Goal { rate: 12_000.0, of_raw: Some(0.5) }),
        (1_000, 100_000, goal(20_000.0)),
        (100_000, 10_000, goal(2_500.0)),
        (1_000_000, 1_000, goal(250.0)),
    ];
    let mut rows: Vec<_> = accept
        .into_iter()
        .map(|(size, count, goal)| {
            let name = format!("accept, {}, {GROUP} writers", size_name(size));
            row(name, Work::Accept, size, setting.count(count), goal)
        })
        .collect();
    let name = format!("accept + claim + settle, 10 KB, {GROUP} writers");
    rows.push(row(name, Work::AcceptClaimSettle, 10_000, setting.count(40_000), goal(7_000.0)));
    rows
}

fn row(name: String, work: Work, size: usize, count: usize, goal: Goal) -> Planned {
    Planned::figure(name, move |setting| {
        let measure = || setting.runtime.block_on(rate(setting, work, size, count));
        let (rate, raw) = Around::measure(setting, size, count, measure);
        let ratio = rate / raw.mean();
        Figure {
            measured: format!("{}/s", Grouped(rate)),
            goal: match goal.of_raw {
                Some(part) => format!("{}/s, {part} of raw", Grouped(goal.rate)),
                None => format!("{}/s", Grouped(goal.rate)),
            },
            raw: raw.to_string(),
            ratio: Some(ratio),
            is_met: rate >= goal.rate && goal.of_raw.is_none_or(|part| ratio >= part),
        }
    })
}

async fn rate(setting: &Setting, work: Work, size: usize, count: usize) -> f64 {
    let dir = setting.kept_tempdir();
    let spool = open_only(&dir);
    let content: Arc<[u8]> = vec![7; size].into();
    let each = count.div_ceil(GROUP);
    let started = Instant::now();
    let mut writers = JoinSet::new();
    for _ in 0..GROUP {
        let (spool, content) = (spool.clone(), content.clone());
        writers.spawn(async move {
            for _ in 0..each {
                let id = accept(&spool, &content).await;
                if let Work::AcceptClaimSettle = work {
                    claim_and_end(&spool, id).await;
                }
            }
        });
    }
    writers.join_all().await;
    let rate = (each * GROUP) as f64 / started.elapsed().as_secs_f64();
    close(spool, &dir);
    rate
}
