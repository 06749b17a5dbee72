//! What Microsoft 365 refused is tried again as soon as its cause is mended, and not after the five minutes
//! that such mail waits otherwise.

use std::process::Output;

use relay_sandbox::{Fault, On};
use serde_json::Value;

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

fn lab(route: &str, roles: &[&str]) -> Lab {
    Lab::with(|setup| {
        let tenant = setup.tenant("contoso");
        tenant.route = route.into();
        tenant.roles = roles.iter().map(|role| (*role).to_owned()).collect();
    })
}

fn run(lab: &Lab, arguments: &[&str]) -> Output {
    let file = lab.config_file();
    lab.run(&[arguments, &["--config", file.to_str().unwrap()]].concat())
}

/// Sends a message that is refused, and waits until it waits for that.
fn refused(lab: &Lab) {
    lab.send(FROM, &[TO], &message(FROM, TO, "refused at first"));
    let id = lab.wait_for_log("message accepted")["id"].as_str().unwrap().to_owned();
    let limit = || -> Value {
        let shown = run(lab, &["queue", "show", "--json", &id]);
        let page: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        assert_ne!(page["state"], "scheduled", "it is due whenever the mailbox is not asleep: {page:#}");
        page["waits"]["limit"].clone()
    };
    wait_until("the refusal", || limit() == "mailbox");
    lab.wait_until_settled();
}

fn arrives(lab: &Lab) {
    assert_eq!(lab.wait_for(1)[0].subject, "refused at first");
    lab.wait_until_empty();
}

fn check(lab: &Lab) -> Value {
    let output = run(lab, &["tenant", "check", "contoso", "--mailbox", FROM, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.success(), report["ok"].as_bool().unwrap(), "{report:#}");
    report
}

fn says_retry(report: &Value) -> bool {
    report["findings"].as_array().unwrap().iter().any(|finding| finding["topic"] == "retry")
}

#[test]
fn a_permission_that_tenant_check_sees() {
    let lab = lab("graph", &["Mail.ReadWrite"]);
    refused(&lab);
    let report = check(&lab);
    assert!(report["ok"] == false && !says_retry(&report), "{report:#}");
    assert!(lab.service.set_roles("contoso.example", &["Mail.Send", "Mail.ReadWrite"]));
    let report = check(&lab);
    assert!(report["ok"] == true && says_retry(&report), "{report:#}");
    arrives(&lab);
    assert_eq!(lab.wait_for_log("retrying what was refused")["tenant"], "contoso");
}

#[test]
fn a_permission_and_a_reload() {
    let lab = lab("graph", &["Mail.ReadWrite"]);
    refused(&lab);
    assert!(lab.service.set_roles("contoso.example", &["Mail.Send"]));
    assert!(run(&lab, &["reload"]).status.success());
    arrives(&lab);
}

#[test]
fn a_permission_and_a_restart() {
    let mut lab = lab("graph", &["Mail.ReadWrite"]);
    refused(&lab);
    assert!(lab.service.set_roles("contoso.example", &["Mail.Send"]));
    assert_eq!(lab.terminate(), Some(0));
    lab.restart();
    arrives(&lab);
}

#[test]
fn a_permission_to_submit_by_smtp() {
    for mends in [&["reload"][..], &["tenant", "check", "contoso", "--mailbox", FROM]] {
        let lab = lab("smtp", &["Mail.Send"]);
        lab.send(FROM, &[TO], &message(FROM, TO, "refused at first"));
        let is_stopped = |metrics: &crate::harness::Metrics| {
            metrics.sum("m365_relay_waiting_for_limit", &[("limit", "mailbox")])
                + metrics.sum("m365_relay_tenant_blocked", &[("tenant", "contoso")])
                > 0.0
        };
        lab.wait_for_metrics("the refusal", is_stopped);
        lab.wait_until_settled();
        assert!(lab.service.set_roles("contoso.example", &["SMTP.SendAsApp"]));
        let output = run(&lab, mends);
        assert!(output.status.success(), "{output:?}");
        arrives(&lab);
    }
}

/// Large mail for which the app may not create drafts goes by SMTP, and waits there without its mailbox.
#[test]
fn a_permission_that_only_some_mail_needs() {
    for mends in [&["reload"][..], &["tenant", "check", "contoso", "--mailbox", FROM]] {
        let lab = lab("auto", &["Mail.Send"]);
        let large = crate::harness::base64_mail(FROM, TO, "refused at first", 2_500_000);
        lab.send(FROM, &[TO], &large);
        lab.wait_for_metric(
            "m365_relay_queue_messages",
            &[("tenant", "contoso"), ("state", "scheduled")],
            1.0,
        );
        lab.wait_until_settled();
        assert!(lab.service.set_roles("contoso.example", &["Mail.Send", "SMTP.SendAsApp"]));
        let output = run(&lab, mends);
        assert!(output.status.success(), "{output:?}");
        arrives(&lab);
    }
}

#[test]
fn a_mailbox_that_is_back_and_an_app_that_is_let_in_again() {
    for (status, code) in
        [(404, "ErrorNonExistentMailbox"), (403, "ErrorAccessDenied"), (403, "Authorization_RequestDenied")]
    {
        let lab = Lab::start();
        lab.inject(Fault::status(On::SendMail, status, code).times(1));
        lab.send(FROM, &[TO], &message(FROM, TO, "refused at first"));
        wait_until("the refusal", || lab.service.faults().is_empty());
        lab.wait_until_settled();
        assert!(run(&lab, &["reload"]).status.success());
        arrives(&lab);
    }
}

#[test]
fn a_tenant_that_is_none_is_not_retried() {
    let lab = Lab::start();
    for (name, status, says) in [
        ("nobody", 404, "no tenant nobody"),
        ("No%20Body", 400, "a tenant's name is"),
        ("contoso", 200, "contoso"),
    ] {
        let (code, answer) = lab.api("POST", &format!("/api/v1/tenants/{name}/retry"));
        assert!(code == status && answer.contains(says), "{name}: {code} {answer}");
    }
}
