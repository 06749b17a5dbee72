use std::sync::Arc;

use tokio::time::{Instant, advance};

use super::*;
use crate::{
    limits::{Limit, Permit, Throttled},
    tenant::Tenant,
    world::World,
};

fn one_mailbox() -> (Arc<Tenant>, Limits) {
    let world = World::new(String::new(), Options { limits: Limits::default(), ..options() });
    (world.tenants[0].clone(), world.options.limits.clone())
}

#[tokio::test(start_paused = true)]
async fn the_minute_rolls() {
    let (tenant, limits) = one_mailbox();
    let mailbox = tenant.mailbox(MAILBOX).expect("a mailbox");
    let send = || mailbox.gate.message(&limits, Instant::now());
    for _ in 0..15 {
        assert_eq!(send(), Ok(()));
    }
    advance(Duration::from_secs(30)).await;
    for _ in 0..15 {
        assert_eq!(send(), Ok(()));
    }
    let full = Throttled { limit: Limit::Messages, wait: Duration::from_secs(30) };
    assert_eq!(send(), Err(full));
    advance(Duration::from_millis(29_999)).await;
    assert_eq!(send(), Err(Throttled { wait: Duration::from_millis(1), ..full }));
    advance(Duration::from_millis(1)).await;
    for _ in 0..15 {
        assert_eq!(send(), Ok(()));
    }
    assert!(send().is_err());
    let other = tenant.mailbox("other@contoso.example").expect("a mailbox");
    assert_eq!(other.gate.message(&limits, Instant::now()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn four_calls_at_a_time() {
    let (tenant, limits) = one_mailbox();
    let mailbox = tenant.mailbox(MAILBOX).expect("a mailbox");
    let enter = || Permit::take(&mailbox.gate, &limits, Instant::now());
    let mut inside: Vec<_> = (0..4).map(|_| enter().expect("room")).collect();
    assert_eq!(enter().err().map(|t| t.limit), Some(Limit::Concurrency));
    inside.pop();
    assert!(enter().is_ok());
    drop(inside);
    assert_eq!(mailbox.gate.peak(), 4);
}

#[tokio::test(start_paused = true)]
async fn calls_and_octets_are_counted_over_minutes() {
    let (tenant, limits) = one_mailbox();
    let mailbox = tenant.mailbox(MAILBOX).expect("a mailbox");
    let enter = || Permit::take(&mailbox.gate, &limits, Instant::now()).map(drop);
    assert!((0..10_000).all(|_| enter().is_ok()));
    let Err(throttled) = enter() else { panic!("10,001 calls") };
    assert_eq!((throttled.limit, throttled.wait), (Limit::Requests, Duration::from_secs(600)));
    advance(Duration::from_secs(599)).await;
    assert!(enter().is_err());
    advance(Duration::from_secs(1)).await;
    assert!(enter().is_ok(), "what was called ten minutes ago is forgotten");

    let upload = |bytes| mailbox.gate.upload(bytes, &limits, Instant::now());
    assert_eq!(upload(150_000_000), Ok(()));
    assert_eq!(upload(1).err().map(|t| t.limit), Some(Limit::Upload));
    advance(Duration::from_secs(330)).await;
    assert_eq!(upload(150_000_000), Ok(()));
}

#[tokio::test]
async fn the_thirty_first_message_is_throttled_in_graphs_words() {
    let lab = Lab::start(Options { limits: Limits::default(), ..options() }).await;
    for _ in 0..30 {
        assert_eq!(lab.send(MAIL).await.status, 202);
    }
    let answer = lab.send(MAIL).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "TooManyRequests"));
    let inner = &answer.json()["error"]["innerError"];
    assert_eq!(
        (inner["code"].as_str(), inner["message"].as_str()),
        (Some("429"), Some("Please retry after"))
    );
    let wait: f64 = answer.header("retry-after").parse().expect("a number");
    assert!(wait > 30.0 && wait <= 60.0 && answer.header("retry-after").contains('.'), "{wait}");
    let other = MAIL.replace("scanner@", "other@");
    assert_eq!(Answer::of(lab.mail("other@contoso.example", other.as_bytes())).await.status, 202);
    assert_eq!(lab.delivered(), 31);
    assert_eq!(lab.service.counts().throttled, 1);
}

#[tokio::test]
async fn a_fifth_call_at_a_time_is_throttled() {
    let limits = Limits { concurrency: Some(4), ..Limits::unthrottled() };
    let retry_after = RetryAfter::Fixed("2.128".into());
    let lab = Lab::start(Options { limits, retry_after, ..options() }).await;
    lab.service.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(3600))).times(4));
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let request = lab.mail(MAILBOX, MAIL.as_bytes());
            tokio::spawn(async move { request.send().await.map(drop) })
        })
        .collect();
    while !lab.service.faults().is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = lab.send(MAIL).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "ApplicationThrottled"));
    assert_eq!(answer.header("retry-after"), "2.128");
    assert!(answer.body.contains("over its MailboxConcurrency limit"), "{}", answer.body);
    waiting.iter().for_each(|task| task.abort());
    assert_eq!(lab.send(MAIL).await.status, 429, "a call that the client gave up still has its place");
    assert_eq!(lab.service.peak_concurrency(MAILBOX), 4);
}
