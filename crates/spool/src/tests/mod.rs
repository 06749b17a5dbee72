//! The contract, on both stores: each test runs on the in-memory store and on sled.

mod accepted;
mod archive;
mod attempts;
mod damage;
mod fault;
mod model;
mod quarantine;

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use relay_mail::Ingress;
use relay_mail::{BodyKind, Envelope, MailboxAddress};

const SETTLE_AFTER: Duration = Duration::from_secs(300);

/// A place in which a spool can be started again and again, as after a crash.
enum Place {
    Memory(MemoryStore),
    Disk(TempDir),
}

impl Place {
    fn both() -> [Self; 2] {
        [Self::Memory(MemoryStore::default()), Self::Disk(tempfile::tempdir().unwrap())]
    }

    fn start(&self) -> (Spool, Heard) {
        let (spool, events) = match self {
            Self::Memory(store) => Spool::start(store.clone(), ()).unwrap(),
            Self::Disk(_) => Spool::start(self.store(), ()).unwrap(),
        };
        (spool, Heard(events))
    }

    /// The store on disk. The committer of the last spool releases the lock when it has seen that no caller
    /// is left.
    fn store(&self) -> DiskStore {
        let Self::Disk(dir) = self else { unreachable!() };
        loop {
            match DiskStore::open(dir.path()) {
                Err(OpenError::Locked { .. }) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }
}

/// What a scheduler hears.
struct Heard(mpsc::UnboundedReceiver<Event>);

impl Heard {
    async fn recv(&mut self) -> Option<Waiting> {
        self.0.recv().await?.waiting()
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        self.0.try_recv().ok()?.waiting()
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

pub(super) async fn new_message(spool: &Spool, content: &[u8]) -> NewMessage {
    let (id, mut body) = spool.begin();
    for chunk in content.chunks(10_000) {
        body.write(chunk).await.unwrap();
    }
    NewMessage { id, message: message(2), body: body.finish().await.unwrap() }
}

pub(super) async fn accept(spool: &Spool, content: &[u8]) -> MessageId {
    let new = new_message(spool, content).await;
    let id = new.id;
    spool.accept(new).await.unwrap().announce();
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
        for content in [
            &b""[..],
            b"x",
            &[7; SMALL_BODY],
            &[8; SMALL_BODY + 1],
            &[9; SEGMENT_BODY],
            &[10; SEGMENT_BODY + 1],
            &[11; 2_000_000],
        ] {
            let id = accept(&spool, content).await;
            assert_eq!(waiting.recv().await.unwrap().id, id);
            let claim = spool.claim(id).await.unwrap();
            assert_eq!((&*claim.message, claim.attempts, claim.doubt.is_some()), (&message(2), 0, false));
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
        let wait = || Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt: None };
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
        spool
            .settle(lease, Settlement::Wait { due, counted: false, doubt: None, attempt: None })
            .await
            .unwrap();
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
        assert!(waiting.try_recv().is_none());
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
        let first = waiting.recv().await.unwrap();
        let second = waiting.recv().await.unwrap();
        assert_eq!((first.id, second.id), (leased, untouched));
        // Its route must find out what happened to the attempt, and wait.
        assert!(first.due >= before && first.due <= clock::now());
        assert!(second.due <= before);
        let claim = spool.claim(leased).await.unwrap();
        assert!(claim.doubt.is_some_and(|since| since >= before));
        assert_eq!((claim.attempts, claim.lease.epoch), (1, 2));
        assert!(spool.claim(untouched).await.unwrap().doubt.is_none());
    }
}

#[tokio::test]
async fn bodies_go_when_their_messages_do() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let Place::Disk(dir) = &place else { unreachable!() };
    let (spool, waiting) = place.start();
    for size in [10, 100_000, 600_000] {
        let id = accept(&spool, &vec![1; size]).await;
        let lease = spool.claim(id).await.unwrap().lease;
        spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
    }
    // An unfinished body is removed with its writer.
    let (_, mut body) = spool.begin();
    body.write(&[1; 600_000]).await.unwrap();
    let count = |sub: &str| std::fs::read_dir(dir.path().join(sub)).unwrap().count();
    assert_eq!(count("body/large"), 1);
    drop(body);
    assert_eq!(count("body/large"), 0);
    drop((spool, waiting));
    let _running = place.start();
    // The segment of the last process is swept: only the folder for large bodies is left.
    assert_eq!(count("body"), 1);
}

/// A few messages that wait long do not keep the space of all that have left, wherever they are.
#[tokio::test]
async fn what_stays_moves_together() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let Place::Disk(dir) = &place else { unreachable!() };
    let (spool, mut heard) = place.start();
    // Some are too large to be read before they are wanted.
    let content = |n: usize| vec![n as u8; if n % 50 == 8 { SMALL_BODY + 1 } else { 10_000 }];
    let mut stay = Vec::new();
    let mut leased = Vec::new();
    for n in 0..1000 {
        let id = accept(&spool, &content(n)).await;
        if n % 50 == 7 {
            stay.push((id, n));
            continue;
        }
        let claim = spool.claim(id).await.unwrap();
        if n % 50 == 8 {
            leased.push((claim, n));
        } else {
            spool.settle(claim.lease, Settlement::End { bounce: None }).await.unwrap();
        }
    }
    let occupied = || {
        let segments = std::fs::read_dir(dir.path().join("body")).unwrap().map(|entry| entry.unwrap());
        segments.map(|segment| segment.metadata().unwrap().len()).sum::<u64>()
    };
    // A worker with a lease can read and settle as if nothing had been moved.
    for (claim, n) in leased {
        assert!(read(&claim).await == content(n));
        let wait = Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt: None };
        spool.settle(claim.lease, wait).await.unwrap();
        stay.push((claim.lease.id, n));
    }
    // Eleven megabytes have arrived, and one and a half stay. In tests a segment has 256 KiB.
    while occupied() > 3_600_000 {
        tokio::task::yield_now().await;
    }
    while heard.try_recv().is_some() {}
    drop((spool, heard));
    let (spool, _heard) = place.start();
    for (id, n) in stay {
        assert!(read(&spool.claim(id).await.unwrap()).await == content(n), "{n}");
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _open = DiskStore::open(dir.path()).unwrap();
    assert!(matches!(DiskStore::open(dir.path()), Err(OpenError::Locked { .. })));
}

#[tokio::test]
async fn a_large_bounce_is_as_good_as_a_small_one() {
    for place in Place::both() {
        let (spool, _waiting) = place.start();
        let id = accept(&spool, b"x").await;
        let lease = spool.claim(id).await.unwrap().lease;
        let bounce = new_message(&spool, &[5; 200_000]).await;
        let bounce_id = bounce.id;
        spool.settle(lease, Settlement::End { bounce: Some(Box::new(bounce)) }).await.unwrap();
        assert!(read(&spool.claim(bounce_id).await.unwrap()).await == [5; 200_000]);
    }
}

#[tokio::test]
async fn a_thousand_recipients_come_back_and_make_no_blobs() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let Place::Disk(dir) = &place else { unreachable!() };
    let (spool, waiting) = place.start();
    let mut stored = Vec::new();
    for n in 0..40 {
        let size = if n % 2 == 0 { 1 } else { SEGMENT_BODY + 1 };
        let mut new = new_message(&spool, &vec![1; size]).await;
        let recipients = (0..1000).map(|n| address(&format!("recipient.number.{n}@some.example.net")));
        new.message.envelope = Envelope::new(None, recipients, BodyKind::SevenBit).unwrap();
        stored.push((new.id, new.message.clone()));
        spool.accept(new).await.unwrap().announce();
    }
    assert_eq!(std::fs::read_dir(dir.path().join("index/blobs")).unwrap().count(), 0);
    drop((spool, waiting));
    let (spool, _waiting) = place.start();
    for (id, message) in stored {
        assert_eq!(*spool.claim(id).await.unwrap().message, message);
    }
}

#[tokio::test]
async fn an_id_from_the_future_delays_nobody() {
    for place in Place::both() {
        let (spool, waiting) = place.start();
        let mut new = new_message(&spool, b"from a clock that was ahead").await;
        new.id = MessageId::first_at(clock::now() + Duration::from_secs(86_400));
        spool.accept(new).await.unwrap().announce();
        drop((spool, waiting));
        let (spool, mut waiting) = place.start();
        assert!(waiting.recv().await.unwrap().due <= clock::now());
        accept(&spool, b"new").await;
        assert!(waiting.recv().await.unwrap().due <= clock::now());
    }
}

/// A wait ends at its stored time. If a clock that was ahead stored it, it ends after the longest wait.
#[tokio::test]
async fn a_wait_outlasts_a_start_and_none_is_longer_than_the_longest() {
    const DAY: Duration = LONGEST_WAIT;
    for place in Place::both() {
        let (spool, waiting) = place.start();
        let id = accept(&spool, b"waits").await;
        let lease = spool.claim(id).await.unwrap().lease;
        let due = clock::now() + 3 * DAY;
        spool
            .settle(lease, Settlement::Wait { due, counted: true, doubt: None, attempt: None })
            .await
            .unwrap();
        drop((spool, waiting));
        for (longest_wait, may_be_due) in [(4 * DAY, due..=due), (DAY, clock::now()..=clock::now() + DAY * 2)]
        {
            let (spool, events) = match &place {
                Place::Memory(store) => Spool::start_with_waits(store.clone(), (), longest_wait).unwrap(),
                Place::Disk(_) => Spool::start_with_waits(place.store(), (), longest_wait).unwrap(),
            };
            let mut waiting = Heard(events);
            let found = waiting.recv().await.unwrap().due;
            assert!(may_be_due.contains(&found), "{found:?} with {longest_wait:?}");
            // Nor does a new configuration bring the old time back.
            spool.tell_again(HashSet::from(["contoso".parse().unwrap()])).await.unwrap();
            let told = waiting.recv().await.unwrap().due;
            assert!(may_be_due.contains(&told), "{told:?} with {longest_wait:?}");
        }
    }
}

#[tokio::test]
async fn what_is_remembered_of_a_message_lasts_as_long_as_it_does() {
    for place in Place::both() {
        let note = |text: &[u8]| Some(Note::new(text).unwrap());
        let (spool, waiting) = place.start();
        let id = accept(&spool, b"noted").await;
        let claim = spool.claim(id).await.unwrap();
        assert_eq!(claim.note, None);
        spool.remember(claim.lease, note(b"first")).await.unwrap();
        spool.remember(claim.lease, note(b"second")).await.unwrap();
        // After a crash.
        drop((spool, waiting));
        let (spool, waiting) = place.start();
        let claim = spool.claim(id).await.unwrap();
        assert_eq!(claim.note, note(b"second"));
        // Only the worker with the lease may.
        let stale = Lease { epoch: claim.lease.epoch - 1, ..claim.lease };
        assert!(matches!(spool.remember(stale, None).await, Err(SpoolError::StaleLease(_))));
        spool.remember(claim.lease, None).await.unwrap();
        let wait = Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt: None };
        spool.settle(claim.lease, wait).await.unwrap();
        let claim = spool.claim(id).await.unwrap();
        assert_eq!(claim.note, None);
        spool.remember(claim.lease, note(b"third")).await.unwrap();
        spool.settle(claim.lease, Settlement::End { bounce: None }).await.unwrap();
        drop((spool, waiting));
        // Nothing of it is left, and the index is whole.
        let (spool, mut waiting) = place.start();
        assert!(waiting.try_recv().is_none());
        assert_eq!(spool.tally().tenants().iter().map(|(_, tenant)| tenant.messages()).sum::<u64>(), 0);
    }
}

#[tokio::test]
async fn a_held_message_says_why_until_it_is_released() {
    for place in Place::both() {
        let reason = HoldReason::new("as the test wants it");
        let note = Some(Note::new(b"draft").unwrap());
        let is_held = |event: Option<Event>, wanted: Option<&HoldReason>| match event {
            Some(Event::Held { reason, .. }) => reason.as_ref() == wanted,
            _ => false,
        };
        let (spool, mut heard) = place.start();
        let id = accept(&spool, b"held").await;
        heard.recv().await.unwrap();
        let lease = spool.claim(id).await.unwrap().lease;
        spool.remember(lease, note.clone()).await.unwrap();
        let doubt = Some(clock::now());
        spool.settle(lease, Settlement::Hold { reason: reason.clone(), doubt, attempt: None }).await.unwrap();
        assert!(is_held(heard.0.recv().await, Some(&reason)));
        assert!(matches!(spool.claim(id).await, Err(SpoolError::Held(_))));
        // An operator who holds it, too, takes nothing away.
        spool.hold(id, None).await.unwrap();
        assert!(is_held(heard.0.recv().await, Some(&reason)));

        drop((spool, heard));
        let (spool, mut heard) = place.start();
        assert!(is_held(heard.0.recv().await, Some(&reason)));
        spool.tell_again(HashSet::from(["contoso".parse().unwrap()])).await.unwrap();
        assert!(is_held(heard.0.recv().await, Some(&reason)));
        spool.release(id).await.unwrap();
        assert_eq!(heard.recv().await.unwrap().id, id);
        let claim = spool.claim(id).await.unwrap();
        assert_eq!((claim.attempts, claim.doubt.is_some(), &claim.note), (0, true, &note));
        spool
            .settle(claim.lease, Settlement::Hold { reason: reason.clone(), doubt, attempt: None })
            .await
            .unwrap();
        spool.release(id).await.unwrap();
        spool.hold(id, None).await.unwrap();
        while !is_held(heard.0.recv().await, None) {}

        drop((spool, heard));
        let (spool, mut heard) = place.start();
        assert!(is_held(heard.0.recv().await, None));
        spool.remove(id).await.unwrap();
        drop((spool, heard));
        // Nothing of it is left, and the index is whole.
        let (_spool, mut heard) = place.start();
        assert!(heard.0.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_message_is_split_into_all_its_parts_or_none() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        let id = accept(&spool, b"whole").await;
        waiting.recv().await.unwrap();
        let lease = spool.claim(id).await.unwrap().lease;
        let mut parts = Vec::new();
        for n in 0..3 {
            parts.push(new_message(&spool, format!("part {n}").as_bytes()).await);
        }
        let ids: Vec<_> = parts.iter().map(|part| part.id).collect();
        spool.settle(lease, Settlement::Split { parts }).await.unwrap();
        assert!(matches!(spool.claim(id).await, Err(SpoolError::NoSuchMessage(_))));
        for (n, id) in ids.into_iter().enumerate() {
            assert_eq!(waiting.recv().await.unwrap().id, id);
            assert_eq!(read(&spool.claim(id).await.unwrap()).await, format!("part {n}").into_bytes());
        }
    }
}
