//! A model of the spool, run at random with crashes in between, beside the real spool on both stores.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Accept(usize),
    /// Accepts, and announces nothing yet.
    HoldBack(usize),
    Announce(usize),
    Unwind(usize),
    Claim(usize),
    Wait {
        which: usize,
        counted: bool,
        failed: bool,
    },
    End {
        which: usize,
        bounce: bool,
    },
    StaleSettle(usize),
    /// The outcome of an attempt is that the message is held.
    SettleHeld(usize),
    Remember(usize),
    Hold(usize),
    Release(usize),
    /// Another message takes its place.
    Replace(usize),
    Remove(usize),
    /// The disk fails; messages are accepted, claimed and settled meanwhile; it works again.
    Fault {
        fault: Fault,
        accepts: bool,
        claims: Option<usize>,
        settles: Option<usize>,
        unwinds: Option<usize>,
    },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..3000usize, Just(SMALL_BODY + 77)].prop_map(Step::Accept),
        2 => prop_oneof![0..3000usize, Just(SEGMENT_BODY + 1)].prop_map(Step::HoldBack),
        1 => any::<usize>().prop_map(Step::Announce),
        1 => any::<usize>().prop_map(Step::Unwind),
        4 => any::<usize>().prop_map(Step::Claim),
        2 => (any::<usize>(), any::<[bool; 2]>())
            .prop_map(|(which, [counted, failed])| Step::Wait { which, counted, failed }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, bounce)| Step::End { which, bounce }),
        1 => any::<usize>().prop_map(Step::StaleSettle),
        1 => any::<usize>().prop_map(Step::SettleHeld),
        1 => any::<usize>().prop_map(Step::Remember),
        1 => any::<usize>().prop_map(Step::Hold),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Replace),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => (any::<bool>(), any::<bool>(), any::<[Option<usize>; 3]>()).prop_map(
            |(stored, accepts, [claims, settles, unwinds])| {
                let fault = if stored { Fault::Stored } else { Fault::Lost };
                Step::Fault { fault, accepts, claims, settles, unwinds }
            },
        ),
        1 => Just(Step::Crash),
    ]
}

/// What the spool must know of each message.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    content: Vec<u8>,
    lease: Option<Lease>,
    /// And why, if that was said.
    held: Option<Option<HoldReason>>,
    held_back: bool,
    attempts: u16,
    in_doubt: bool,
    note: Option<Note>,
    failed: Vec<FailedAttempt>,
}

impl Known {
    fn new(content: Vec<u8>) -> Self {
        Self {
            content,
            lease: None,
            held: None,
            held_back: false,
            attempts: 0,
            in_doubt: false,
            note: None,
            failed: Vec::new(),
        }
    }

    /// One more attempt has failed.
    fn fail(&mut self, n: usize) -> FailedAttempt {
        let at = Timestamp::from_millis(n as u64);
        let failed = FailedAttempt::new(at, "throttled", "TooManyRequests", &format!("step {n}"), "a-b-c");
        self.failed.push(failed.clone());
        self.failed.drain(..self.failed.len().saturating_sub(FailedAttempts::MOST));
        failed
    }

    fn waits(&self) -> bool {
        self.lease.is_none() && self.held.is_none() && !self.held_back
    }
}

type Model = BTreeMap<MessageId, Known>;

/// One of the messages for which `is_so` holds.
fn pick(model: &Model, which: usize, is_so: impl Fn(&Known) -> bool) -> Option<MessageId> {
    let ids: Vec<_> = model.iter().filter(|(_, known)| is_so(known)).map(|(id, _)| *id).collect();
    if ids.is_empty() { None } else { Some(ids[which % ids.len()]) }
}

fn is_leased(known: &Known) -> bool {
    known.lease.is_some()
}

async fn run(place: Place, steps: Vec<Step>) {
    let (mut spool, mut waiting) = place.start();
    let mut model = Model::new();
    // Messages that only the caller that submitted them knows of.
    let mut tokens = BTreeMap::<MessageId, Accepted>::new();
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Accept(size) => {
                let content: Vec<u8> = (0..size).map(|at| (at * 31 + n) as u8).collect();
                let id = accept(&spool, &content).await;
                model.insert(id, Known::new(content));
            }
            Step::HoldBack(size) => {
                let content: Vec<u8> = (0..size).map(|at| (at * 17 + n) as u8).collect();
                let new = new_message(&spool, &content).await;
                let known = Known { held_back: true, ..Known::new(content) };
                model.insert(new.id, known);
                tokens.insert(new.id, spool.accept(new).await.unwrap());
            }
            Step::Announce(which) => {
                let Some(id) = pick(&model, which, |known| known.held_back) else { continue };
                tokens.remove(&id).unwrap().announce();
                model.get_mut(&id).unwrap().held_back = false;
                let mut told = std::iter::from_fn(|| waiting.try_recv());
                assert!(told.any(|waiting| waiting.id == id));
            }
            Step::Unwind(which) => {
                let Some(id) = pick(&model, which, |known| known.held_back) else { continue };
                tokens.remove(&id).unwrap().unwind().await.unwrap();
                model.remove(&id);
            }
            Step::Claim(which) => {
                let Some(id) = pick(&model, which, Known::waits) else { continue };
                let claim = spool.claim(id).await.unwrap();
                let known = model.get_mut(&id).unwrap();
                assert_eq!((claim.attempts, claim.doubt.is_some()), (known.attempts, known.in_doubt));
                assert!(read(&claim).await == known.content);
                assert_eq!(claim.note, known.note);
                known.lease = Some(claim.lease);
            }
            Step::Wait { which, counted, failed } => {
                let Some(id) = pick(&model, which, is_leased) else { continue };
                let known = model.get_mut(&id).unwrap();
                let attempt = failed.then(|| known.fail(n));
                let doubt = known.in_doubt.then(clock::now);
                let settlement = Settlement::Wait { due: clock::now(), counted, doubt, attempt };
                spool.settle(known.lease.take().unwrap(), settlement).await.unwrap();
                known.attempts += u16::from(counted);
            }
            Step::End { which, bounce } => {
                let Some(id) = pick(&model, which, is_leased) else { continue };
                let lease = model.remove(&id).unwrap().lease.unwrap();
                let bounce = if bounce {
                    let new = new_message(&spool, b"bounce").await;
                    model.insert(new.id, Known::new(b"bounce".into()));
                    Some(Box::new(new))
                } else {
                    None
                };
                spool.settle(lease, Settlement::End { bounce }).await.unwrap();
            }
            Step::StaleSettle(which) => {
                let Some(id) = pick(&model, which, is_leased) else { continue };
                let lease = model[&id].lease.unwrap();
                let stale = Lease { epoch: lease.epoch - 1, ..lease };
                let settled = spool.settle(stale, Settlement::End { bounce: None }).await;
                assert!(matches!(settled, Err(SpoolError::StaleLease(_))));
            }
            Step::SettleHeld(which) => {
                let Some(id) = pick(&model, which, is_leased) else { continue };
                let known = model.get_mut(&id).unwrap();
                let reason = HoldReason::new(&format!("for the reason {n}"));
                let doubt = known.in_doubt.then(clock::now);
                let attempt = Some(known.fail(n));
                let settlement = Settlement::Hold { reason: reason.clone(), doubt, attempt };
                spool.settle(known.lease.take().unwrap(), settlement).await.unwrap();
                assert!(matches!(spool.claim(id).await, Err(SpoolError::Held(_))));
                known.held = Some(Some(reason));
            }
            Step::Remember(which) => {
                let Some(id) = pick(&model, which, is_leased) else { continue };
                let known = model.get_mut(&id).unwrap();
                known.note = (n % 3 > 0).then(|| Note::new(format!("note {n}").as_bytes()).unwrap());
                spool.remember(known.lease.unwrap(), known.note.clone()).await.unwrap();
            }
            Step::Hold(which) => {
                let Some(id) = pick(&model, which, Known::waits) else { continue };
                let reason = (n % 2 == 0).then(|| HoldReason::new(&format!("by an operator at {n}")));
                spool.hold(id, reason.clone()).await.unwrap();
                assert!(matches!(spool.claim(id).await, Err(SpoolError::Held(_))));
                model.get_mut(&id).unwrap().held = Some(reason);
            }
            Step::Release(which) => {
                let Some(id) = pick(&model, which, |known| known.held.is_some()) else { continue };
                spool.release(id).await.unwrap();
                model.get_mut(&id).unwrap().held = None;
            }
            Step::Replace(which) => {
                if let Some(id) = pick(&model, which, is_leased) {
                    let new = new_message(&spool, b"instead").await;
                    assert!(matches!(spool.replace(id, new).await, Err(SpoolError::InDelivery(_))));
                }
                let Some(id) = pick(&model, which, |known| !is_leased(known) && !known.held_back) else {
                    continue;
                };
                let new = new_message(&spool, b"instead").await;
                model.remove(&id);
                model.insert(new.id, Known::new(b"instead".into()));
                spool.replace(id, new).await.unwrap();
            }
            Step::Remove(which) => {
                if let Some(id) = pick(&model, which, is_leased) {
                    assert!(matches!(spool.remove(id).await, Err(SpoolError::InDelivery(_))));
                }
                let Some(id) = pick(&model, which, |known| !is_leased(known) && !known.held_back) else {
                    continue;
                };
                spool.remove(id).await.unwrap();
                model.remove(&id);
            }
            Step::Fault { fault, accepts, claims, settles, unwinds } => {
                let Place::Memory(store) = &place else { continue };
                store.break_down(fault);
                let mut refused = None;
                let settle = settles.and_then(|which| pick(&model, which, is_leased)).map(|id| {
                    let spool = spool.clone();
                    let lease = model.remove(&id).unwrap().lease.unwrap();
                    tokio::spawn(async move { spool.settle(lease, Settlement::End { bounce: None }).await })
                });
                if let Some(id) = claims.and_then(|which| pick(&model, which, Known::waits)) {
                    assert!(spool.claim(id).await.is_err());
                }
                if accepts {
                    let new = new_message(&spool, b"refused").await;
                    let id = new.id;
                    assert!(spool.accept(new).await.is_err());
                    refused = Some(id);
                }
                let unwind =
                    unwinds.and_then(|which| pick(&model, which, |known| known.held_back)).map(|id| {
                        model.remove(&id);
                        tokio::spawn(tokens.remove(&id).unwrap().unwind())
                    });
                store.mend();
                if let Some(unwound) = unwind {
                    unwound.await.unwrap().unwrap();
                }
                if let Some(settled) = settle {
                    settled.await.unwrap().unwrap();
                }
                while spool.unhealthy().is_some() {
                    tokio::task::yield_now().await;
                }
                // Even if it had been stored before the error came.
                assert!(refused.is_none_or(|id| store.state(id).unwrap().is_none()));
            }
            Step::Crash => {
                drop((spool, waiting));
                tokens.clear();
                model.values_mut().for_each(|known| known.held_back = false);
                (spool, waiting) = place.start();
                for known in model.values_mut() {
                    if known.lease.take().is_some() {
                        known.attempts += 1;
                        known.in_doubt = true;
                    }
                }
                let mut found = Vec::new();
                let mut held = Vec::new();
                while let Ok(event) = waiting.0.try_recv() {
                    match event {
                        Event::Waiting(waiting) => found.push(waiting.id),
                        Event::Held { id, reason, .. } => held.push((id, reason)),
                        Event::Left { id, .. } => panic!("{id} has left at the start"),
                    }
                }
                let waits = model.iter().filter(|(_, known)| known.held.is_none()).map(|(id, _)| *id);
                let is_held = model.iter().filter_map(|(id, known)| Some((*id, known.held.clone()?)));
                assert_eq!((found, held), (waits.collect(), is_held.collect()));
            }
        }
        while let Ok(event) = waiting.0.try_recv() {
            let (Event::Waiting(Waiting { id, .. }) | Event::Held { id, .. } | Event::Left { id, .. }) =
                event;
            assert!(!tokens.contains_key(&id), "{id} is held back");
        }
        let found = spool.find(model.keys().copied().collect()).await.unwrap();
        assert_eq!(found.len(), model.len());
        for (id, known) in &model {
            let found = &found[id];
            assert_eq!((found.size, found.failed.list()), (known.content.len() as u64, known.failed.clone()));
            assert_eq!((found.attempts, found.doubt.is_some()), (known.attempts, known.in_doubt));
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
