//! `m365-relay tenant …`: what it finds out, and which fixes it names.

use std::{os::unix::fs::PermissionsExt, process::Output};

use relay_sandbox::{Fault, On, User};
use serde_json::Value;

use crate::harness::{Lab, message};

const MAILBOX: &str = "scanner@contoso.example";

fn tenant(lab: &Lab, arguments: &[&str]) -> Output {
    let config = lab.config_file();
    lab.run(&[&["tenant"], arguments, &["--config", config.to_str().unwrap()]].concat())
}

/// Whether it succeeded, and its findings.
fn check(lab: &Lab, more: &[&str]) -> (Option<i32>, Value) {
    let output = tenant(lab, &[&["check", "contoso", "--json", "--mailbox", MAILBOX], more].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said} {errors}")))
}

/// The state of a topic, its text and its remedy.
fn finding<'a>(report: &'a Value, topic: &str) -> (&'a str, &'a str, &'a str) {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["topic"] == topic);
    let found = found.unwrap_or_else(|| panic!("nothing about {topic}: {report:#}"));
    let text = |key: &str| found[key].as_str().unwrap_or("");
    (text("state"), text("text"), text("mend"))
}

#[test]
fn all_is_well_and_nothing_is_sent_or_left_behind() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").route = "auto".into();
        setup.tenant("contoso").confirm = "auto".into();
    });
    let (code, report) = check(&lab, &[]);
    assert_eq!(code, Some(0), "{report:#}");
    for topic in ["Graph login", "send", "drafts", "sent items", "SMTP login", "submission"] {
        assert_eq!(finding(&report, topic).0, "ok", "{topic}: {report:#}");
    }
    assert!(finding(&report, "Graph grants").1.contains("Mail.Send"));
    assert!(lab.service.messages().is_empty());
    assert_eq!(lab.service.drafts(), 0);

    let output = tenant(&lab, &["check", "contoso", "--mailbox", MAILBOX]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with(
            "tenant contoso: cloud lab, directory contoso.example, app contoso-app, route auto\n"
        ),
        "{said}"
    );
    assert!(said.ends_with("\nMail of this tenant can be sent.\n") && !said.contains("MISSING"), "{said}");
}

#[test]
fn each_missing_permission_is_named_with_what_to_do() {
    let without = |roles: &[&str], confirm: &str| {
        Lab::without_relay(|setup| {
            let contoso = setup.tenant("contoso");
            contoso.route = "graph".into();
            contoso.confirm = confirm.into();
            contoso.roles = roles.iter().map(ToString::to_string).collect();
        })
    };
    let (code, report) = check(&without(&["Mail.ReadWrite"], "auto"), &[]);
    let (state, _, mend) = finding(&report, "send");
    assert!(code == Some(1) && state == "missing", "{report:#}");
    assert!(mend.contains("permission Mail.Send") && mend.contains("contoso-app"), "{mend}");

    let (code, report) = check(&without(&["Mail.Send"], "auto"), &[]);
    let (state, text, mend) = finding(&report, "drafts");
    assert!(code == Some(0) && state == "warning" && text.contains("bounces"), "{report:#}");
    assert!(mend.contains("permission Mail.ReadWrite"), "{mend}");
    assert_eq!(finding(&report, "sent items").0, "warning");

    let (code, report) = check(&without(&["Mail.Send"], "draft"), &[]);
    assert!(code == Some(1) && finding(&report, "drafts").0 == "missing", "{report:#}");

    let (code, report) = check(&without(&["Mail.Send"], "sent-items"), &[]);
    assert!(code == Some(1) && finding(&report, "sent items").2.contains("Mail.ReadBasic.All"), "{report:#}");
}

#[test]
fn smtp_is_tried_by_logging_in() {
    let lab = Lab::without_relay(|setup| {
        let contoso = setup.tenant("contoso");
        contoso.route = "smtp".into();
        contoso.roles = vec!["Mail.Send".into()];
    });
    let (code, report) = check(&lab, &[]);
    let (state, text, mend) = finding(&report, "submission");
    assert!(code == Some(1) && state == "missing" && text.contains("5.7.3"), "{report:#}");
    assert!(mend.contains("SMTP.SendAsApp") && mend.contains("New-ServicePrincipal"), "{mend}");
}

#[test]
fn a_login_that_fails_says_why() {
    let lab = Lab::without_relay(|setup| {
        setup.tenant("contoso").credential = "client_secret = 'an old one'".into();
    });
    let (code, report) = check(&lab, &[]);
    let (state, text, _) = finding(&report, "Graph login");
    assert!(code == Some(1) && state == "missing" && text.contains("AADSTS7000215"), "{report:#}");
    assert!(!report.to_string().contains("an old one"));
}

#[test]
fn a_mailbox_that_is_none_is_named() {
    let lab = Lab::without_relay(|_| {});
    let output = tenant(&lab, &["check", "contoso", "--json", "--mailbox", "x@nowhere.example"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (state, text, mend) = finding(&report, "mailbox");
    assert!(state == "missing" && text.contains("x@nowhere.example") && !mend.is_empty(), "{report:#}");

    // Without one, it says so, and accepts what the token says.
    let output = tenant(&lab, &["check", "contoso", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && finding(&report, "mailbox").0 == "warning", "{report:#}");
}

#[test]
fn a_test_message_goes_by_the_tenants_route() {
    let lab = Lab::without_relay(|setup| setup.tenant("contoso").route = "smtp".into());
    let (code, report) = check(&lab, &["--send", "admin@example.net"]);
    assert_eq!((code, finding(&report, "message").0), (Some(0), "ok"), "{report:#}");
    let sent = lab.wait_for(1);
    assert_eq!((&*sent[0].mailbox, &sent[0].recipients), (MAILBOX, &vec!["admin@example.net".to_owned()]));
    assert!(sent[0].envelope.is_some(), "it went by Graph");

    lab.inject(Fault::reply(On::SmtpMail, "550 5.1.8 Access denied, bad outbound sender").times(1));
    let (code, report) = check(&lab, &["--send", "admin@example.net"]);
    assert!(code == Some(1) && finding(&report, "message").1.contains("5.1.8"), "{report:#}");
}

#[test]
fn consent_addresses_name_app_and_directory() {
    let lab = Lab::without_relay(|setup| setup.tenant("contoso").route = "auto".into());
    let output = tenant(&lab, &["consent-url", "contoso", "--json"]);
    let consents: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(consents.as_array().unwrap().len(), 2);
    let url = consents[0]["url"].as_str().unwrap();
    let begin =
        format!("{}/contoso.example/v2.0/adminconsent?client_id=contoso-app&scope=", lab.service.url());
    assert!(url.starts_with(&begin), "{url}");

    let output = tenant(&lab, &["consent-url", "contoso"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("/v2.0/adminconsent?") && said.contains("tenant check contoso"), "{said}");
}

#[test]
fn a_tenant_that_is_none_is_an_error_that_names_those_there_are() {
    let lab = Lab::without_relay(|_| {});
    let output = tenant(&lab, &["check", "contosso"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("there is no tenant \"contosso\": the tenants are contoso, fabrikam"), "{said}");
}

/// The whole procedure of a user who has nothing but a mailbox: sign in by a code, send, and continue after a
/// restart.
#[test]
fn somebody_signs_in_by_a_code_and_mail_goes() {
    let mut lab = Lab::without_relay(|setup| {
        setup.tenant("contoso").credential = "grant = 'refresh_token'".into();
        setup.service = Box::new(|options| {
            let directory = &mut options.directories[0];
            directory.public_client_id = Some(directory.client_id.clone());
            directory.users = vec![User::new("me@contoso.example", "Pass.Word")];
        });
    });
    lab.restart();
    lab.send(
        "me@contoso.example",
        &["b@example.net"],
        &message("me@contoso.example", "b@example.net", "waits"),
    );
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "contoso"), ("reason", "credential")], 1.0);

    let config = lab.config_file();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_m365-relay"));
    command.args(["tenant", "login", "contoso", "--config"]).arg(config).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
    let code = loop {
        let mut line = String::new();
        assert!(std::io::BufRead::read_line(&mut said, &mut line).unwrap() > 0, "no code was shown");
        if let Some((_, code)) = line.split_once("enter  ") {
            break code.trim().to_owned();
        }
    };
    assert!(lab.service.approve_device(&code, "me@contoso.example"));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest.contains("Signed in as me@contoso.example"), "{rest}");

    // The running relay finds it.
    lab.wait_for(1);
    let stored = lab.folder().join("spool/credentials/contoso.json");
    assert_eq!(stored.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    lab.wait_until_settled();
    lab.kill9();
    lab.restart();
    lab.send(
        "me@contoso.example",
        &["b@example.net"],
        &message("me@contoso.example", "b@example.net", "again"),
    );
    lab.wait_for(2);
}
