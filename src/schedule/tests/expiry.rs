//! Mail that waits too long.

use super::*;
use crate::config::Suspension;

/// The messages that follow have all waited for longer than they may.
fn grow_old(bench: &mut Bench) {
    bench.last = MessageId::first_at(clock::now() - GIVE_UP - SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_not_given_up_before_it_is_settled() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    grow_old(&mut bench);
    let start = Instant::now();
    bench.add("contoso", "a@contoso.example", SECOND * 3000);
    let (at, job) = bench.job().await;
    assert!(at >= start + SECOND * 2999, "{:?} after {:?}", job.task, at - start);
    assert_eq!(job.task, Task::Deliver);
}

#[tokio::test(start_paused = true)]
async fn what_grew_old_while_the_relay_was_off_is_tried_first() {
    // Two at a time, each of which takes 20 seconds: 60 in the first ten minutes.
    let mut bench = Bench::new(&[tenant("contoso", limited(1000, 2))], 10, takes(SECOND * 20));
    grow_old(&mut bench);
    for _ in 0..50 {
        bench.add("contoso", "a@contoso.example", NOW);
    }
    for _ in 0..50 {
        assert_eq!(bench.job().await.1.task, Task::Deliver);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_blocked_at_the_start_has_time_to_come_back() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let because = Blocked { reason: "login", why: "no connection".into(), retry_after: SECOND * 60 };
    bench.credential("contoso", Some(Err(because)));
    grow_old(&mut bench);
    bench.add("contoso", "a@contoso.example", NOW);
    bench.no_job_for(SECOND * 300).await;
    bench.credential("contoso", Some(Ok(SECOND * 3600)));
    assert_eq!(bench.job().await.1.task, Task::Deliver);
}

#[tokio::test(start_paused = true)]
async fn what_a_sleeping_mailbox_holds_expires_and_says_why() {
    let script = |_: &Job| (NOW, asleep_until(Instant::now() + GIVE_UP * 2));
    let mut bench = Bench::new(&[tenant("contoso", limited(1000, 1))], 10, Box::new(script));
    let start = Instant::now();
    bench.add("contoso", "a@contoso.example", NOW);
    let second = bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    bench.no_job_for(GIVE_UP - SECOND).await;
    let (at, job) = bench.job().await;
    assert_eq!((job.id, job.task), (second, Task::Expire { why: "429 TooManyRequests".into() }));
    assert!(at < start + GIVE_UP + SECOND * 60);
}

#[tokio::test(start_paused = true)]
async fn mail_that_is_given_up_leaves_places_for_other_tenants() {
    let slow =
        |job: &Job| (if job.tenant.name.as_str() == "old" { SECOND * 3600 } else { SECOND }, Verdict::Done);
    let mut bench = Bench::new(&[tenant("old", UNLIMITED), tenant("quick", UNLIMITED)], 90, Box::new(slow));
    let because = Blocked { reason: "credential", why: "wrong secret".into(), retry_after: SECOND * 600 };
    bench.credential("old", Some(Err(because)));
    grow_old(&mut bench);
    for _ in 0..1000 {
        bench.add("old", "a@old.example", NOW);
    }
    for _ in 0..80 {
        assert!(matches!(bench.job().await.1.task, Task::Expire { .. }));
    }
    bench.no_job_for(SECOND * 60).await;
    let quick = bench.add("quick", "a@quick.example", NOW);
    assert_eq!(bench.job().await.1.id, quick);
}

fn suspended(name: &str, mailbox: Option<&str>) -> Arc<Tenant> {
    let mut changed = Tenant::clone(&tenant(name, UNLIMITED));
    match mailbox {
        Some(mailbox) => {
            changed.suspended_mailboxes.insert(mailbox.parse().unwrap(), Suspension::configured());
        }
        None => changed.suspended = Some(Suspension::configured()),
    }
    Arc::new(changed)
}

/// And afterwards it has as much time again.
#[tokio::test(start_paused = true)]
async fn what_is_suspended_does_not_expire() {
    for mailbox in [None, Some("a@contoso.example")] {
        let kept = suspended("contoso", mailbox);
        let mut bench = Bench::new(std::slice::from_ref(&kept), 10, takes(NOW));
        let because = Blocked { reason: "suspended", why: "suspended".into(), retry_after: SECOND * 3600 };
        if mailbox.is_none() {
            bench.credential("contoso", Some(Err(because)));
        }
        bench.add("contoso", "a@contoso.example", NOW);
        bench.no_job_for(GIVE_UP * 3).await;
        bench.credential("contoso", Some(Ok(SECOND * 3600)));
        bench.orders.send(Order::Adopt(roster_of(&[tenant("contoso", UNLIMITED)]))).unwrap();
        assert_eq!(bench.job().await.1.task, Task::Deliver, "{mailbox:?}");
    }
}
