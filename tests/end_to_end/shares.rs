//! What all tenants share: one takes as much as it can get, and another's mail goes through meanwhile. The table "What all
//! tenants share" in docs/architecture.md names these tests.

use std::fs;

use m365_relay::sandbox::{Fault, On};

use crate::harness::{Lab, base64_mail, wait_until};

const TO: &str = "b@example.net";
const CONTOSO: &str = "a@contoso.example";
const FABRIKAM: &str = "a@fabrikam.example";

/// Mail of `contoso` stays in the spool.
fn keep_contosos(lab: &Lab) {
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable").for_directory("contoso.example"));
}

fn lab_with(of_contoso: &str) -> Lab {
    let lab = Lab::with(|setup| setup.tenant("contoso").more = of_contoso.into());
    keep_contosos(&lab);
    lab
}

#[test]
fn a_tenant_that_has_its_bytes_is_refused_alone_and_for_a_while() {
    let mut lab = lab_with("max_queued_bytes = '300KB'");
    let mut smtp = lab.smtp();
    for n in 0..2 {
        smtp.send(CONTOSO, &[TO], &base64_mail(CONTOSO, TO, &format!("{n}"), 70_000));
    }
    let is_full =
        |code: u16, text: &str| code == 452 && text.starts_with("4.3.1 Too much mail of this tenant");

    let reply = smtp.command(&format!("MAIL FROM:<{CONTOSO}> SIZE=200000"));
    assert!(is_full(reply.code, &reply.text), "{reply:?}");
    // Who does not say how much comes, is told when it is too much; the connection goes on.
    smtp.begin(CONTOSO, &[TO]);
    let reply = smtp.data(&base64_mail(CONTOSO, TO, "too much", 100_000));
    assert!(is_full(reply.code, &reply.text), "{reply:?}");
    // By chunks, too.
    smtp.begin(CONTOSO, &[TO]);
    let content = base64_mail(CONTOSO, TO, "too much", 100_000);
    smtp.write(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
    smtp.write(&content);
    let reply = smtp.reply();
    assert!(is_full(reply.code, &reply.text), "{reply:?}");
    // What is larger than all that may ever wait would come for ever.
    let reply = smtp.command(&format!("MAIL FROM:<{CONTOSO}> SIZE=400000"));
    assert!(reply.code == 552 && reply.text.starts_with("5.3.4 "), "{reply:?}");

    smtp.send(FABRIKAM, &[TO], &base64_mail(FABRIKAM, TO, "other", 400_000));
    assert_eq!(lab.wait_for(1)[0].subject, "other");
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "fabrikam")], 0.0);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "tenant_bytes")]), 3.0);

    // What is counted outlives the process, and goes with the mail.
    lab.kill9();
    lab.restart();
    assert_eq!(lab.smtp().command(&format!("MAIL FROM:<{CONTOSO}> SIZE=200000")).code, 452);
    lab.kill9();
    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(3);
    lab.wait_until_empty();
    let mut smtp = lab.smtp();
    smtp.begin(CONTOSO, &[TO]);
    assert_eq!(smtp.data(&base64_mail(CONTOSO, TO, "never", 300_000)).code, 552);
    smtp.send(CONTOSO, &[TO], &base64_mail(CONTOSO, TO, "room again", 190_000));
    lab.wait_for(4);
}

#[test]
fn mail_that_comes_in_counts_and_leaves_nothing_when_its_client_vanishes() {
    let lab = lab_with("max_queued_bytes = '300KB'");
    let whole = base64_mail(CONTOSO, TO, "in time", 120_000);
    for _ in 0..3 {
        let mut coming = lab.smtp();
        coming.begin(CONTOSO, &[TO]);
        assert_eq!(coming.command("DATA").code, 354);
        coming.write(&whole[..150_000]);
        // It counts from its first octet.
        let probe = || {
            let mut smtp = lab.smtp();
            let reply = smtp.command(&format!("MAIL FROM:<{CONTOSO}> SIZE=170000"));
            smtp.quit();
            reply.code
        };
        wait_until("what comes in to count", || probe() == 452);
        drop(coming);
        wait_until("nothing to be left of it", || probe() == 250);
    }
    lab.send(CONTOSO, &[TO], &whole);
    assert!(lab.metric("m365_relay_queue_bytes", &[("tenant", "contoso")]) > 160_000.0);
}

#[test]
fn a_folder_waits_alone_while_its_tenant_has_its_bytes() {
    let mut lab = lab_with("max_queued_bytes = '100KB'");
    let drop_in = |lab: &Lab, tenant: &str, name: &str, content: &[u8]| {
        let (folder, hidden) = (lab.pickup(tenant), lab.pickup(tenant).join(format!(".{name}")));
        fs::write(&hidden, content).unwrap();
        fs::rename(hidden, folder.join(name)).unwrap();
    };
    drop_in(&lab, "contoso", "1.eml", &base64_mail(CONTOSO, TO, "1", 50_000));
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "contoso")], 1.0);
    drop_in(&lab, "contoso", "2.eml", &base64_mail(CONTOSO, TO, "2", 50_000));
    lab.wait_for_metric(
        "m365_relay_refused_total",
        &[("ingress", "pickup"), ("reason", "tenant_bytes")],
        1.0,
    );
    drop_in(&lab, "fabrikam", "m.eml", &base64_mail(FABRIKAM, TO, "other", 200_000));
    assert_eq!(lab.wait_for(1)[0].subject, "other");
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "fabrikam")], 0.0);
    // The file is there, and goes when there is room.
    wait_until("the file to have its name back", || lab.pickup("contoso").join("2.eml").exists());
    lab.kill9();
    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(3);
    wait_until("the folder to be empty", || fs::read_dir(lab.pickup("contoso")).unwrap().count() == 0);
}
