//! What all tenants share: one takes as much as it can get, and another's mail goes through meanwhile. The
//! table "What all tenants share" in docs/architecture.md names these tests.

use std::{
    fs,
    net::{IpAddr, TcpStream},
};

use relay_sandbox::{Fault, On};

use crate::harness::{Lab, Reply, Smtp, base64_mail, message, wait_until};

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
    // A client that does not announce how much comes is told when it is too much; the connection continues.
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
    // A message larger than all that may ever wait would never arrive.
    let reply = smtp.command(&format!("MAIL FROM:<{CONTOSO}> SIZE=400000"));
    assert!(reply.code == 552 && reply.text.starts_with("5.3.4 "), "{reply:?}");

    smtp.send(FABRIKAM, &[TO], &base64_mail(FABRIKAM, TO, "other", 400_000));
    assert_eq!(lab.wait_for(1)[0].subject, "other");
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "fabrikam")], 0.0);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "tenant_bytes")]), 3.0);

    // Counts survive the process, and are removed with the mail.
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
        // The message counts from its first octet.
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
        let folder = lab.pickup(tenant);
        let hidden = lab.pickup(tenant).join(format!(".{name}"));
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
    // The file is there, and is taken when there is room.
    wait_until("the file to have its name back", || lab.pickup("contoso").join("2.eml").exists());
    lab.kill9();
    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(3);
    wait_until("the folder to be empty", || fs::read_dir(lab.pickup("contoso")).unwrap().count() == 0);
}

// === connections ===

/// 90 seats. Clients of `contoso` come from 127.1.0.0/16, of `fabrikam` from 127.2.0.0/16, strangers from
/// elsewhere.
fn lab_with_seats() -> Lab {
    Lab::with(|setup| {
        setup.smtp = "max_connections = 90\nmax_connections_per_address = 0".into();
        setup.tenant("contoso").networks = "['127.1.0.0/16']".into();
        setup.tenant("fabrikam").networks = "['127.2.0.0/16']".into();
    })
}

fn connect(lab: &Lab, source: [u8; 4]) -> (Smtp<TcpStream>, Reply) {
    Smtp::from_address(IpAddr::from(source), lab.smtp_address())
}

/// Sends one of fabrikam's messages from its own network, and waits until it is delivered as number `count`.
fn fabrikams_mail_goes_through(lab: &Lab, count: usize) {
    let (mut smtp, greeting) = connect(lab, [127, 2, 0, 1]);
    assert_eq!(greeting.code, 220, "{greeting:?}");
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    smtp.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, &format!("other {count}")));
    smtp.quit();
    assert_eq!(lab.wait_for(count)[count - 1].directory, "fabrikam.example");
}

#[test]
fn the_last_seats_are_not_for_a_tenant_that_has_many() {
    let lab = lab_with_seats();
    let mut taken = Vec::new();
    let refused = loop {
        // Whatever address of its networks they come from.
        let n = taken.len() as u8;
        let (smtp, reply) = connect(&lab, [127, 1, n, n]);
        if reply.code != 220 {
            break reply;
        }
        taken.push(smtp);
    };
    assert_eq!(taken.len(), 80);
    assert!(refused.code == 421 && refused.text.starts_with("4.7.0 "), "{refused:?}");
    fabrikams_mail_goes_through(&lab, 1);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "connections_share")]), 1.0);
    assert_eq!(lab.metric("m365_relay_refused_total", &[("reason", "connections")]), 0.0);

    // A client that gives some back may have some again.
    taken.truncate(70);
    lab.wait_for_metric("m365_relay_smtp_connections", &[], 70.0);
    let (_, reply) = connect(&lab, [127, 1, 0, 1]);
    assert_eq!(reply.code, 220);
}

#[test]
fn strangers_of_a_hundred_networks_leave_seats_for_who_is_known() {
    let lab = lab_with_seats();
    let come: Vec<_> = (0..100).map(|n| connect(&lab, [127, 3, n, 1])).collect();
    let (seated, refused): (Vec<_>, Vec<_>) = come.into_iter().partition(|(_, reply)| reply.code == 220);
    assert_eq!((seated.len(), refused.len()), (80, 20));
    fabrikams_mail_goes_through(&lab, 1);
}

// === pickup ===

#[test]
fn a_folder_with_hundreds_of_files_does_not_hold_up_another() {
    const FILES: usize = 800;
    let mut lab = Lab::without_relay(|_| {});
    let put = |tenant: &str, name: String, content: &[u8]| {
        let folder = lab.folder().join("pickup").join(tenant);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
    };
    for n in 0..FILES {
        put("contoso", format!("{n}.eml"), &message(CONTOSO, TO, &format!("{n}")));
    }
    put("fabrikam", "m.eml".into(), &message(FABRIKAM, TO, "other"));
    lab.restart();
    // Of deliveries the order says nothing: one tenant's token may come later than the other's.
    let accepted = lab.wait_for_logs("message accepted", FILES + 1);
    let at = accepted.iter().position(|line| line["tenant"] == "fabrikam").unwrap();
    assert!(at < FILES / 2, "it was number {at}");
    lab.wait_for(FILES + 1);
}

// === what is one tenant's trouble ===

#[test]
fn what_one_tenant_lacks_to_log_in_stops_neither_the_start_nor_a_reload_for_others() {
    let mut lab = Lab::without_relay(|setup| {
        setup.tenant("contoso").credential = "client_secret = { file = 'contoso.secret' }".into();
    });
    // A check still reports it.
    let config = lab.config_file();
    let checked = lab.run(&["check-config", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("contoso.secret"), "{said}");

    lab.restart();
    let goes_through = |count: usize| {
        lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, &format!("other {count}")));
        assert_eq!(lab.wait_for(count)[count - 1].directory, "fabrikam.example");
    };
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "waits"));
    goes_through(1);
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "contoso"), ("reason", "credential")], 1.0);
    let reloaded = || lab.metric("m365_relay_config_reloads_total", &[("result", "ok")]);
    lab.hang_up();
    wait_until("the reload", || reloaded() == 1.0);
    goes_through(2);
    let warned = || lab.log().iter().filter(|line| line.contains("mail of this tenant waits")).count();
    wait_until("both warnings", || warned() >= 2);

    let file = lab.folder().join("contoso.secret");
    fs::write(&file, crate::harness::TenantSetup::secret("contoso")).unwrap();
    assert_eq!(lab.wait_for(3)[2].subject, "waits");
}

/// All tenants share the ledger of the day's recipients.
#[test]
fn a_damaged_ledger_stops_nobody() {
    let mut lab = Lab::start();
    lab.send(CONTOSO, &[TO], &message(CONTOSO, TO, "1"));
    lab.wait_for(1);
    lab.wait_until_empty();
    assert_eq!(lab.terminate(), Some(0));
    let ledger = lab.folder().join("spool/limits/recipients");
    fs::remove_dir_all(&ledger).unwrap();
    fs::write(&ledger, "no folder").unwrap();
    lab.restart();
    lab.send(FABRIKAM, &[TO], &message(FABRIKAM, TO, "2"));
    lab.wait_for(2);
    assert_eq!(lab.metric("m365_relay_spool_quarantined", &[]), 1.0);
    assert!(lab.folder().join("spool/limits/recipients.damaged").is_file() && ledger.is_dir());
}
