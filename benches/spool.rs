//! How fast the spool is, beside what the disk can do at best: the same octets appended to one file, synced once a group.
//!
//! `cargo bench --bench spool` prints a table. Every row measures its limit in the same run, on the same disk,
//! just before it: ratios are worth more than figures on a shared machine.
//!
//! `SPOOL_BENCH_DIR` chooses the disk; the default is the target folder.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::{fs::File, io::Write, path::Path, sync::Arc, time::Duration};

use m365_relay::{
    message::{BodyKind, Envelope, MessageId},
    spool::{DiskStore, Event, Message, NewMessage, Settlement, Spool},
    telemetry::{Ingress, Metrics},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (size, count, name) in [
        (1_000, 60_000, "1 KB"),
        (10_000, 40_000, "10 KB"),
        (100_000, 6_000, "100 KB"),
        (1_000_000, 600, "1 MB"),
    ] {
        let raw = raw_limit(size, count.min(20_000), 64);
        let rate = runtime.block_on(rate(Work::Accept, size, count, 64));
        println!("accept {name:>7}, 64 writers   {rate:>9.0}/s   raw {raw:>9.0}/s   {:>5.2}", rate / raw);
    }
    let raw = raw_limit(10_000, 20_000, 64);
    let rate = runtime.block_on(rate(Work::AcceptClaimSettle, 10_000, 30_000, 64));
    println!("accept+claim+settle 10 KB    {rate:>9.0}/s   raw {raw:>9.0}/s");
}

/// Messages a second if all that had to be done were appending them to one file, with one sync a group.
fn raw_limit(size: usize, count: usize, group: usize) -> f64 {
    let dir = tempdir();
    let mut file = File::create(dir.path().join("raw")).unwrap();
    let bytes = vec![7u8; size * group];
    let started = Instant::now();
    for _ in 0..count / group {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    (count / group * group) as f64 / started.elapsed().as_secs_f64()
}

fn tempdir() -> tempfile::TempDir {
    let base = std::env::var_os("SPOOL_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    tempfile::tempdir_in(base).unwrap()
}

fn open(dir: &Path) -> (Spool, mpsc::UnboundedReceiver<Event>) {
    Spool::start(DiskStore::open(dir).unwrap(), Duration::from_secs(300), Metrics::new()).unwrap()
}

fn message() -> Message {
    let sender: m365_relay::message::MailboxAddress = "scanner@contoso.example".parse().unwrap();
    let recipient = "somebody@example.net".parse().unwrap();
    Message {
        tenant: "contoso".parse().unwrap(),
        ingress: Ingress::Smtp,
        envelope: Envelope::new(Some(sender.clone()), [recipient], BodyKind::SevenBit).unwrap(),
        author: sender,
        bounce_of: None,
    }
}

async fn accept(spool: &Spool, content: &[u8]) -> MessageId {
    let (id, mut body) = spool.begin();
    for part in content.chunks(16 * 1024) {
        body.write(part).await.unwrap();
    }
    let body = body.finish().await.unwrap();
    spool.accept(NewMessage { id, message: message(), body }).await.unwrap();
    id
}

/// What one writer does with one message.
#[derive(Clone, Copy)]
enum Work {
    Accept,
    AcceptClaimSettle,
}

/// Messages a second.
async fn rate(work: Work, size: usize, count: usize, writers: usize) -> f64 {
    let dir = tempdir();
    let (spool, _waiting) = open(dir.path());
    let content: Arc<[u8]> = vec![7; size].into();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (spool, content) = (spool.clone(), content.clone());
        tasks.spawn(async move {
            for _ in 0..count / writers {
                let id = accept(&spool, &content).await;
                if let Work::AcceptClaimSettle = work {
                    let lease = spool.claim(id).await.unwrap().lease;
                    spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
    (count / writers * writers) as f64 / started.elapsed().as_secs_f64()
}
