//! A model of the spool, driven at random with crashes in between, beside the real one on both stores.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
                while let Some(entry) = waiting.try_recv() {
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

pub(super) fn block_on(test: impl Future<Output = ()>) {
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
