//! `m365-relay tenant list`, `show`, `suspend` and `resume`, and `status`: the operator's view of the
//! tenants.

use std::process::Output;

use relay_sandbox::{Fault, On};
use serde_json::Value;

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "a@contoso.example";
const OTHER: &str = "b@contoso.example";
const TO: &str = "b@example.net";

fn run(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = lab.config_file();
    let Output { status, stdout, stderr } =
        lab.run(&[arguments, &["--config", file.to_str().unwrap()]].concat());
    let text = |octets| String::from_utf8(octets).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let (_, out, err) = run(lab, &[arguments, &["--json"]].concat());
    assert_eq!(err, "");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_suspended_tenant_waits_over_a_restart_and_goes_when_it_is_resumed() {
    let mut lab = Lab::start();
    let suspend = ["tenant", "suspend", "contoso", "--reason", "the auditor asks"];
    let (code, out, err) = run(&lab, &suspend);
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(
        out.contains("state       suspended\nbecause     suspended by an operator: the auditor asks\n"),
        "{out}"
    );
    lab.send(FROM, &[TO], &message(FROM, TO, "kept back"));
    let id = lab.wait_for_log("message accepted")["id"].as_str().unwrap().to_owned();
    let fabrikam = "a@fabrikam.example";
    lab.send(fabrikam, &[TO], &message(fabrikam, TO, "goes"));
    assert_eq!(lab.wait_for(1)[0].subject, "goes");
    for _ in 0..2 {
        wait_until("the state", || json(&lab, &["queue", "show", &id])["state"] == "blocked");
        let waits = json(&lab, &["queue", "show", &id])["waits"].clone();
        assert_eq!(waits["class"], "suspended");
        assert!(waits["why"].as_str().unwrap().contains("the auditor asks"), "{waits}");
        assert_eq!(json(&lab, &["tenant", "list", "--in-trouble"]), Value::Array(vec![]), "it is no trouble");
        assert_eq!(json(&lab, &["tenant", "show", "contoso"])["state"], "suspended");
        assert_eq!(lab.service.messages().len(), 1);
        // A reload changes nothing about it.
        lab.hang_up();
        lab.wait_for_metric("m365_relay_config_reloads_total", &[("result", "ok")], 1.0);
        lab.kill9();
        lab.restart();
    }
    let line = lab.wait_for_log("tenant suspended by an operator");
    assert!(
        line["by"].as_str().unwrap().starts_with("user ") && line["reason"] == "the auditor asks",
        "{line}"
    );
    let (code, out, _) = run(&lab, &["tenant", "resume", "contoso"]);
    assert_eq!((code, out.contains("state       ok\n")), (Some(0), true), "{out}");
    assert_eq!(lab.wait_for(2)[1].subject, "kept back");
    let (code, _, err) = run(&lab, &["tenant", "resume", "contoso"]);
    assert_eq!((code, err.contains("contoso is not suspended")), (Some(1), true), "{err}");
}

#[test]
fn a_suspension_ends_when_its_time_is_over() {
    let lab = Lab::start();
    assert_eq!(run(&lab, &["tenant", "suspend", "contoso", "--for", "2s"]).0, Some(0));
    lab.send(FROM, &[TO], &message(FROM, TO, "a little later"));
    lab.wait_for_log("suspension over");
    lab.wait_for(1);
    assert_eq!(json(&lab, &["tenant", "show", "contoso"])["state"], "ok");
}

#[test]
fn one_mailbox_alone() {
    let mut lab = Lab::start();
    assert_eq!(run(&lab, &["tenant", "suspend", "contoso", "--mailbox", FROM]).0, Some(0));
    lab.send(FROM, &[TO], &message(FROM, TO, "kept back"));
    let id = lab.wait_for_log("message accepted")["id"].as_str().unwrap().to_owned();
    lab.send(OTHER, &[TO], &message(OTHER, TO, "goes"));
    assert_eq!(lab.wait_for(1)[0].subject, "goes");
    for _ in 0..2 {
        wait_until("the sleep", || json(&lab, &["queue", "show", &id])["waits"]["class"] == "suspended");
        let page = json(&lab, &["tenant", "show", "contoso"]);
        assert_eq!(
            (&page["state"], &page["suspended_mailboxes"][0]["mailbox"]),
            (&"ok".into(), &FROM.into())
        );
        assert_eq!(page["trouble"], Value::Array(vec![]));
        lab.kill9();
        lab.restart();
    }
    assert_eq!(lab.metric("m365_relay_throttled_total", &[]), 0.0);
    assert_eq!(run(&lab, &["tenant", "resume", "contoso", "--mailbox", FROM]).0, Some(0));
    assert_eq!(lab.wait_for(2)[1].subject, "kept back");
}

#[test]
fn what_cannot_be_suspended_is_named() {
    let lab = Lab::with(|setup| setup.tenant("fabrikam").more = "suspended = true".into());
    for (arguments, part) in [
        (&["suspend", "nobody"][..], "has no tenant nobody"),
        (&["suspend", "../messages"], "has no tenant"),
        (&["suspend", "contoso", "--for", "soon"], "for: not a duration"),
        (&["suspend", "contoso", "--mailbox", "nonsense"], "mailbox: "),
        (&["suspend", "fabrikam"], "suspended in the configuration"),
        (&["resume", "contoso"], "contoso is not suspended"),
        (&["show", "nobody"], "has no tenant nobody"),
    ] {
        let (code, _, err) = run(&lab, &[&["tenant"], arguments].concat());
        assert_eq!((code, err.contains(part)), (Some(1), true), "{arguments:?}: {err}");
    }
    assert_eq!(json(&lab, &["tenant", "show", "fabrikam"])["state"], "suspended");
}

/// Mail that somebody has stopped must not go because a file has been damaged.
#[test]
fn who_is_suspended_must_be_readable() {
    let mut lab = Lab::start();
    assert_eq!(lab.terminate(), Some(0));
    let file = lab.folder().join("spool/suspensions.json");
    std::fs::write(&file, "{").unwrap();
    let config = lab.config_file();
    let output = lab.run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("suspensions.json") && said.contains("Mend the file or remove it"), "{said}");
}

#[test]
fn who_is_in_trouble_and_what_to_do() {
    let lab =
        Lab::with(|setup| setup.tenant("fabrikam").credential = "client_secret = 'an old secret'".into());
    let (code, out, _) = run(&lab, &["status"]);
    assert_eq!((code, out.contains("mail is taken\n")), (Some(0), true), "{out}");
    let fabrikam = "a@fabrikam.example";
    lab.send(fabrikam, &[TO], &message(fabrikam, TO, "waits"));
    lab.send(FROM, &[TO], &message(FROM, TO, "goes"));
    lab.wait_for(1);
    wait_until("the trouble", || json(&lab, &["tenant", "list", "--in-trouble"])[0]["id"] == "fabrikam");
    let all = json(&lab, &["tenant", "list"]);
    assert_eq!(
        (&all[0]["id"], &all[0]["state"], all[0]["trouble"].as_array().unwrap().len()),
        (&"contoso".into(), &"ok".into(), 0)
    );
    assert!(all[1]["trouble"][0].as_str().unwrap().contains("AADSTS7000215"), "{all:#}");
    let (_, out, _) = run(&lab, &["tenant", "list"]);
    assert!(out.contains("fabrikam  blocked           1") && out.ends_with("2 tenants\n"), "{out}");
    let (code, out, _) = run(&lab, &["status"]);
    assert_eq!(code, Some(1));
    // A probe asks for no more than whether mail is taken.
    assert_eq!(run(&lab, &["status", "--ready"]).0, Some(0));
    for part in [
        "accepted   2 in the last minute",
        "delivered  1 in the last minute",
        "1 blocked",
        "2, 0 suspended, 1 in trouble",
        "m365-relay tenant check fabrikam\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // A page is not lost or given twice.
    let (_, first) = lab.api("GET", "/api/v1/tenants?limit=1");
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&first["tenants"][0]["id"], &first["next"]), (&"contoso".into(), &"contoso".into()));
    let (_, second) = lab.api("GET", "/api/v1/tenants?limit=1&cursor=contoso");
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!((&second["tenants"][0]["id"], &second["next"]), (&"fabrikam".into(), &Value::Null));
}

#[test]
fn a_mailbox_that_must_be_mended_is_trouble_and_a_held_message_too() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 403, "ErrorAccessDenied"));
    lab.send(FROM, &[TO], &message(FROM, TO, "refused"));
    let id = lab.wait_for_log("message accepted")["id"].as_str().unwrap().to_owned();
    wait_until("the sleep", || json(&lab, &["queue", "show", &id])["waits"]["class"] == "mailbox");
    let page = json(&lab, &["tenant", "show", "contoso"]);
    assert!(page["trouble"][0].as_str().unwrap().contains("ErrorAccessDenied"), "{page:#}");
    assert_eq!(
        (&page["asleep"][0]["mailbox"], &page["asleep"][0]["limit"]),
        (&FROM.into(), &"mailbox".into())
    );
    assert_eq!(run(&lab, &["queue", "hold", &id]).0, Some(0));
    wait_until("the hold", || {
        json(&lab, &["tenant", "show", "contoso"])["trouble"].as_array().unwrap().len() == 2
    });
}

#[test]
fn every_tenant_is_checked() {
    let lab =
        Lab::with(|setup| setup.tenant("fabrikam").credential = "client_secret = 'an old secret'".into());
    let (code, out, _) = run(&lab, &["tenant", "check", "--all"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("AADSTS7000215") && out.ends_with("2 tenants checked, 1 in trouble\n"), "{out}");
    let (_, out, _) = run(&lab, &["tenant", "check", "--all", "--json"]);
    let reports: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&reports[0]["tenant"], &reports[1]["ok"]), (&"contoso".into(), &false.into()));
    assert_eq!(run(&lab, &["tenant", "check"]).0, Some(2));
}
