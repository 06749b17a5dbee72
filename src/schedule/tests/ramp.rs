//! Slots that are kept, and traffic that begins slowly after a stop.

use std::sync::atomic::AtomicU32;

use super::*;

const A: &str = "a@contoso.example";

/// How many jobs begin in each second.
async fn begun_by_second(bench: &mut Bench, count: usize) -> Vec<(u64, usize)> {
    let mut by_second = BTreeMap::new();
    let start = Instant::now();
    for _ in 0..count {
        let (at, _) = bench.job().await;
        *by_second.entry((at - start).as_secs()).or_default() += 1;
    }
    by_second.into_iter().collect()
}

/// The first job ends with `first`, all others well; each takes a second.
fn after(first: impl Fn() -> Verdict + Send + Sync + 'static) -> Script {
    let n = AtomicU32::new(0);
    Box::new(move |_| match n.fetch_add(1, Ordering::Relaxed) {
        0 => (SECOND, first()),
        _ => (SECOND, Verdict::Done),
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_counts_for_some_time() {
    let mut bench = Bench::new(&[tenant("contoso", limited(100_000, 2))], 100, takes(SECOND));
    *bench.fake.keeps.lock().unwrap() = SECOND * 60;
    for _ in 0..2 {
        bench.add("contoso", A, NOW);
        bench.job().await;
    }
    *bench.fake.keeps.lock().unwrap() = Duration::ZERO;
    let start = Instant::now();
    bench.add("contoso", A, NOW);
    bench.settle_for(SECOND * 30).await;
    let waiting = r#"m365_relay_waiting_for_limit{limit="concurrent_requests",tenant="contoso"} 1"#;
    assert!(bench.metric(waiting), "{}", bench.metrics.render().unwrap());
    let at = bench.job().await.0 - start;
    assert!(at >= SECOND * 60 && at < SECOND * 63, "{at:?}");
    bench.settle_for(SECOND * 120).await;
    // Both are free again.
    for _ in 0..2 {
        bench.add("contoso", A, NOW);
    }
    assert_eq!(begun_by_second(&mut bench, 2).await, [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_no_slot_is_kept() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 100, takes(SECOND));
    *bench.fake.keeps.lock().unwrap() = SECOND * 60;
    for _ in 0..20 {
        bench.add("contoso", A, NOW);
    }
    assert_eq!(begun_by_second(&mut bench, 20).await, [(0, 20)]);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_mailbox_begins_with_one_call_and_doubles() {
    for (limits, expected) in [
        (UNLIMITED, vec![(60, 1), (61, 2), (62, 8), (63, 89)]),
        (limited(100_000, 3), vec![(60, 1), (61, 2), (62, 3), (63, 3), (64, 3)]),
    ] {
        let script = after(|| asleep_until(Instant::now() + SECOND * 60));
        let mut bench = Bench::new(&[tenant("contoso", limits)], 1000, script);
        bench.add("contoso", A, NOW);
        bench.job().await;
        for _ in 0..100 {
            // Not before the first has ended.
            bench.add("contoso", A, SECOND * 2);
        }
        let count = expected.iter().map(|(_, count)| count).sum();
        let begun = begun_by_second(&mut bench, count).await;
        assert_eq!(
            begun.iter().map(|(_, count)| *count).collect::<Vec<_>>(),
            expected.iter().map(|(_, count)| *count).collect::<Vec<_>>(),
            "{begun:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_was_blocked_begins_with_one_call() {
    let because = Blocked { reason: "permission", why: "no Mail.Send".into(), retry_after: SECOND * 60 };
    let script = after(move || Verdict::TenantBlocked(because.clone()));
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 1000, script);
    bench.add("contoso", A, NOW);
    bench.job().await;
    for n in 0..100 {
        bench.add("contoso", &format!("{n}@contoso.example"), SECOND * 2);
    }
    let begun = begun_by_second(&mut bench, 100).await;
    assert_eq!(begun.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 2, 8, 89], "{begun:?}");
}
