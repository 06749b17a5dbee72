use std::{num::NonZeroU32, sync::Mutex};

use tempfile::TempDir;
use tokio::time::{advance, timeout};

use super::*;
use crate::config::{Cloud, Limits};
use relay_mail::ByteSize;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn tenant(name: &str, limits: Limits) -> Tenant {
    Tenant { limits, client_id: "AAAA".into(), ..Tenant::sample(name, Cloud::loopback("http://127.0.0.1:1")) }
}

fn recipients(limit: u32) -> Limits {
    Limits { recipients_per_day: NonZeroU32::new(limit), ..Limits::NONE }
}

fn made(limits: Limits, app: u32, ledger: Option<&TempDir>) -> (Allowances, Tenant) {
    let tenant = tenant("contoso", limits);
    let app = AppLimit(NonZeroU32::new(app));
    let vital = Vital::unwatched();
    let allowances = Allowances::new(app, Metrics::new(), ledger.map(|folder| (folder.path(), &vital)));
    (allowances, tenant)
}

fn a() -> MailboxAddress {
    "a@contoso.example".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_days_recipients_come_back_a_day_later_and_no_earlier() {
    let (allowances, tenant) = made(recipients(100), 0, None);
    let mailbox = allowances.of(&tenant, &a());
    let start = Instant::now();
    let _ = mailbox.take_recipients(60).unwrap();
    advance(HOUR * 3).await;
    let _ = mailbox.take_recipients(40).unwrap();
    let exhausted = mailbox.take_recipients(1).map(drop).unwrap_err();
    assert_eq!(exhausted.limit, LimitKind::RecipientsPerDay);
    assert!(exhausted.until >= start + HOUR * 24 && exhausted.until <= start + HOUR * 25);
    tokio::time::sleep_until(exhausted.until).await;
    let _ = mailbox.take_recipients(60).unwrap();
    assert!(mailbox.take_recipients(1).is_err());
    // Another mailbox has a day of its own.
    assert!(allowances.of(&tenant, &"b@contoso.example".parse().unwrap()).take_recipients(100).is_ok());
}

#[tokio::test(start_paused = true)]
async fn refused_messages_give_their_recipients_back_and_others_do_not() {
    let (allowances, tenant) = made(recipients(100), 0, None);
    let mailbox = allowances.of(&tenant, &a());
    let taken = mailbox.take_recipients(100).unwrap();
    assert!(mailbox.take_recipients(1).is_err());
    taken.give_back();
    drop(mailbox.take_recipients(100).unwrap());
    assert!(mailbox.take_recipients(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_day_goes_on_over_a_restart_of_any_kind() {
    let folder = tempfile::tempdir().unwrap();
    let (first, tenant) = made(recipients(100), 0, Some(&folder));
    let _ = first.of(&tenant, &a()).take_recipients(70).unwrap();
    first.of(&tenant, &a()).take_recipients(20).unwrap().give_back();

    // The first is still alive: nothing of it was closed in good order.
    let (second, _) = made(recipients(100), 0, Some(&folder));
    let mailbox = second.of(&tenant, &"A@CONTOSO.EXAMPLE".parse().unwrap());
    assert!(mailbox.take_recipients(31).is_err());
    let _ = mailbox.take_recipients(30).unwrap();

    advance(HOUR * 25).await;
    let (third, _) = made(recipients(100), 0, Some(&folder));
    assert!(third.of(&tenant, &a()).take_recipients(100).is_ok());
}

#[tokio::test(start_paused = true)]
async fn no_ten_minutes_have_more_calls_than_allowed_and_the_first_go_at_once() {
    let limits = Limits { requests_per_10_minutes: NonZeroU32::new(50), ..Limits::NONE };
    let (allowances, tenant) = made(limits, 0, None);
    let mailbox = allowances.of(&tenant, &a());
    let start = Instant::now();
    let mut went = Vec::new();
    while start.elapsed() < MINUTE * 60 {
        mailbox.take_call_when_allowed(1000).await;
        went.push(start.elapsed());
    }
    assert!(went[49].is_zero(), "a mailing is stretched");
    for (n, from) in went.iter().enumerate() {
        assert!(went[n..].iter().take_while(|at| **at < *from + MINUTE * 10).count() <= 50);
    }
    assert!(went.len() >= 250, "only {} in an hour", went.len());
}

#[tokio::test(start_paused = true)]
async fn uploads_wait_for_their_turn_and_show_in_the_gauge_meanwhile() {
    let limits = Limits { upload_per_5_minutes: Some(ByteSize(1000)), ..Limits::NONE };
    let (allowances, tenant) = made(limits, 0, None);
    let mailbox = allowances.of(&tenant, &a());
    let start = Instant::now();
    let gauge = allowances.0.metrics.waiting_for(&tenant.name, LimitKind::UploadPer5Minutes);
    mailbox.take_call(900).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting: Vec<_> = [800, 100, 700]
        .into_iter()
        .map(|octets| {
            let mailbox = mailbox.clone();
            let order = order.clone();
            tokio::spawn(async move {
                mailbox.take_call_when_allowed(octets).await;
                order.lock().unwrap().push((octets, start.elapsed()));
            })
        })
        .collect();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(gauge.get(), 1, "mailboxes, not calls");
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(gauge.get(), 0);
    let order = order.lock().unwrap().clone();
    assert_eq!(order.iter().map(|(octets, _)| *octets).collect::<Vec<_>>(), [800, 100, 700], "in order");
    assert!(order[0].1 >= MINUTE * 5 && order[2].1 >= MINUTE * 10, "{order:?}");

    // A call that gives up waiting is no longer shown.
    assert!(timeout(MINUTE, mailbox.take_call_when_allowed(900)).await.is_err());
    assert_eq!(gauge.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_by_one_limit_costs_nothing_of_another() {
    let limits = Limits {
        requests_per_10_minutes: NonZeroU32::new(2),
        upload_per_5_minutes: Some(ByteSize(1000)),
        ..Limits::NONE
    };
    let (allowances, tenant) = made(limits, 0, None);
    let mailbox = allowances.of(&tenant, &a());
    mailbox.take_call(1000).unwrap();
    for _ in 0..5 {
        assert_eq!(mailbox.take_call(1).unwrap_err().limit, LimitKind::UploadPer5Minutes);
    }
    mailbox.take_call(0).unwrap();
    // Of the two limits, the one that takes longer.
    assert_eq!(mailbox.take_call(1).unwrap_err().limit, LimitKind::RequestsPer10Minutes);
}

#[tokio::test(start_paused = true)]
async fn tenants_of_one_application_share_its_ceiling() {
    let contoso = tenant("contoso", Limits::NONE);
    let fabrikam = tenant("fabrikam", Limits::NONE);
    let other = Tenant { client_id: "BBBB".into(), ..tenant("other", Limits::NONE) };
    let same = Tenant { client_id: "aaaa".into(), ..fabrikam };
    let app = AppLimit(NonZeroU32::new(100));
    let allowances = Allowances::new(app, Metrics::new(), None);
    let mailboxes = [allowances.of(&contoso, &a()), allowances.of(&same, &a())];
    let start = Instant::now();
    let mut went = Vec::new();
    while start.elapsed() < MINUTE {
        mailboxes[went.len() % 2].take_call_when_allowed(1).await;
        went.push(start.elapsed());
    }
    for (n, from) in went.iter().enumerate() {
        assert!(went[n..].iter().take_while(|at| **at < *from + MINUTE / 6).count() <= 100);
    }
    assert!(went.len() > 500, "{}", went.len());
    while mailboxes[0].take_call(1).is_ok() {}
    assert_eq!(mailboxes[1].take_call(1).unwrap_err().limit, LimitKind::AppRequests);
    assert!(allowances.of(&other, &a()).take_call(1).is_ok());
}

#[tokio::test(start_paused = true)]
async fn mailboxes_are_forgotten_when_nothing_of_them_counts() {
    let (allowances, tenant) = made(Limits::default(), 0, None);
    let address = |n: u32| format!("{n}@contoso.example").parse().unwrap();
    let held = allowances.of(&tenant, &address(0));
    for n in 0..1000 {
        allowances.of(&tenant, &address(n)).take_call(5).unwrap();
    }
    let _ = allowances.of(&tenant, &address(7)).take_recipients(1).unwrap();
    let known = || lock(&allowances.0.mailboxes).known.len();
    assert_eq!(known(), 1000);
    advance(MINUTE * 21).await;
    allowances.of(&tenant, &address(0));
    assert_eq!(known(), 2, "one is held, one has recipients of today");
    assert!(Arc::ptr_eq(&held, &allowances.of(&tenant, &address(0))));
    drop(held);
    advance(HOUR * 26).await;
    allowances.of(&tenant, &address(1));
    assert_eq!(known(), 1);
}

#[tokio::test]
async fn a_new_connection_is_wanted_once() {
    let (allowances, tenant) = made(Limits::NONE, 0, None);
    let mailbox = allowances.of(&tenant, &a());
    assert!(!mailbox.wants_new_connection());
    mailbox.avoid_connection();
    assert!(allowances.of(&tenant, &a()).wants_new_connection());
    assert!(!mailbox.wants_new_connection());
}
