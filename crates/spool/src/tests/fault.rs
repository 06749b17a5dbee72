//! Faults of a store: it breaks and works again, or it panics.

use super::*;

/// A worker knows the outcome of a delivery, and the disk fails: the outcome is stored when the disk works
/// again, without a restart.
#[tokio::test]
async fn a_broken_store_heals_by_itself() {
    for fault in [Fault::Lost, Fault::Stored] {
        let store = MemoryStore::default();
        let (spool, events) = Spool::start(store.clone(), ()).unwrap();
        let mut waiting = Heard(events);
        let ends = accept(&spool, b"x").await;
        let waits = accept(&spool, b"y").await;
        let idle = accept(&spool, b"z").await;
        let mut leases = Vec::new();
        for id in [ends, waits] {
            leases.push(spool.claim(id).await.unwrap().lease);
        }
        for id in [ends, waits, idle] {
            assert_eq!(waiting.recv().await.unwrap().id, id);
        }

        store.break_down(fault);
        let later = Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt: None };
        let settle = |lease, settlement| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.settle(lease, settlement).await })
        };
        let settled = [settle(leases[0], Settlement::End { bounce: None }), settle(leases[1], later)];
        while spool.unhealthy().is_none() {
            tokio::task::yield_now().await;
        }
        let new = new_message(&spool, b"y").await;
        let refused = new.id;
        assert!(matches!(spool.accept(new).await, Err(SpoolError::Unhealthy(_))));
        assert!(matches!(spool.claim(idle).await, Err(SpoolError::Unhealthy(_))));
        assert!(settled.iter().all(|settled| !settled.is_finished()), "a result is not refused");

        store.mend();
        for settled in settled {
            settled.await.unwrap().unwrap();
        }
        while spool.unhealthy().is_some() {
            tokio::task::yield_now().await;
        }
        // All waiting messages are announced again.
        let mut told = std::collections::BTreeSet::new();
        while told.len() < 2 {
            told.insert(waiting.recv().await.unwrap().id);
        }
        assert!(told.contains(&waits) && told.contains(&idle), "{told:?}");
        assert!(matches!(spool.claim(ends).await, Err(SpoolError::NoSuchMessage(_))));
        assert!(matches!(spool.claim(refused).await, Err(SpoolError::NoSuchMessage(_))));
        let claim = spool.claim(waits).await.unwrap();
        assert_eq!((claim.attempts, claim.doubt.is_some()), (1, false));
        accept(&spool, b"new").await;
        let tally = spool.tally().tenant(&"contoso".parse().unwrap());
        assert_eq!((tally.messages(), tally.leased(), tally.bytes()), (3, 1, 5));
    }
}

/// The claim failed, so no attempt began: the message is not in doubt, and nothing counts.
#[tokio::test]
async fn a_claim_that_failed_is_no_attempt() {
    for fault in [Fault::Lost, Fault::Stored] {
        let store = MemoryStore::default();
        let (spool, events) = Spool::start(store.clone(), ()).unwrap();
        let mut waiting = Heard(events);
        let id = accept(&spool, b"x").await;
        waiting.recv().await.unwrap();
        store.break_down(fault);
        assert!(spool.claim(id).await.is_err());
        store.mend();
        assert_eq!(waiting.recv().await.unwrap().id, id);
        while spool.unhealthy().is_some() {
            tokio::task::yield_now().await;
        }
        let claim = spool.claim(id).await.unwrap();
        assert_eq!((claim.attempts, claim.doubt.is_some()), (0, false));
    }
}

/// A store whose commits panic, as sled's do when it meets damage.
struct Panics(MemoryStore, std::sync::atomic::AtomicU32);

impl Store for Panics {
    fn spill(&self) -> arriving::Spill {
        self.0.spill()
    }
    fn bodies(&self) -> std::io::Result<Box<dyn Bodies>> {
        self.0.bodies()
    }
    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        self.0.lanes()
    }
    fn remembered(&mut self) -> Result<Vec<(MessageId, Remembered)>, StoreError> {
        self.0.remembered()
    }

    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        self.0.load(found)
    }
    fn walk(
        &self,
        after: Option<MessageId>,
        most: usize,
        found: &mut dyn FnMut(MessageId, State),
    ) -> Result<Option<MessageId>, StoreError> {
        self.0.walk(after, most, found)
    }

    fn rescue(&mut self, found: &dyn Fn(LaneId, BodyPlace) -> State) -> Result<usize, StoreError> {
        self.0.rescue(found)
    }
    fn sweep(&mut self) -> Result<(), StoreError> {
        self.0.sweep()
    }
    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        self.0.state(id)
    }
    fn attempts(&self, id: MessageId) -> Result<FailedAttempts, StoreError> {
        self.0.attempts(id)
    }
    fn record(&self, id: MessageId, place: BodyPlace) -> stored::StoredRecord {
        self.0.record(id, place)
    }
    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> std::io::Result<()> {
        self.0.put_aside(id, place, reason)
    }
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let left = self.1.get_mut();
        if *left > 0 {
            *left -= 1;
            panic!("as sled may: this is part of the test");
        }
        self.0.commit(changes)
    }
    fn discard(&mut self, id: MessageId, place: BodyPlace, ended: bool) {
        self.0.discard(id, place, ended);
    }
    fn sparse_segment(&mut self) -> Option<u32> {
        None
    }
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.0.reopen()
    }
}

#[tokio::test]
async fn an_index_that_breaks_off_is_opened_anew() {
    let store = Panics(MemoryStore::default(), 1.into());
    let (spool, _waiting) = Spool::start(store, ()).unwrap();
    let new = new_message(&spool, b"y").await;
    assert!(matches!(spool.accept(new).await, Err(SpoolError::Unhealthy(_))));
    while spool.unhealthy().is_some() {
        tokio::task::yield_now().await;
    }
    accept(&spool, b"y").await;
}
