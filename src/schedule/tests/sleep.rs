//! Mailboxes that sleep.

use std::sync::atomic::AtomicU32;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_sleep_that_comes_with_another_report_is_kept() {
    // Two in flight, one ends well, the other is throttled, both at the same instant.
    let n = AtomicU32::new(0);
    let script = move |_: &Job| {
        let verdict = match n.fetch_add(1, Ordering::Relaxed) {
            1 => asleep_until(Instant::now() + SECOND * 60),
            _ => Verdict::Done,
        };
        (SECOND, verdict)
    };
    let mut bench = Bench::new(&[tenant("contoso", limited(1000, 2))], 10, Box::new(script));
    let start = Instant::now();
    for _ in 0..3 {
        bench.add("contoso", "a@contoso.example", NOW);
    }
    bench.job().await;
    bench.job().await;
    let (at, _) = bench.job().await;
    assert!(at >= start + SECOND * 60, "the third went after {:?}", at - start);
}

#[tokio::test(start_paused = true)]
async fn a_sleep_is_kept_when_all_slots_are_taken() {
    let script = |job: &Job| {
        if job.mailbox.as_str().starts_with("a@") {
            (SECOND, asleep_until(Instant::now() + SECOND * 61))
        } else {
            (SECOND * 5, Verdict::Done)
        }
    };
    let mut bench =
        Bench::new(&[tenant("contoso", UNLIMITED), tenant("fabrikam", UNLIMITED)], 2, Box::new(script));
    let start = Instant::now();
    for _ in 0..2 {
        bench.add("contoso", "a@contoso.example", NOW);
    }
    for _ in 0..2 {
        bench.add("fabrikam", "b@fabrikam.example", NOW);
    }
    let mut went = Vec::new();
    for _ in 0..4 {
        let (at, job) = bench.job().await;
        if job.mailbox.as_str().starts_with("a@") {
            went.push(at - start);
        }
    }
    assert!(went[1] >= SECOND * 60, "{went:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_sleeps_before_its_message_is_settled() {
    let n = AtomicU32::new(0);
    let script = move |_: &Job| match n.fetch_add(1, Ordering::Relaxed) {
        0 => (SECOND, asleep_until(Instant::now() + SECOND * 60)),
        // Ends while the first is being settled, and leaves a free slot.
        1 => (SECOND * 3, Verdict::Done),
        _ => (NOW, Verdict::Done),
    };
    let tenants = [tenant("contoso", limited(1000, 2))];
    let mut bench = Bench::settling(&tenants, 10, Box::new(script), SECOND * 30);
    let start = Instant::now();
    bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    tokio::time::sleep(SECOND * 2).await;
    for _ in 0..2 {
        bench.add("contoso", "a@contoso.example", NOW);
    }
    for _ in 0..2 {
        let (at, _) = bench.job().await;
        assert!(at >= start + SECOND * 60, "went after {:?}", at - start);
    }
    let throttled = r#"m365_relay_throttled_total{limit="service",tenant="contoso"} 1"#;
    assert!(bench.metric(throttled), "{}", bench.metrics.render().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_slept_in_its_turn_has_one_turn_afterwards() {
    // a@ falls asleep while it is in the turn, and wakes before its turn comes: all slots are taken until
    // then.
    let n = AtomicU32::new(0);
    let script = move |_: &Job| match n.fetch_add(1, Ordering::Relaxed) {
        0 => (SECOND, asleep_until(Instant::now() + SECOND * 2)),
        _ => (SECOND, Verdict::Done),
    };
    let mut bench = Bench::settling(&[tenant("contoso", UNLIMITED)], 1, Box::new(script), SECOND * 30);
    for _ in 0..20 {
        bench.add("contoso", "a@contoso.example", NOW);
    }
    for _ in 0..20 {
        bench.add("contoso", "b@contoso.example", NOW);
    }
    bench.job().await;
    let mut of_b = 0;
    for _ in 0..12 {
        of_b += usize::from(bench.job().await.1.mailbox.as_str().starts_with("b@"));
    }
    assert!((5..=7).contains(&of_b), "{of_b} of 12");
}
