//! The contract, on both stores: each test runs on the in-memory store and on sled.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::message::{BodyKind, Envelope, MailboxAddress};
use crate::telemetry::Ingress;

const SETTLE_AFTER: Duration = Duration::from_secs(300);

/// A place that a spool can be started in again and again: a start is what follows a crash.
enum Place {
    Memory(MemoryStore),
    Disk(TempDir),
}

impl Place {
    fn both() -> [Self; 2] {
        [Self::Memory(MemoryStore::default()), Self::Disk(tempfile::tempdir().unwrap())]
    }

    fn start(&self) -> (Spool, mpsc::UnboundedReceiver<Waiting>) {
        match self {
            Self::Memory(store) => Spool::start(store.clone(), SETTLE_AFTER, Metrics::new()).unwrap(),
            Self::Disk(dir) => {
                // The committer of the last spool gives the lock back when it has seen that nobody is left.
                let store = loop {
                    match DiskStore::open(dir.path()) {
                        Err(OpenError::Locked { .. }) => std::thread::yield_now(),
                        other => break other.unwrap(),
                    }
                };
                Spool::start(store, SETTLE_AFTER, Metrics::new()).unwrap()
            }
        }
    }
}

fn address(text: &str) -> MailboxAddress {
    text.parse().unwrap()
}

fn message(recipients: usize) -> Message {
    let recipients = (0..recipients).map(|n| address(&format!("r{n}@example.net")));
    Message {
        tenant: "contoso".parse().unwrap(),
        ingress: Ingress::Smtp,
        envelope: Envelope::new(Some(address("a@contoso.example")), recipients, BodyKind::SevenBit).unwrap(),
        author: address("a@contoso.example"),
        bounce_of: None,
    }
}

async fn new_message(spool: &Spool, content: &[u8]) -> NewMessage {
    let (id, mut body) = spool.begin();
    for chunk in content.chunks(10_000) {
        body.write(chunk).await.unwrap();
    }
    NewMessage { id, message: message(2), body: body.finish().await.unwrap() }
}

async fn accept(spool: &Spool, content: &[u8]) -> MessageId {
    let new = new_message(spool, content).await;
    let id = new.id;
    spool.accept(new).await.unwrap();
    id
}

async fn read(claim: &Claim) -> Vec<u8> {
    let mut open = claim.body.open().await.unwrap();
    let mut out = Vec::new();
    while let Some(part) = open.next().await.unwrap() {
        out.extend_from_slice(&part);
    }
    out
}

#[tokio::test]
async fn what_went_in_comes_out() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        for content in [&b""[..], b"x", &[7; SMALL_BODY], &[8; SMALL_BODY + 1], &[9; 1_000_000]] {
            let id = accept(&spool, content).await;
            assert_eq!(waiting.recv().await.unwrap().id, id);
            let claim = spool.claim(id).await.unwrap();
            assert_eq!((&*claim.message, claim.attempts, claim.in_doubt), (&message(2), 0, false));
            assert_eq!(claim.body.len(), content.len() as u64);
            assert!(read(&claim).await == content);
            spool.settle(claim.lease, Settlement::End { bounce: None }).await.unwrap();
            assert!(matches!(spool.claim(id).await, Err(SpoolError::NoSuchMessage(_))));
        }
        assert_eq!(spool.tally().tenant(&"contoso".parse().unwrap()).messages(), 0);
        assert_eq!(spool.tally().tenant(&"contoso".parse().unwrap()).bytes(), 0);
    }
}

#[tokio::test]
async fn an_old_lease_is_refused() {
    for place in Place::both() {
        let (spool, _waiting) = place.start();
        let id = accept(&spool, b"x").await;
        let first = spool.claim(id).await.unwrap().lease;
        assert!(matches!(spool.claim(id).await, Err(SpoolError::StaleLease(_))));
        let wait = || Settlement::Wait { due: clock::now(), counted: true, in_doubt: false };
        spool.settle(first, wait()).await.unwrap();
        let second = spool.claim(id).await.unwrap();
        assert_eq!(second.attempts, 1);
        assert!(matches!(spool.settle(first, wait()).await, Err(SpoolError::StaleLease(_))));
        spool.settle(second.lease, wait()).await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_that_does_not_count_costs_no_attempt() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        let id = accept(&spool, b"x").await;
        waiting.recv().await.unwrap();
        let due = clock::now() + Duration::from_secs(7);
        let lease = spool.claim(id).await.unwrap().lease;
        spool.settle(lease, Settlement::Wait { due, counted: false, in_doubt: false }).await.unwrap();
        assert_eq!(waiting.recv().await.unwrap().due, due);
        assert_eq!(spool.claim(id).await.unwrap().attempts, 0);
    }
}

#[tokio::test]
async fn a_bounce_enters_as_its_cause_leaves() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        let id = accept(&spool, b"x").await;
        waiting.recv().await.unwrap();
        let lease = spool.claim(id).await.unwrap().lease;
        let bounce = new_message(&spool, b"sorry").await;
        let bounce_id = bounce.id;
        spool.settle(lease, Settlement::End { bounce: Some(Box::new(bounce)) }).await.unwrap();
        assert_eq!(waiting.recv().await.unwrap().id, bounce_id);
        drop((spool, waiting));
        let (spool, mut waiting) = place.start();
        assert_eq!(waiting.recv().await.unwrap().id, bounce_id);
        assert!(waiting.try_recv().is_err());
        assert_eq!(read(&spool.claim(bounce_id).await.unwrap()).await, b"sorry");
    }
}

#[tokio::test]
async fn a_lease_of_a_dead_process_is_in_doubt() {
    for place in Place::both() {
        let (spool, waiting) = place.start();
        let leased = accept(&spool, b"leased").await;
        let untouched = accept(&spool, b"untouched").await;
        spool.claim(leased).await.unwrap();
        drop((spool, waiting));
        let before = clock::now();
        let (spool, mut waiting) = place.start();
        let (first, second) = (waiting.recv().await.unwrap(), waiting.recv().await.unwrap());
        assert_eq!((first.id, second.id), (leased, untouched));
        assert!(first.due >= before + SETTLE_AFTER);
        assert!(second.due <= before);
        let claim = spool.claim(leased).await.unwrap();
        assert_eq!((claim.in_doubt, claim.attempts, claim.lease.epoch), (true, 1, 2));
        assert!(!spool.claim(untouched).await.unwrap().in_doubt);
    }
}

#[tokio::test]
async fn a_broken_store_latches() {
    let store = MemoryStore::default();
    let (spool, _waiting) = Spool::start(store.clone(), SETTLE_AFTER, Metrics::new()).unwrap();
    let id = accept(&spool, b"x").await;
    let lease = spool.claim(id).await.unwrap().lease;
    store.break_down();
    let settled = spool.settle(lease, Settlement::End { bounce: None }).await;
    assert!(matches!(settled, Err(SpoolError::Unhealthy(_))));
    assert!(spool.unhealthy().is_some());
    let new = new_message(&spool, b"y").await;
    assert!(matches!(spool.accept(new).await, Err(SpoolError::Unhealthy(_))));
}

#[tokio::test]
async fn quarantine_puts_aside() {
    for place in Place::both() {
        let (spool, _waiting) = place.start();
        let id = accept(&spool, b"strange").await;
        let lease = spool.claim(id).await.unwrap().lease;
        spool.settle(lease, Settlement::Quarantine { reason: "looks odd".into() }).await.unwrap();
        assert!(matches!(spool.claim(id).await, Err(SpoolError::NoSuchMessage(_))));
        match &place {
            Place::Memory(store) => assert_eq!(store.quarantined(), [(id, "looks odd".into())]),
            Place::Disk(dir) => {
                let quarantine = dir.path().join("quarantine");
                let about = std::fs::read_to_string(quarantine.join(format!("{id}.json"))).unwrap();
                assert!(about.contains("looks odd") && about.contains("a@contoso.example"), "{about}");
                assert_eq!(std::fs::read(quarantine.join(format!("{id}.raw"))).unwrap(), b"strange");
            }
        }
    }
}

/// What damage on the disk does: one message is put aside, the others live.
#[tokio::test]
async fn damage_is_seen_and_stays_alone() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Disk(dir);
    let Place::Disk(dir) = &place else { unreachable!() };
    let (spool, waiting) = place.start();
    let large = accept(&spool, &[1; 100_000]).await;
    let missing = accept(&spool, &[2; 100_000]).await;
    let small = accept(&spool, &[3; 1000]).await;
    drop((spool, waiting));
    let body = dir.path().join("body");
    let flip = |path: std::path::PathBuf, at: usize| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(body.join("large").join(large.to_string()), 5000);
    std::fs::remove_file(body.join("large").join(missing.to_string())).unwrap();
    std::fs::write(body.join("large/0000000000000"), "nobody's").unwrap();
    std::fs::write(dir.path().join("index/snap.0000000000000ABC.generating"), "").unwrap();

    let (spool, mut waiting) = place.start();
    let ids = [waiting.recv().await.unwrap().id, waiting.recv().await.unwrap().id];
    assert_eq!(ids, [large, small]);
    assert!(waiting.try_recv().is_err());
    assert!(!body.join("large/0000000000000").exists());
    assert!(dir.path().join(format!("quarantine/{missing}.json")).exists());
    let claim = spool.claim(large).await.unwrap();
    assert!(matches!(claim.body.open().await, Err(DamagedBody::Checksum(..))));
    assert_eq!(read(&spool.claim(small).await.unwrap()).await, [3; 1000]);
}

#[tokio::test]
async fn bodies_go_when_their_messages_do() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let Place::Disk(dir) = &place else { unreachable!() };
    let (spool, waiting) = place.start();
    for size in [10, 100_000] {
        let id = accept(&spool, &vec![1; size]).await;
        let lease = spool.claim(id).await.unwrap().lease;
        spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
    }
    // A body that nobody finished leaves with its writer.
    let (_, mut body) = spool.begin();
    body.write(&[1; 500_000]).await.unwrap();
    let count = |sub: &str| std::fs::read_dir(dir.path().join(sub)).unwrap().count();
    assert_eq!(count("body/large"), 1);
    drop(body);
    assert_eq!(count("body/large"), 0);
    drop((spool, waiting));
    let _running = place.start();
    // The segment of the last process is swept: only the folder for large bodies is left.
    assert_eq!(count("body"), 1);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _open = DiskStore::open(dir.path()).unwrap();
    assert!(matches!(DiskStore::open(dir.path()), Err(OpenError::Locked { .. })));
}

// === a model, driven at random ===

#[derive(Debug, Clone)]
enum Step {
    Accept(usize),
    Claim(usize),
    Wait { which: usize, counted: bool },
    End { which: usize, bounce: bool },
    StaleSettle(usize),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..3000usize, Just(SMALL_BODY + 77)].prop_map(Step::Accept),
        4 => any::<usize>().prop_map(Step::Claim),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, counted)| Step::Wait { which, counted }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, bounce)| Step::End { which, bounce }),
        1 => any::<usize>().prop_map(Step::StaleSettle),
        1 => Just(Step::Crash),
    ]
}

/// What the spool must know of each message.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    content: Vec<u8>,
    lease: Option<Lease>,
    attempts: u16,
    in_doubt: bool,
}

async fn run(place: Place, steps: Vec<Step>) {
    let (mut spool, mut waiting) = place.start();
    let mut model: BTreeMap<MessageId, Known> = BTreeMap::new();
    let pick = |model: &BTreeMap<MessageId, Known>, leased: bool, which: usize| {
        let ids: Vec<_> =
            model.iter().filter(|(_, k)| k.lease.is_some() == leased).map(|(id, _)| *id).collect();
        if ids.is_empty() { None } else { Some(ids[which % ids.len()]) }
    };
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Accept(size) => {
                let content: Vec<u8> = (0..size).map(|at| (at * 31 + n) as u8).collect();
                let id = accept(&spool, &content).await;
                model.insert(id, Known { content, lease: None, attempts: 0, in_doubt: false });
            }
            Step::Claim(which) => {
                let Some(id) = pick(&model, false, which) else { continue };
                let claim = spool.claim(id).await.unwrap();
                let known = model.get_mut(&id).unwrap();
                assert_eq!((claim.attempts, claim.in_doubt), (known.attempts, known.in_doubt));
                assert!(read(&claim).await == known.content);
                known.lease = Some(claim.lease);
            }
            Step::Wait { which, counted } => {
                let Some(id) = pick(&model, true, which) else { continue };
                let known = model.get_mut(&id).unwrap();
                let settlement = Settlement::Wait { due: clock::now(), counted, in_doubt: known.in_doubt };
                spool.settle(known.lease.take().unwrap(), settlement).await.unwrap();
                known.attempts += u16::from(counted);
            }
            Step::End { which, bounce } => {
                let Some(id) = pick(&model, true, which) else { continue };
                let lease = model.remove(&id).unwrap().lease.unwrap();
                let bounce = if bounce {
                    let new = new_message(&spool, b"bounce").await;
                    let known =
                        Known { content: b"bounce".into(), lease: None, attempts: 0, in_doubt: false };
                    model.insert(new.id, known);
                    Some(Box::new(new))
                } else {
                    None
                };
                spool.settle(lease, Settlement::End { bounce }).await.unwrap();
            }
            Step::StaleSettle(which) => {
                let Some(id) = pick(&model, true, which) else { continue };
                let lease = model[&id].lease.unwrap();
                let stale = Lease { epoch: lease.epoch - 1, ..lease };
                let settled = spool.settle(stale, Settlement::End { bounce: None }).await;
                assert!(matches!(settled, Err(SpoolError::StaleLease(_))));
            }
            Step::Crash => {
                drop((spool, waiting));
                (spool, waiting) = place.start();
                for known in model.values_mut() {
                    if known.lease.take().is_some() {
                        known.attempts += 1;
                        known.in_doubt = true;
                    }
                }
                let mut found = Vec::new();
                while let Ok(entry) = waiting.try_recv() {
                    found.push(entry.id);
                }
                assert_eq!(found, model.keys().copied().collect::<Vec<_>>());
            }
        }
        let tally = spool.tally().tenant(&"contoso".parse().unwrap());
        assert_eq!(tally.messages(), model.len() as u64);
        assert_eq!(tally.leased(), model.values().filter(|known| known.lease.is_some()).count() as u64);
        assert_eq!(tally.bytes(), model.values().map(|known| known.content.len() as u64).sum::<u64>());
    }
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_follows_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        block_on(run(Place::Memory(MemoryStore::default()), steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn sled_follows_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        block_on(run(Place::Disk(tempfile::tempdir().unwrap()), steps));
    }
}
