//! Refusals that pass: when a message is tried again, and that it is the same message.

use relay_sandbox::{Action, Fault, On, StatusFault};
use serde_json::json;

use crate::harness::{Lab, Mail, base64_mail, message};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Meets the fault, and is delivered once, whole; returns the milliseconds between the two calls.
fn delivered_after(lab: &Lab, fault: Fault, content: &[u8]) -> u64 {
    lab.inject(fault);
    lab.send(FROM, &[TO], content);

    let delivered = lab.wait_for(1);
    assert!(delivered[0].as_sent() == content, "{}", delivered[0].text());
    lab.wait_until_empty();
    let calls = lab.sends(FROM);
    let [first, second] = &calls[..] else { panic!("{calls:#?}") };
    assert_eq!(second.status, Some(202));
    assert_eq!(first.body_len, second.body_len, "not the same octets");
    second.received_at_ms - first.received_at_ms
}

fn refusal(code: u16, error: &str, retry_after: &str) -> Fault {
    Fault::new(On::SendMail, Action::Status(StatusFault::new(code, error).retry_after(retry_after))).times(1)
}

fn attempt_of_delivery(lab: &Lab) -> serde_json::Value {
    lab.wait_for_log("message delivered")["attempt"].clone()
}

#[test]
fn a_503_of_the_mailbox_store_is_tried_again_after_the_first_wait() {
    let lab = Lab::with(|setup| setup.retry = "first = '400ms'\njitter = 0.0".into());
    let fault = Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable").times(1);
    let waited = delivered_after(&lab, fault, &base64_mail(FROM, TO, "again", 300_000));
    assert!(waited >= 400, "{waited}");
    // This one counts as an attempt.
    assert_eq!(attempt_of_delivery(&lab), json!(2));
    assert_eq!(lab.metric("m365_relay_deliveries_total", &[("outcome", "retry")]), 1.0);
}

#[test]
fn a_503_with_retry_after_is_waited_for() {
    let lab = Lab::start();
    let fault = refusal(503, "serviceNotAvailable", "1");
    let waited = delivered_after(&lab, fault, &message(FROM, TO, "busy"));
    assert!(waited >= 1000, "{waited}");
    assert_eq!(attempt_of_delivery(&lab), json!(1));
}

#[test]
fn a_503_that_says_nothing_is_tried_again_after_the_first_wait() {
    let lab = Lab::with(|setup| setup.retry = "first = '400ms'\njitter = 0.0".into());
    let fault = Fault::status(On::SendMail, 503, "serviceNotAvailable").times(1);
    let waited = delivered_after(&lab, fault, &message(FROM, TO, "unavailable"));
    assert!(waited >= 400, "{waited}");
    assert_eq!(attempt_of_delivery(&lab), json!(2));
}

#[test]
fn a_500_may_have_been_sent_and_is_settled_first() {
    let lab = Lab::with(|setup| setup.delivery = "settle_after = '1500ms'".into());
    let fault = Fault::status(On::SendMail, 500, "ErrorInternalServerError").times(1);
    let waited = delivered_after(&lab, fault, &message(FROM, TO, "unknown"));
    assert!(waited >= 1500, "{waited}");
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &[("resolved", "resent")]), 1.0);
}

#[test]
fn a_429_with_retry_after_3_is_obeyed_with_the_same_octets() {
    let lab = Lab::start();
    let fault = refusal(429, "TooManyRequests", "3");
    let waited = delivered_after(&lab, fault, &base64_mail(FROM, TO, "throttled", 100_000));
    assert!(waited >= 3000, "{waited}");
    // Waiting for a limit costs no attempt.
    assert_eq!(attempt_of_delivery(&lab), json!(1));
    assert_eq!(lab.metric("m365_relay_throttled_total", &[("limit", "service")]), 1.0);
}

#[test]
fn a_throttled_mailbox_delays_its_own_mail_and_no_other() {
    let lab = Lab::start();
    // Long enough for all the steps below, even on a busy machine.
    lab.inject(refusal(429, "TooManyRequests", "8"));
    let mut smtp = lab.smtp();
    smtp.send(FROM, &[TO], &message(FROM, TO, "first"));
    lab.wait_for_metric("m365_relay_waiting_for_limit", &[("limit", "service")], 1.0);
    smtp.send(FROM, &[TO], &message(FROM, TO, "second"));
    let other = "other@contoso.example";
    smtp.send(other, &[TO], &message(other, TO, "of the other mailbox"));

    assert_eq!(lab.wait_for(1)[0].subject, "of the other mailbox");
    assert_eq!(lab.sends(FROM).len(), 1, "called while it was throttled");
    lab.wait_for(3);
    lab.wait_until_empty();
    let calls = lab.sends(FROM);
    assert!(
        calls[1..].iter().all(|call| call.received_at_ms >= calls[0].received_at_ms + 8000),
        "{calls:#?}"
    );
    assert_eq!(calls.len(), 3);
}

#[test]
fn a_fractional_retry_after_is_understood() {
    let lab = Lab::start();
    let waited = delivered_after(&lab, refusal(429, "TooManyRequests", "1.250"), &message(FROM, TO, "soon"));
    // If it were not understood, the wait would be half a minute.
    assert!((1250..20_000).contains(&waited), "{waited}");
}

#[test]
fn waits_grow_until_it_is_delivered() {
    let lab = Lab::with(|setup| setup.retry = "first = '200ms'\nfactor = 2.0\njitter = 0.0".into());
    lab.inject(Fault::status(On::SendMail, 500, "ErrorMailboxFailover").times(3));
    lab.send(FROM, &[TO], &message(FROM, TO, "at last"));

    lab.wait_for(1);
    lab.wait_until_empty();
    let at: Vec<u64> = lab.sends(FROM).iter().map(|call| call.received_at_ms).collect();
    let waits: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits.len(), 3);
    assert!(waits[0] >= 200 && waits[1] >= 400 && waits[2] >= 800, "{waits:?}");
    assert_eq!(attempt_of_delivery(&lab), json!(4));
}

#[test]
fn a_refused_token_is_renewed_and_the_message_sent_once() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 401, "InvalidAuthenticationToken").times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "renewed"));

    lab.wait_for(1);
    lab.wait_until_empty();
    assert_eq!(lab.service.counts().tokens, 2);
    assert_eq!(attempt_of_delivery(&lab), json!(1));
}
