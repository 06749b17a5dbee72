//! The route against a server that does what the simulated service never would: that offers less, cuts
//! content in the middle, says odd things.

mod script;

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::{
    config::{AppLimit, Cloud, SmtpAddress},
    network::Clients,
};
use relay_mail::{BodyKind, Envelope, Ingress};
use relay_sandbox as sandbox;
use relay_sandbox::{Directory, Options, Service};
use relay_spool::{DiskStore, Event, Message, NewMessage, Spool};
use script::{Act, Rule, Script};

const EVERYTHING: &[&str] =
    &["SIZE 1000000", "PIPELINING", "DSN", "AUTH LOGIN XOAUTH2", "8BITMIME", "CHUNKING", "SMTPUTF8"];
/// No chunks, no pipelining.
const LITTLE: &[&str] = &["AUTH XOAUTH2"];
const FROM: &str = "a@contoso.example";

struct Bench {
    script: Script,
    smtp: Smtp,
    tenant: Arc<Tenant>,
    spool: Spool,
    metrics: Metrics,
    _waiting: mpsc::UnboundedReceiver<Event>,
    _service: Service,
    _folder: TempDir,
}

impl Bench {
    async fn new(offers: &'static [&'static str], rule: Rule) -> Self {
        let options = Options {
            directories: vec![Directory::new("contoso.example", "app", "secret")],
            limits: sandbox::Limits::unthrottled(),
            smtp: None,
            ..Options::default()
        };
        // It issues the tokens.
        let service = Service::start(options).await.unwrap();
        let script = Script::start(offers, rule).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, &script.ca_pem).unwrap();
        let cloud = Cloud {
            smtp: Some(SmtpAddress { host: "127.0.0.1".into(), port: script.port }),
            ca_file: Some(ca_file),
            ..Cloud::loopback(&service.url())
        };
        let tenant = Arc::new(Tenant { route: RouteRule::Smtp, ..Tenant::sample("contoso", cloud) });
        let metrics = Metrics::new();
        let network = NetworkConfig::default();
        let store = DiskStore::open(&folder.path().join("spool")).unwrap();
        let (spool, waiting) = Spool::start(store, ()).unwrap();
        let clients = Clients::new(&network, [&tenant.cloud].into_iter()).unwrap();
        let means = SmtpContext {
            identity: Arc::new(Identity::new(
                clients.clone(),
                metrics.clone(),
                folder.path().join("credentials"),
            )),
            clients,
            network,
            allowances: Allowances::new(AppLimit::default(), metrics.clone(), None),
            hostname: "relay.example".into(),
            max_recipients: 500,
            metrics: metrics.clone(),
        };
        let smtp = Smtp::new(means).unwrap();
        Self { script, smtp, tenant, spool, metrics, _waiting: waiting, _service: service, _folder: folder }
    }

    /// Sends a message with this body to this many recipients.
    async fn deliver(&self, recipients: usize, lines: &[&str]) -> Disposition {
        self.deliver_with("", recipients, lines).await
    }

    /// The same, with `more` in its header.
    async fn deliver_with(&self, more: &str, recipients: usize, lines: &[&str]) -> Disposition {
        self.deliver_from(FROM, more, recipients, lines).await
    }

    async fn deliver_from(&self, from: &str, more: &str, recipients: usize, lines: &[&str]) -> Disposition {
        let (id, mut body) = self.spool.begin();
        body.write(format!("From: a@contoso.example\r\n{more}\r\n").as_bytes()).await.unwrap();
        for line in lines {
            body.write(format!("{line}\r\n").as_bytes()).await.unwrap();
        }
        let author: MailboxAddress = from.parse().unwrap();
        let recipients = (0..recipients).map(|n| format!("r{n}@example.net").parse().unwrap());
        let message = Message {
            tenant: self.tenant.name.clone(),
            ingress: Ingress::Smtp,
            envelope: Envelope::new(Some(author.clone()), recipients, BodyKind::SevenBit).unwrap(),
            author: author.clone(),
            bounce_of: None,
        };
        let message = NewMessage { id, message, body: body.finish().await.unwrap() };
        self.spool.accept(message).await.unwrap().announce();
        let claim = self.spool.claim(id).await.unwrap();
        let letter = Letter::open(&claim).await.unwrap();
        self.smtp.deliver(&self.tenant, &author, &claim, &letter, None).await.disposition
    }
}

/// Some 700 KB: three chunks, and more than fits between two sockets.
fn large() -> Vec<&'static str> {
    vec![".234567890123456789012345678901234567890123456789012345678901234567890"; 10_000]
}

#[tokio::test]
async fn everything_that_is_offered_is_used() {
    let bench = Bench::new(EVERYTHING, |_, _| None).await;
    let Disposition::Delivered(receipt) = bench.deliver(2, &[".a", "."]).await else { panic!() };
    assert_eq!((receipt.status, receipt.request_id.as_str()), (250, "OK <1@script>"));
    assert!(receipt.reports_success);
    let lines = bench.script.lines();
    let begun = lines.iter().position(|line| line.starts_with("1 MAIL")).unwrap();
    let content = "From: a@contoso.example\r\n\r\n.a\r\n.\r\n";
    let expected = [
        format!("1 MAIL FROM:<{FROM}> SIZE={}", content.len()),
        "1 RCPT TO:<r0@example.net>".into(),
        "1 RCPT TO:<r1@example.net>".into(),
        format!("1 BDAT {} LAST", content.len()),
        format!("1 {content}"),
    ];
    assert_eq!(lines[begun..], expected);
    assert_eq!(lines[..3], ["1 EHLO relay.example", "1 STARTTLS", "1 EHLO relay.example"]);
}

#[tokio::test]
async fn a_server_that_offers_little() {
    let bench = Bench::new(LITTLE, |_, _| None).await;
    let Disposition::Delivered(receipt) = bench.deliver(2, &[".a", "."]).await else { panic!() };
    assert!(!receipt.reports_success);
    assert_eq!(bench.script.said("1 MAIL "), [format!("FROM:<{FROM}>")]);
    assert_eq!(bench.script.lines().last().unwrap(), "1 From: a@contoso.example\r\n\r\n..a\r\n..\r\n.\r\n");
}

#[tokio::test]
async fn large_mail_in_either_way() {
    for offers in [EVERYTHING, LITTLE] {
        let bench = Bench::new(offers, |_, _| None).await;
        assert!(matches!(bench.deliver(1, &large()).await, Disposition::Delivered(_)));
        let wanted =
            format!("From: a@contoso.example\r\n\r\n{}", format!("{}\r\n", large()[0]).repeat(10_000));
        let lines = bench.script.lines();
        if offers == LITTLE {
            let stuffed = wanted.replace("\r\n.", "\r\n..");
            assert!(*lines.last().unwrap() == format!("1 {stuffed}.\r\n"));
            continue;
        }
        let begun = lines.iter().position(|line| line.starts_with("1 BDAT")).unwrap();
        let (commands, chunks): (Vec<_>, Vec<_>) =
            lines[begun..].iter().partition(|line| line.starts_with("1 BDAT"));
        assert!(commands.len() > 1 && commands.iter().filter(|line| line.ends_with(" LAST")).count() == 1);
        assert!(chunks.iter().map(|chunk| &chunk[2..]).collect::<String>() == wanted);
    }
}

#[tokio::test]
async fn content_that_is_cut_in_the_middle_was_not_sent() {
    for (offers, rule) in [
        (LITTLE, (|_, step| (step == "DATA").then_some(Act::Cut)) as Rule),
        (EVERYTHING, |_, step| {
            (step.starts_with("BDAT") && !step.ends_with("LAST"))
                .then_some(Act::SayAndCutAfter("250 ok", 100_000))
        }),
        (EVERYTHING, |_, step| (step.starts_with("BDAT") && !step.ends_with("LAST")).then_some(Act::Cut)),
    ] {
        let bench = Bench::new(offers, rule).await;
        let disposition = bench.deliver(1, &large()).await;
        assert!(matches!(disposition, Disposition::Retry { .. }), "{disposition:?}");
    }
    // After DATA the rest may still be on this machine when the other one ends, and nobody knows who has it.
    let rule: Rule = |_, step| (step == "DATA").then_some(Act::SayAndCutAfter("354 go", 300_000));
    let disposition = Bench::new(LITTLE, rule).await.deliver(1, &large()).await;
    assert!(
        matches!(disposition, Disposition::Retry { .. } | Disposition::Unknown { .. }),
        "{disposition:?}"
    );
}

/// Whatever the server sends before it was asked, and wherever, is a reply to nothing.
#[tokio::test]
async fn an_answer_to_nothing_is_not_believed() {
    let rules: [(&'static [&'static str], Rule); 11] = [
        (LITTLE, |_, step| (step == "connect").then_some(Act::Say("220 a\r\n250 STARTTLS"))),
        (LITTLE, |_, step| {
            (step == "AUTH").then_some(Act::Say("235 in\r\n250 1\r\n250 2\r\n354 3\r\n250 4"))
        }),
        (LITTLE, |_, step| step.starts_with("MAIL").then_some(Act::Say("250 ok\r\n250 1\r\n354 2\r\n250 3"))),
        (LITTLE, |_, step| step.starts_with("RCPT").then_some(Act::Say("250 ok\r\n354 1\r\n250 2"))),
        (LITTLE, |_, step| (step == "DATA").then_some(Act::Say("354 go\r\n250 2.0.0 OK <stray@script>"))),
        (LITTLE, |_, step| (step == "DATA").then_some(Act::Say("354 go\r\n2"))),
        (EVERYTHING, |_, step| (step == "AUTH").then_some(Act::Say("235 in\r\n250 1\r\n250 2\r\n250 3"))),
        (EVERYTHING, |_, step| step.starts_with("RCPT").then_some(Act::Say("250 ok\r\n250 stray"))),
        (EVERYTHING, |_, step| {
            step.starts_with("EHLO").then_some(Act::Say("250-a\r\n250 STARTTLS\r\n220 go"))
        }),
        (EVERYTHING, |_, step| step.starts_with("RSET").then_some(Act::Say("250 ok\r\n250 stray"))),
        // The next message finds what follows the reply to this one.
        (EVERYTHING, |connection, step| {
            (connection == 1 && step.ends_with("LAST"))
                .then_some(Act::Say("250 ok\r\n250 1\r\n250 2\r\n250 3"))
        }),
    ];
    for (number, (offers, rule)) in rules.into_iter().enumerate() {
        for lines in [vec!["small"], large()] {
            let bench = Bench::new(offers, rule).await;
            for _ in 0..2 {
                let disposition = bench.deliver(1, &lines).await;
                let received =
                    bench.script.lines().iter().filter(|line| line.contains("From: a@contoso")).count();
                let is_delivered = matches!(disposition, Disposition::Delivered(_));
                // RSET is not sent when all is well, and the last rule acts after the end.
                let may_be = number >= 9;
                assert_eq!(is_delivered, may_be, "rule {number}: {disposition:?}");
                assert!(may_be || matches!(disposition, Disposition::Retry { .. }), "{disposition:?}");
                assert!(!is_delivered || received > 0);
            }
            if number == 10 {
                // On another connection, and without any of what was sent on the first.
                assert!(bench.script.lines().iter().any(|line| line.starts_with("2 MAIL")));
            }
        }
    }
}

#[tokio::test]
async fn from_the_end_of_the_content_on_nobody_knows() {
    for (offers, rule) in [
        (LITTLE, (|_, step| (step == ".").then_some(Act::Cut)) as Rule),
        (LITTLE, |_, step| (step == ".").then_some(Act::Say("354 more"))),
        (LITTLE, |_, step| (step == ".").then_some(Act::Say("what"))),
        (EVERYTHING, |_, step| step.ends_with("LAST").then_some(Act::Cut)),
    ] {
        for lines in [vec!["small"], large()] {
            let bench = Bench::new(offers, rule).await;
            let disposition = bench.deliver(1, &lines).await;
            assert!(matches!(disposition, Disposition::Unknown { .. }), "{disposition:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_content_counts() {
    let rule: Rule = |_, step| {
        (step.starts_with("BDAT") && !step.ends_with("LAST")).then_some(Act::Say("552 5.3.4 Too large"))
    };
    let bench = Bench::new(EVERYTHING, rule).await;
    let Disposition::Failed(reason) = bench.deliver(1, &large()).await else { panic!() };
    assert_eq!(
        (reason.status.to_string(), reason.why.text.as_str()),
        ("5.3.4".into(), "552 5.3.4 Too large")
    );
    // Nobody knows what the server thinks of that connection.
    bench.deliver(1, &["small"]).await;
    assert!(bench.script.said("2 MAIL").len() == 1);
}

#[tokio::test]
async fn no_token_without_tls() {
    for rule in [
        (|_, step| step.starts_with("EHLO").then_some(Act::Say("250 script"))) as Rule,
        |_, step| (step == "STARTTLS").then_some(Act::Say("454 4.7.0 TLS not available")),
        // What is sent unencrypted must not be taken for something under TLS.
        |_, step| (step == "STARTTLS").then_some(Act::Say("220 go\r\n250-injected\r\n250 AUTH XOAUTH2")),
    ] {
        let bench = Bench::new(EVERYTHING, rule).await;
        let disposition = bench.deliver(1, &["a"]).await;
        assert!(matches!(disposition, Disposition::Retry { .. }), "{disposition:?}");
        assert!(bench.script.lines().iter().all(|line| !line.contains("AUTH")), "{:?}", bench.script.lines());
    }
}

#[tokio::test]
async fn every_step_may_break() {
    for (n, rule) in [
        (|_, step| (step == "connect").then_some(Act::Cut)) as Rule,
        |_, step| (step == "connect").then_some(Act::Say("554 5.3.2 go away")),
        |_, step| (step == "connect").then_some(Act::Say("not a greeting")),
        |_, step| step.starts_with("EHLO").then_some(Act::Cut),
        |_, step| (step == "STARTTLS").then_some(Act::Cut),
        |_, step| (step == "AUTH").then_some(Act::Cut),
        |_, step| (step == "AUTH").then_some(Act::Say("454 4.7.0 Temporary authentication failure")),
        |_, step| step.starts_with("MAIL").then_some(Act::Cut),
        |_, step| step.starts_with("MAIL").then_some(Act::Say("354 what")),
        |_, step| step.starts_with("RCPT").then_some(Act::Cut),
        |_, step| step.starts_with("RCPT").then_some(Act::Say("421 4.3.2 closing")),
        |_, step| (step == "DATA").then_some(Act::Say("250 what")),
        |_, step| (step == "DATA").then_some(Act::Say("451 4.3.0 later")),
        |_, step| (step == ".").then_some(Act::Say("451 4.3.0 later")),
    ]
    .into_iter()
    .enumerate()
    {
        for offers in [LITTLE, &["PIPELINING", "AUTH XOAUTH2"]] {
            let bench = Bench::new(offers, rule).await;
            let disposition = bench.deliver(2, &["a"]).await;
            assert!(matches!(disposition, Disposition::Retry { .. }), "{n} {disposition:?}");
        }
    }
}

#[tokio::test]
async fn recipients_and_what_becomes_of_each() {
    let rule: Rule = |_, step| match step {
        "RCPT TO:<r1@example.net>" => Some(Act::Say("550 5.1.1 nobody")),
        "RCPT TO:<r2@example.net>" => Some(Act::Say("450 4.2.1 busy")),
        _ => None,
    };
    for offers in [LITTLE, EVERYTHING] {
        let bench = Bench::new(offers, rule).await;
        let Disposition::Divided(division) = bench.deliver(250, &["a"]).await else { panic!() };
        assert_eq!((division.taken.len(), division.later.len(), division.failed.len()), (248, 1, 1));
        assert_eq!(division.failed[0].1.status.to_string(), "5.1.1");
        assert_eq!(division.later[0].as_str(), "r2@example.net");
        // Nothing was sent, and the connection can be used for the next message.
        assert!(bench.script.lines().iter().all(|line| !line.contains("BDAT") && !line.contains("DATA")));
        assert!(matches!(bench.deliver(1, &["a"]).await, Disposition::Delivered(_)));
        assert!(bench.script.said("2 ").is_empty());
    }
    let all_later: Rule = |_, step| step.starts_with("RCPT").then_some(Act::Say("450 4.2.1 busy"));
    let disposition = Bench::new(EVERYTHING, all_later).await.deliver(3, &["a"]).await;
    assert!(
        matches!(&disposition, Disposition::Retry { why, .. } if why.text.contains("450 4.2.1 busy")),
        "{disposition:?}"
    );
    let sender: Rule =
        |_, step| step.starts_with("RCPT").then_some(Act::Say("550 5.1.8 bad outbound sender"));
    let disposition = Bench::new(EVERYTHING, sender).await.deliver(3, &["a"]).await;
    assert!(matches!(disposition, Disposition::MailboxBlocked { .. }), "{disposition:?}");
}

#[tokio::test]
async fn a_busy_mailbox_waits_longer_each_time() {
    let rule: Rule = |_, step| {
        step.starts_with("MAIL").then_some(Act::Say("432 4.3.2 Concurrent connections limit exceeded"))
    };
    let bench = Bench::new(EVERYTHING, rule).await;
    for seconds in [30, 60, 120] {
        let Disposition::MailboxBlocked { until, limit, .. } = bench.deliver(1, &["a"]).await else {
            panic!()
        };
        let wait = until.duration_since(Instant::now()).as_secs();
        assert!((seconds - 5..=seconds).contains(&wait), "{wait}");
        assert_eq!(limit, LimitKind::Service);
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let rule: Rule = |_, step| (step == "AUTH").then_some(Act::Say("535 5.7.3 Authentication unsuccessful"));
    let bench = Bench::new(EVERYTHING, rule).await;
    let Disposition::MailboxBlocked { why, limit, .. } = bench.deliver(1, &["a"]).await else { panic!() };
    assert!(why.text.contains("SMTP.SendAsApp") && limit == LimitKind::Mailbox, "{why}");
    let tokens: Vec<String> =
        bench.script.lines().iter().filter(|line| line.contains(" AUTH ")).cloned().collect();
    assert_eq!(tokens.len(), 2);
    assert_ne!(tokens[0][2..], tokens[1][2..]);
    // A third token is not available so soon, and the same one would only be refused again.
    assert!(matches!(bench.deliver(1, &["a"]).await, Disposition::MailboxBlocked { .. }));
    assert_eq!(bench.script.lines().iter().filter(|line| line.contains(" AUTH ")).count(), 3);
}

/// One mailbox that the app has no permission for says nothing about the others.
#[tokio::test]
async fn a_mailbox_that_lets_nobody_in_closes_no_connection_of_another() {
    let rule: Rule = |connection, step| {
        (connection > 1 && step == "AUTH").then_some(Act::Say("535 5.7.3 Authentication unsuccessful"))
    };
    let bench = Bench::new(EVERYTHING, rule).await;
    assert!(matches!(bench.deliver(1, &["a"]).await, Disposition::Delivered(_)));
    let other = bench.deliver_from("b@contoso.example", "", 1, &["a"]).await;
    assert!(matches!(other, Disposition::MailboxBlocked { .. }), "{other:?}");
    assert!(matches!(bench.deliver(1, &["a"]).await, Disposition::Delivered(_)));
    assert_eq!(bench.script.said("1 MAIL").len(), 2);
}

#[tokio::test]
async fn there_are_never_more_than_three() {
    let bench = Bench::new(EVERYTHING, |_, _| None).await;
    let sent = futures_util::future::join_all((0..12).map(|_| bench.deliver(1, &["a"]))).await;
    assert!(sent.iter().all(|disposition| matches!(disposition, Disposition::Delivered(_))));
    let open = bench.metrics.submission_connections().get();
    assert!((1..=3).contains(&open), "{open}");
    assert!(bench.script.said("4 ").is_empty());
}

#[tokio::test]
async fn what_is_idle_is_closed_with_a_word() {
    let bench = Bench::new(EVERYTHING, |_, _| None).await;
    assert!(matches!(bench.deliver(1, &["a"]).await, Disposition::Delivered(_)));
    // From here on time passes when there is nothing else to do.
    tokio::time::pause();
    let open = || bench.metrics.submission_connections().get();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(open(), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((open(), bench.script.said("1 QUIT")), (0, vec![String::new()]));
}

/// When commands are sent together, the replies behind the deciding one are still to come.
#[tokio::test]
async fn replies_that_nobody_waits_for_are_not_taken_for_others() {
    let rule: Rule = |_, step| (step == "RCPT TO:<r1@example.net>").then_some(Act::Say("432 4.3.2 busy"));
    let bench = Bench::new(EVERYTHING, rule).await;
    let disposition = bench.deliver(4, &["a"]).await;
    assert!(matches!(disposition, Disposition::MailboxBlocked { .. }), "{disposition:?}");
    let Disposition::Delivered(receipt) = bench.deliver(1, &["a"]).await else { panic!() };
    assert_eq!(receipt.request_id, "OK <1@script>");
    assert!(bench.script.said("2 ").is_empty(), "the connection is good");
}

#[tokio::test]
async fn what_was_said_of_the_message_counts_though_the_rest_of_the_replies_does_not_come() {
    let rule: Rule = |_, step| match step {
        "RCPT TO:<r0@example.net>" => Some(Act::Cut),
        _ if step.starts_with("MAIL") => Some(Act::Say("550 5.7.60 not as this sender")),
        _ => None,
    };
    let disposition = Bench::new(EVERYTHING, rule).await.deliver(2, &["a"]).await;
    assert!(matches!(disposition, Disposition::Failed(_)), "{disposition:?}");
}

#[tokio::test]
async fn a_header_in_utf8_goes_without_smtputf8_if_the_server_will_not_have_it() {
    let rule: Rule =
        |_, step| step.contains("SMTPUTF8").then_some(Act::Say("502 5.3.3 Command not implemented"));
    let bench = Bench::new(EVERYTHING, rule).await;
    let disposition = bench.deliver_with("Subject: Gr\u{fc}\u{df}e\r\n", 1, &["a"]).await;
    assert!(matches!(disposition, Disposition::Delivered(_)), "{disposition:?}");
    let said = bench.script.said("1 MAIL");
    assert!(said[0].ends_with(" SMTPUTF8") && said[1].ends_with(" BODY=8BITMIME"), "{said:?}");
}

/// The relay's own mark is at the top, above what a client has written.
#[tokio::test]
async fn a_clients_header_goes_as_it_came_whatever_it_says() {
    let bench = Bench::new(EVERYTHING, |_, _| None).await;
    let forged = "X-M365-Relay-Part-Of: 1\r\n";
    assert!(matches!(bench.deliver_with(forged, 1, &["a"]).await, Disposition::Delivered(_)));
    let content = bench.script.lines().last().unwrap().clone();
    assert_eq!(content, format!("1 From: a@contoso.example\r\n{forged}\r\na\r\n"));
}
