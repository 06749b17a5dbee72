//! A new roster of tenants.

use std::{collections::HashSet, sync::atomic::AtomicU32};

use super::*;
use crate::config::MailboxRule;
use relay_mail::{BodyKind, Envelope, Ingress, MailboxAddress};
use relay_spool::{Message, NewMessage};

impl Bench {
    fn adopt(&self, tenants: &[Arc<Tenant>]) {
        self.orders.send(Order::Adopt(roster_of(tenants))).unwrap();
    }

    /// What the spool says next, to the scheduler.
    async fn pass_on(&mut self) {
        let told = self.told.recv().await.unwrap();
        self.messages.send(told).unwrap();
    }

    fn held(&self, tenant: &str) -> u64 {
        let depths = self.depths.all();
        let depth = depths.iter().find(|(name, _)| name.as_str() == tenant);
        depth.map_or(0, |(_, depth)| depth.states().iter().find(|(state, _)| *state == "held").unwrap().1)
    }

    fn has_series(&self, tenant: &str) -> bool {
        self.metrics.render().unwrap().contains(&format!("tenant=\"{tenant}\""))
    }
}

fn because(reason: &'static str, wait: Duration) -> Blocked {
    Blocked { reason, why: "wrong secret".into(), retry_after: wait }
}

#[tokio::test(start_paused = true)]
async fn mail_of_a_tenant_that_goes_is_held_and_goes_on_when_it_is_back() {
    let contoso = tenant("contoso", limited(0, 1));
    let fabrikam = tenant("fabrikam", UNLIMITED);
    let both = [contoso.clone(), fabrikam.clone()];
    let mut bench = Bench::new(&both, 10, takes(SECOND * 10));
    let first = bench.add("contoso", "a@contoso.example", NOW);
    let second = bench.add("contoso", "a@contoso.example", NOW);
    let later = bench.add("contoso", "a@contoso.example", SECOND * 5);
    assert_eq!(bench.job().await.1.id, first);

    bench.adopt(std::slice::from_ref(&fabrikam));
    // The job that has begun ends; nothing follows it, and nothing expires.
    bench.no_job_for(GIVE_UP * 2).await;
    assert_eq!(bench.held("contoso"), 2);
    let standing = bench.inspector.inspect(second).await.unwrap();
    assert_eq!(standing.state, MessageState::Held);
    assert_eq!(standing.waits.unwrap().why, "its tenant is not in the configuration");
    let other = bench.add("fabrikam", "a@fabrikam.example", NOW);
    assert_eq!(bench.job().await.1.id, other);

    // Back, and different from before.
    bench.adopt(&[tenant("contoso", UNLIMITED), fabrikam]);
    let ids = [bench.job().await.1.id, bench.job().await.1.id];
    assert!(ids.contains(&second) && ids.contains(&later), "{ids:?}");
    assert_eq!(bench.held("contoso"), 0);
}

/// A hold does not count: what grew old meanwhile must be tried, however slowly.
#[tokio::test(start_paused = true)]
async fn what_was_held_longer_than_mail_is_kept_is_delivered_and_does_not_expire() {
    let mut bench = Bench::new(&[tenant("contoso", limited(1, 0))], 10, takes(NOW));
    let ids: Vec<_> = (0..31).map(|_| bench.add("contoso", "a@contoso.example", NOW)).collect();
    assert_eq!(bench.job().await.1.id, ids[0]);
    bench.adopt(&[]);
    bench.no_job_for(GIVE_UP * 2).await;
    bench.adopt(&[tenant("contoso", limited(1, 0))]);
    for id in &ids[1..] {
        let (_, job) = bench.job().await;
        assert_eq!((job.id, job.task), (*id, Task::Deliver));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_shown_of_a_tenant_that_has_gone_without_mail() {
    let contoso = tenant("contoso", UNLIMITED);
    let fabrikam = tenant("fabrikam", UNLIMITED);
    let mut bench = Bench::new(&[contoso, fabrikam.clone()], 10, takes(SECOND));
    bench.add("contoso", "a@contoso.example", NOW);
    bench.add("fabrikam", "a@fabrikam.example", NOW);
    bench.settle_for(SECOND * 2).await;
    assert!(bench.has_series("contoso"));
    bench.adopt(&[fabrikam]);
    bench.settle_for(SECOND).await;
    assert!(!bench.has_series("contoso") && bench.has_series("fabrikam"));
    assert!(bench.depths.all().iter().all(|(name, _)| name.as_str() == "fabrikam"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_tenant_is_asked_for_its_credential_at_once_and_others_are_not() {
    let contoso = tenant("contoso", UNLIMITED);
    let fabrikam = tenant("fabrikam", UNLIMITED);
    let mut bench = Bench::new(&[contoso, fabrikam.clone()], 10, takes(SECOND));
    bench.credential("contoso", Some(Err(because("credential", SECOND * 600))));
    bench.add("fabrikam", "a@fabrikam.example", NOW);
    let waiting = bench.add("contoso", "a@contoso.example", NOW);
    bench.settle_for(SECOND * 2).await;
    assert_eq!(bench.fake.asked.load(Ordering::Relaxed), 2);

    bench.credential("contoso", Some(Ok(SECOND * 3600)));
    let began = Instant::now();
    bench.adopt(&[tenant("contoso", UNLIMITED), fabrikam]);
    let (at, job) = bench.job().await;
    assert!(job.id == waiting && at < began + SECOND, "{:?}", at - began);
    bench.add("fabrikam", "a@fabrikam.example", NOW);
    bench.job().await;
    assert_eq!(bench.fake.asked.load(Ordering::Relaxed), 3);
}

/// The old secret was refused while the new one was on its way.
#[tokio::test(start_paused = true)]
async fn what_an_old_configuration_led_to_does_not_block_the_new_one() {
    let script = |job: &Job| match job.tenant.client_id.as_str() {
        "old" => (SECOND * 5, Verdict::TenantBlocked(because("credential", SECOND * 600))),
        _ => (SECOND, Verdict::Done),
    };
    let with = |app: &str| {
        Arc::new(Tenant { client_id: app.into(), ..Tenant::clone(&tenant("contoso", UNLIMITED)) })
    };
    let mut bench = Bench::new(&[with("old")], 10, Box::new(script));
    bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    bench.adopt(&[with("new")]);
    bench.settle_for(SECOND * 6).await;
    let began = Instant::now();
    let id = bench.add("contoso", "a@contoso.example", NOW);
    let (at, job) = bench.job().await;
    assert!(job.id == id && at < began + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_counts_at_once_and_the_services_word_stands() {
    let script = |job: &Job| match job.mailbox.as_str() {
        "slept@contoso.example" => (NOW, asleep_until(Instant::now() + SECOND * 900)),
        _ => (NOW, Verdict::Done),
    };
    let mut bench = Bench::new(&[tenant("contoso", limited(1, 0))], 10, Box::new(script));
    for _ in 0..2 {
        bench.add("contoso", "a@contoso.example", NOW);
        bench.add("contoso", "slept@contoso.example", NOW);
    }
    bench.settle_for(SECOND).await;
    let began = Instant::now();
    bench.adopt(&[tenant("contoso", UNLIMITED)]);
    let (at, job) = bench.job().await;
    assert!(job.mailbox.as_str() == "a@contoso.example" && at < began + SECOND, "{job:?}");
    let (at, job) = bench.job().await;
    assert_eq!(job.mailbox.as_str(), "slept@contoso.example");
    assert!(at >= began + SECOND * 890, "{:?}", at - began);
}

/// Nobody needs to fix anything for a tenant whose mail is held. The first job stops all others for five
/// minutes, by this verdict, and ten seconds later comes this order. The next job goes at once, or when the
/// five minutes are over.
async fn goes_on(verdict: impl Fn() -> Verdict + Send + Sync + 'static, order: Order, is_at_once: bool) {
    let n = AtomicU32::new(0);
    let script = move |_: &Job| match n.fetch_add(1, Ordering::Relaxed) {
        0 => (NOW, verdict()),
        _ => (NOW, Verdict::Done),
    };
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, Box::new(script));
    let start = Instant::now();
    bench.add("contoso", "a@contoso.example", NOW);
    let (_, first) = bench.job().await;
    bench.add("contoso", "a@contoso.example", NOW);
    bench.no_job_for(SECOND * 10).await;
    bench.orders.send(order).unwrap();
    let (at, next) = bench.job().await;
    assert_ne!(first.id, next.id);
    assert_eq!(at < start + SECOND * 20, is_at_once, "after {:?}", at - start);
}

#[tokio::test(start_paused = true)]
async fn what_sleeps_for_a_cause_is_woken_when_the_cause_may_be_gone() {
    for (limit, is_woken) in [(LimitKind::Mailbox, true), (LimitKind::Service, false)] {
        let asleep = move || {
            let until = Instant::now() + SECOND * 300;
            Verdict::MailboxAsleep { until, limit, why: "refused".into() }
        };
        goes_on(asleep, Order::LookAgain("contoso".parse().unwrap()), is_woken).await;
        goes_on(asleep, Order::AskServices { except: HashSet::new() }, is_woken).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_asks_again_what_was_refused_and_not_what_was_put_off() {
    let asks = |reason, order, is_asked| {
        goes_on(move || Verdict::TenantBlocked(because(reason, SECOND * 300)), order, is_asked)
    };
    let services = |except: &[&str]| Order::AskServices {
        except: except.iter().map(|name| name.parse().unwrap()).collect(),
    };
    let contoso = || Order::LookAgain("contoso".parse().unwrap());
    asks(Blocked::PERMISSION, services(&[]), true).await;
    asks(Blocked::PERMISSION, services(&["contoso"]), false).await;
    asks(Blocked::PERMISSION, contoso(), true).await;
    asks(Blocked::THROTTLED, services(&[]), false).await;
    asks(Blocked::THROTTLED, contoso(), false).await;
    // A login that failed is not tried by a reload.
    asks("credential", services(&[]), false).await;
    asks("credential", contoso(), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_has_gone_is_not_shown_as_blocked() {
    let script = |_: &Job| (SECOND * 5, Verdict::TenantBlocked(because("credential", SECOND * 600)));
    let mut bench = Bench::new(&[tenant("contoso", limited(0, 1))], 10, Box::new(script));
    bench.add("contoso", "a@contoso.example", NOW);
    bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    bench.adopt(&[]);
    bench.settle_for(SECOND * 20).await;
    assert_eq!(bench.held("contoso"), 1);
    assert!(!bench.metric("m365_relay_tenant_blocked{reason=\"credential\",tenant=\"contoso\"} 1"));
}

/// What the old one left behind is not taken for the new one's: for example a slot that was kept for a call
/// that timed out.
#[tokio::test(start_paused = true)]
async fn a_tenant_that_comes_back_begins_anew() {
    let contoso = || tenant("contoso", limited(0, 1));
    let mut bench = Bench::new(&[contoso()], 10, takes(SECOND));
    *bench.fake.keeps.lock().unwrap() = SECOND * 60;
    bench.add("contoso", "a@contoso.example", NOW);
    bench.settle_for(SECOND * 2).await;
    bench.adopt(&[]);
    bench.settle_for(SECOND).await;
    assert!(!bench.has_series("contoso"));

    bench.adopt(&[contoso()]);
    *bench.fake.keeps.lock().unwrap() = NOW;
    bench.add("contoso", "a@contoso.example", NOW);
    bench.settle_for(SECOND * 120).await;
    let last = bench.add("contoso", "a@contoso.example", NOW);
    assert_eq!(bench.job().await.1.id, last);
}

/// Its worker had it while the mailbox was changed, and says that it must be tried again.
#[tokio::test(start_paused = true)]
async fn a_message_under_way_follows_a_changed_mailbox_at_its_next_attempt() {
    let fixed = |to: &str| {
        let mailbox = MailboxRule::Fixed(to.parse().unwrap());
        Arc::new(Tenant { mailbox, ..Tenant::clone(&tenant("contoso", UNLIMITED)) })
    };
    let mut bench = Bench::new(&[fixed("one@contoso.example")], 10, takes(SECOND));
    let id = bench.add("contoso", "a@contoso.example", NOW);
    assert_eq!(bench.job().await.1.mailbox.as_str(), "one@contoso.example");
    bench.adopt(&[fixed("two@contoso.example")]);
    // It is settled, and the worker has not come back yet.
    let lane = Lane { tenant: "contoso".parse().unwrap(), author: "a@contoso.example".parse().unwrap() };
    bench
        .messages
        .send(Event::Waiting(Waiting { id, lane: lane.into(), due: clock::now() + SECOND }))
        .unwrap();
    let (_, job) = bench.job().await;
    assert_eq!((job.id, job.mailbox.as_str()), (id, "two@contoso.example"));
}

/// The spool's own messages, since it is the spool that announces them again.
#[tokio::test(start_paused = true)]
async fn messages_follow_a_changed_mailbox_and_those_of_an_unknown_tenant_are_found() {
    let mut bench = Bench::new(&[tenant("fabrikam", UNLIMITED)], 10, takes(SECOND));
    let id = store(&bench.spool, "contoso").await;
    bench.pass_on().await;
    bench.no_job_for(SECOND).await;
    assert_eq!(bench.held("contoso"), 1);

    let fixed = |to: &str| {
        let mailbox = MailboxRule::Fixed(to.parse().unwrap());
        Arc::new(Tenant { mailbox, ..Tenant::clone(&tenant("contoso", UNLIMITED)) })
    };
    bench.credential("contoso", Some(Err(because("suspended", SECOND * 3600))));
    bench.adopt(&[fixed("one@contoso.example")]);
    bench.pass_on().await;
    bench.no_job_for(SECOND).await;
    assert_eq!(bench.inspector.inspect(id).await.unwrap().mailbox.unwrap().as_str(), "one@contoso.example");

    bench.credential("contoso", Some(Ok(SECOND * 3600)));
    bench.adopt(&[fixed("two@contoso.example")]);
    bench.pass_on().await;
    bench.settle_for(SECOND * 2).await;
    bench.adopt(&[fixed("three@contoso.example")]);
    assert!(bench.inspector.inspect(id).await.is_none(), "it was delivered");
}

/// Stores a message of that tenant.
async fn store(spool: &Spool, tenant: &str) -> MessageId {
    let (id, mut body) = spool.begin();
    body.write(b"Subject: x\r\n\r\n").await.unwrap();
    let author: MailboxAddress = format!("a@{tenant}.example").parse().unwrap();
    let message = Message {
        tenant: tenant.parse().unwrap(),
        ingress: Ingress::Smtp,
        envelope: Envelope::new(
            Some(author.clone()),
            ["b@example.net".parse().unwrap()],
            BodyKind::EightBitMime,
        )
        .unwrap(),
        author,
        bounce_of: None,
    };
    let body = body.finish().await.unwrap();
    let accepted = spool.accept(NewMessage { id, message, body }).await.unwrap();
    accepted.announce();
    id
}
