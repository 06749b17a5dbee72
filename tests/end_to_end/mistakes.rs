//! A mistake in the configuration of one tenant is that tenant's.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::harness::{Lab, TenantSetup, message};

const TO: &str = "b@example.net";
const CONTOSO: &str = "a@contoso.example";
const FABRIKAM: &str = "a@fabrikam.example";

const BLOCKED: [(&str, &str); 2] = [("tenant", "fabrikam"), ("reason", "configuration")];

/// Exit code, standard output and standard error of a command.
fn command(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = lab.config_file();
    let output = lab.run(&[arguments, &["--config", file.to_str().unwrap()]].concat());
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A file of tenants.d.
fn beside(lab: &Lab, name: &str) -> PathBuf {
    let folder = lab.folder().join("tenants.d");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

#[test]
fn a_start_with_a_tenants_mistake_serves_the_others() {
    let mut lab = Lab::without_relay(|setup| setup.tenant("fabrikam").confirm = "of".into());
    lab.restart();
    lab.wait_for_log(
        "tenant blocked: its configuration has mistakes. New mail gets 450, queued mail is held",
    );
    lab.wait_for_metric("m365_relay_config_tenants_invalid", &[], 1.0);
    lab.wait_for_metric("m365_relay_tenant_blocked", &BLOCKED, 1.0);
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "goes"));
    lab.wait_for(1);

    // Its clients come again, those of nobody need not.
    let mut smtp = lab.smtp();
    let reply = smtp.mail(FABRIKAM);
    assert!(reply.code == 450 && reply.text.contains("4.3.5"), "{reply:?}");
    assert_eq!(smtp.mail("a@nobody.example").code, 550);
    lab.wait_for_metric("m365_relay_refused_total", &[("reason", "configuration")], 1.0);
    // A file waits.
    let file = lab.folder().join("pickup/fabrikam/one.eml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, message(FABRIKAM, TO, "by file")).unwrap();

    let (code, _, err) = command(&lab, &["check-config"]);
    assert!(code == Some(1) && err.contains("tenants.fabrikam.confirm"), "{err}");
    let (code, out, _) = command(&lab, &["tenant", "list"]);
    assert!(code == Some(0) && out.contains("fabrikam  invalid"), "{out}");
    let (_, out, _) = command(&lab, &["tenant", "list", "--in-trouble", "--json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&"fabrikam".into(), &"invalid".into()));
    assert!(listed[0]["trouble"][0].as_str().unwrap().contains("tenants.fabrikam.confirm"), "{listed}");
    let (_, out, _) = command(&lab, &["status"]);
    assert!(out.contains("1 in trouble") && out.contains("check-config"), "{out}");
    let (code, out, _) = command(&lab, &["tenant", "check", "--all"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("MISSING  mistake") && out.contains("2 tenants checked, 1 in trouble"), "{out}");
    let (code, out, _) = command(&lab, &["tenant", "check", "contoso"]);
    assert_eq!(code, Some(0), "{out}");
    let (code, out, _) = command(&lab, &["tenant", "check", "fabrikam"]);
    assert!(code == Some(1) && out.contains("tenants.fabrikam.confirm"), "{out}");

    lab.setup.tenant("fabrikam").confirm = "off".into();
    lab.write_config();
    let (code, out, err) = command(&lab, &["reload"]);
    assert_eq!((code, &*out), (Some(0), "added      fabrikam\nunchanged  1 tenant\n"), "{err}");
    smtp.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "by SMTP"));
    lab.wait_for(3);
    lab.wait_for_metric("m365_relay_config_tenants_invalid", &[], 0.0);
    lab.wait_for_metric("m365_relay_tenant_blocked", &BLOCKED, 0.0);
    assert!(!file.exists());
}

/// Whoever may be its user is not locked out meanwhile.
#[test]
fn a_login_of_its_user_is_asked_to_come_again() {
    let lab = Lab::with(|setup| {
        setup.listener = "trusted = true".into();
        setup.tenant("contoso").networks = "[]".into();
        setup.tenant("fabrikam").networks = "[]".into();
        setup.tenant("fabrikam").more = "users = { scanner = 'no hash' }".into();
    });
    let mut smtp = lab.smtp();
    for _ in 0..12 {
        // \0scanner@fabrikam\0x
        assert_eq!(smtp.command("AUTH PLAIN AHNjYW5uZXJAZmFicmlrYW0AeA==").code, 454);
    }
    // \0other@fabrikam\0x
    assert_eq!(smtp.command("AUTH PLAIN AG90aGVyQGZhYnJpa2FtAHg=").code, 535);
}

#[test]
fn mail_that_is_queued_is_held_and_says_why() {
    let mut lab = Lab::start();
    lab.inject(relay_sandbox::Fault::status(relay_sandbox::On::SendMail, 503, "serviceNotAvailable"));
    lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "waits"));
    lab.wait_for_metrics("an attempt", |metrics| {
        metrics.sum("m365_relay_deliveries_total", &[("tenant", "fabrikam"), ("outcome", "retry")]) > 0.0
    });
    lab.terminate();
    lab.setup.tenant("fabrikam").confirm = "of".into();
    lab.write_config();
    lab.restart();
    lab.service.clear_faults();
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "fabrikam"), ("state", "held")], 1.0);
    let (_, out, _) = command(&lab, &["queue", "list", "--why", "configuration", "--json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    let why = listed[0]["waits"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("tenants.fabrikam.confirm"), "{listed}");
    // Its mail is removed, and its mistake stays.
    let id = listed[0]["id"].as_str().unwrap();
    let (code, _, err) = command(&lab, &["queue", "delete", id]);
    assert_eq!(code, Some(0), "{err}");
    lab.wait_for_metrics("the end of its mail", |metrics| {
        metrics.sum("m365_relay_queue_messages", &[("tenant", "fabrikam")]) == 0.0
    });
    assert_eq!(lab.metric("m365_relay_tenant_blocked", &BLOCKED), 1.0);
}

#[test]
fn a_reload_with_a_tenants_mistake_changes_the_others() {
    let mut lab = Lab::start();
    let northwind = beside(&lab, "northwind.toml");
    fs::write(&northwind, "[tenants.northwind").unwrap();
    lab.setup.tenant("contoso").senders = "['@contoso.example', 'other@contoso.example']".into();
    lab.setup.tenant("fabrikam").more = "colour = 'blue'\nsize = 3".into();
    lab.write_config();
    let (code, out, err) = command(&lab, &["reload"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("changed    contoso\n") && out.contains("unchanged  1 tenant\n"), "{out}");
    assert!(out.contains("invalid    fabrikam, ") && out.contains("northwind.toml"), "{out}");
    for part in
        ["tenants.fabrikam.colour", "tenants.fabrikam.size", "northwind.toml:1: not TOML", "reload again"]
    {
        assert!(err.contains(part), "{err}");
    }
    lab.wait_for_metric("m365_relay_config_tenants_invalid", &[], 2.0);
    lab.wait_for_metric("m365_relay_tenant_blocked", &BLOCKED, 0.0);
    lab.wait_for_metric("m365_relay_config_reloads_total", &[("result", "ok")], 1.0);
    lab.wait_for_log("tenant keeps its current configuration: the new one has mistakes");
    // It runs as before; of whoever is in the other file, nobody knows anything.
    lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "as before"));
    lab.wait_for(1);
    assert_eq!(lab.smtp().mail("a@northwind.example").code, 450);
    let (_, out, _) = command(&lab, &["tenant", "list", "--in-trouble"]);
    assert!(out.contains("runs as before, since its new configuration has a mistake"), "{out}");
    assert!(out.contains("northwind.toml  invalid"), "{out}");

    fs::remove_file(&northwind).unwrap();
    lab.setup.tenant("fabrikam").more = String::new();
    lab.write_config();
    assert_eq!(command(&lab, &["reload"]).0, Some(0));
    lab.wait_for_metric("m365_relay_config_tenants_invalid", &[], 0.0);
    assert_eq!(lab.smtp().mail("a@northwind.example").code, 550);
}

/// The relay tells of a credential that cannot be read or does not work, whether there is mail or not.
#[test]
fn a_login_that_does_not_work_is_found_without_mail() {
    let mut lab = Lab::without_relay(|setup| {
        setup.check_logins_every = "2s".into();
        setup.tenant("contoso").credential = "client_secret = { file = 'no-such-file' }".into();
    });
    lab.restart();
    let blocked = [("tenant", "contoso"), ("reason", "credential")];
    lab.wait_for_metric("m365_relay_tenant_blocked", &blocked, 1.0);
    let (_, out, _) = command(&lab, &["tenant", "list", "--in-trouble"]);
    assert!(out.contains("contoso  blocked") && out.contains("no-such-file"), "{out}");
    assert_eq!(command(&lab, &["check-config"]).0, Some(1));

    // Fabrikam's has been tried, and a day later it does not work any more.
    lab.wait_for_metrics("a login", |metrics| {
        metrics.sum("m365_relay_token_refreshes_total", &[("tenant", "fabrikam"), ("result", "ok")]) == 1.0
    });
    lab.setup.tenant("fabrikam").credential = "client_secret = 'not it'".into();
    // And the other is mended.
    lab.setup.tenant("contoso").credential = TenantSetup::new("contoso").credential;
    lab.write_config();
    assert_eq!(command(&lab, &["reload"]).0, Some(0));
    lab.wait_for_metric("m365_relay_tenant_blocked", &blocked, 0.0);
    lab.wait_for_metric(
        "m365_relay_tenant_blocked",
        &[("tenant", "fabrikam"), ("reason", "credential")],
        1.0,
    );
}

/// Three hundred tenants, of whom some have mistakes of each kind.
#[test]
fn many_mistakes_stop_nobody_else() {
    let mut lab = Lab::without_relay(|setup| {
        setup.tenants.truncate(1);
        setup.service = Box::new(|options| {
            let directory = TenantSetup::new("t").directory();
            options.directories.push(directory);
        });
    });
    let good = TenantSetup::new("t").table(&lab.service.url());
    for n in 0..300 {
        let name = format!("t{n}");
        let table =
            good.replace("[tenants.t]", &format!("[tenants.{name}]")).replace("@t.", &format!("{name}@t."));
        let table = match n % 50 {
            0 => table.replace("route", "rout"),
            1 => "[tenants".to_owned(),
            2 => format!("{table}[tenants.{name}.users]\nscanner = 'no hash'\n"),
            _ => table,
        };
        fs::write(beside(&lab, &format!("{name}.toml")), table).unwrap();
    }
    lab.restart();
    lab.wait_for_metric("m365_relay_config_tenants_invalid", &[], 18.0);
    let mut smtp = lab.smtp();
    for n in 0..300 {
        let from = format!("t{n}@t.example");
        let code = smtp.mail(&from).code;
        assert_eq!(code, if n % 50 < 3 { 450 } else { 250 }, "{from}");
        if code == 250 {
            assert_eq!(smtp.command("RSET").code, 250);
        }
    }
    smtp.send("t7@t.example", &[TO], &message("t7@t.example", TO, "goes"));
    lab.wait_for(1);
}
