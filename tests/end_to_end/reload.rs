//! The configuration is read again while the relay runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use relay_sandbox::{Action, Fault, On};
use serde_json::Value;

use crate::harness::{Lab, Smtp, TenantSetup, message, wait_until};

const TO: &str = "b@example.net";
const CONTOSO: &str = "a@contoso.example";
const FABRIKAM: &str = "a@fabrikam.example";
const LOADED: &str = "configuration reloaded";

/// Sends SIGHUP with the setup as it is now, and returns when that is in effect.
fn hang_up(lab: &Lab) -> Value {
    let before = lab.logged(LOADED).len();
    lab.write_config();
    lab.hang_up();
    wait_until("the new configuration", || lab.logged(LOADED).len() > before);
    lab.logged(LOADED).pop().unwrap()
}

/// Exit code, standard output and standard error of `m365-relay reload`.
fn reload(lab: &Lab, more: &[&str]) -> (Option<i32>, String, String) {
    lab.write_config();
    let file = lab.config_file();
    let output = lab.run(&[&["reload", "--config", file.to_str().unwrap()], more].concat());
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The reply to MAIL.
fn mail_from(smtp: &mut Smtp, from: &str) -> u16 {
    let code = smtp.command(&format!("MAIL FROM:<{from}>")).code;
    if code == 250 {
        assert_eq!(smtp.command("RSET").code, 250);
    }
    code
}

#[test]
fn tenants_come_and_go() {
    let mut lab = Lab::without_relay(|setup| setup.tenants.push(TenantSetup::new("northwind")));
    let northwind = lab.setup.tenants.pop().unwrap();
    lab.write_config();
    lab.restart();
    let mut smtp = lab.smtp();
    assert_eq!(mail_from(&mut smtp, "a@northwind.example"), 550);

    lab.setup.tenants.push(northwind);
    let said = hang_up(&lab);
    assert_eq!(said["added"], serde_json::json!(["northwind"]));
    // On a connection that existed before, and by a folder that did not.
    smtp.send("a@northwind.example", &[TO], &message("a@northwind.example", TO, "by SMTP"));
    fs::write(lab.pickup("northwind").join("one.eml"), message("a@northwind.example", TO, "by file"))
        .unwrap();
    lab.wait_for(2);

    // The tenant is removed, while it has mail.
    lab.inject(Fault::status(On::SendMail, 503, "serviceNotAvailable"));
    smtp.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "waits"));
    lab.wait_for_metrics("an attempt", |metrics| {
        metrics.sum("m365_relay_deliveries_total", &[("tenant", "fabrikam"), ("outcome", "retry")]) > 0.0
    });
    let fabrikam = lab.setup.tenants.remove(1);
    hang_up(&lab);
    assert_eq!(mail_from(&mut smtp, FABRIKAM), 550);
    lab.service.clear_faults();
    let held = [("tenant", "fabrikam"), ("state", "held")];
    lab.wait_for_metric("m365_relay_queue_messages", &held, 1.0);
    let stranger = lab.folder().join("pickup/fabrikam/two.eml");
    fs::write(&stranger, message(FABRIKAM, TO, "not picked up")).unwrap();
    smtp.send(CONTOSO, &[TO], &message(CONTOSO, TO, "meanwhile"));
    lab.wait_for(3);
    assert!(stranger.exists());

    // A restart holds the mail, too; and the tenant comes back without one.
    lab.terminate();
    lab.restart();
    lab.wait_for_metric("m365_relay_queue_messages", &held, 1.0);
    lab.setup.tenants.push(fabrikam);
    hang_up(&lab);
    let delivered = lab.wait_for(5);
    let subjects: Vec<_> = delivered[3..].iter().map(|message| &*message.subject).collect();
    assert!(subjects.contains(&"waits") && subjects.contains(&"not picked up"), "{subjects:?}");
    lab.wait_until_empty();
}

#[test]
fn nothing_is_shown_of_a_tenant_that_has_gone() {
    let mut lab = Lab::start();
    lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "before"));
    lab.wait_for(1);
    lab.wait_until_empty();
    let shown = |lab: &Lab| lab.page("/metrics").1.contains("tenant=\"fabrikam\"");
    assert!(shown(&lab));
    lab.setup.tenants.pop();
    hang_up(&lab);
    wait_until("its series to go", || !shown(&lab));
}

#[test]
fn a_mistake_that_belongs_to_everybody_changes_nothing_and_every_mistake_is_named() {
    let mut lab = Lab::start();
    lab.setup.delivery = "max_in_flight = 0".into();
    lab.setup.tenant("contoso").senders = "['nobody']".into();
    lab.setup.tenant("fabrikam").more = "colour = 'blue'".into();
    lab.write_config();
    lab.hang_up();
    lab.wait_for_log("configuration reload failed: the relay keeps its current configuration");
    let log = lab.log().join("\n");
    assert!(log.contains("delivery.max_in_flight"), "{log}");
    assert!(log.contains("tenants.contoso.senders[0]") && log.contains("tenants.fabrikam.colour"), "{log}");
    lab.wait_for_metric("m365_relay_config_reloads_total", &[("result", "failed")], 1.0);

    let (code, out, err) = reload(&lab, &[]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(err.contains("tenants.contoso.senders[0]") && err.contains("nothing has changed"), "{err}");
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "goes on"));
    lab.wait_for(1);
}

#[test]
fn the_command_says_what_has_changed() {
    let mut lab = Lab::start();
    // Or there are warnings about the secrets in it.
    fs::set_permissions(lab.config_file(), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(reload(&lab, &[]), (Some(0), "unchanged  2 tenants\n".into(), String::new()));

    lab.setup.tenant("contoso").senders = "['@contoso.example', 'other@contoso.example']".into();
    lab.setup.smtp = "max_recipients = 700".into();
    let (code, out, err) = reload(&lab, &[]);
    assert_eq!((code, &*out), (Some(0), "changed    contoso\nunchanged  1 tenant\n"), "{err}");
    assert_eq!(err, "warning: smtp has changed too: it takes effect at the next start\n");

    let (code, out, _) = reload(&lab, &["--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"], &json["unchanged"]), (Some(0), &true.into(), &2.into()));
    // It still does.
    assert_eq!(json["at_restart"], serde_json::json!(["smtp"]));
}

/// No client is refused, nothing fails, nothing arrives twice, and a tenant that stays as it is does not even
/// log in again.
#[test]
fn a_reload_under_load_disturbs_nothing() {
    const RELOADS: usize = 12;
    let mut lab = Lab::start();
    lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "logs in"));
    lab.wait_for(1);
    let sent = AtomicUsize::new(1);
    let done = AtomicBool::new(false);
    let address = lab.smtp_address();
    thread::scope(|scope| {
        for from in [CONTOSO, FABRIKAM] {
            scope.spawn(|| {
                let mut smtp = Smtp::connect(address);
                assert_eq!(smtp.command("EHLO client.example").code, 250);
                while !done.load(Ordering::Relaxed) {
                    let n = sent.fetch_add(1, Ordering::Relaxed);
                    smtp.send(from, &[TO], &message(from, TO, &format!("number {n}")));
                }
            });
        }
        for n in 0..RELOADS {
            lab.setup.tenant("contoso").senders = format!("['@contoso.example', 'n{n}@contoso.example']");
            lab.setup.tenant("contoso").more =
                format!("mailboxes = {{ 'n@contoso.example' = 'm{n}@contoso.example' }}");
            hang_up(&lab);
            let before = sent.load(Ordering::Relaxed);
            wait_until("more mail", || sent.load(Ordering::Relaxed) >= before + 5);
        }
        done.store(true, Ordering::Relaxed);
    });
    lab.wait_for(sent.load(Ordering::Relaxed));
    lab.wait_until_empty();
    let metrics = lab.metrics();
    assert_eq!(metrics.sum("m365_relay_refused_total", &[]), 0.0);
    let all = metrics.sum("m365_relay_deliveries_total", &[]);
    assert_eq!(metrics.sum("m365_relay_deliveries_total", &[("outcome", "delivered")]), all);
    assert_eq!(metrics.sum("m365_relay_token_refreshes_total", &[("tenant", "fabrikam")]), 1.0);
}

/// Work in flight ends as it began: here with a mailbox that the new configuration does not use.
#[test]
fn a_delivery_under_way_ends_under_the_configuration_that_it_began_with() {
    let mut lab = Lab::start();
    let slow = std::time::Duration::from_secs(2);
    lab.inject(Fault::new(On::SendMail, Action::Delay(slow)).times(1));
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "begun"));
    lab.wait_for_metric("m365_relay_in_flight", &[("tenant", "contoso")], 1.0);
    lab.setup.tenants.remove(0);
    hang_up(&lab);
    lab.wait_for(1);
    lab.wait_until_empty();
}

#[test]
fn a_login_ends_with_its_user() {
    let mut lab = Lab::without_relay(|setup| {
        setup.listener = "trusted = true".into();
        setup.tenant("contoso").networks = "[]".into();
    });
    let hashed = crate::harness::run_with_input(
        std::process::Command::new(env!("CARGO_BIN_EXE_m365-relay")).arg("hash-password"),
        b"s3cret\n",
    );
    let hash = String::from_utf8(hashed.stdout).unwrap();
    lab.setup.tenant("contoso").more = format!("users = {{ scanner = '{}', other = '{0}' }}", hash.trim());
    lab.write_config();
    lab.restart();
    let mut smtp = lab.smtp();
    // \0scanner@contoso\0s3cret
    assert_eq!(smtp.command("AUTH PLAIN AHNjYW5uZXJAY29udG9zbwBzM2NyZXQ=").code, 235);
    assert_eq!(mail_from(&mut smtp, CONTOSO), 250);
    lab.setup.tenant("contoso").more = format!("users = {{ other = '{}' }}", hash.trim());
    hang_up(&lab);
    assert_eq!(mail_from(&mut smtp, CONTOSO), 530);
}
