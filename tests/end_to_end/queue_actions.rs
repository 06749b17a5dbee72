//! `m365-relay queue retry`, `hold`, `release`, `bounce`, `delete` and `requeue`: what an operator does to
//! messages.

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
    assert!(line["by"].as_str().unwrap().ends_with(" by the socket"), "{line}");

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
    let held = waiting(&lab, "held");
    queue(&lab, "hold", &[&held]);
    lab.service.clear_faults();
    let (code, out, err) = said(&queue(&lab, "retry", &["--yes", &ids[0], &ids[1], &held]));
    let expected = format!("{} retried\n{} retried\n2 messages retried, 1 left alone\n", ids[0], ids[1]);
    assert_eq!((code, out), (Some(1), expected));
    assert!(err.contains(&format!("message {held} is held: release it")), "{err}");
    lab.wait_for(2);
    assert_eq!(page(&lab, &held)["state"], "held");
}

/// Somebody has mended the permission, and nobody wants to wait five minutes, nor to reload anything.
#[test]
fn a_retry_wakes_the_mailbox_that_sleeps() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 403, "ErrorAccessDenied"));
    lab.send(FROM, &[TO], &message(FROM, TO, "refused"));
    let id = lab.wait_for_log("message accepted")["id"].as_str().unwrap().to_owned();
    wait_until("the mailbox to sleep", || page(&lab, &id)["waits"]["class"] == "mailbox");
    let last = page(&lab, &id)["last_error"].clone();
    assert_eq!((&last["class"], &last["code"]), (&"mailbox".into(), &"ErrorAccessDenied".into()), "{last}");
    lab.service.clear_faults();
    assert_eq!(queue(&lab, "retry", &[&id]).status.code(), Some(0));
    lab.wait_for(1);
}

#[test]
fn a_bounced_message_tells_its_sender_why() {
    let lab = lab();
    let id = waiting(&lab, "returned");
    let (code, out, err) = said(&queue(&lab, "bounce", &["--reason", "sent to the wrong people", &id]));
    assert_eq!((code, &*err), (Some(0), ""), "{out}");
    let report = out.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(out.starts_with(&format!("{id} bounced: the report to its sender is {report}")), "{out}");
    assert_eq!(queue(&lab, "show", &[&id]).status.code(), Some(1));
    lab.service.clear_faults();
    queue(&lab, "retry", &[&report]);
    let report = lab.wait_for(1)[0].clone();
    assert_eq!(report.recipients, [FROM]);
    let text = String::from_utf8_lossy(&report.raw).into_owned();
    assert!(text.contains("sent to the wrong people") && text.contains("Action: failed"), "{text}");
    assert_eq!(lab.metric("m365_relay_bounces_total", &[("kind", "failed")]), 1.0);
    lab.wait_until_empty();
    // A sender who does not want to be told is not told.
    lab.inject(Fault::status(On::SendMail, 503, "serviceNotAvailable"));
    let before = lab.logged("message accepted").len();
    let mut client = lab.smtp();
    client.mail(FROM);
    assert_eq!(client.command(&format!("RCPT TO:<{TO}> NOTIFY=NEVER")).code, 250);
    assert_eq!(client.data(&message(FROM, TO, "not to be told of")).code, 250);
    let id = lab.wait_for_logs("message accepted", before + 1)[before]["id"].as_str().unwrap().to_owned();
    wait_until("its first attempt", || page(&lab, &id)["state"] == "scheduled");
    let (_, out, _) = said(&queue(&lab, "bounce", &[&id]));
    assert_eq!(out, format!("{id} bounced: its sender is not to be told\n"));
    lab.wait_until_empty();
}

#[test]
fn a_requeued_message_begins_anew() {
    let mut lab = lab();
    let large = [message(FROM, TO, "anew"), vec![b'x'; 200_000], b"\r\n".to_vec()].concat();
    let before = lab.logged("message accepted").len();
    lab.send(FROM, &[TO], &large);
    let id = lab.wait_for_logs("message accepted", before + 1)[before]["id"].as_str().unwrap().to_owned();
    wait_until("its first attempt", || page(&lab, &id)["attempts"] == 1);
    queue(&lab, "hold", &[&id]);
    let (code, out, _) = said(&queue(&lab, "requeue", &[&id]));
    let new =
        out.trim().strip_prefix(&format!("{id} requeued: it is ")).unwrap().strip_suffix(" now").unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(queue(&lab, "show", &[&id]).status.code(), Some(1));
    wait_until("its attempt", || page(&lab, new)["attempts"] == 1);
    let page = page(&lab, new);
    assert_eq!((&page["from"], &page["to"][0]), (&FROM.into(), &TO.into()), "{page:#}");
    lab.service.clear_faults();
    lab.kill9();
    lab.restart();
    queue(&lab, "retry", &[new]);
    let arrived = lab.wait_for(1)[0].clone();
    assert!(arrived.raw.len() > 200_000 && arrived.subject == "anew");
    lab.wait_until_empty();
}

#[test]
fn a_filter_acts_on_what_was_found_and_on_nothing_else() {
    let lab = lab();
    let small = waiting(&lab, "small");
    let other = "c@example.org";
    let before = lab.logged("message accepted").len();
    for subject in ["one", "two"] {
        lab.send(FROM, &[other], &message(FROM, other, subject));
    }
    let ids: Vec<_> = lab.wait_for_logs("message accepted", before + 2)[before..]
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    let filter = ["--to", "@example.org"];
    let (code, out, _) = said(&queue(&lab, "delete", &[&filter[..], &["--dry-run"]].concat()));
    let expected: String = ids.iter().map(|id| format!("{id} would be deleted\n")).collect();
    assert_eq!((code, out), (Some(0), expected));
    // Nobody is there to be asked.
    let (code, _, err) = said(&queue(&lab, "delete", &filter));
    assert_eq!((code, err.contains("2 messages: add --yes to delete them all")), (Some(1), true), "{err}");
    let (code, out, err) = said(&queue(&lab, "delete", &[&filter[..], &["--yes", "--json"]].concat()));
    assert_eq!((code, &*err), (Some(0), ""));
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told[1], json!({ "id": ids[1], "done": "deleted" }));
    assert_eq!(told.as_array().unwrap().len(), 2);
    let (code, out, _) = said(&queue(&lab, "list", &[]));
    assert_eq!((code, out.contains(&small), out.ends_with("1 message\n")), (Some(0), true, true), "{out}");
    // Nothing is acted on that was not named.
    let (code, _, err) = said(&queue(&lab, "delete", &["--yes"]));
    assert_eq!((code, err.contains("or --all of them")), (Some(1), true), "{err}");
    assert_eq!(queue(&lab, "delete", &["--all", "--tenant", "contoso"]).status.code(), Some(2));
    let (code, out, _) = said(&queue(&lab, "delete", &["--all"]));
    assert_eq!((code, out), (Some(0), format!("{small} deleted\n")));
    let (code, out, _) = said(&queue(&lab, "delete", &["--all"]));
    assert_eq!((code, &*out), (Some(0), "no messages\n"));
}

#[test]
fn a_deleted_message_is_gone_and_the_others_are_not() {
    let mut lab = lab();
    let deleted = waiting(&lab, "deleted");
    let kept = waiting(&lab, "kept");
    let unknown = "1M876XD4R0000";
    let output = queue(&lab, "delete", &["--yes", "--json", &deleted, unknown]);
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
    for action in ["retry", "hold", "release", "bounce", "delete", "requeue"] {
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
    for (path, expected) in [
        ("/api/v1/messages/nonsense/hold", 400),
        (&format!("/api/v1/messages/{id}/eat"), 404),
        ("/api/v1/messages/actions", 400),
    ] {
        let (code, answer) = lab.api("POST", path);
        assert_eq!(code, expected, "{path}: {answer}");
    }
    let (code, _, err) = said(&queue(&lab, "release", &["nonsense"]));
    assert_eq!((code, err.contains("not a message id")), (Some(2), true), "{err}");
    assert_eq!(page(&lab, &id)["state"], "scheduled");
}

/// From one relay to another, with what each message has been through.
#[test]
fn messages_are_handed_over_while_the_relay_runs() {
    let mut lab = lab();
    let one = waiting(&lab, "one");
    let held = waiting(&lab, "held");
    queue(&lab, "hold", &["--reason", "the auditor asks", &held]);
    let fabrikam = "a@fabrikam.example";
    lab.send(fabrikam, &[TO], &message(fabrikam, TO, "stays"));
    lab.wait_for_metric("m365_relay_queue_messages", &[("state", "scheduled")], 2.0);
    let folder = lab.folder().join("exported");
    let path = folder.to_str().unwrap();
    let (code, out, _) = said(&queue(&lab, "export", &["--tenant", "contoso", path]));
    assert_eq!((code, &*out), (Some(0), "2 messages written\n"));
    assert_eq!(page(&lab, &one)["state"], "scheduled");
    let (code, out, err) = said(&queue(&lab, "export", &["--tenant", "contoso", "--remove", path]));
    assert_eq!((code, &*out, &*err), (Some(0), "2 messages written and removed\n", ""));
    let (code, out, _) = said(&queue(&lab, "list", &["--tenant", "contoso"]));
    assert_eq!((code, &*out), (Some(0), "no messages\n"));
    let entry: Value =
        serde_json::from_slice(&std::fs::read(folder.join(format!("{one}.json"))).unwrap()).unwrap();
    assert_eq!((&entry["state"], &entry["attempts"]), (&"waiting".into(), &1.into()), "{entry:#}");
    let (code, _, err) = said(&queue(&lab, "export", &[path]));
    assert_eq!((code, err.contains("say which messages")), (Some(1), true), "{err}");

    lab.service.clear_faults();
    assert_eq!(lab.terminate(), Some(0));
    let config = lab.config_file();
    let output = lab.run(&["spool", "import", path, "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    lab.restart();
    wait_until("the import", || page(&lab, &held)["state"] == "held");
    assert!(page(&lab, &held)["waits"]["why"].as_str().unwrap().contains("the auditor asks"));
    assert_eq!(lab.wait_for(1)[0].subject, "one");
    queue(&lab, "release", &[&held]);
    queue(&lab, "retry", &["--tenant", "fabrikam"]);
    let mut subjects: Vec<_> = lab.wait_for(3).iter().map(|mail| mail.subject.clone()).collect();
    subjects.sort();
    assert_eq!(subjects, ["held", "one", "stays"]);
}
