//! Between durable and announced.

use std::task::{Context, Waker};

use super::*;

fn tally(spool: &Spool) -> (u64, u64) {
    let tally = spool.tally().tenant(&"contoso".parse().unwrap());
    (tally.messages(), tally.bytes())
}

#[tokio::test]
async fn a_message_is_announced_when_its_token_goes() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        for says_so in [true, false] {
            let new = new_message(&spool, b"x").await;
            let id = new.id;
            let accepted = spool.accept(new).await.unwrap();
            assert_eq!(accepted.id(), id);
            // It is durable and counted, and nobody has heard of it.
            let found = spool.find(vec![id]).await.unwrap();
            assert!(found.len() == 1 && found[&id].clone().read().is_ok(), "{found:?}");
            assert!(waiting.try_recv().is_none());
            if says_so {
                accepted.announce();
            } else {
                drop(accepted);
            }
            assert_eq!(waiting.try_recv().unwrap().id, id);
            assert!(waiting.try_recv().is_none());
        }
        assert_eq!(tally(&spool), (2, 2));
    }
}

#[tokio::test]
async fn a_message_whose_caller_has_gone_is_announced() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        let new = new_message(&spool, b"x").await;
        let id = new.id;
        {
            let mut accept = Box::pin(spool.accept(new));
            let mut context = Context::from_waker(Waker::noop());
            let _ = accept.as_mut().poll(&mut context);
        }
        assert_eq!(waiting.recv().await.unwrap().id, id);
    }
}

#[tokio::test]
async fn an_unwound_message_has_never_been() {
    for place in Place::both() {
        let (spool, mut waiting) = place.start();
        let mut ids = Vec::new();
        for size in [1, 100_000, SEGMENT_BODY + 1] {
            let new = new_message(&spool, &vec![1; size]).await;
            ids.push(new.id);
            spool.accept(new).await.unwrap().unwind().await.unwrap();
        }
        assert_eq!(tally(&spool), (0, 0));
        assert!(spool.find(ids).await.unwrap().is_empty());
        if let Place::Disk(dir) = &place {
            assert_eq!(std::fs::read_dir(dir.path().join("body/large")).unwrap().count(), 0);
        }
        assert!(waiting.try_recv().is_none());
        drop((spool, waiting));
        let (_spool, mut waiting) = place.start();
        assert!(waiting.try_recv().is_none());
    }
}

#[tokio::test]
async fn a_crash_announces_what_was_held_back() {
    for place in Place::both() {
        let (spool, waiting) = place.start();
        let new = new_message(&spool, b"x").await;
        let id = new.id;
        let accepted = spool.accept(new).await.unwrap();
        drop((spool, waiting, accepted));
        let (_spool, mut waiting) = place.start();
        assert_eq!(waiting.try_recv().unwrap().id, id);
    }
}

/// Healing tells the scheduler of all messages that wait, but not of one that may still be unwound.
#[tokio::test]
async fn healing_holds_back_what_was_held_back() {
    for fault in [Fault::Lost, Fault::Stored] {
        let store = MemoryStore::default();
        let (spool, events) = Spool::start(store.clone(), ()).unwrap();
        let mut waiting = Heard(events);
        let kept = new_message(&spool, b"kept").await;
        let kept_id = kept.id;
        let kept = spool.accept(kept).await.unwrap();
        let unwound = new_message(&spool, b"unwound").await;
        let unwound = spool.accept(unwound).await.unwrap();

        store.break_down(fault);
        let refused = new_message(&spool, b"refused").await;
        let refused_id = refused.id;
        assert!(spool.accept(refused).await.is_err());
        // This is not refused, but waits.
        let unwinding = tokio::spawn(unwound.unwind());
        store.mend();
        unwinding.await.unwrap().unwrap();
        while spool.unhealthy().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(waiting.try_recv().is_none());
        // The caller that was refused is right: the message is not there.
        assert!(spool.find(vec![refused_id]).await.unwrap().is_empty());
        assert_eq!(tally(&spool), (1, 4));
        assert_eq!(store.count().0, 1);
        drop(kept);
        assert_eq!(waiting.try_recv().unwrap().id, kept_id);
        assert!(waiting.try_recv().is_none());
    }
}

/// An operator may find a message before its caller is done with it.
#[tokio::test]
async fn an_operator_has_the_last_word() {
    for place in Place::both() {
        let (spool, mut heard) = place.start();
        let mut accepted = Vec::new();
        for _ in 0..3 {
            let new = new_message(&spool, b"x").await;
            accepted.push(spool.accept(new).await.unwrap());
        }
        let [held, removed, released] = <[Accepted; 3]>::try_from(accepted).unwrap();
        let held_id = held.id();
        let released_id = released.id();
        spool.hold(held_id, None).await.unwrap();
        assert!(matches!(heard.0.recv().await, Some(Event::Held { id, .. }) if id == held_id));
        held.announce();
        spool.remove(removed.id()).await.unwrap();
        assert!(matches!(heard.0.recv().await, Some(Event::Left { .. })));
        assert!(matches!(removed.unwind().await, Err(SpoolError::NoSuchMessage(_))));
        spool.release(released_id).await.unwrap();
        assert_eq!(heard.recv().await.unwrap().id, released_id);
        spool.claim(released_id).await.unwrap();
        assert!(matches!(released.unwind().await, Err(SpoolError::InDelivery(_))));
        assert!(heard.0.try_recv().is_err());
    }
}
