//! The service's throttling, by the book: exactly the mailboxes concerned wait, exactly as long as told, and
//! no others.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use m365_relay::clock;
use relay_sandbox::{Action, Fault, Limits, On, StatusFault};

use crate::harness::{Lab, holds_within, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

#[test]
fn the_days_recipients_are_counted_over_a_kill_and_a_restart() {
    let mut lab = Lab::with(|setup| setup.limits = "recipients_per_day = 10".into());
    for n in 0..4 {
        lab.send(FROM, &[TO, "c@example.net"], &message(FROM, TO, &format!("before {n}")));
    }
    // A refused message counts for nothing.
    lab.wait_for(4);
    lab.inject(Fault::status(On::SendMail, 400, "ErrorMimeContentInvalid").for_mailbox(FROM).times(1));
    lab.send(FROM, &[TO, "refused@example.net"], &message(FROM, TO, "refused"));
    // Its bounce is sent from the same mailbox, and is the ninth.
    lab.wait_for(5);
    lab.wait_until_empty();
    lab.kill9();
    lab.restart();
    for n in 0..3 {
        lab.send(FROM, &[TO], &message(FROM, TO, &format!("after {n}")));
    }
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "recipients_per_day")], 1.0);
    lab.wait_for(6);
    // Another mailbox has a day of its own.
    lab.send("other@contoso.example", &[TO], &message("other@contoso.example", TO, "other"));
    lab.wait_for(7);
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "contoso")], 2.0);
    assert_eq!(lab.service.counts().refused, 1);
}

#[test]
fn a_message_with_more_recipients_than_a_day_has_goes_alone() {
    let lab = Lab::with(|setup| setup.limits = "recipients_per_day = 2".into());
    lab.send(FROM, &[TO, "c@example.net", "d@example.net"], &message(FROM, TO, "many"));
    lab.wait_for(1);
    lab.send(FROM, &[TO], &message(FROM, TO, "one more"));
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "recipients_per_day")], 1.0);
}

#[test]
fn octets_of_five_minutes_are_kept_to() {
    let lab = Lab::with(|setup| setup.limits = "upload_per_5_minutes = '1MB'".into());
    let big = crate::harness::base64_mail(FROM, TO, "big", 400_000);
    lab.send(FROM, &[TO], &big);
    lab.wait_for(1);
    lab.send(FROM, &[TO], &big);
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "upload_per_5_minutes")], 1.0);
    assert_eq!(lab.sends(FROM).len(), 1);
}

#[test]
fn a_429_is_waited_out_to_the_millisecond() {
    let lab = Lab::start();
    lab.inject(throttled("2.128").times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "throttled"));
    lab.wait_for(1);
    lab.wait_until_empty();
    let calls = lab.sends(FROM);
    let waited = calls[1].received_at_ms - calls[0].received_at_ms;
    // Without the header, the wait would be half a minute.
    assert!((2128..20_000).contains(&waited), "{waited}");
}

fn throttled(retry_after: &str) -> Fault {
    let answer = StatusFault::new(429, "TooManyRequests").retry_after(retry_after);
    Fault::new(On::SendMail, Action::Status(answer))
}

#[test]
fn one_throttled_mailbox_of_fifty_hurts_no_other() {
    let lab = Lab::start();
    lab.inject(throttled("600").for_mailbox("m7@contoso.example"));
    let began = clock::now().as_millis();
    let mut smtp = lab.smtp();
    let mut send = |n: usize| {
        let from = format!("m{}@contoso.example", n % 50);
        smtp.send(&from, &[TO], &message(&from, TO, &format!("number {n}")));
    };
    send(7);
    // Until the first 429 has come, others of its mailbox may be called at the same time.
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "service")], 1.0);
    (0..500).filter(|n| *n != 7).for_each(send);
    let delivered = lab.wait_for(490);
    assert!(delivered.iter().all(|message| message.mailbox != "m7@contoso.example"));
    assert_eq!(lab.sends("m7@contoso.example").len(), 1, "called while it was throttled");
    let took = delivered.last().unwrap().accepted_at_ms - began;
    assert!(took < 60_000, "{took}");
    // A storm of refusals costs no attempt: there was one.
    assert_eq!(lab.metric("m365_relay_deliveries_total", &[("outcome", "retry")]), 0.0);
}

#[test]
fn an_app_throttled_in_its_tenant_stops_that_tenant_alone() {
    let lab = Lab::start();
    let answer = StatusFault::new(429, "TooManyRequests").retry_after("600");
    let answer = answer.throttle_scope("Tenant_Application/ReadWrite/x/y");
    lab.inject(Fault::new(On::SendMail, Action::Status(answer)).for_directory("contoso.example"));
    lab.send(FROM, &[TO], &message(FROM, TO, "throttled"));
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "contoso"), ("reason", "throttled")], 1.0);
    lab.send("other@contoso.example", &[TO], &message("other@contoso.example", TO, "the same tenant"));
    let other = "a@fabrikam.example";
    lab.send(other, &[TO], &message(other, TO, "another tenant"));
    assert_eq!(lab.wait_for(1)[0].mailbox, other);
    assert_eq!(lab.sends("other@contoso.example").len(), 0);
}

#[test]
fn after_a_503_the_next_call_goes_over_another_connection() {
    let lab = Lab::start();
    let answer = StatusFault::new(503, "serviceNotAvailable").retry_after("0.2");
    lab.inject(Fault::new(On::SendMail, Action::Status(answer)).skip(1).times(1));
    for n in 0..3 {
        lab.send(FROM, &[TO], &message(FROM, TO, &format!("number {n}")));
        lab.wait_for(n + 1);
        lab.wait_until_empty();
    }
    let connections: Vec<u64> = lab.sends(FROM).iter().map(|call| call.connection).collect();
    assert_eq!(connections.len(), 4);
    assert_eq!(connections[0], connections[1], "connections are kept otherwise");
    assert!(connections[2] != connections[1], "{connections:?}");
}

#[test]
fn ten_thousand_sends_never_exceed_the_calls_at_a_time() {
    const MAILBOXES: usize = 20;
    const MESSAGES: usize = 10_000;
    let lab = Lab::with(|setup| {
        setup.limits = "messages_per_minute = 0\nrequests_per_10_minutes = 0\nrecipients_per_day = 0".into();
        let unthrottled = Limits::unthrottled();
        setup.service_limits = Limits { concurrency: Some(4), ..unthrottled };
    });
    lab.inject(Fault {
        probability: 0.02,
        ..Fault::new(On::SendMail, Action::Delay(Duration::from_millis(20)))
    });
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let mut smtp = lab.smtp();
            std::thread::spawn(move || {
                for n in (client..MESSAGES).step_by(4) {
                    let from = format!("m{}@contoso.example", n % MAILBOXES);
                    smtp.send(&from, &[TO], &message(&from, TO, &format!("number {n}")));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let all = holds_within(Duration::from_secs(180), || lab.service.counts().messages >= MESSAGES as u64);
    assert!(all, "{:?}", lab.service.counts());
    lab.wait_until_empty();
    let subjects: HashSet<String> = lab.service.messages().iter().map(|m| m.subject.clone()).collect();
    assert_eq!((subjects.len(), lab.service.counts().messages), (MESSAGES, MESSAGES as u64));
    assert_eq!(lab.service.counts().throttled, 0);
    let peaks: HashMap<_, _> = (0..MAILBOXES)
        .map(|n| format!("m{n}@contoso.example"))
        .map(|mailbox| (lab.service.peak_concurrency(&mailbox), mailbox))
        .collect();
    assert!(peaks.keys().all(|peak| *peak <= 3), "{peaks:?}");
}

#[test]
fn a_call_that_timed_out_still_counts_as_one() {
    let lab = Lab::with(|setup| {
        setup.limits = "messages_per_minute = 0\nconcurrent_requests = 1".into();
        setup.network = "answer_timeout = '1s'".into();
        setup.delivery = "settle_after = '1s'".into();
    });
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(600))).times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "slow"));
    lab.wait_for_metric("m365_relay_deliveries_total", &[("outcome", "unknown")], 1.0);
    lab.send(FROM, &[TO], &message(FROM, TO, "next"));
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "concurrent_requests")], 1.0);
    assert_eq!(lab.service.peak_concurrency(FROM), 1);
    let other = "other@contoso.example";
    lab.send(other, &[TO], &message(other, TO, "other"));
    wait_until("the other mailbox", || lab.service.counts().messages == 1);
}
