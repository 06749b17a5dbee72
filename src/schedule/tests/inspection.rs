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

async fn listed(bench: &Bench, selection: Selection, most: usize) -> (Vec<MessageId>, usize) {
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut after = None;
    loop {
        let listing = bench.inspector.list(selection.clone(), after, most).await.unwrap();
        assert!(listing.found.len() <= most);
        found.extend(listing.found.into_iter().map(|(id, _)| id));
        looked_at += listing.looked_at;
        after = listing.next;
        if after.is_none() {
            return (found, looked_at);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_in_order_and_whole_however_small_its_pages() {
    let tenants = [tenant("contoso", UNLIMITED), tenant("fabrikam", UNLIMITED)];
    let mut bench = Bench::new(&tenants, 100, Box::new(|_: &Job| (SECOND * 1000, Verdict::Done)));
    let mut all = Vec::new();
    for n in 0..30u32 {
        let name = ["contoso", "fabrikam", "nobody"][n as usize % 3];
        all.push(bench.add(name, &format!("m{}@{name}.example", n % 2), SECOND * (100 + n)));
    }
    bench.settle_for(SECOND).await;
    for most in [1, 7, 30, 1000] {
        assert_eq!(listed(&bench, Selection::default(), most).await, (all.clone(), 30), "{most}");
    }
    let of = |name: &str| Selection { tenant: Some(name.parse().unwrap()), ..Selection::default() };
    let every_third = |first: usize| all.iter().skip(first).step_by(3).copied().collect::<Vec<_>>();
    for (first, name) in ["contoso", "fabrikam", "nobody"].into_iter().enumerate() {
        assert_eq!(listed(&bench, of(name), 3).await, (every_third(first), 10), "{name}");
    }
    assert_eq!(listed(&bench, of("stranger"), 3).await, (vec![], 0));
    let mailbox = Selection { mailbox: Some("m0@contoso.example".parse().unwrap()), ..Selection::default() };
    assert_eq!(listed(&bench, mailbox, 2).await.0, all.iter().step_by(6).copied().collect::<Vec<_>>());
    let held = Selection { state: Some(MessageState::Held), ..Selection::default() };
    assert_eq!(listed(&bench, held, 4).await.0, every_third(2));
    let none = Selection { before: Some(all[0].accepted()), ..Selection::default() };
    assert_eq!(listed(&bench, none, 4).await, (vec![], 0));

    let survey = async |name: &str, by| {
        let rows = bench.inspector.survey(&name.parse().unwrap(), by).await.unwrap();
        rows.into_iter().map(|(key, ages)| (key, ages.total())).collect::<Vec<_>>()
    };
    let row = |key: &str, n| (key.to_owned(), n);
    assert_eq!(survey("contoso", SurveyBy::Tenant).await, [row("", 10)]);
    let mailboxes = [row("m0@contoso.example", 5), row("m1@contoso.example", 5)];
    assert_eq!(survey("contoso", SurveyBy::Mailbox).await, mailboxes);
    assert_eq!(survey("contoso", SurveyBy::State).await, [row("scheduled", 10)]);
    assert_eq!(survey("contoso", SurveyBy::Why).await, [row("retry", 10)]);
    assert_eq!(survey("nobody", SurveyBy::Why).await, [row("no_tenant", 10)]);
    assert_eq!(survey("stranger", SurveyBy::Tenant).await, []);
}

/// Its mailbox is known although it is in no queue, and stays known.
#[tokio::test(start_paused = true)]
async fn a_held_message_has_a_mailbox() {
    let tenants = [tenant("contoso", UNLIMITED)];
    let mut bench = Bench::new(&tenants, 100, Box::new(|_: &Job| (SECOND * 1000, Verdict::Done)));
    let id = bench.add("contoso", "a@contoso.example", SECOND * 100);
    let lane =
        Arc::new(Lane { tenant: "contoso".parse().unwrap(), author: "a@contoso.example".parse().unwrap() });
    bench.messages.send(Event::Held { id, lane, reason: None }).unwrap();
    bench.settle_for(SECOND * 3600).await;
    let found = standing(&bench, id).await;
    assert_eq!((found.state, found.mailbox.unwrap().as_str()), (MessageState::Held, "a@contoso.example"));
    let by_mailbox =
        Selection { mailbox: Some("a@contoso.example".parse().unwrap()), ..Selection::default() };
    assert_eq!(listed(&bench, by_mailbox, 4).await.0, [id]);
}
