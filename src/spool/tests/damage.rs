//! Faults: a store that breaks, a committer that dies, damage on the disk.

use super::*;

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

/// The octets of a message whose state record is damaged are still somewhere: they are all that is left of it.
#[tokio::test]
async fn a_damaged_state_keeps_its_body() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let Place::Disk(dir) = &place else { unreachable!() };
    let (spool, waiting) = place.start();
    let large = accept(&spool, &[1; 100_000]).await;
    accept(&spool, &[8; 10]).await;
    let small = accept(&spool, &[2; 1000]).await;
    drop((spool, waiting));
    damage_state(&place, &[large, small]);
    let (spool, mut waiting) = place.start();
    let whole = waiting.recv().await.unwrap().id;
    assert_eq!(read(&spool.claim(whole).await.unwrap()).await, [8; 10]);
    assert!(waiting.try_recv().is_err());
    let raw = |id: MessageId| std::fs::read(dir.path().join(format!("quarantine/{id}.raw"))).unwrap();
    assert!(raw(small) == [2; 1000]);
    // Of a large body the whole record is there.
    assert!(raw(large).windows(100_000).any(|octets| octets == [1; 100_000]));
    for id in [large, small] {
        let about = std::fs::read_to_string(dir.path().join(format!("quarantine/{id}.json"))).unwrap();
        assert!(about.contains("a@contoso.example") && about.contains("unreadable"), "{about}");
    }
}

/// Flips a bit in the index's record of each message's state.
pub(super) fn damage_state(place: &Place, ids: &[MessageId]) {
    let Place::Disk(dir) = place else { unreachable!() };
    // The last spool lets go of the index when its committer has ended.
    drop(place.store());
    let db = sled::Config::new().path(dir.path().join("index")).open().unwrap();
    let tree = db.open_tree("spool").unwrap();
    for id in ids {
        let key = [&b"s"[..], &id.to_bytes()].concat();
        let mut value = tree.get(&key).unwrap().unwrap().to_vec();
        value[20] ^= 1;
        tree.insert(key, value).unwrap();
    }
    db.flush().unwrap();
}

/// A store whose every commit panics.
struct Panics(MemoryStore);

impl Store for Panics {
    fn spill(&self) -> body::Spill {
        self.0.spill()
    }
    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        self.0.lanes()
    }
    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        self.0.load(found)
    }
    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        self.0.state(id)
    }
    fn message(&self, id: MessageId, place: BodyPlace) -> Result<Option<Message>, StoreError> {
        self.0.message(id, place)
    }
    fn body(&self, id: MessageId, place: BodyPlace) -> BodyReader {
        self.0.body(id, place)
    }
    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> std::io::Result<()> {
        self.0.put_aside(id, place, reason)
    }
    fn commit(&mut self, _: &mut [Change]) -> Result<(), StoreError> {
        panic!("as sled may: this is part of the test")
    }
}

#[tokio::test]
async fn a_committer_that_dies_is_unhealthy() {
    let store = Panics(MemoryStore::default());
    let (spool, _waiting) = Spool::start(store, SETTLE_AFTER, Metrics::new()).unwrap();
    let new = new_message(&spool, b"y").await;
    assert!(spool.accept(new).await.is_err());
    while spool.unhealthy().is_none() {
        std::thread::yield_now();
    }
}
