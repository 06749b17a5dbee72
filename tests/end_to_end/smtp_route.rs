//! Mail sent by SMTP: the true envelope, kept connections, and what each message may need.

use std::{sync::Arc, time::Duration};

use relay_sandbox::{Delivered, Fault, On, SmtpEnvelope, Via};

use crate::harness::{Lab, Mail, Proxy, ProxySetup, Setup, base64_mail, fields, message, wait_until};

pub(super) const FROM: &str = "a@contoso.example";

/// All mail of contoso is sent by SMTP, and outcomes are confirmed as usual.
pub(super) fn by_smtp(setup: &mut Setup) {
    setup.tenant("contoso").route = "smtp".into();
}

fn auto(setup: &mut Setup) {
    setup.tenant("contoso").route = "auto".into();
}

fn envelope(message: &Delivered) -> &SmtpEnvelope {
    message.envelope.as_ref().unwrap()
}

fn names(message: &Delivered) -> Vec<&str> {
    envelope(message).recipients.iter().map(|recipient| recipient.address.as_str()).collect()
}

#[test]
fn the_envelope_is_the_true_one_and_the_header_stays() {
    let lab = Lab::with(by_smtp);
    let header = "From: A <a@contoso.example>\r\nTo: b@example.net, Not There <not@example.net>\r\nCc: team:;\r\n\
                  Subject: true\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\nMessage-ID: <x@client.example>\r\n";
    let content = format!("{header}Bcc: hidden@example.net\r\n\r\n.Hello.\r\n..\r\n.\r\n");
    lab.send(FROM, &["b@example.net", "hidden@example.net"], content.as_bytes());
    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!((delivered.via, delivered.mailbox.as_str()), (Via::Smtp, FROM));
    assert_eq!(delivered.as_sent(), format!("{header}\r\n.Hello.\r\n..\r\n.\r\n").as_bytes());
    assert_eq!(names(&delivered), ["b@example.net", "hidden@example.net"]);
    let envelope = envelope(&delivered);
    assert_eq!(envelope.mail_from, FROM);
    assert_eq!(envelope.parameters, [format!("SIZE={}", delivered.raw.len())]);
    assert!(envelope.chunking);
    let by_smtp = [("tenant", "contoso"), ("route", "smtp"), ("outcome", "delivered")];
    assert_eq!(lab.metric("m365_relay_deliveries_total", &by_smtp), 1.0);
    // Nothing was asked of Graph, not even a token.
    let tokens = |audience| lab.metric("m365_relay_token_refreshes_total", &[("audience", audience)]);
    assert_eq!((tokens("exchange"), tokens("graph")), (1.0, 0.0));
    let logged = lab.wait_for_log("message delivered");
    assert_eq!((&logged["route"], &logged["status"]), (&"smtp".into(), &250.into()));
    assert!(logged["request_id"].as_str().unwrap().contains("prod.outlook.com>"), "{logged}");
}

#[test]
fn what_the_sender_wants_to_be_told_is_passed_on_and_not_told_twice() {
    let lab = Lab::with(by_smtp);
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> RET=HDRS ENVID=QQ+2B31")).code, 250);
    for line in [
        "RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bd@example.org",
        "RCPT TO:<e@example.net> NOTIFY=NEVER",
        "RCPT TO:<f@example.net>",
    ] {
        assert_eq!(smtp.command(line).code, 250, "{line}");
    }
    assert_eq!(smtp.data(&message(FROM, "b@example.net", "dsn")).code, 250);
    let delivered = lab.wait_for(1).remove(0);
    // No "relayed" in addition.
    lab.wait_until_empty();
    assert_eq!(lab.wait_for(1).len(), 1);
    let envelope = envelope(&delivered);
    assert_eq!((envelope.parameter("RET"), envelope.parameter("ENVID")), (Some("HDRS"), Some("QQ+2B31")));
    let told: Vec<Vec<&str>> = envelope
        .recipients
        .iter()
        .map(|recipient| recipient.parameters.iter().map(String::as_str).collect())
        .collect();
    let none: &[&str] = &[];
    assert_eq!(
        told,
        [&["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;c+2Bd@example.org"], &["NOTIFY=NEVER"][..], none]
    );
}

#[test]
fn smtputf8_and_8bitmime_only_where_they_are_needed() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        // As observed at Exchange's front end.
        setup.submission.refuses_smtputf8 = false;
    });
    let mut smtp = lab.smtp();
    let plain = message(FROM, "b@example.net", "plain");
    let body = [&plain[..plain.len() - 8], "Grüße.\r\n".as_bytes()].concat();
    smtp.send(FROM, &["b@example.net"], &plain);
    smtp.send(FROM, &["b@example.net"], &body);
    smtp.send(FROM, &["b@example.net"], &message(FROM, "Zoë <b@example.net>", "header"));
    for to in ["b@bücher.example", "zoë@example.net"] {
        assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> BODY=8BITMIME SMTPUTF8")).code, 250);
        assert_eq!(smtp.rcpt(to).code, 250);
        assert_eq!(smtp.data(&message(FROM, "b@example.net", to.split('@').next().unwrap())).code, 250);
    }
    let said: Vec<(String, bool, bool)> = {
        let mut messages = lab.wait_for(5);
        messages.sort_by_key(|message| fields(&message.raw, "Received")[0].clone());
        let said = |message: &Arc<Delivered>| {
            let envelope = envelope(message);
            let eight_bit = envelope.parameter("BODY") == Some("8BITMIME");
            assert_eq!(eight_bit, envelope.eight_bit);
            (names(message)[0].to_owned(), eight_bit, envelope.parameter("SMTPUTF8").is_some())
        };
        messages.iter().map(said).collect()
    };
    let count = |to: &str, eight_bit, utf8| {
        said.iter().filter(|one| **one == (to.to_owned(), eight_bit, utf8)).count()
    };
    assert_eq!(count("b@example.net", false, false), 1, "{said:?}");
    assert_eq!(count("b@example.net", true, false), 1, "{said:?}");
    assert_eq!(count("b@example.net", true, true), 1, "{said:?}");
    assert_eq!(count("b@xn--bcher-kva.example", false, false), 1, "{said:?}");
    assert_eq!(said.iter().filter(|one| one.0 == "zoë@example.net" && one.2).count(), 1, "{said:?}");
}

#[test]
fn connections_are_kept_and_never_more_than_three() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.service_limits.smtp_connections = Some(3);
    });
    let mut smtp = lab.smtp();
    for n in 0..20 {
        smtp.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", &format!("m{n}")));
    }
    lab.wait_for(20);
    lab.wait_until_empty();
    let sessions = lab.service.smtp_sessions();
    assert!((1..=3).contains(&sessions.connections), "{sessions:?}");
    assert_eq!((sessions.auths, sessions.refused_auths, sessions.messages), (sessions.connections, 0, 20));
    assert!(sessions.peaks[FROM] <= 3, "{sessions:?}");
    assert_eq!(lab.metric("m365_relay_smtp_submission_connections", &[]), sessions.connections as f64);
    // Unencrypted traffic is limited to what leads to TLS.
    for line in lab.service.smtp_log().iter().filter(|line| line.from_client && !line.encrypted) {
        assert!(line.text.starts_with("EHLO ") || line.text == "STARTTLS", "{line}");
    }
    // The next message uses one of them.
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "last"));
    lab.wait_for(21);
    assert_eq!(lab.service.smtp_sessions().connections, sessions.connections);
}

#[test]
fn tokens_that_end_meanwhile_fail_nothing() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.token_lifetime = Some(Duration::from_secs(3));
    });
    let mut smtp = lab.smtp();
    let mut sent = 0;
    // Two more tokens than the first used.
    let tokens = || lab.service.calls().iter().filter(|call| call.path.ends_with("/token")).count();
    while tokens() < 3 {
        smtp.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", &format!("m{sent}")));
        sent += 1;
        lab.wait_for(sent);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    lab.wait_until_empty();
    let attempts = lab.metric("m365_relay_deliveries_total", &[("tenant", "contoso")]);
    assert_eq!(attempts, sent as f64);
    let sessions = lab.service.smtp_sessions();
    assert!(sessions.refused_auths == 0 && sessions.connections > 1, "{sessions:?}");
}

#[test]
fn a_report_goes_as_its_mailbox_since_nobody_may_send_as_nobody() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.submission.refused_recipients =
            vec![("gone@example.net".into(), "550 5.1.1 User unknown".into())];
    });
    lab.send(FROM, &["gone@example.net"], &message(FROM, "gone@example.net", "lost"));
    let bounce = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!((envelope(&bounce).mail_from.as_str(), names(&bounce)), (FROM, vec![FROM]));
    assert_eq!(envelope(&bounce).recipients[0].parameter("NOTIFY"), Some("NEVER"));
    let text = bounce.text();
    for part in
        ["Status: 5.1.1", "Remote-MTA: dns; 127.0.0.1", "Diagnostic-Code: smtp; 550 5.1.1 User unknown"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn recipients_that_do_not_fare_alike_are_told_apart() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.submission.refused_recipients = vec![
            ("gone@example.net".into(), "550 5.1.1 User unknown".into()),
            ("closed@example.net".into(), "550 5.7.1 Not for you".into()),
        ];
    });
    lab.inject(Fault::reply(On::SmtpRcpt, "451 4.3.0 Not now").times(1));
    let to = ["late@example.net", "b@example.net", "gone@example.net", "c@example.net", "closed@example.net"];
    lab.send(FROM, &to, &message(FROM, "b@example.net", "apart"));
    let messages = lab.wait_for(3);
    lab.wait_until_empty();
    let mut reached: Vec<Vec<&str>> = messages.iter().map(|message| names(message)).collect();
    reached.sort();
    assert_eq!(reached, [vec![FROM], vec!["b@example.net", "c@example.net"], vec!["late@example.net"]]);
    for message in messages.iter().filter(|message| message.subject == "apart") {
        assert!(fields(&message.raw, "X-M365-Relay-Part-Of").is_empty());
        assert_eq!(message.as_sent(), message_text());
    }
    let bounce = messages.iter().find(|message| message.subject != "apart").unwrap().text();
    assert!(
        bounce.contains("550 5.1.1 User unknown") && bounce.contains("550 5.7.1 Not for you"),
        "{bounce}"
    );
    assert!(!bounce.contains("late@example.net") && !bounce.contains("c@example.net"), "{bounce}");
}

fn message_text() -> Vec<u8> {
    message(FROM, "b@example.net", "apart")
}

#[test]
fn more_recipients_than_a_message_may_have() {
    let lab = Lab::with(by_smtp);
    let to: Vec<String> = (0..900).map(|n| format!("r{n}@example.net")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    lab.send(FROM, &to, &message(FROM, "list@example.net", "many"));
    let messages = lab.wait_for(2);
    lab.wait_until_empty();
    let mut reached: Vec<&str> = messages.iter().flat_map(|message| names(message)).collect();
    reached.sort_unstable();
    let mut wanted = to.clone();
    wanted.sort_unstable();
    assert_eq!(reached, wanted);
}

#[test]
fn auto_takes_smtp_only_where_it_alone_is_right() {
    let lab = Lab::with(auto);
    let mut smtp = lab.smtp();
    smtp.send(FROM, &["b@example.net", "bcc@example.net"], &message(FROM, "b@example.net", "usual"));
    smtp.send(FROM, &["c@example.net"], &message(FROM, "list@example.net", "mismatch"));
    smtp.send(FROM, &["b@example.net"], &base64_mail(FROM, "b@example.net", "large", 3_000_000));
    let signed = String::from_utf8(base64_mail(FROM, "b@example.net", "signed", 3_000_000)).unwrap();
    let signed =
        signed.replace("application/octet-stream", "application/pkcs7-mime; smime-type=enveloped-data");
    smtp.send(FROM, &["b@example.net"], signed.as_bytes());
    let messages = lab.wait_for(4);
    lab.wait_until_empty();
    for (subject, via) in
        [("usual", Via::Draft), ("mismatch", Via::Smtp), ("large", Via::Draft), ("signed", Via::Smtp)]
    {
        let message = messages.iter().find(|message| message.subject == subject).unwrap();
        // Without confirmation, a message below the limit is not a draft.
        let via = if subject == "usual" { Via::SendMail } else { via };
        assert_eq!(message.via, via, "{subject}");
        if message.via == Via::Smtp {
            assert!(fields(&message.raw, "X-Original-To").is_empty());
        }
    }
    assert_eq!(lab.service.drafts(), 0);
}

#[test]
fn auto_sends_large_mail_by_smtp_if_the_app_may_make_no_drafts() {
    let lab = Lab::with(|setup| {
        auto(setup);
        setup.tenant("contoso").roles = vec!["Mail.Send".into(), "SMTP.SendAsApp".into()];
    });
    lab.send(FROM, &["b@example.net"], &base64_mail(FROM, "b@example.net", "large", 3_000_000));
    assert_eq!(lab.wait_for(1).remove(0).via, Via::Smtp);
    lab.wait_until_empty();
}

#[test]
fn with_auto_a_closed_smtp_stops_nothing_but_its_own_mail() {
    let lab = Lab::with(auto);
    lab.inject(Fault::reply(On::SmtpAuth, "535 5.7.3 Authentication unsuccessful"));
    let mut smtp = lab.smtp();
    smtp.send(FROM, &["c@example.net"], &message(FROM, "list@example.net", "mismatch"));
    lab.wait_for_log("delivery deferred");
    smtp.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "usual"));
    assert_eq!(lab.wait_for(1).remove(0).subject, "usual");
}

#[test]
fn without_graph_permissions_a_lost_reply_is_settled_by_time() {
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        let tenant = setup.tenant("contoso");
        tenant.roles = vec!["SMTP.SendAsApp".into()];
        tenant.confirm = "auto".into();
    });
    lab.inject(Fault::new(On::SmtpContent, relay_sandbox::Action::CutBefore).times(1));
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "doubt"));
    lab.wait_for(1);
    lab.wait_until_empty();
    let resent = [("tenant", "contoso"), ("resolved", "resent")];
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &resent), 1.0);
}

#[test]
fn ten_megabytes_are_never_in_memory_at_once() {
    let lab = Lab::with(by_smtp);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", lab.process_id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "small"));
    lab.wait_for(1);
    let before = resident();
    let mail = base64_mail(FROM, "b@example.net", "large", 7_500_000);
    assert!(mail.len() > 10_000_000);
    lab.send(FROM, &["b@example.net"], &mail);
    let large = lab.wait_for(2).remove(1);
    lab.wait_until_empty();
    assert_eq!(large.as_sent(), mail);
    let grown = resident().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} octets more");
}

#[test]
fn by_a_proxy_with_a_login() {
    let login = "Basic cmVsYXk6cGFzc3dvcmQ=";
    let proxy = Proxy::start(ProxySetup { authorization: Some(login.into()), leads_to: None });
    let lab = Lab::with(|setup| {
        by_smtp(setup);
        setup.network =
            format!("proxy = '{}'\nproxy_user = 'relay'\nproxy_password = 'password'\n", proxy.url());
    });
    lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", "proxied"));
    assert_eq!(lab.wait_for(1).remove(0).via, Via::Smtp);
    let connect = format!("CONNECT {} HTTP/1.1", lab.service.smtp_address().unwrap());
    wait_until("the proxy to be asked", || proxy.heads().iter().any(|head| head.starts_with(&connect)));
}
