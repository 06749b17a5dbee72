//! Mail that cannot be delivered: its sender is told, once, and no sender is told about a bounce.

use m365_relay::clock;
use relay_sandbox::{Action, Fault, On, StatusFault, Unresolvable};

use crate::harness::{Lab, Mail, message};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

#[test]
fn a_permanent_refusal_bounces_to_the_sender_through_the_same_tenant() {
    let lab = Lab::start();
    let refused = StatusFault {
        message: "At least one recipient is not valid.".into(),
        ..StatusFault::new(400, "ErrorInvalidRecipients")
    };
    lab.inject(Fault::new(On::SendMail, Action::Status(refused)).times(1));
    let content = message(FROM, TO, "Quarterly figures");
    let id = lab.smtp().send(FROM, &[TO], &content);

    let bounce = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!((&*bounce.directory, &*bounce.mailbox, &*bounce.from), ("contoso.example", FROM, FROM));
    assert_eq!(bounce.recipients, [FROM]);
    let content_type = &bounce.fields("Content-Type")[0];
    assert!(content_type.starts_with("multipart/report;"), "{content_type}");
    assert!(content_type.contains("report-type=\"delivery-status\""), "{content_type}");
    assert_eq!(bounce.fields("Auto-Submitted"), ["auto-replied"]);
    assert_eq!(bounce.fields("X-Auto-Response-Suppress"), ["All"]);
    assert_eq!(bounce.fields("In-Reply-To"), ["<Quarterly.figures@client.example>"]);
    assert_eq!(bounce.fields("Subject"), ["Undelivered mail: Quarterly figures"]);
    let text = bounce.text();
    for part in [
        "Final-Recipient: rfc822; b@example.net\r\n",
        "Action: failed\r\n",
        "Status: 5.1.3\r\n",
        "Reporting-MTA: dns; relay.example\r\n",
        "Diagnostic-Code: X-Microsoft-Graph; 400 ErrorInvalidRecipients:",
        "Subject: Quarterly figures\r\n",
        &id,
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // The header is returned, the body is not.
    assert!(!text.contains("\r\nHello.\r\n"), "{text}");
    assert!(!bounce.bare_lf);
    assert_eq!(lab.metric("m365_relay_bounces_total", &[("tenant", "contoso"), ("kind", "failed")]), 1.0);
}

#[test]
fn the_mailbox_for_bounces_sends_them_also_where_one_mailbox_sends_all_the_rest() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "mailbox = 'relay@contoso.example'\n\
             [tenants.contoso.bounces]\nmailbox = 'postmaster@contoso.example'"
            .into();
    });
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients").times(1));
    lab.send("relay@contoso.example", &[TO], &message("relay@contoso.example", TO, "refused"));

    let bounce = lab.wait_for(1).remove(0);
    assert_eq!(
        (&*bounce.mailbox, &*bounce.from),
        ("postmaster@contoso.example", "postmaster@contoso.example")
    );
}

#[test]
fn every_recipient_is_named_in_one_bounce() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 400, "ErrorMimeContentInvalid").times(1));
    lab.send(FROM, &[TO, "c@example.net"], &message(FROM, TO, "two"));

    let text = lab.wait_for(1)[0].text();
    assert!(text.contains("Final-Recipient: rfc822; b@example.net\r\n"), "{text}");
    assert!(text.contains("Final-Recipient: rfc822; c@example.net\r\n"), "{text}");
    assert!(text.contains("Status: 5.6.0\r\n"), "{text}");
}

#[test]
fn a_bounce_that_fails_is_not_answered_with_another() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients"));
    lab.send(FROM, &[TO], &message(FROM, TO, "lost"));

    lab.wait_for_metric("m365_relay_deliveries_total", &[("outcome", "failed")], 2.0);
    lab.wait_until_empty();
    assert_eq!(lab.sends(FROM).len(), 2);
    assert_eq!(lab.service.messages().len(), 0);
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 1.0);
}

#[test]
fn a_message_with_a_null_sender_is_never_bounced() {
    let lab = Lab::with(|setup| setup.tenant("fabrikam").networks = "[]".into());
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients"));
    lab.send("", &[TO], &message(FROM, TO, "a report of another server"));

    lab.wait_for_metric("m365_relay_deliveries_total", &[("outcome", "failed")], 1.0);
    lab.wait_until_empty();
    assert_eq!(lab.sends(FROM).len(), 1);
}

#[test]
fn what_stays_undelivered_for_too_long_expires_with_a_bounce() {
    let lab = Lab::with(|setup| {
        setup.retry = "first = '200ms'\nfactor = 1.0\njitter = 0.0\ngive_up_after = '1s'".into();
        setup.tenant("contoso").more =
            "[tenants.contoso.bounces]\nmailbox = 'postmaster@contoso.example'".into();
    });
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable").for_mailbox(FROM));
    let sent = clock::now().as_millis();
    lab.send(FROM, &[TO], &message(FROM, TO, "late"));

    let bounce = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!(
        (&*bounce.mailbox, &*bounce.from),
        ("postmaster@contoso.example", "postmaster@contoso.example")
    );
    assert_eq!(bounce.recipients, [FROM]);
    let text = bounce.text();
    assert!(text.contains("Status: 4.4.7\r\n") && text.contains("Action: failed\r\n"), "{text}");
    let calls = lab.sends(FROM);
    // The last try is when the message's time is up. On a busy machine there are fewer before it, and each
    // comes later.
    let tried_for = calls.last().unwrap().received_at_ms - sent;
    assert!(calls.len() >= 2 && tried_for >= 800, "{tried_for} ms: {calls:#?}");
    assert_eq!(lab.metric("m365_relay_bounces_total", &[("kind", "expired")]), 1.0);
}

#[test]
fn a_tenant_may_do_without_bounces() {
    let lab = Lab::with(|setup| {
        setup.tenant("contoso").more = "[tenants.contoso.bounces]\nto = 'none'".into();
    });
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients").times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "silence"));

    lab.wait_for_metric("m365_relay_deliveries_total", &[("outcome", "failed")], 1.0);
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 0);
}

#[test]
fn what_cannot_be_taken_apart_bounces_without_a_call() {
    let lab = Lab::start();
    let header = "Content-Type: multipart/signed; boundary=b\r\n";
    let mut mail = message(FROM, TO, "signed");
    let at = mail.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 2;
    mail.splice(at..at, header.bytes());
    mail.extend_from_slice(b"--b\r\n\r\n");
    for _ in 0..50_000 {
        mail.extend_from_slice(&[[b'x'; 78].as_slice(), b"\r\n"].concat());
    }
    mail.extend_from_slice(b"--b--\r\n");
    lab.send(FROM, &[TO], &mail);

    let bounce = lab.wait_for(1).remove(0);
    assert!(bounce.text().contains("Status: 5.3.4\r\n"), "{}", bounce.text());
    lab.wait_until_empty();
    assert_eq!(lab.sends(FROM).len(), 1);
}

/// One recipient that Graph cannot resolve costs no other the message, whether the response names it or not.
#[test]
fn one_bad_recipient_costs_no_other() {
    const RECIPIENTS: [&str; 5] =
        ["a@example.net", "bad@example.net", "c@example.net", "d@example.net", "e@example.net"];
    for is_named in [true, false] {
        let lab = Lab::with(move |setup| {
            setup.service = Box::new(move |options| {
                let address = "bad@example.net".to_owned();
                options.unresolvable = Some(Unresolvable { address, is_named });
            });
        });
        lab.send(FROM, &RECIPIENTS, &message(FROM, TO, "to five"));
        lab.wait_until_empty();
        let all = lab.service.messages();
        let (reports, sent): (Vec<_>, Vec<_>) =
            all.iter().partition(|message| message.subject.starts_with("Undelivered"));
        let mut reached: Vec<_> = sent.iter().flat_map(|message| message.recipients.clone()).collect();
        reached.sort();
        let good: Vec<_> = RECIPIENTS.iter().filter(|address| !address.starts_with("bad")).collect();
        assert_eq!(reached.iter().collect::<Vec<_>>(), good, "named: {is_named}");
        let [report] = &reports[..] else { panic!("{} reports", reports.len()) };
        let text = report.text();
        assert!(text.contains("Final-Recipient: rfc822; bad@example.net\r\n"), "{text}");
        assert_eq!(text.matches("Final-Recipient").count(), 1, "{text}");
        let calls = lab.sends(FROM).len();
        assert!(calls <= if is_named { 3 } else { 11 }, "{calls} calls");
    }
}

/// Submits a message whose sender has wishes about its two recipients.
fn send_with_wishes(lab: &Lab, mail: &str, notify: &str) {
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> {mail}")).code, 250);
    assert_eq!(
        smtp.command(&format!("RCPT TO:<{TO}> NOTIFY={notify} ORCPT=rfc822;first@example.org")).code,
        250
    );
    assert_eq!(smtp.command("RCPT TO:<c@example.net> NOTIFY=NEVER").code, 250);
    assert_eq!(smtp.data(&message(FROM, TO, "with wishes")).code, 250);
    smtp.quit();
}

#[test]
fn who_asks_for_it_is_told_that_microsoft_365_has_the_message() {
    let lab = Lab::start();
    send_with_wishes(&lab, "ENVID=QQ+2B1", "SUCCESS");
    let report = lab.wait_for(2).into_iter().find(|found| found.recipients == [FROM]).unwrap();
    lab.wait_until_empty();
    assert_eq!(report.fields("Subject"), ["Mail handed over: with wishes"]);
    let text = report.text();
    for part in [
        "Original-Envelope-Id: QQ+1\r\n",
        "Original-Recipient: rfc822; first@example.org\r\n",
        "Final-Recipient: rfc822; b@example.net\r\n",
        "Action: relayed\r\n",
        "Status: 2.0.0\r\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains("c@example.net\r\nAction"), "{text}");
    assert_eq!(lab.metric("m365_relay_bounces_total", &[("kind", "relayed")]), 1.0);
}

#[test]
fn a_failure_is_reported_of_the_recipients_that_it_is_wished_of() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 400, "ErrorMimeContentInvalid").times(1));
    send_with_wishes(&lab, "RET=FULL", "FAILURE");
    let text = lab.wait_for(1)[0].text();
    assert!(text.contains("Final-Recipient: rfc822; b@example.net\r\n"), "{text}");
    assert!(!text.contains("Final-Recipient: rfc822; c@example.net"), "{text}");
    // The whole message is returned.
    assert!(text.contains("message/rfc822") && text.contains("\r\nHello.\r\n"), "{text}");

    lab.inject(Fault::status(On::SendMail, 400, "ErrorMimeContentInvalid").times(1));
    send_with_wishes(&lab, "RET=HDRS", "NEVER");
    lab.wait_for_metric("m365_relay_deliveries_total", &[("outcome", "failed")], 2.0);
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 1);
}
