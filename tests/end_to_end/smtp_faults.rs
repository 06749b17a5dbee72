//! What goes wrong in delivery by SMTP, at each step, and what happens to the message.

use std::time::Duration;

use relay_sandbox::{Action, Fault, On};
use tokio::time::Instant;

use super::smtp_route::{FROM, by_smtp};
use crate::harness::{Lab, Mail, Setup, base64_mail, message};

const STEPS: [On; 8] = [
    On::SmtpConnect,
    On::SmtpEhlo,
    On::SmtpStartTls,
    On::SmtpAuth,
    On::SmtpMail,
    On::SmtpRcpt,
    On::SmtpData,
    On::SmtpContent,
];

/// Sends a message that meets a fault, and waits until it has arrived. Returns how often it did.
fn arrives_in_spite_of(faults: &[Fault], change: impl FnOnce(&mut Setup)) -> (Lab, usize) {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        change(setup);
    });
    faults.iter().for_each(|fault| lab.inject(fault.clone()));
    // In two chunks: with only one, the first is also the last.
    let large = faults.iter().any(|fault| fault.on == On::SmtpData);
    let octets = if large { 300_000 } else { 100 };
    lab.send(FROM, &["b@example.net"], &base64_mail(FROM, "b@example.net", "through", octets));
    lab.wait_for_metrics("the delivery", |metrics| {
        metrics.sum("m365_relay_deliveries_total", &[("outcome", "delivered")]) >= 1.0
    });
    lab.wait_until_empty();
    let count = lab.service.messages().len();
    (lab, count)
}

#[test]
fn a_connection_that_is_cut_before_the_end_of_the_content_sends_nothing() {
    for on in STEPS.into_iter().filter(|on| *on != On::SmtpContent) {
        let (lab, count) = arrives_in_spite_of(&[Fault::new(on, Action::CutBefore).times(1)], |_| {});
        assert_eq!(count, 1, "{on:?}");
        let outcomes = |outcome| lab.metric("m365_relay_deliveries_total", &[("outcome", outcome)]);
        assert_eq!((outcomes("retry"), outcomes("unknown")), (1.0, 0.0), "{on:?}");
    }
}

#[test]
fn a_connection_that_is_cut_after_the_end_of_the_content_leaves_it_unknown() {
    for (action, arrived) in [(Action::CutBefore, false), (Action::CutAfter, true)] {
        let (lab, count) =
            arrives_in_spite_of(&[Fault::new(On::SmtpContent, action.clone()).times(1)], |setup| {
                setup.tenant("contoso").confirm = "sent-items".into();
            });
        // It was looked for, and so it was not sent twice.
        assert_eq!(count, 1, "{action:?}");
        let resolved = if arrived { "arrived" } else { "not_sent" };
        assert_eq!(
            lab.metric("m365_relay_unknown_outcomes_total", &[("resolved", resolved)]),
            1.0,
            "{action:?}"
        );
    }
}

#[test]
fn a_graph_that_cannot_be_asked_stops_no_mail_by_smtp() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.tenant("contoso").confirm = "sent-items".into();
    });
    lab.inject(Fault::status(On::AnyGraph, 429, "TooManyRequests"));
    lab.inject(Fault::new(On::SmtpContent, Action::CutAfter).times(1));
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "doubt"));
    lab.wait_for_log("delivery outcome still unknown");
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "other"));
    assert_eq!(lab.wait_for(2)[1].subject, "other");
}

#[test]
fn a_copy_of_another_message_proves_nothing() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.tenant("contoso").confirm = "sent-items".into();
    });
    // A program sends one message to each of two people, in two transactions, with one header.
    let content = message(FROM, "b@example.net, c@example.net", "both");
    lab.send(FROM, &["b@example.net"], &content);
    lab.wait_for(1);
    lab.inject(Fault::new(On::SmtpContent, Action::CutBefore).times(1));
    lab.send(FROM, &["c@example.net"], &content);
    let messages = lab.wait_for(2);
    assert_eq!(messages[1].recipients, ["c@example.net"]);
    lab.wait_until_empty();
}

#[test]
fn a_crash_between_content_and_reply_is_looked_into() {
    let mut lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.tenant("contoso").confirm = "sent-items".into();
    });
    lab.inject(Fault::new(On::SmtpContent, Action::Delay(Duration::from_secs(600))).times(1));
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "crash"));
    crate::harness::wait_until("the content to arrive", || {
        lab.service.smtp_log().iter().any(|line| line.from_client && line.text.contains("LAST"))
    });
    lab.kill9();
    lab.restart();
    lab.wait_for_metrics("the doubt to be settled", |metrics| {
        metrics.sum("m365_relay_unknown_outcomes_total", &[]) == 1.0
    });
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 1);
}

#[test]
fn replies_that_pass() {
    for on in STEPS {
        let (lab, count) =
            arrives_in_spite_of(&[Fault::reply(on, "451 4.7.500 Server busy").times(1)], |_| {});
        assert_eq!(count, 1, "{on:?}");
        assert_eq!(lab.metric("m365_relay_deliveries_total", &[("outcome", "retry")]), 1.0, "{on:?}");
        let (_, count) = arrives_in_spite_of(&[Fault::reply(on, "421 4.3.2 Closing").times(1)], |_| {});
        assert_eq!(count, 1, "{on:?}");
    }
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced_without_an_attempt() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.submission.idle_timeout = Duration::from_secs(3);
    });
    let mut smtp = lab.smtp();
    for (n, fault) in [
        None,
        Some(Fault::reply(On::SmtpMail, "421 4.4.1 Connection timed out").times(1)),
        Some(Fault::new(On::SmtpMail, Action::CutBefore).times(1)),
    ]
    .into_iter()
    .enumerate()
    {
        if let Some(fault) = fault {
            lab.inject(fault);
        }
        smtp.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", &format!("m{n}")));
        lab.wait_for(n + 1);
        // The worker has put the connection back, and the next message finds it.
        lab.wait_until_settled();
    }
    // The server closes it itself.
    crate::harness::wait_until("the connection to be closed", || {
        lab.service.smtp_log().last().is_some_and(|line| line.text.contains("4.4.1"))
    });
    smtp.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "last"));
    lab.wait_for(4);
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_deliveries_total", &[]), 4.0);
}

#[test]
fn a_login_that_is_refused_once_gets_a_new_token() {
    for reply in ["535 5.7.3 Authentication unsuccessful", "334 eyJzdGF0dXMiOiI0MDEifQ=="] {
        let (lab, count) = arrives_in_spite_of(&[Fault::reply(On::SmtpAuth, reply).times(1)], |_| {});
        assert_eq!(count, 1, "{reply}");
        assert_eq!(lab.metric("m365_relay_deliveries_total", &[]), 1.0, "{reply}");
        let tokens = [("tenant", "contoso"), ("audience", "exchange"), ("result", "ok")];
        assert_eq!(lab.metric("m365_relay_token_refreshes_total", &tokens), 2.0, "{reply}");
    }
}

#[test]
fn a_mailbox_that_is_closed_stops_no_other() {
    for (on, reply, said) in [
        (On::SmtpAuth, "535 5.7.3 Authentication unsuccessful", "Add-MailboxPermission"),
        (
            On::SmtpAuth,
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox",
            "SmtpClientAuthentication",
        ),
        (On::SmtpMail, "432 4.3.2 Concurrent connections limit exceeded", "432"),
        (On::SmtpContent, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", "432"),
        (On::SmtpContent, "550 5.1.8 Access denied, bad outbound sender", "5.1.8"),
        (
            On::SmtpContent,
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed",
            "quota",
        ),
        (On::SmtpContent, "554 5.2.2 mailbox full", "mailbox full"),
    ] {
        let lab = Lab::with(by_smtp);
        lab.inject(Fault { mailbox: Some(FROM.into()), ..Fault::reply(on, reply) });
        lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "stopped"));
        let logged = lab.wait_for_log("mailbox throttled");
        assert!(logged["why"].as_str().unwrap().contains(said), "{logged}");
        let other = "other@contoso.example";
        lab.send(other, &["b@example.net"], &message(other, "b@example.net", "free"));
        assert_eq!(lab.wait_for(1)[0].subject, "free", "{reply}");
        // It does not cost an attempt.
        assert_eq!(lab.metric("m365_relay_deliveries_total", &[("outcome", "retry")]), 0.0, "{reply}");
        assert!(lab.metric("m365_relay_waiting_for_limit", &[("tenant", "contoso")]) == 1.0, "{reply}");
    }
}

#[test]
fn a_tenant_whose_smtp_is_off_is_blocked() {
    let lab = Lab::with(by_smtp);
    let reply =
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.";
    lab.inject(Fault::reply(On::SmtpAuth, reply));
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "stopped"));
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "contoso"), ("reason", "permission")], 1.0);
}

#[test]
fn a_sender_that_may_not_be_used_bounces_with_advice() {
    use relay_sandbox::SenderRefusal::{NoPermission, SendAsDenied, StoreDriver};
    for refusal in [SendAsDenied, StoreDriver, NoPermission] {
        let lab = Lab::with(|setup| {
            by_smtp(setup);
            setup.tenant("contoso").more = "mailbox = 'a@contoso.example'".into();
            setup.submission.sender_refusal = refusal;
        });
        let other = "other@contoso.example";
        lab.send(other, &["b@example.net"], &message(other, "b@example.net", "denied"));
        let bounce = lab.wait_for(1).remove(0);
        lab.wait_until_empty();
        assert_eq!(bounce.recipients, [other]);
        assert!(bounce.text().contains("Status: 5.7.60"), "{refusal:?}");
        let logged = lab.wait_for_log("message failed");
        assert!(logged["why"].as_str().unwrap().contains("needs the Send As permission"), "{logged}");
    }
}

#[test]
fn refusals_for_good_bounce() {
    for (on, reply, status) in [
        (On::SmtpMail, "552 5.3.4 Message size exceeds fixed maximum message size", "5.3.4"),
        (On::SmtpContent, "554 5.6.0 Invalid message content", "5.6.0"),
        (On::SmtpContent, "554 what is this", "5.0.0"),
        (On::SmtpData, "550 5.7.1 Not this one", "5.7.1"),
    ] {
        let lab = Lab::with(by_smtp);
        lab.inject(Fault::reply(on, reply).times(1));
        lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "refused"));
        let bounce = lab.wait_for(1).remove(0);
        assert_eq!(bounce.recipients, [FROM]);
        assert!(bounce.text().contains(&format!("Status: {status}")), "{reply}");
        lab.wait_until_empty();
    }
}

#[test]
fn nothing_is_sent_without_the_right_certificate() {
    let lab = Lab::without_relay(by_smtp);
    // A token of another service.
    let other = Lab::without_relay(|_| {});
    std::fs::write(lab.folder().join("service.pem"), other.service.ca_pem()).unwrap();
    let mut lab = lab;
    lab.restart();
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "trust"));
    let logged = lab.wait_for_log("delivery deferred");
    assert!(logged["why"].as_str().unwrap().contains("cannot establish TLS with 127.0.0.1"), "{logged}");
    assert!(lab.service.smtp_log().iter().all(|line| !line.text.contains("AUTH XOAUTH2")));
    assert_eq!(lab.service.messages().len(), 0);
}

#[test]
fn a_slow_service_is_waited_for() {
    let begun = Instant::now();
    let wait = Duration::from_secs(2);
    let (lab, count) =
        arrives_in_spite_of(&[Fault::new(On::SmtpContent, Action::Delay(wait)).times(1)], |setup| {
            // For the end of the content there is more time than for other replies.
            setup.network = "answer_timeout = '1s'".into();
        });
    assert_eq!((count, lab.metric("m365_relay_deliveries_total", &[])), (1, 1.0));
    assert!(begun.elapsed() >= wait);
}
