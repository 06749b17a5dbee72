//! Failed attempts, kept with their message.

use super::*;

#[tokio::test]
async fn what_failed_is_known_after_a_restart() {
    for place in Place::both() {
        let (spool, _waiting) = place.start();
        let id = accept(&spool, b"x").await;
        let attempt = |n: u64| {
            FailedAttempt::new(
                Timestamp::from_millis(n),
                "service",
                "503",
                &"no ".repeat(50),
                &format!("id-{n}"),
            )
        };
        for n in 0..12 {
            let lease = spool.claim(id).await.unwrap().lease;
            let wait =
                Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt: Some(attempt(n)) };
            spool.settle(lease, wait).await.unwrap();
        }
        // What happens to it besides changes nothing about them.
        spool.hold(id, None).await.unwrap();
        spool.release(id).await.unwrap();
        let lease = spool.claim(id).await.unwrap().lease;
        let expected: Vec<_> = (2..12).map(attempt).collect();
        let known = async |spool: &Spool| spool.find(vec![id]).await.unwrap()[&id].failed.list();
        assert_eq!(known(&spool).await, expected);
        drop((spool, _waiting, lease));
        // A crash, with a lease and then without one.
        for _ in 0..2 {
            let (spool, _waiting) = place.start();
            assert_eq!(known(&spool).await, expected);
        }
        let (spool, _waiting) = place.start();
        spool.remove(id).await.unwrap();
        assert!(spool.find(vec![id]).await.unwrap().is_empty());
    }
}

/// Several changes of one message in one group: the last attempt must not be lost to an earlier record.
#[tokio::test]
async fn attempts_follow_a_message_through_one_group() {
    let place = Place::Disk(tempfile::tempdir().unwrap());
    let (spool, _waiting) = place.start();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(accept(&spool, b"x").await);
    }
    for n in 0..3 {
        let rounds = ids.iter().map(|id| {
            let spool = spool.clone();
            let id = *id;
            async move {
                let lease = spool.claim(id).await.unwrap().lease;
                let attempt = Some(FailedAttempt::new(Timestamp::from_millis(n), "c", "", "text", ""));
                let wait = Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt };
                let (settled, held) = tokio::join!(spool.settle(lease, wait), spool.hold(id, None));
                settled.unwrap();
                assert!(matches!(held, Ok(()) | Err(SpoolError::InDelivery(_))));
                spool.release(id).await.unwrap();
            }
        });
        futures_util::future::join_all(rounds).await;
    }
    for (id, found) in spool.find(ids).await.unwrap() {
        assert_eq!(found.failed.list().len(), 3, "{id}");
    }
}
