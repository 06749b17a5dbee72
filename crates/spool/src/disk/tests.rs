//! Faults that only a store on disk has, tested with a store that fails on request.

use std::{
    fs,
    sync::{Mutex, atomic::AtomicBool},
};

use super::{
    segments::{FULL, OPEN_LISTS},
    *,
};
use crate::{
    Arriving, Body, Compacted, Settlement, Spool, SpoolError, clock,
    tests::{accept, new_message},
};

/// A store whose commits may be durable and return an error all the same. It notes which segments are
/// compacted.
struct Fails {
    store: DiskStore,
    fails: Arc<AtomicBool>,
    compacted: Arc<Mutex<Vec<u32>>>,
}

struct Counts {
    bodies: Box<dyn Bodies>,
    compacted: Arc<Mutex<Vec<u32>>>,
}

impl Bodies for Counts {
    fn store(&mut self, group: &mut [Arriving]) -> Result<(), StoreError> {
        self.bodies.store(group)
    }

    fn compact(&mut self, segment: u32) -> Result<Compacted, StoreError> {
        self.compacted.lock().unwrap().push(segment);
        self.bodies.compact(segment)
    }
}

fn broken() -> StoreError {
    StoreError::Io { what: "cannot sync the index", source: io::Error::other("broken on purpose") }
}

impl Store for Fails {
    fn spill(&self) -> Spill {
        self.store.spill()
    }
    fn bodies(&self) -> io::Result<Box<dyn Bodies>> {
        Ok(Box::new(Counts { bodies: self.store.bodies()?, compacted: self.compacted.clone() }))
    }
    fn lanes(&mut self) -> Result<Vec<(LaneId, Lane)>, StoreError> {
        self.store.lanes()
    }
    fn remembered(&mut self) -> Result<Vec<(MessageId, Remembered)>, StoreError> {
        self.store.remembered()
    }
    fn load(&mut self, found: &mut dyn FnMut(MessageId, State)) -> Result<usize, StoreError> {
        self.store.load(found)
    }
    fn rescue(&mut self, found: &dyn Fn(LaneId, BodyPlace) -> State) -> Result<usize, StoreError> {
        self.store.rescue(found)
    }
    fn sweep(&mut self) -> Result<(), StoreError> {
        self.store.sweep()
    }
    fn state(&self, id: MessageId) -> Result<Option<State>, StoreError> {
        self.store.state(id)
    }
    fn attempts(&self, id: MessageId) -> Result<FailedAttempts, StoreError> {
        self.store.attempts(id)
    }
    fn walk(
        &self,
        after: Option<MessageId>,
        most: usize,
        found: &mut dyn FnMut(MessageId, State),
    ) -> Result<Option<MessageId>, StoreError> {
        self.store.walk(after, most, found)
    }
    fn record(&self, id: MessageId, place: BodyPlace) -> StoredRecord {
        self.store.record(id, place)
    }
    fn put_aside(&mut self, id: MessageId, place: BodyPlace, reason: &str) -> io::Result<()> {
        self.store.put_aside(id, place, reason)
    }
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            // As when the sync of the index fails, and what was written is on the disk all the same.
            self.store.index.as_mut().unwrap().apply(changes)?;
            return Err(broken());
        }
        self.store.commit(changes)
    }
    fn discard(&mut self, id: MessageId, place: BodyPlace, ended: bool) {
        self.store.discard(id, place, ended);
    }
    fn sparse_segment(&mut self) -> Option<u32> {
        self.store.sparse_segment()
    }
    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            Err(broken())
        } else {
            self.store.reopen()
        }
    }
}

/// A spool that fails on request.
struct House {
    folder: tempfile::TempDir,
    spool: Spool,
    segments: Arc<Segments>,
    fails: Arc<AtomicBool>,
    compacted: Arc<Mutex<Vec<u32>>>,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fails = Arc::<AtomicBool>::default();
        let compacted = Arc::<Mutex<Vec<u32>>>::default();
        let store = DiskStore::open(folder.path()).unwrap();
        let segments = store.segments.clone();
        let store = Fails { store, fails: fails.clone(), compacted: compacted.clone() };
        let (spool, _events) = Spool::start(store, ()).unwrap();
        Self { folder, spool, segments, fails, compacted }
    }

    fn fail(&self, fails: bool) {
        self.fails.store(fails, std::sync::atomic::Ordering::Relaxed);
    }

    async fn until(&self, is_healthy: bool) {
        while self.spool.unhealthy().is_none() != is_healthy {
            tokio::task::yield_now().await;
        }
    }

    async fn end(&self, id: MessageId) {
        let lease = self.spool.claim(id).await.unwrap().lease;
        self.spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
    }

    /// A file is removed when the last user closes it, which may be a moment after the answer.
    async fn until_large_bodies(&self, count: usize) {
        let large = self.folder.path().join("body/large");
        let are_so_many = async {
            while fs::read_dir(&large).unwrap().count() != count {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), are_so_many)
            .await
            .expect("so many large bodies");
    }
}

const LARGE: &[u8] = &[7; crate::SEGMENT_BODY + 1];

/// It was durable although its commit returned an error, so it is not stored again.
#[tokio::test]
async fn what_a_failed_commit_has_ended_is_released_when_the_spool_heals() {
    let house = House::new();
    let small = [accept(&house.spool, b"ends").await, accept(&house.spool, b"is removed").await];
    let large = accept(&house.spool, LARGE).await;
    let stays = accept(&house.spool, b"stays").await;
    let mut leases = Vec::new();
    for id in [small[0], large] {
        leases.push(house.spool.claim(id).await.unwrap().lease);
    }
    house.fail(true);
    // An operator's change is refused, and not tried again.
    assert!(house.spool.remove(small[1]).await.is_err());
    house.fail(false);
    house.until(true).await;
    for lease in leases {
        house.fail(true);
        let spool = house.spool.clone();
        let settled =
            tokio::spawn(async move { spool.settle(lease, Settlement::End { bounce: None }).await });
        house.until(false).await;
        house.fail(false);
        settled.await.unwrap().unwrap();
        house.until(true).await;
    }
    house.until_large_bodies(0).await;
    assert_eq!(house.segments.messages_in(1), 1);
    // A rescue must not send them again.
    assert_eq!(house.segments.ended_in(1).unwrap(), small.into_iter().collect());
    house.end(stays).await;
    assert_eq!(house.segments.messages_in(1), 0);
}

#[tokio::test]
async fn parts_that_do_not_enter_are_released() {
    let house = House::new();
    let whole = accept(&house.spool, LARGE).await;
    let lease = house.spool.claim(whole).await.unwrap().lease;
    let parts = vec![new_message(&house.spool, LARGE).await, new_message(&house.spool, b"second").await];
    // The first has a file, and the second needs a segment, which cannot be begun.
    fs::write(house.segments.path_of(1), "").unwrap();
    let refused = house.spool.settle(lease, Settlement::Split { parts }).await;
    assert!(matches!(refused, Err(SpoolError::Body(_))), "{refused:?}");
    house.until_large_bodies(1).await;
    house.end(whole).await;
    house.until_large_bodies(0).await;
}

#[tokio::test]
async fn bodies_of_a_group_that_failed_are_not_counted() {
    let house = House::new();
    let bodies = [&b"small"[..], LARGE];
    let mut group = Vec::new();
    for body in bodies {
        let new = new_message(&house.spool, body).await;
        let place = BodyPlace { segment: None, offset: 0, len: 0 };
        group.push(Arriving { id: new.id, message: new.message, body: new.body, place });
    }
    // A file that is not a folder cannot be synced as one.
    let folder = house.folder.path().join("body");
    let mut appender = Appender::new(house.segments.clone(), &folder, Path::new("/dev/null")).unwrap();
    assert!(matches!(group[1].body, Body::File(_)));
    assert!(matches!(appender.store(&mut group), Err(StoreError::Io { .. })));
    assert_eq!(house.segments.messages_in(1), 0);
}

/// Their compaction fails, which affects no mail.
#[tokio::test]
async fn unreadable_sparse_segments_are_given_out_once_and_the_others_are_compacted() {
    let house = House::new();
    let body = vec![b'x'; FULL as usize / 4];
    let mut stored = Vec::new();
    while house.segments.numbers().len() < 8 {
        stored.push(accept(&house.spool, &body).await);
    }
    let unreadable = 1..=5;
    for number in unreadable.clone() {
        fs::remove_file(house.segments.path_of(number)).unwrap();
    }
    // One of four stays in each segment.
    for (_, id) in stored.iter().enumerate().filter(|(n, _)| n % 4 != 0) {
        house.spool.remove(*id).await.unwrap();
    }
    for _ in 0..20 {
        accept(&house.spool, b"one more group").await;
    }
    let compacted = house.compacted.lock().unwrap().clone();
    for number in unreadable {
        assert_eq!(compacted.iter().filter(|segment| **segment == number).count(), 1, "{compacted:?}");
    }
    assert!(compacted.contains(&6) && compacted.contains(&7), "{compacted:?}");
    assert_eq!(house.spool.unhealthy(), None);
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_was_put_off_is_given_out_later() {
    let folder = tempfile::tempdir().unwrap();
    let segments = Segments::open(folder.path()).unwrap();
    for number in [1, 2] {
        segments.begin(number);
        segments.appended(number, 1, 100, 4 * FULL);
    }
    assert_eq!(segments.sparsest(), Some(1));
    assert_eq!(segments.sparsest(), None);
    segments.put_off(1);
    assert_eq!(segments.sparsest(), None);
    tokio::time::advance(std::time::Duration::from_secs(600)).await;
    assert_eq!(segments.sparsest(), Some(1));
}

#[test]
fn so_many_lists_are_open_and_each_message_is_in_its_list() {
    let folder = tempfile::tempdir().unwrap();
    let segments = Segments::open(folder.path()).unwrap();
    let all = 1..=2 * OPEN_LISTS as u32;
    let place = BodyPlace { segment: None, offset: 0, len: 10 };
    let mut id = MessageId::first_at(clock::now());
    for number in all.clone() {
        segments.begin(number);
        segments.appended(number, 3, 3 * 42, 3 * 42);
    }
    for _ in 0..2 {
        for number in all.clone() {
            id = id.next();
            segments.release(id, number, place, true);
        }
    }
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    let open = files.filter(|file| file.starts_with(folder.path())).count();
    assert!(open <= OPEN_LISTS, "{open}");
    for number in all {
        assert_eq!(segments.ended_in(number).unwrap().len(), 2, "{number}");
    }
}
