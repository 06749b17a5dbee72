//! Each kind of damage on the disk, found at the start: it does not spread, and nothing whole is lost.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::*;

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

/// A file that was left when a segment was begun, or that somebody put there, costs one group and no more.
#[tokio::test]
async fn a_file_in_the_way_of_a_segment_is_in_the_way_once() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let (spool, _heard) = place.start();
    let Place::Disk(dir) = &place else { unreachable!() };
    let segments = dir.path().join("body");
    fs::write(segments.join("00000001.seg"), "").unwrap();
    let new = new_message(&spool, b"one").await;
    assert!(matches!(spool.accept(new).await, Err(SpoolError::Body(_))));
    assert_eq!(spool.unhealthy(), None);
    accept(&spool, b"two").await;
    assert!(segments.join("00000002.seg").exists());
}

/// A spool on disk with a few messages of each size, which no process has open.
struct Damaged {
    place: Place,
    small: Vec<MessageId>,
    large: Vec<MessageId>,
}

const SMALL: &[u8] = &[0xa7; 1000];
const LARGE: &[u8] = &[4; SEGMENT_BODY + 1];

impl Damaged {
    /// Five small messages, three large ones. In between some have ended.
    async fn new() -> Self {
        let place = Place::Disk(tempfile::tempdir().unwrap());
        let (spool, _heard) = place.start();
        let mut small = Vec::new();
        let mut large = Vec::new();
        for n in 0..8 {
            let ends = accept(&spool, b"ends").await;
            let lease = spool.claim(ends).await.unwrap().lease;
            if n % 3 == 0 {
                large.push(accept(&spool, LARGE).await);
            } else {
                small.push(accept(&spool, SMALL).await);
            }
            spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
        }
        drop((spool, _heard));
        // The last spool releases its folder when its threads have ended.
        drop(place.store());
        Self { place, small, large }
    }

    fn dir(&self) -> &Path {
        let Place::Disk(dir) = &self.place else { unreachable!() };
        dir.path()
    }

    fn large(&self, n: usize) -> PathBuf {
        self.dir().join("body/large").join(self.large[n].to_string())
    }

    fn segment(&self) -> PathBuf {
        let mut segments = fs::read_dir(self.dir().join("body")).unwrap().map(|entry| entry.unwrap().path());
        segments.find(|path| path.extension().is_some_and(|e| e == "seg")).unwrap()
    }

    fn all(&self) -> BTreeSet<MessageId> {
        self.small.iter().chain(&self.large).copied().collect()
    }

    /// Starts it, and claims and reads what there is. All messages are whole, except those in `gone`, which
    /// are in quarantine.
    async fn all_but(&self, gone: &[MessageId], in_doubt: bool) {
        let (spool, mut waiting) = self.place.start();
        let mut whole = BTreeSet::new();
        while let Some(Waiting { id, .. }) = waiting.try_recv() {
            let claim = match spool.claim(id).await {
                Ok(claim) => claim,
                // It was announced a second time, after the rescue.
                Err(SpoolError::StaleLease(_)) if whole.contains(&id) => continue,
                Err(SpoolError::Damaged { .. } | SpoolError::NoSuchMessage(_)) => continue,
                Err(error) => panic!("{error}"),
            };
            assert!(!in_doubt || claim.doubt.is_some(), "{id}");
            match claim.body.open().await {
                Ok(_) => {
                    assert!([SMALL, LARGE].contains(&&*read(&claim).await), "not what was stored");
                    assert_eq!(*claim.message, message(2));
                    whole.insert(id);
                }
                Err(damage) => {
                    assert!(damage.is_certain());
                    let reason = damage.to_string();
                    spool.settle(claim.lease, Settlement::Quarantine { reason }).await.unwrap();
                }
            }
        }
        let expected: BTreeSet<_> = self.all().into_iter().filter(|id| !gone.contains(id)).collect();
        assert_eq!(whole, expected);
        for id in gone {
            let about = fs::read_to_string(self.dir().join(format!("quarantine/{id}.json"))).unwrap();
            assert!(about.contains("\"reason\": \""), "{about}");
        }
        // And the spool still works.
        let new = accept(&spool, SMALL).await;
        assert!(read(&spool.claim(new).await.unwrap()).await == SMALL);
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut octets = fs::read(path).unwrap();
    change(&mut octets);
    fs::write(path, octets).unwrap();
}

#[tokio::test]
async fn a_large_body_that_is_missing_cut_short_empty_or_changed() {
    let damaged = Damaged::new().await;
    fs::remove_file(damaged.large(0)).unwrap();
    change(&damaged.large(1), |octets| octets.truncate(1000));
    change(&damaged.large(2), |octets| octets.clear());
    damaged.all_but(&damaged.large, false).await;

    let damaged = Damaged::new().await;
    change(&damaged.large(0), |octets| octets[5000] ^= 1);
    change(&damaged.large(1), |octets| octets[3] ^= 1);
    change(&damaged.large(2), |octets| *octets.last_mut().unwrap() ^= 1);
    damaged.all_but(&damaged.large, false).await;
}

#[tokio::test]
async fn a_body_in_a_segment_that_is_changed() {
    let damaged = Damaged::new().await;
    change(&damaged.segment(), |octets| {
        let bodies: Vec<_> = octets
            .windows(1000)
            .enumerate()
            .filter(|(_, octets)| *octets == SMALL)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(bodies.len(), 5);
        // In the body, in the header before it, in the envelope after it.
        octets[bodies[0] + 500] ^= 16;
        octets[bodies[1] - 30] ^= 16;
        octets[bodies[2] + 1003] ^= 16;
    });
    damaged.all_but(&damaged.small[..3], false).await;
}

#[tokio::test]
async fn a_segment_that_is_missing_cut_short_or_empty() {
    let damaged = Damaged::new().await;
    fs::remove_file(damaged.segment()).unwrap();
    damaged.all_but(&damaged.small, false).await;

    let damaged = Damaged::new().await;
    change(&damaged.segment(), |octets| {
        let last = octets.windows(1000).rposition(|octets| octets == SMALL).unwrap();
        octets.truncate(last + 300);
    });
    damaged.all_but(&damaged.small[4..], false).await;

    let damaged = Damaged::new().await;
    change(&damaged.segment(), |octets| octets.clear());
    damaged.all_but(&damaged.small, false).await;
}

#[tokio::test]
async fn what_belongs_to_nobody_and_an_unfinished_snapshot() {
    let damaged = Damaged::new().await;
    let orphans = ["large/0000000000000", "large/junk", "00009999.seg", "00009999.end"];
    for orphan in orphans {
        fs::write(damaged.dir().join("body").join(orphan), "nobody's").unwrap();
    }
    fs::write(damaged.dir().join("index/snap.0000000000000ABC.generating"), "").unwrap();
    fs::write(damaged.dir().join("VERSION"), "").unwrap();
    damaged.all_but(&[], false).await;
    for orphan in orphans {
        assert!(!damaged.dir().join("body").join(orphan).exists(), "{orphan}");
    }
    assert!(damaged.dir().join("index/unfinished-snap.0000000000000ABC.generating").exists());
}

/// An unreadable record of the index is quarantined. Its message is restored from its body.
#[tokio::test]
async fn an_unreadable_record() {
    let damaged = Damaged::new().await;
    let ids = [damaged.large[1], damaged.small[1]];
    with_index(&damaged, |tree| {
        for id in ids {
            let key = [&b"s"[..], &id.to_bytes()].concat();
            let mut value = tree.get(&key).unwrap().unwrap().to_vec();
            value[20] ^= 1;
            tree.insert(key, value).unwrap();
        }
    });
    damaged.all_but(&[], false).await;
    for id in ids {
        let about = fs::read_to_string(damaged.dir().join(format!("quarantine/{id}.json"))).unwrap();
        assert!(about.contains("unreadable") && about.contains("recovered"), "{about}");
    }
}

/// Sled may silently leave out what it cannot read, and bring back what was removed.
#[tokio::test]
async fn records_that_are_silently_lost_or_come_back() {
    let damaged = Damaged::new().await;
    with_index(&damaged, |tree| {
        for id in [damaged.large[1], damaged.small[1]] {
            tree.remove([&b"s"[..], &id.to_bytes()].concat()).unwrap().unwrap();
        }
    });
    damaged.all_but(&[], false).await;

    let damaged = Damaged::new().await;
    let lane = Lane { tenant: "contoso".parse().unwrap(), author: address("z@contoso.example") };
    with_index(&damaged, |tree| {
        tree.insert(b"l\0\0\0\x09", postcard::to_stdvec(&lane).unwrap()).unwrap();
        tree.remove(b"l\0\0\0\x01").unwrap().unwrap();
    });
    damaged.all_but(&[], false).await;
}

/// A message that had ended does not come back, though its body is still there.
#[tokio::test]
async fn an_index_that_is_lost() {
    for file in ["db", "conf"] {
        let damaged = Damaged::new().await;
        fs::write(damaged.dir().join("index").join(file), "").unwrap();
        damaged.all_but(&[], file == "db").await;

        let damaged = Damaged::new().await;
        fs::remove_file(damaged.dir().join("index").join(file)).unwrap();
        damaged.all_but(&[], file == "db").await;
    }
    let damaged = Damaged::new().await;
    fs::remove_dir_all(damaged.dir().join("index")).unwrap();
    damaged.all_but(&[], true).await;

    let damaged = Damaged::new().await;
    fs::write(damaged.dir().join("index/db"), vec![0x5a; 100_000]).unwrap();
    damaged.all_but(&[], false).await;
    let aside = fs::read_dir(damaged.dir().join("quarantine")).unwrap();
    assert_eq!(aside.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 1);
}

/// What is remembered of a message outlasts a rebuilt index, if it can be read.
#[tokio::test]
async fn a_held_message_says_why_after_a_rescue() {
    let damaged = Damaged::new().await;
    let [held, lost] = [damaged.small[0], damaged.small[1]];
    let reason = HoldReason::new("as the test wants it");
    let (spool, heard) = damaged.place.start();
    let lease = spool.claim(held).await.unwrap().lease;
    spool
        .settle(lease, Settlement::Hold { reason: reason.clone(), doubt: None, attempt: None })
        .await
        .unwrap();
    drop((spool, heard));
    drop(damaged.place.store());
    with_index(&damaged, |tree| drop(tree.remove([b"s", &lost.to_bytes()[..]].concat()).unwrap().unwrap()));

    let (_spool, mut heard) = damaged.place.start();
    // What was found before the damage is told again; the last word counts.
    let mut reasons = HashMap::new();
    let mut found = HashSet::new();
    while let Ok(event) = heard.0.try_recv() {
        match event {
            Event::Held { id, reason, .. } => drop(reasons.insert(id, reason)),
            Event::Waiting(Waiting { id, .. }) => drop(found.insert(id)),
            Event::Left { id, .. } => panic!("{id} has left"),
        }
    }
    assert_eq!(reasons, HashMap::from([(held, Some(reason))]));
    assert!(found.contains(&lost) && found.len() == 7, "{found:?}");
}

/// An index that was being rebuilt when the process died proves nothing: bodies that it does not have yet are
/// not swept.
#[tokio::test]
async fn a_rescue_that_broke_off() {
    let damaged = Damaged::new().await;
    fs::write(damaged.dir().join("index/db"), "").unwrap();
    let unfinished = damaged.dir().join("index.new");
    drop(sled::open(&unfinished).unwrap());
    damaged.all_but(&[], true).await;
    assert!(!unfinished.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whichever bit of the index's file flips, every message is there.
    #[test]
    fn a_bit_that_flips_in_the_index_loses_nothing(at: prop::sample::Index, bit in 0..8u32) {
        model::block_on(async {
            let damaged = Damaged::new().await;
            change(&damaged.dir().join("index/db"), |octets| {
                // Only where there is data: sled makes room ahead.
                let end = octets.iter().rposition(|octet| *octet != 0).unwrap() + 1;
                octets[at.index(end)] ^= 1 << bit;
            });
            damaged.all_but(&[], false).await;
        });
    }
}

fn with_index(damaged: &Damaged, change: impl FnOnce(&sled::Tree)) {
    let db = sled::Config::new().path(damaged.dir().join("index")).open().unwrap();
    change(&db.open_tree("spool").unwrap());
    db.flush().unwrap();
}
