//! The service confirms whom a draft goes to before it is sent: everybody in the envelope, and nobody else.

use std::collections::BTreeMap;

use relay_sandbox::{Action, Fault, Limits, Misreading, On};
use serde_json::Value;

use crate::harness::{Attached, Lab, Mail, Setup, message, mixed_mail, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";
/// In the envelope alone.
const HIDDEN: &str = "hidden@example.net";
const STRANGER: &str = "stranger@example.org";

fn confirming(setup: &mut Setup) {
    setup.tenant("contoso").confirm = "draft".into();
}

fn list(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

fn drops(addresses: &[&str]) -> Misreading {
    Misreading { drop: list(addresses), ..Misreading::default() }
}

fn adds(addresses: &[&str]) -> Misreading {
    Misreading { add: list(addresses), ..Misreading::default() }
}

fn rewrites(from: &str, to: &str) -> Misreading {
    Misreading { rewrite: BTreeMap::from([(from.into(), to.into())]), ..Misreading::default() }
}

fn misread(on: On, misreading: Misreading) -> Fault {
    Fault::new(on, Action::Recipients(misreading))
}

fn mismatches(lab: &Lab, result: &str) -> f64 {
    let labels = [("tenant", "contoso"), ("result", result)];
    lab.metric("m365_relay_recipient_mismatches_total", &labels)
}

/// How often drafts were changed.
fn changes(lab: &Lab) -> usize {
    lab.service.calls().iter().filter(|call| call.method == "PATCH").count()
}

fn sorted(addresses: &[String]) -> Vec<&str> {
    let mut sorted: Vec<_> = addresses.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted
}

fn large(subject: &str) -> Vec<u8> {
    mixed_mail(FROM, TO, subject, "", &[Attached::random("data.bin", 2_500_000)])
}

/// Sends both a message that goes as MIME and one that is taken apart.
fn send_both(lab: &Lab) {
    lab.send(FROM, &[TO, HIDDEN], &message(FROM, TO, "small"));
    lab.send(FROM, &[TO, HIDDEN], &large("large"));
}

#[test]
fn what_the_service_has_understood_is_compared_at_no_extra_call() {
    let lab = Lab::with(confirming);
    lab.send(FROM, &[TO, HIDDEN], &message(FROM, TO, "small"));
    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!(sorted(&delivered.recipients), [TO, HIDDEN]);
    let calls = lab.service.calls().iter().filter(|call| !call.path.contains("/token")).count();
    assert_eq!(calls, 2);
    assert_eq!(lab.metric("m365_relay_recipient_mismatches_total", &[]), 0.0);
}

#[test]
fn too_few_and_too_many_are_mended_before_it_goes() {
    for misreading in [
        drops(&[HIDDEN]),
        drops(&[TO, HIDDEN]),
        adds(&[STRANGER]),
        Misreading {
            add: list(&[STRANGER]),
            rewrite: rewrites(TO, "other@example.org").rewrite,
            drop: vec![],
        },
    ] {
        let lab = Lab::with(confirming);
        lab.inject(misread(On::CreateDraft, misreading.clone()));
        send_both(&lab);
        for delivered in lab.wait_for(2) {
            assert_eq!(sorted(&delivered.recipients), [TO, HIDDEN], "{misreading:?}");
        }
        lab.wait_until_empty();
        assert_eq!((changes(&lab), mismatches(&lab, "mended")), (2, 2.0), "{misreading:?}");
        assert_eq!(lab.service.drafts(), 0);
        let said = lab.wait_for_logs("draft has the envelope's recipients now", 2);
        assert!(said.iter().all(|line| line["tenant"] == "contoso"), "{said:?}");
    }
}

#[test]
fn mime_that_was_mended_stays_as_it_is() {
    let lab = Lab::with(confirming);
    let body = "\r\n\r\nOctet  for\toctet \r\n";
    let content = format!("From: {FROM}\r\nTo: {TO}\r\nSubject:  as it is{body}");
    lab.inject(misread(On::CreateDraft, drops(&[TO])));
    lab.send(FROM, &[TO, HIDDEN], content.as_bytes());
    let delivered = lab.wait_for(1).remove(0);
    assert!(delivered.text().contains("\r\nSubject:  as it is\r\n") && delivered.text().ends_with(body));
    assert_eq!(sorted(&delivered.recipients), [TO, HIDDEN]);
}

#[test]
fn another_address_of_a_recipient_is_logged_and_it_goes() {
    let lab = Lab::with(confirming);
    lab.inject(misread(On::CreateDraft, rewrites(TO, "bert.lee@example.net")));
    send_both(&lab);
    for delivered in lab.wait_for(2) {
        assert_eq!(sorted(&delivered.recipients), ["bert.lee@example.net", HIDDEN]);
    }
    lab.wait_until_empty();
    assert_eq!((changes(&lab), mismatches(&lab, "respelled")), (0, 2.0));
    let said = &lab.wait_for_logs("draft names recipients by other addresses", 2)[0]["difference"];
    assert_eq!(said, "missing: b@example.net; added: bert.lee@example.net");
}

fn page(lab: &Lab, id: &str) -> Value {
    let file = lab.config_file();
    let output = lab.run(&["queue", "show", "--config", file.to_str().unwrap(), "--json", id]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn what_cannot_be_mended_is_held_and_says_why() {
    for (misreading, wanted) in [
        (drops(&[HIDDEN]), "missing: hidden@example.net"),
        (adds(&[STRANGER]), "added: stranger@example.org"),
        (
            Misreading { add: list(&["x@example.org", "y@example.org"]), ..drops(&[TO]) },
            "missing: b@example.net; added: x@example.org, y@example.org",
        ),
    ] {
        let mut lab = Lab::with(confirming);
        lab.inject(misread(On::Messages, misreading));
        send_both(&lab);
        let held = lab.wait_for_logs("message held", 2);
        lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "contoso"), ("state", "held")], 2.0);
        assert_eq!(mismatches(&lab, "held"), 2.0);
        let outcome = [("tenant", "contoso"), ("route", "graph"), ("outcome", "held")];
        assert_eq!(lab.metric("m365_relay_deliveries_total", &outcome), 2.0);
        assert_eq!((lab.service.messages().len(), lab.service.drafts()), (0, 0));

        // The mailbox's other mail goes on.
        lab.service.clear_faults();
        lab.send(FROM, &[TO], &message(FROM, TO, "another"));
        assert_eq!(lab.wait_for(1)[0].subject, "another");

        let ids: Vec<_> = held.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
        let is_shown = |lab: &Lab| {
            for id in &ids {
                let page = page(lab, id);
                let why = page["waits"]["why"].as_str().unwrap_or_default();
                assert_eq!(page["state"], "held", "{page:#}");
                assert!(why.contains(wanted) && why.contains("request-id"), "{page:#}");
            }
        };
        is_shown(&lab);
        lab.wait_until_settled();
        lab.kill9();
        lab.restart();
        wait_until("the start", || page(&lab, &ids[0])["state"] == "held");
        is_shown(&lab);
        assert_eq!(lab.service.messages().len(), 1);

        // The service is right now, and somebody has looked at them.
        let file = lab.config_file();
        let release = ["queue", "release", "--yes", "--config", file.to_str().unwrap()];
        let released = lab.run(&[&release[..], &[&ids[0], &ids[1]]].concat());
        assert!(released.status.success(), "{released:?}");
        for delivered in &lab.wait_for(3)[1..] {
            assert_eq!(sorted(&delivered.recipients), [TO, HIDDEN]);
        }
        lab.wait_until_empty();
    }
}

#[test]
fn a_draft_that_cannot_be_mended_now_is_made_again_later() {
    let lab = Lab::with(|setup| {
        confirming(setup);
        setup.retry = "first = '100ms'\nfactor = 1.0\njitter = 0.0".into();
    });
    lab.inject(misread(On::CreateDraft, drops(&[HIDDEN])).times(4));
    lab.inject(Fault::status(On::UpdateDraft, 503, "serviceNotAvailable").times(1));
    lab.inject(Fault::new(On::UpdateDraft, Action::CutAfter).times(1));
    lab.inject(Fault::status(On::UpdateDraft, 404, "ErrorItemNotFound").times(1));
    lab.send(FROM, &[TO, HIDDEN], &message(FROM, TO, "at the fourth"));
    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(sorted(&delivered.recipients), [TO, HIDDEN]);
    lab.wait_until_empty();
    assert_eq!(lab.service.drafts(), 0);
}

/// A draft that may not be made is one thing; here the service has been seen to misunderstand.
#[test]
fn a_message_that_is_misunderstood_does_not_go_by_send_mail_instead() {
    for (status, code) in [(403, "ErrorAccessDenied"), (413, "RequestEntityTooLarge")] {
        let lab = Lab::with(|setup| setup.tenant("contoso").confirm = "auto".into());
        lab.inject(misread(On::CreateDraft, adds(&[STRANGER])));
        lab.inject(Fault::status(On::UpdateDraft, status, code));
        lab.send(FROM, &[TO, HIDDEN], &message(FROM, TO, "not by another way"));
        wait_until("the refusal", || changes(&lab) > 0);
        lab.wait_until_settled();
        let called = |what: &str| lab.service.calls().iter().any(|call| call.path.ends_with(what));
        assert!(!called("/sendMail") && !called("/send"), "{code}");
        assert_eq!((lab.metric("m365_relay_received_total", &[]), lab.service.drafts()), (1.0, 0), "{code}");
    }
}

/// The draft that an interrupted attempt has left is one that was confirmed.
#[test]
fn a_large_message_that_goes_on_has_the_right_recipients() {
    let lab = Lab::with(|setup| {
        confirming(setup);
        setup.retry = "first = '100ms'\nfactor = 1.0\njitter = 0.0".into();
        setup.service_limits = Limits { message_bytes: None, ..Limits::unthrottled() };
    });
    lab.inject(misread(On::CreateDraft, adds(&[STRANGER])));
    lab.inject(Fault::status(On::Attach, 503, "serviceNotAvailable").times(6));
    lab.send(FROM, &[TO, HIDDEN], &large("goes on"));
    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(sorted(&delivered.recipients), [TO, HIDDEN]);
    lab.wait_until_empty();
    lab.wait_for_log("draft resumed");
    assert_eq!(changes(&lab), 1);
}
