//! `m365-relay queue show`: why a message waits, and until when.

use std::process::Output;

use relay_sandbox::{Action, Fault, On, StatusFault};
use serde_json::Value;

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Sends a message and returns its id.
fn send(lab: &Lab, subject: &str) -> String {
    let before = lab.logged("message accepted").len();
    lab.send(FROM, &[TO], &message(FROM, TO, subject));
    wait_until("the log of its acceptance", || lab.logged("message accepted").len() > before);
    lab.logged("message accepted")[before]["id"].as_str().unwrap().to_owned()
}

/// Runs the command, which finds the relay by its socket.
fn show(lab: &Lab, arguments: &[&str]) -> Output {
    let file = lab.config_file();
    lab.run(&[&["queue", "show", "--config", file.to_str().unwrap()], arguments].concat())
}

fn json(lab: &Lab, id: &str) -> Value {
    let output = show(lab, &["--json", id]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_mailbox_at_its_limit() {
    let lab = Lab::with(|setup| setup.limits = "messages_per_minute = 1".into());
    send(&lab, "first");
    lab.wait_for(1);
    let id = send(&lab, "second");
    wait_until("the limit", || json(&lab, &id)["waits"]["limit"] == "messages_per_minute");

    let page = json(&lab, &id);
    assert_eq!((&page["id"], &page["state"]), (&id.clone().into(), &"ready".into()));
    assert_eq!((&page["tenant"], &page["mailbox"]), (&"contoso".into(), &FROM.into()));
    assert!(page["waits"]["until"].as_str().unwrap().ends_with('Z'), "{page:#}");
    let output = show(&lab, &[&id.to_lowercase()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for part in ["waits for  mailbox a@contoso.example has reached its messages a minute\n", "\nuntil "] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_throttled_mailbox() {
    let lab = Lab::start();
    let throttled = StatusFault::new(429, "TooManyRequests").retry_after("3600");
    lab.inject(Fault::new(On::SendMail, Action::Status(throttled)));
    let id = send(&lab, "throttled");
    wait_until("the throttling", || json(&lab, &id)["waits"]["limit"] == "service");
    wait_until("the settlement", || json(&lab, &id)["state"] == "scheduled");
    let page = json(&lab, &id);
    assert!(page["waits"]["why"].as_str().unwrap().contains("TooManyRequests"), "{page:#}");
    assert!(page["waits"]["until"].is_string(), "{page:#}");
}

#[test]
fn a_wait_of_days_outlasts_a_restart() {
    let mut lab = Lab::with(|setup| {
        setup.retry = "first = '3d'\nlongest = '3d'\njitter = 0.0\ngive_up_after = '9d'".into();
    });
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable").times(1));
    let id = send(&lab, "in three days");
    wait_until("the settlement", || json(&lab, &id)["state"] == "scheduled");
    let until = json(&lab, &id)["waits"]["until"].clone();
    lab.wait_until_settled();
    lab.kill9();
    lab.restart();
    wait_until("the start", || json(&lab, &id)["state"] == "scheduled");
    assert_eq!(json(&lab, &id)["waits"]["until"], until);
}

#[test]
fn a_blocked_tenant() {
    let lab =
        Lab::with(|setup| setup.tenant("contoso").credential = "client_secret = 'an old secret'".into());
    let id = send(&lab, "waits");
    wait_until("the block", || json(&lab, &id)["state"] == "blocked");
    let page = json(&lab, &id);
    assert!(page["waits"]["why"].as_str().unwrap().contains("AADSTS7000215"), "{page:#}");
    assert!(page["waits"]["until"].is_string(), "{page:#}");
}

#[test]
fn a_message_that_is_not_there() {
    let mut lab = Lab::start();
    let id = send(&lab, "gone");
    lab.wait_for(1);
    lab.wait_until_empty();
    let output = show(&lab, &[&id]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no message"), "{output:?}");
    let (status, page) = lab.api("GET", &format!("/api/v1/messages/{id}"));
    assert_eq!(status, 404);
    assert!(serde_json::from_str::<Value>(&page).unwrap()["error"].is_string(), "{page}");
    assert_eq!(lab.api("GET", "/api/v1/messages/nonsense").0, 400);
    assert_eq!(show(&lab, &["nonsense"]).status.code(), Some(2));

    // No relay is there to ask.
    let config = lab.config_file();
    assert_eq!(lab.terminate(), Some(0));
    let output = lab.run(&["queue", "show", &id, "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not answer"), "{output:?}");
}

/// What the service said, to which call and when: kept over kill -9.
#[test]
fn what_failed_is_told_after_a_restart() {
    let mut lab = Lab::with(|setup| setup.retry = "first = '1s'\nlongest = '1s'\njitter = 0.0".into());
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable"));
    let id = send(&lab, "tried again and again");
    wait_until("two attempts", || {
        json(&lab, &id)["failed_attempts"].as_array().is_some_and(|failed| failed.len() >= 2)
    });
    lab.kill9();
    lab.restart();
    wait_until("the start", || json(&lab, &id)["state"].is_string());
    let page = json(&lab, &id);
    let failed = page["failed_attempts"].as_array().unwrap();
    assert!(failed.len() >= 2, "{page:#}");
    let last = failed.last().unwrap();
    assert_eq!((&last["class"], &last["code"]), (&"service".into(), &"ErrorMailboxStoreUnavailable".into()));
    assert!(last["at"].as_str().unwrap().ends_with('Z'), "{page:#}");
    let request_id = last["request_id"].as_str().unwrap();
    assert!(!request_id.is_empty() && last["text"].as_str().unwrap().contains(request_id), "{page:#}");
    assert_eq!(&page["last_error"], last);
    assert_eq!((&page["from"], &page["to"][0], &page["recipients"]), (&FROM.into(), &TO.into(), &1.into()));
    let text = String::from_utf8(show(&lab, &[&id]).stdout).unwrap();
    assert!(text.contains("  service (ErrorMailboxStoreUnavailable): 503 "), "{text}");
    let errors = [("tenant", "contoso"), ("error", "service")];
    lab.wait_for_metrics("errors to be counted", |metrics| {
        metrics.sum("m365_relay_delivery_errors_total", &errors) >= 1.0
    });
}

#[test]
fn the_message_itself() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable"));
    let id = send(&lab, "shown");
    let header = show(&lab, &["--headers", &id]);
    let text = String::from_utf8(header.stdout).unwrap();
    assert!(text.contains("\r\nSubject: shown\r\n") && text.starts_with("Received: "), "{text}");
    let body = String::from_utf8(show(&lab, &["--body", &id]).stdout).unwrap();
    assert!(!body.is_empty() && !body.contains("Subject:") && body.ends_with("\r\n"), "{body}");
    let lines = lab.wait_for_logs("message content shown", 2);
    assert_eq!((&lines[0]["id"], &lines[0]["tenant"]), (&id.clone().into(), &"contoso".into()));
    assert!(lines[0]["by"].as_str().unwrap().starts_with("user "), "{}", lines[0]);
    assert_eq!(show(&lab, &["--headers", "--body", &id]).status.code(), Some(2));
    assert_eq!(show(&lab, &["--headers", "1M876XD4R0000"]).status.code(), Some(1));
}
