//! What is said about a message that waits.

use super::*;

async fn standing(bench: &Bench, id: MessageId) -> MessageStatus {
    bench.inspector.inspect(id).await.expect("known")
}

#[tokio::test(start_paused = true)]
async fn each_wait_is_named_with_its_end() {
    let script = |job: &Job| match job.mailbox.as_str() {
        "asleep@contoso.example" => (NOW, asleep_until(Instant::now() + SECOND * 60)),
        _ => (SECOND * 10, Verdict::Done),
    };
    let tenants = [tenant("contoso", limited(1000, 1)), tenant("blocked", UNLIMITED)];
    let mut bench = Bench::new(&tenants, 100, Box::new(script));
    let because = Blocked { reason: "credential", why: "wrong secret".into(), retry_after: SECOND * 600 };
    bench.credential("blocked", Some(Err(because)));
    let start = clock::now();
    let leased = bench.add("contoso", "busy@contoso.example", NOW);
    let full = bench.add("contoso", "busy@contoso.example", NOW);
    let scheduled = bench.add("contoso", "busy@contoso.example", SECOND * 300);
    bench.add("contoso", "asleep@contoso.example", NOW);
    let asleep = bench.add("contoso", "asleep@contoso.example", NOW);
    let blocked = bench.add("blocked", "a@blocked.example", NOW);
    let unknown = bench.add("nobody", "a@nobody.example", NOW);
    bench.settle_for(SECOND).await;

    let found = standing(&bench, leased).await;
    assert_eq!((found.state, found.waits), (MessageState::Leased, None));
    assert_eq!(found.mailbox.unwrap().as_str(), "busy@contoso.example");

    let waits = standing(&bench, full).await.waits.unwrap();
    assert_eq!((waits.limit, waits.until), (Some(LimitKind::ConcurrentRequests), None));

    let found = standing(&bench, scheduled).await;
    assert_eq!(found.state, MessageState::Scheduled);
    assert!(found.waits.unwrap().until.unwrap() >= start + SECOND * 300);

    let found = standing(&bench, asleep).await;
    assert_eq!(found.state, MessageState::Ready);
    let waits = found.waits.unwrap();
    assert_eq!((waits.limit, &*waits.why), (Some(LimitKind::Service), "429 TooManyRequests"));
    assert!(waits.until.unwrap().since(start).abs_diff(SECOND * 60) < SECOND);

    let found = standing(&bench, blocked).await;
    assert_eq!(found.state, MessageState::Blocked);
    let waits = found.waits.unwrap();
    assert!(waits.why.contains("credential") && waits.why.contains("wrong secret"), "{}", waits.why);
    assert!(waits.until.unwrap().since(start).abs_diff(SECOND * 600) < SECOND);

    let found = standing(&bench, unknown).await;
    assert_eq!((found.state, found.mailbox), (MessageState::Held, None));

    assert_eq!(bench.inspector.inspect(bench.last.next()).await, None);
}
