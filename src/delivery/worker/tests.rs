//! The worker with a real spool, and a service that does what the test says.

use std::collections::HashSet;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::{
    config::{AppLimit, ClientProof, Cloud, Credential, GraphConfig, NetworkConfig, SecretSource},
    delivery::{
        graph::{Graph, GraphContext},
        smtp::{self, Smtp},
    },
    limits::allowance::Allowances,
    network::Clients,
    telemetry::LimitKind,
};
use relay_mail::{BodyKind, Envelope, Ingress, MessageId};
use relay_sandbox as sandbox;
use relay_sandbox::{Action, Directory, Fault, On, Options, Service, StatusFault};
use relay_spool::{DiskStore, Event, Message, NewMessage};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const SETTLE_AFTER: Duration = Duration::from_secs(5);
const RETRY: RetryConfig = RetryConfig {
    first: Duration::from_secs(20),
    factor: 2.0,
    longest: Duration::from_secs(3600),
    jitter: 0.0,
    give_up_after: Duration::from_secs(172_800),
};

struct Bench {
    service: Service,
    worker: Worker,
    tenant: Arc<Tenant>,
    spool: Spool,
    waiting: mpsc::UnboundedReceiver<Event>,
    metrics: Metrics,
    dir: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let options = Options {
            directories: vec![Directory::new("contoso.example", "app", "s3cret")],
            limits: sandbox::Limits::unthrottled(),
            ..Options::default()
        };
        let service = Service::start(options).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret").unwrap();
        let tenant = Arc::new(Tenant {
            credential: Credential::App(ClientProof::Secret(SecretSource::File(dir.path().join("secret")))),
            ..Tenant::sample("contoso", Cloud::loopback(&service.url()))
        });
        let metrics = Metrics::new();
        let store = DiskStore::open(&dir.path().join("spool")).unwrap();
        let (spool, waiting) = Spool::start(store, ()).unwrap();
        let clients = Clients::new(&NetworkConfig::default(), [&tenant.cloud].into_iter()).unwrap();
        let identity =
            Arc::new(Identity::new(clients.clone(), metrics.clone(), dir.path().join("credentials")));
        let config = GraphConfig { max_recipients: 10_000, ..GraphConfig::default() };
        // A message that is carried again at once stands for one that has waited.
        let settled = Duration::ZERO;
        let allowances = Allowances::new(AppLimit::default(), metrics.clone(), None);
        let submission = smtp::SmtpContext {
            identity: identity.clone(),
            clients: clients.clone(),
            network: NetworkConfig::default(),
            allowances: allowances.clone(),
            hostname: "relay.example".into(),
            max_recipients: 10_000,
            metrics: metrics.clone(),
        };
        let submission = Smtp::new(submission).unwrap();
        let network = NetworkConfig::default();
        let means = GraphContext { identity: identity.clone(), clients, network, allowances };
        let graph = Graph::new(config, settled, means, spool.clone(), metrics.clone());
        let settings =
            WorkerSettings { hostname: "relay.example".into(), retry: RETRY, settle_after: SETTLE_AFTER };
        let worker =
            Worker::new(settings, spool.clone(), identity, Routes::new(graph, submission), metrics.clone());
        Self { service, worker, tenant, spool, waiting, metrics, dir }
    }

    async fn accept(&mut self, recipients: usize, body_len: usize) -> MessageId {
        let (id, mut body) = self.spool.begin();
        body.write(b"From: a@contoso.example\r\nTo: b@example.net\r\n\r\n").await.unwrap();
        for _ in 0..body_len.div_ceil(80) {
            body.write(&[[b'x'; 78].as_slice(), b"\r\n"].concat()).await.unwrap();
        }
        let author: MailboxAddress = "a@contoso.example".parse().unwrap();
        let recipients = (0..recipients).map(|n| format!("recipient.{n}@example.net").parse().unwrap());
        let message = Message {
            tenant: "contoso".parse().unwrap(),
            ingress: Ingress::Smtp,
            envelope: Envelope::new(Some(author.clone()), recipients, BodyKind::EightBitMime).unwrap(),
            author,
            bounce_of: None,
        };
        self.spool
            .accept(NewMessage { id, message, body: body.finish().await.unwrap() })
            .await
            .unwrap()
            .announce();
        self.waiting.recv().await.unwrap().waiting().unwrap();
        id
    }

    /// Has the message carried; returns the verdict, and after how long it is due again.
    async fn carry(&mut self, id: MessageId, early: &Early) -> (Verdict, Duration) {
        let mailbox: MailboxAddress = "a@contoso.example".parse().unwrap();
        let tenant = self.tenant.clone();
        let verdict = self.worker.carry(Job { id, tenant, mailbox, task: Task::Deliver }, early).await;
        let waiting = self.waiting.recv().await.unwrap().waiting().unwrap();
        assert_eq!(waiting.id, id);
        (verdict, waiting.due.since(clock::now()))
    }

    fn answers(&self, answer: StatusFault) {
        self.service.inject(Fault::new(On::SendMail, Action::Status(answer)));
    }

    fn resent(&self) -> bool {
        let line = r#"m365_relay_unknown_outcomes_total{resolved="resent",tenant="contoso"} 1"#;
        self.metrics.render().unwrap().lines().any(|l| l == line)
    }
}

#[tokio::test]
async fn unknown_outcomes_back_off() {
    let mut bench = Bench::new().await;
    bench.answers(StatusFault::new(504, ""));
    let id = bench.accept(1, 0).await;
    for waits in [20, 40, 80].map(Duration::from_secs) {
        let (verdict, wait) = bench.carry(id, &Early::unheard()).await;
        assert_eq!(verdict, Verdict::Done);
        assert!(wait <= waits && wait > waits - SECOND * 10, "{wait:?}");
    }
    bench.service.clear_faults();
    bench.answers(StatusFault::new(504, "").retry_after("600"));
    let (_, wait) = bench.carry(id, &Early::unheard()).await;
    assert!(wait > MINUTE * 9, "{wait:?}");
}

#[tokio::test]
async fn a_throttled_message_waits_as_long_as_its_mailbox_and_its_doubt_is_concluded_once() {
    let mut bench = Bench::new().await;
    let id = bench.accept(1, 0).await;
    let lease = bench.spool.claim(id).await.unwrap().lease;
    let in_doubt =
        Settlement::Wait { due: clock::now(), counted: true, doubt: Some(clock::now()), attempt: None };
    bench.spool.settle(lease, in_doubt).await.unwrap();
    bench.waiting.recv().await.unwrap().waiting().unwrap();

    bench.answers(StatusFault::new(429, "TooManyRequests").retry_after("100"));
    let early = Early::unheard();
    let (verdict, wait) = bench.carry(id, &early).await;
    assert!(matches!(verdict, Verdict::MailboxAsleep { .. }), "{verdict:?}");
    assert_eq!(early.said(), Some(&verdict));
    assert!(wait > SECOND * 90 && wait <= SECOND * 100, "{wait:?}");
    assert!(bench.resent());

    bench.service.clear_faults();
    bench.answers(StatusFault::new(504, ""));
    bench.carry(id, &Early::unheard()).await;
    assert!(bench.resent());
    let claim = bench.spool.claim(id).await.unwrap();
    assert_eq!((claim.attempts, claim.doubt.is_some()), (2, true));
}

#[tokio::test]
async fn a_body_that_cannot_be_read_now_waits_and_costs_no_attempt() {
    let mut bench = Bench::new().await;
    let id = bench.accept(1, 600_000).await;
    // A folder can be opened and not read, which says nothing about the message.
    let body = bench.dir.path().join("spool/body/large").join(id.to_string());
    std::fs::rename(&body, bench.dir.path().join("aside")).unwrap();
    std::fs::create_dir(&body).unwrap();
    let (verdict, wait) = bench.carry(id, &Early::unheard()).await;
    assert_eq!(verdict, Verdict::Done);
    assert!(wait > MINUTE - SECOND * 10 && wait <= MINUTE, "{wait:?}");
    std::fs::remove_dir(&body).unwrap();
    std::fs::rename(bench.dir.path().join("aside"), &body).unwrap();
    let claim = bench.spool.claim(id).await.unwrap();
    assert_eq!((claim.attempts, claim.doubt.is_some()), (0, false));
}

#[tokio::test]
async fn a_bounce_that_cannot_be_written_leaves_its_message_waiting() {
    let mut bench = Bench::new().await;
    bench.answers(StatusFault::new(400, "ErrorMimeContentInvalid"));
    // A bounce for this many recipients is too large to be held in memory.
    let id = bench.accept(9000, 0).await;
    std::fs::remove_dir_all(bench.dir.path().join("spool/body/large")).unwrap();
    let (verdict, wait) = bench.carry(id, &Early::unheard()).await;
    assert_eq!(verdict, Verdict::Done);
    assert!(wait > MINUTE - SECOND * 10 && wait <= MINUTE, "{wait:?}");
    assert!(bench.spool.unhealthy().is_none());
    assert_eq!(bench.spool.claim(id).await.unwrap().attempts, 0);
}

#[tokio::test]
async fn a_panic_leaves_its_message_waiting_and_in_doubt() {
    let mut bench = Bench::new().await;
    let id = bench.accept(1, 0).await;
    let claim = bench.spool.claim(id).await.unwrap();
    let mailbox = "a@contoso.example".parse().unwrap();
    let broken = Broken { doubt: Some(clock::now()), ..Broken::of(&claim, &bench.tenant, &mailbox, true) };
    let delivery = async { panic!("this is part of the test") };
    assert_eq!(bench.worker.unless_it_panics(delivery, broken).await, Verdict::Done);
    let waiting = bench.waiting.recv().await.unwrap().waiting().unwrap();
    assert!(waiting.due > clock::now() + SETTLE_AFTER);
    let claim = bench.spool.claim(id).await.unwrap();
    assert_eq!((claim.attempts, claim.doubt.is_some()), (1, true));
}

#[tokio::test]
async fn a_message_that_cannot_be_put_aside_now_keeps_its_doubt() {
    let mut bench = Bench::new().await;
    bench.worker.settings.retry.give_up_after = Duration::ZERO;
    // As above: its bounce cannot be written.
    let id = bench.accept(9000, 0).await;
    std::fs::remove_dir_all(bench.dir.path().join("spool/body/large")).unwrap();
    let claim = bench.spool.claim(id).await.unwrap();
    let mailbox = "a@contoso.example".parse().unwrap();
    let since = clock::now();
    let broken = Broken { doubt: Some(since), ..Broken::of(&claim, &bench.tenant, &mailbox, true) };
    let delivery = async { panic!("this is part of the test") };
    assert_eq!(bench.worker.unless_it_panics(delivery, broken).await, Verdict::Done);
    bench.waiting.recv().await.unwrap().waiting().unwrap();
    let claim = bench.spool.claim(id).await.unwrap();
    assert_eq!((claim.attempts, claim.doubt), (0, Some(since)));
}

/// The recipients of `id` that are still on their way, in it or in its parts, and those that a notice names:
/// all `wanted` ones, or those that were found in ten seconds.
async fn accounted_for(bench: &mut Bench, id: MessageId, wanted: &HashSet<String>) -> HashSet<String> {
    let mut found = HashSet::new();
    while found != *wanted
        && let Ok(Some(event)) = tokio::time::timeout(SECOND * 10, bench.waiting.recv()).await
    {
        if let Event::Held { id, reason, .. } = &event {
            assert!(reason.is_some());
            bench.spool.release(*id).await.unwrap();
        }
        let Some(waiting) = event.waiting() else { continue };
        let claim = bench.spool.claim(waiting.id).await.unwrap();
        if claim.message.bounce_of == Some(id) {
            let mut rest = claim.body.open().await.unwrap();
            let mut report = Vec::new();
            while let Some(part) = rest.next().await.unwrap() {
                report.extend_from_slice(&part);
            }
            let report = String::from_utf8(report).unwrap();
            let named = report.split("Final-Recipient: rfc822; ").skip(1);
            found.extend(named.map(|rest| rest.split_whitespace().next().unwrap().to_owned()));
        } else {
            found.extend(claim.message.envelope.recipients().iter().map(ToString::to_string));
        }
        bench.spool.settle(claim.lease, Settlement::End { bounce: None }).await.unwrap();
    }
    found
}

fn every_disposition(recipients: &[MailboxAddress]) -> Vec<Disposition> {
    let why = || Trouble::new(ErrorClass::Service, "as the test says");
    let reason = Reason { status: EnhancedStatus::UNDEFINED, why: why() };
    let failed = |recipients: &[MailboxAddress]| {
        recipients.iter().map(|recipient| (recipient.clone(), reason.clone())).collect::<Vec<_>>()
    };
    let divided = |taken: usize, later: usize| {
        let (taken, rest) = recipients.split_at(taken);
        let (later, refused) = rest.split_at(later);
        Disposition::Divided(Division {
            taken: taken.to_vec(),
            later: later.to_vec(),
            failed: failed(refused),
        })
    };
    let hour = MINUTE * 60;
    vec![
        Disposition::Retry { after: None, why: why() },
        Disposition::Retry { after: Some(hour), why: why() },
        Disposition::Refused { after: hour, why: why() },
        Disposition::Failed(reason.clone()),
        Disposition::Unknown { look_after: None, after: None, why: why() },
        Disposition::Unknown { look_after: Some(hour), after: Some(hour), why: why() },
        Disposition::Unsettled { look_after: hour, why: why() },
        Disposition::Split { most: 1 },
        divided(1, 1),
        divided(0, 2),
        divided(2, 0),
        divided(0, 0),
        divided(3, 0),
        Disposition::Hold { why: why() },
        Disposition::TenantBlocked { reason: "permission", why: why(), retry_after: hour },
        Disposition::MailboxBlocked { until: Instant::now() + hour, limit: LimitKind::Service, why: why() },
    ]
}

#[tokio::test]
async fn no_recipient_is_given_up_without_a_word() {
    let mut bench = Bench::new().await;
    let mailbox: MailboxAddress = "a@contoso.example".parse().unwrap();
    let recipients: Vec<MailboxAddress> =
        (0..3).map(|n| format!("recipient.{n}@example.net").parse().unwrap()).collect();
    let all: HashSet<String> = recipients.iter().map(ToString::to_string).collect();
    for give_up_after in [Duration::ZERO, RETRY.give_up_after] {
        bench.worker.settings.retry.give_up_after = give_up_after;
        for doubt in [None, Some(Timestamp::from_millis(0))] {
            for disposition in every_disposition(&recipients) {
                let id = bench.accept(3, 0).await;
                let claim = bench.spool.claim(id).await.unwrap();
                let shown = format!("{disposition:?}, doubt {doubt:?}, given up after {give_up_after:?}");
                let early = Early::unheard();
                let tenant = bench.tenant.clone();
                let worker = &bench.worker;
                let attempt = Attempt {
                    worker,
                    tenant: &tenant,
                    mailbox: &mailbox,
                    claim,
                    early: &early,
                    route: Route::Graph,
                };
                attempt.act(disposition, doubt).await;
                assert_eq!(accounted_for(&mut bench, id, &all).await, all, "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn the_sender_of_what_is_quarantined_is_told() {
    let mut bench = Bench::new().await;
    let all: HashSet<String> = HashSet::from(["recipient.0@example.net".to_owned()]);
    // An octet of its body is another, which shows when it is sent.
    let id = bench.accept(1, 600_000).await;
    let body = bench.dir.path().join("spool/body/large").join(id.to_string());
    let mut octets = std::fs::read(&body).unwrap();
    octets[300_000] ^= 1;
    std::fs::write(&body, octets).unwrap();
    let mailbox: MailboxAddress = "a@contoso.example".parse().unwrap();
    let job = |id| Job { id, tenant: bench.tenant.clone(), mailbox: mailbox.clone(), task: Task::Deliver };
    let damaged = job(id);
    assert_eq!(bench.worker.carry(damaged, &Early::unheard()).await, Verdict::Done);
    assert_eq!(accounted_for(&mut bench, id, &all).await, all);

    // Its delivery panics, and its time is up.
    bench.worker.settings.retry.give_up_after = Duration::ZERO;
    let id = bench.accept(1, 0).await;
    let claim = bench.spool.claim(id).await.unwrap();
    let broken = Broken::of(&claim, &bench.tenant, &mailbox, true);
    let delivery = async { panic!("this is part of the test") };
    assert_eq!(bench.worker.unless_it_panics(delivery, broken).await, Verdict::Done);
    assert_eq!(accounted_for(&mut bench, id, &all).await, all);
}
