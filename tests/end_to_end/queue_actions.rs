//! `m365-relay queue hold`, `release` and `delete`: what an operator does to messages.

use std::{process::Output, time::Duration};

use relay_sandbox::{Action, Fault, On};
use serde_json::{Value, json};

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// A relay that cannot deliver, with retries that are far away.
fn lab() -> Lab {
    let lab = Lab::with(|setup| setup.retry = "first = '1h'\njitter = 0.0".into());
    lab.inject(Fault::status(On::SendMail, 503, "serviceNotAvailable"));
    lab
}

/// Sends a message that waits for its second attempt, and returns its id.
fn waiting(lab: &Lab, subject: &str) -> String {
    let before = lab.logged("message accepted").len();
    lab.send(FROM, &[TO], &message(FROM, TO, subject));
    let id = lab.wait_for_logs("message accepted", before + 1)[before]["id"].as_str().unwrap().to_owned();
    wait_until("its first attempt", || page(lab, &id)["state"] == "scheduled");
    id
}

fn queue(lab: &Lab, action: &str, arguments: &[&str]) -> Output {
    let file = lab.config_file();
    lab.run(&[&["queue", action, "--config", file.to_str().unwrap()], arguments].concat())
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn page(lab: &Lab, id: &str) -> Value {
    serde_json::from_slice(&queue(lab, "show", &["--json", id]).stdout).unwrap_or_default()
}

#[test]
fn a_held_message_stays_until_it_is_released() {
    let mut lab = lab();
    let id = waiting(&lab, "held");
    assert_eq!(said(&queue(&lab, "hold", &[&id])), (Some(0), format!("{id} held\n"), String::new()));
    assert_eq!(page(&lab, &id)["waits"]["why"], "an operator holds it");
    let held = queue(&lab, "hold", &["--reason", "the auditor \u{1b}asks", &id]);
    assert_eq!(held.status.code(), Some(0));
    let why = "an operator holds it: the auditor \u{1b}asks";
    assert_eq!(page(&lab, &id)["waits"]["why"], why);
    let (_, shown, _) = said(&queue(&lab, "show", &[&id]));
    assert!(shown.contains("the auditor \\u{1b}asks"), "{shown}");
    let line = lab.wait_for_logs("message held by an operator", 2)[1].clone();
    assert_eq!((&line["tenant"], &line["reason"]), (&"contoso".into(), &"the auditor \\u{1b}asks".into()));

    lab.service.clear_faults();
    lab.kill9();
    lab.restart();
    wait_until("the start", || page(&lab, &id)["state"] == "held");
    assert_eq!(page(&lab, &id)["waits"]["why"], why);
    assert_eq!(lab.metric("m365_relay_queue_messages", &[("state", "held")]), 1.0);
    assert!(lab.service.messages().is_empty());
    assert_eq!(queue(&lab, "release", &[&id]).status.code(), Some(0));
    assert_eq!(lab.wait_for(1)[0].subject, "held");
    lab.wait_until_empty();
    let (code, _, err) = said(&queue(&lab, "release", &[&id]));
    assert_eq!((code, err.contains("it has left it")), (Some(1), true), "{err}");
}

#[test]
fn what_waits_for_a_later_attempt_is_tried_now() {
    let lab = lab();
    let ids = [waiting(&lab, "one"), waiting(&lab, "two")];
    lab.service.clear_faults();
    assert_eq!(queue(&lab, "release", &[&ids[0], &ids[1]]).status.code(), Some(0));
    lab.wait_for(2);
}

#[test]
fn a_deleted_message_is_gone_and_the_others_are_not() {
    let mut lab = lab();
    let deleted = waiting(&lab, "deleted");
    let kept = waiting(&lab, "kept");
    let unknown = "1M876XD4R0000";
    let output = queue(&lab, "delete", &["--json", &deleted, unknown]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0], json!({ "id": deleted, "done": "deleted" }));
    assert_eq!(told[1]["id"], unknown);
    assert!(told[1]["error"].as_str().unwrap().contains("there is no message"), "{told}");
    lab.service.clear_faults();
    lab.kill9();
    lab.restart();
    queue(&lab, "release", &[&kept]);
    assert_eq!(lab.wait_for(1)[0].subject, "kept");
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 0.0);
}

#[test]
fn what_is_being_delivered_is_left_alone() {
    let lab = Lab::start();
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(600))).times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "under way"));
    let id = lab.wait_for_log("message accepted")["id"].as_str().unwrap().to_owned();
    wait_until("the call to reach the service", || lab.service.peak_concurrency(FROM) == 1);
    for action in ["hold", "release", "delete"] {
        let (code, out, err) = said(&queue(&lab, action, &[&id]));
        assert_eq!((code, &*out), (Some(1), ""));
        assert!(err.contains(&format!("message {id} is being delivered")), "{err}");
    }
    assert_eq!(page(&lab, &id)["state"], "leased");
}

#[test]
fn a_request_that_is_none_is_refused() {
    let lab = lab();
    let id = waiting(&lab, "left alone");
    let (code, answer) = lab.api("POST", "/api/v1/messages/nonsense/hold");
    assert_eq!(code, 400, "{answer}");
    let (code, _, err) = said(&queue(&lab, "release", &["nonsense"]));
    assert_eq!((code, err.contains("not a message id")), (Some(2), true), "{err}");
    assert_eq!(page(&lab, &id)["state"], "scheduled");
}
