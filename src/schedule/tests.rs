//! The scheduler with a courier that does what the test says, on a paused clock.

mod adoption;
mod expiry;
mod inspection;
mod login;
mod ramp;
mod saturation;
mod sleep;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock,
    config::{Cloud, Limits, Roster, Tenant},
    telemetry::Metrics,
};
use relay_spool::{Event, Lane, MemoryStore, Spool, Waiting};

const GIVE_UP: Duration = Duration::from_secs(172_800);

fn tenant(name: &str, limits: Limits) -> Arc<Tenant> {
    Arc::new(Tenant { limits, ..Tenant::sample(name, Cloud::loopback("http://127.0.0.1:1")) })
}

const UNLIMITED: Limits = Limits::NONE;

fn limited(messages: u32, concurrent: u32) -> Limits {
    Limits {
        messages_per_minute: NonZeroU32::new(messages),
        concurrent_requests: NonZeroU32::new(concurrent),
        ..UNLIMITED
    }
}

/// What a job does: takes this long, and ends with this verdict.
type Script = Box<dyn Fn(&Job) -> (Duration, Verdict) + Send + Sync>;

struct Fake {
    script: Script,
    /// Tenants' credentials: until when they are valid, or why not. A missing one never comes.
    credentials: Mutex<HashMap<String, Result<Duration, Blocked>>>,
    /// How often a credential was asked for.
    asked: AtomicUsize,
    jobs: mpsc::UnboundedSender<(Instant, Job)>,
    running: Mutex<HashMap<String, (u32, u32)>>,
    /// If more than zero, a verdict is said early, this long before the end of the job.
    settling: Duration,
    /// Each job keeps its slot for this long.
    keeps: Mutex<Duration>,
}

impl Courier for Fake {
    async fn prepare(&self, tenant: &Arc<Tenant>) -> Result<Instant, Blocked> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let credential = self.credentials.lock().unwrap().get(tenant.name.as_str()).cloned();
        match credential {
            Some(result) => result.map(|long| Instant::now() + long),
            None => std::future::pending().await,
        }
    }

    async fn carry(&self, job: Job, early: &Early) -> Verdict {
        let key = job.mailbox.to_string();
        {
            let mut running = self.running.lock().unwrap();
            let (now, most) = running.entry(key.clone()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
        self.jobs.send((Instant::now(), job.clone())).unwrap();
        early.keep_slot(*self.keeps.lock().unwrap());
        let (takes, verdict) = (self.script)(&job);
        tokio::time::sleep(takes).await;
        if !self.settling.is_zero() {
            early.say(&verdict);
            tokio::time::sleep(self.settling).await;
        }
        self.running.lock().unwrap().get_mut(&key).unwrap().0 -= 1;
        verdict
    }
}

struct Bench {
    fake: Arc<Fake>,
    jobs: mpsc::UnboundedReceiver<(Instant, Job)>,
    messages: mpsc::UnboundedSender<Event>,
    depths: Depths,
    inspector: Inspector,
    orders: mpsc::UnboundedSender<Order>,
    spool: Spool,
    /// What the spool says, which is sent nowhere else.
    told: mpsc::UnboundedReceiver<Event>,
    metrics: Metrics,
    last: MessageId,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    fn new(tenants: &[Arc<Tenant>], max_in_flight: usize, script: Script) -> Self {
        Self::settling(tenants, max_in_flight, script, Duration::ZERO)
    }

    fn settling(tenants: &[Arc<Tenant>], max_in_flight: usize, script: Script, settling: Duration) -> Self {
        let (job_sender, jobs) = mpsc::unbounded_channel();
        let hour = Duration::from_secs(3600);
        let credentials = tenants.iter().map(|t| (t.name.to_string(), Ok(hour))).collect();
        let running = Mutex::default();
        let credentials = Mutex::new(credentials);
        let fake = Arc::new(Fake {
            script,
            credentials,
            asked: AtomicUsize::new(0),
            jobs: job_sender,
            running,
            settling,
            keeps: Mutex::default(),
        });
        let (messages, waiting) = mpsc::unbounded_channel();
        let settings = Settings { roster: roster_of(tenants), max_in_flight, give_up_after: GIVE_UP };
        let (spool, told) = Spool::start(MemoryStore::default(), ()).unwrap();
        let depths = Depths::default();
        let shutdown = CancellationToken::new();
        let metrics = Metrics::new();
        let (inspector, questions) = Inspector::new();
        let (orders, obeyed) = mpsc::unbounded_channel();
        let run = Scheduler::run(
            settings,
            fake.clone(),
            spool.clone(),
            metrics.clone(),
            depths.clone(),
            Inbox { events: waiting, questions, orders: obeyed },
            shutdown.clone(),
        );
        let task = tokio::spawn(run);
        Self {
            fake,
            jobs,
            messages,
            depths,
            inspector,
            orders,
            spool,
            told,
            metrics,
            last: MessageId::first_at(clock::now()),
            shutdown,
            task,
        }
    }

    fn add(&mut self, tenant: &str, author: &str, due_in: Duration) -> MessageId {
        self.last = self.last.next();
        let lane = Arc::new(Lane { tenant: tenant.parse().unwrap(), author: author.parse().unwrap() });
        self.messages
            .send(Event::Waiting(Waiting { id: self.last, lane, due: clock::now() + due_in }))
            .unwrap();
        self.last
    }

    fn credential(&self, tenant: &str, credential: Option<Result<Duration, Blocked>>) {
        let mut credentials = self.fake.credentials.lock().unwrap();
        match credential {
            Some(result) => credentials.insert(tenant.into(), result),
            None => credentials.remove(tenant),
        };
    }

    /// The next job; fails the test if there is none for a day.
    async fn job(&mut self) -> (Instant, Job) {
        timeout(Duration::from_secs(86_400), self.jobs.recv()).await.expect("a job").unwrap()
    }

    async fn no_job_for(&mut self, long: Duration) {
        if let Ok(job) = timeout(long, self.jobs.recv()).await {
            panic!("unexpected {job:?}");
        }
    }

    /// Lets what is in progress continue for this long.
    async fn settle_for(&mut self, long: Duration) {
        tokio::time::sleep(long).await;
        while self.jobs.try_recv().is_ok() {}
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.render().unwrap().lines().any(|l| l == line)
    }

    fn most_at_once(&self, mailbox: &str) -> u32 {
        self.fake.running.lock().unwrap()[mailbox].1
    }
}

fn roster_of(tenants: &[Arc<Tenant>]) -> Arc<Roster> {
    Arc::new(Roster::new(tenants.iter().map(|t| (t.name.clone(), t.clone())).collect()))
}

fn asleep_until(until: Instant) -> Verdict {
    Verdict::MailboxAsleep { until, limit: LimitKind::Service, why: "429 TooManyRequests".into() }
}

fn takes(long: Duration) -> Script {
    Box::new(move |_| (long, Verdict::Done))
}

const NOW: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_mailbox_keeps_to_its_slots() {
    let mut bench = Bench::new(&[tenant("contoso", limited(100_000, 3))], 1000, takes(SECOND));
    for _ in 0..30 {
        bench.add("contoso", "a@contoso.example", NOW);
    }
    let start = Instant::now();
    let mut last = start;
    for _ in 0..30 {
        last = bench.job().await.0;
    }
    assert_eq!(bench.most_at_once("a@contoso.example"), 3);
    assert_eq!((last - start).as_secs(), 9, "ten rounds of three");
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_at_its_limit_delays_no_other() {
    let mut bench = Bench::new(&[tenant("contoso", limited(30, 3))], 1000, takes(Duration::from_millis(10)));
    let start = Instant::now();
    for _ in 0..60 {
        bench.add("contoso", "busy@contoso.example", NOW);
    }
    let other = bench.add("contoso", "other@contoso.example", NOW);
    let mut busy = Vec::new();
    while busy.len() < 60 {
        let (at, job) = bench.job().await;
        if job.id == other {
            assert_eq!(at, start);
        } else {
            busy.push(at);
        }
    }
    for (n, from) in busy.iter().enumerate() {
        assert!(busy[n..].iter().filter(|at| **at < *from + SECOND * 60).count() <= 30);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_never_ends_delays_no_other_tenant() {
    let mut bench = Bench::new(&[tenant("slow", UNLIMITED), tenant("quick", UNLIMITED)], 10, takes(SECOND));
    bench.credential("slow", None);
    for _ in 0..100 {
        bench.add("slow", "a@slow.example", NOW);
    }
    let quick = bench.add("quick", "a@quick.example", NOW);
    assert_eq!(bench.job().await.1.id, quick);
    bench.no_job_for(SECOND * 3600).await;
}

#[tokio::test(start_paused = true)]
async fn slow_deliveries_of_one_tenant_leave_slots_for_another() {
    let slow =
        |job: &Job| (if job.tenant.name.as_str() == "slow" { SECOND * 3600 } else { SECOND }, Verdict::Done);
    let mut bench = Bench::new(&[tenant("slow", UNLIMITED), tenant("quick", UNLIMITED)], 90, Box::new(slow));
    for _ in 0..1000 {
        bench.add("slow", "a@slow.example", NOW);
    }
    for _ in 0..80 {
        assert_eq!(bench.job().await.1.tenant.name.as_str(), "slow");
    }
    bench.no_job_for(SECOND).await;
    let start = Instant::now();
    for _ in 0..50 {
        bench.add("quick", "a@quick.example", NOW);
    }
    for _ in 0..50 {
        let (at, job) = bench.job().await;
        assert_eq!(job.tenant.name.as_str(), "quick");
        assert!(at < start + SECOND * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn sleep_is_kept_to_the_instant() {
    let woken = Duration::from_millis(2128);
    let first = std::sync::atomic::AtomicBool::new(true);
    let script = move |_: &Job| {
        let asleep = asleep_until(Instant::now() + woken);
        let verdict =
            if first.swap(false, std::sync::atomic::Ordering::Relaxed) { asleep } else { Verdict::Done };
        (NOW, verdict)
    };
    let mut bench = Bench::new(&[tenant("contoso", limited(1000, 1))], 10, Box::new(script));
    let start = Instant::now();
    bench.add("contoso", "a@contoso.example", NOW);
    bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    let (at, _) = bench.job().await;
    assert!(at >= start + woken && at < start + woken + Duration::from_millis(5), "{:?}", at - start);
}

#[tokio::test(start_paused = true)]
async fn what_the_spool_says_before_the_verdict_waits_for_it() {
    let woken = SECOND * 3;
    let script = move |_: &Job| {
        // At the end of the job, which takes a second.
        let until = Instant::now() + SECOND + woken;
        (SECOND, asleep_until(until))
    };
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, Box::new(script));
    let start = Instant::now();
    let id = bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    // The worker has settled it, and has not come back yet.
    let lane = Lane { tenant: "contoso".parse().unwrap(), author: "a@contoso.example".parse().unwrap() };
    bench.messages.send(Event::Waiting(Waiting { id, lane: Arc::new(lane), due: clock::now() })).unwrap();
    let (at, job) = bench.job().await;
    assert_eq!(job.id, id);
    assert!(at >= start + SECOND + woken, "{:?}", at - start);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_tenant_is_looked_at_again_and_flows_on() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let because = Blocked { reason: "credential", why: "wrong secret".into(), retry_after: SECOND * 60 };
    bench.credential("contoso", Some(Err(because)));
    let id = bench.add("contoso", "a@contoso.example", NOW);
    bench.no_job_for(SECOND * 150).await;
    let blocked = |depths: &Depths| depths.all()[0].1.states();
    assert!(blocked(&bench.depths).contains(&("blocked", 1)));
    bench.credential("contoso", Some(Ok(SECOND * 3600)));
    let start = Instant::now();
    let (at, job) = bench.job().await;
    assert_eq!(job.id, id);
    assert!(at <= start + SECOND * 60);
    bench.no_job_for(SECOND).await;
    assert!(blocked(&bench.depths).iter().all(|(_, count)| *count == 0), "{:?}", blocked(&bench.depths));
}

#[tokio::test(start_paused = true)]
async fn what_is_due_later_waits_and_comes_in_order() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let start = Instant::now();
    let dues = [500, 20, 300, 20, 7, 400];
    for due in dues {
        bench.add("contoso", "a@contoso.example", SECOND * due);
    }
    tokio::task::yield_now().await;
    let mut sorted = dues;
    sorted.sort();
    for due in sorted {
        let (at, _) = bench.job().await;
        let late = (at - start).saturating_sub(SECOND * due);
        assert!(
            at >= start + SECOND * due - Duration::from_millis(1) && late < Duration::from_millis(5),
            "{late:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_behind_a_block_expires() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let because = Blocked { reason: "credential", why: "wrong secret".into(), retry_after: SECOND * 600 };
    bench.credential("contoso", Some(Err(because)));
    let start = Instant::now();
    let id = bench.add("contoso", "a@contoso.example", NOW);
    bench.no_job_for(GIVE_UP - SECOND).await;
    let (at, job) = bench.job().await;
    assert_eq!((job.id, job.task), (id, Task::Expire { why: "wrong secret".into() }));
    assert!(at < start + GIVE_UP + SECOND * 60);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_panics_gives_its_slot_back() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let script = move |_: &Job| {
        assert!(
            !first.swap(false, std::sync::atomic::Ordering::Relaxed),
            "the first job panics: this is part of the test"
        );
        (NOW, Verdict::Done)
    };
    let mut bench = Bench::new(&[tenant("contoso", limited(1000, 1))], 9, Box::new(script));
    bench.add("contoso", "a@contoso.example", NOW);
    let second = bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    assert_eq!(bench.job().await.1.id, second);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_what_is_in_flight() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(SECOND * 5));
    bench.add("contoso", "a@contoso.example", NOW);
    let (began, _) = bench.job().await;
    bench.shutdown.cancel();
    bench.task.await.unwrap();
    assert_eq!(began.elapsed(), SECOND * 5);
}
