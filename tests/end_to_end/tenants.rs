//! One tenant's trouble does not affect another.

use std::{fs, time::Duration};

use relay_sandbox::{Action, Fault, On};

use crate::harness::{Lab, TenantSetup, message};

const TO: &str = "b@example.net";
const CONTOSO: &str = "a@contoso.example";
const FABRIKAM: &str = "a@fabrikam.example";

#[test]
fn a_slow_token_endpoint_of_one_tenant_does_not_delay_another() {
    let lab = Lab::start();
    let slow = Duration::from_secs(60);
    lab.inject(Fault::new(On::Token, Action::Delay(slow)).for_directory("contoso.example"));
    let mut smtp = lab.smtp();
    for n in 0..20 {
        smtp.send(CONTOSO, &[TO], &message(CONTOSO, TO, &format!("slow {n}")));
    }
    for n in 0..20 {
        smtp.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, &format!("quick {n}")));
    }

    let delivered = lab.wait_for(20);
    assert!(delivered.iter().all(|message| message.directory == "fabrikam.example"), "{delivered:#?}");
    assert_eq!(lab.metric("m365_relay_queue_messages", &[("tenant", "contoso")]), 20.0);
    // Nor was a token requested twice.
    let asked = lab.metric("m365_relay_token_refreshes_total", &[("tenant", "contoso")]);
    assert_eq!((asked, lab.service.counts().tokens), (0.0, 1));
}

#[test]
fn a_login_service_that_is_down_costs_no_attempt() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable").times(1));
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "after all"));

    lab.wait_for(1);
    assert_eq!(lab.wait_for_log("message delivered")["attempt"], 1);
    let labels = [("tenant", "contoso"), ("result", "transient")];
    assert_eq!(lab.metric("m365_relay_token_refreshes_total", &labels), 1.0);
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "contoso")], 0.0);
}

#[test]
fn a_wrong_secret_blocks_its_tenant_alone_and_mail_flows_when_it_is_mended() {
    let mut lab = Lab::without_relay(|setup| {
        setup.tenant("contoso").credential = "client_secret = { file = 'contoso.secret' }".into();
    });
    let file = lab.folder().join("contoso.secret");
    fs::write(&file, "an old secret\n").unwrap();
    lab.restart();
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "waits"));
    let blocked = [("tenant", "contoso"), ("reason", "credential")];
    lab.wait_for_metric("m365_relay_tenant_blocked", &blocked, 1.0);
    lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "unhurt"));

    assert_eq!(lab.wait_for(1)[0].subject, "unhurt");
    assert_eq!(lab.metric("m365_relay_queue_messages", &[("tenant", "contoso"), ("state", "blocked")]), 1.0);
    assert_eq!(lab.metric("m365_relay_tenant_blocked", &[("tenant", "fabrikam")]), 0.0);
    let said = lab.wait_for_log("tenant blocked");
    assert!(said["why"].as_str().unwrap().contains("AADSTS7000215"), "{said:#?}");

    // Long before the refusal's minute is over.
    fs::write(&file, TenantSetup::secret("contoso")).unwrap();
    lab.wait_for(2);
    lab.wait_for_log("credential file changed; retrying the login");
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_tenant_blocked", &[]), 0.0);
    let delivered = lab.wait_for_logs("message delivered", 2);
    assert!(delivered.iter().all(|entry| entry["attempt"] == 1), "{delivered:#?}");
}

#[test]
fn mail_goes_out_of_the_mailbox_that_the_tenant_chose() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "mailbox = 'a@contoso.example'".into();
    });
    // The service has no record of permission to send as another, so this one bounces.
    lab.send("b@contoso.example", &[TO], &message("b@contoso.example", TO, "send as"));
    let bounce = lab.wait_for(1).remove(0);
    assert_eq!((&*bounce.mailbox, &bounce.recipients[..]), (CONTOSO, &["b@contoso.example".to_owned()][..]));
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "own"));
    assert_eq!(lab.wait_for(2)[1].mailbox, CONTOSO);
}
