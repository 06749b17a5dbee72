//! How fast mail leaves: a spool full of messages, the relay's binary, and a simulated Microsoft 365 in this
//! process.
//!
//!     cargo bench --bench deliver -- [--messages N] [--tenants N] [--mailboxes N] [--latency-ms N]
//!         [--confirm off|draft|sent-items|auto] [--size OCTETS] [--route graph|smtp|auto]
//!
//! Prints messages a second from the first delivery to the last, the relay's processor time for each, its
//! largest memory, and the most that were in flight.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use relay_mail::{BodyKind, Envelope, Ingress, MailboxAddress};
use relay_sandbox::{Directory, Limits, Options, Service};
use relay_spool::{DiskStore, Message, NewMessage, Spool};

struct Run {
    messages: usize,
    tenants: usize,
    /// Over all tenants.
    mailboxes: usize,
    latency: Duration,
    confirm: String,
    route: String,
    size: usize,
}

fn main() {
    let mut run = Run {
        messages: 40_000,
        tenants: 1,
        mailboxes: 100,
        latency: Duration::ZERO,
        confirm: "off".into(),
        route: "graph".into(),
        size: 10_000,
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().expect("a value behind each option");
        match name.as_str() {
            "--messages" => run.messages = value.parse().expect("a number"),
            "--tenants" => run.tenants = value.parse().expect("a number"),
            "--mailboxes" => run.mailboxes = value.parse().expect("a number"),
            "--latency-ms" => run.latency = Duration::from_millis(value.parse().expect("a number")),
            "--confirm" => run.confirm = value,
            "--route" => run.route = value,
            "--size" => run.size = value.parse().expect("a number"),
            _ => panic!("there is no option {name}"),
        }
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(deliver(&run));
}

async fn deliver(run: &Run) {
    // No group may write to a configuration's files, whatever the umask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().expect("a folder");
    fill(&dir.path().join("spool"), run).await;
    let service = Service::start(Options {
        directories: (0..run.tenants)
            .map(|n| {
                let mut directory = Directory::new(format!("t{n}.example"), "app", "secret");
                directory.roles.push("SMTP.SendAsApp".into());
                directory
            })
            .collect(),
        limits: Limits::unthrottled(),
        latency: run.latency,
        keep_messages: 1,
        keep_calls: 0,
        ..Options::default()
    })
    .await
    .expect("the simulated service");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, configuration(&service, &dir.path().join("ca.pem"), run))
        .expect("a configuration");
    let (mut relay, admin) = start(&config);

    let mut peak_in_flight = 0.0f64;
    let mut first = None;
    while service.counts().messages < run.messages as u64 {
        if first.is_none() && service.counts().messages > 0 {
            first = Some((Instant::now(), service.counts().messages, cpu(relay.id())));
        }
        if !run.latency.is_zero() {
            peak_in_flight = peak_in_flight.max(in_flight(&admin));
        }
        tokio::time::sleep(Duration::from_millis(if run.latency.is_zero() { 1 } else { 50 })).await;
    }
    let (began, before, cpu_before) = first.expect("it began");
    let (took, count) = (began.elapsed(), run.messages as u64 - before);
    let cpu = cpu(relay.id()) - cpu_before;
    let memory = largest_memory(relay.id());
    relay.kill().expect("the relay runs");
    relay.wait().expect("it ends");
    println!(
        "{count} messages of {} octets from {} mailboxes of {} tenants, route {}, confirm {}, {} ms a call: {:.0}/s, {:.0} µs of processor time each, \
         {:.1} MB at most{}",
        run.size,
        run.mailboxes,
        run.tenants,
        run.route,
        run.confirm,
        run.latency.as_millis(),
        count as f64 / took.as_secs_f64(),
        cpu.as_micros() as f64 / count as f64,
        memory as f64 / 1e6,
        if run.latency.is_zero() { String::new() } else { format!(", {peak_in_flight} in flight at most") }
    );
}

async fn fill(spool: &Path, run: &Run) {
    let store = DiskStore::open(spool).expect("a spool");
    let (spool, _events) = Spool::start(store, ()).expect("a spool");
    let mut waiting = Vec::new();
    for n in 0..run.messages {
        let author: MailboxAddress =
            format!("m{}@t{}.example", n % run.mailboxes, n % run.mailboxes % run.tenants)
                .parse()
                .expect("an address");
        let recipient: MailboxAddress = "b@example.net".parse().expect("an address");
        let (id, mut body) = spool.begin();
        let header = format!(
            "From: {author}\r\nTo: {recipient}\r\nSubject: number {n}\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n\
             Message-ID: <{id}@bench.example>\r\n\r\n"
        );
        let line = format!("{}\r\n", "x".repeat(76));
        let lines = line.repeat(run.size.saturating_sub(header.len()) / line.len());
        body.write(format!("{header}{lines}").as_bytes()).await.expect("room");
        let envelope =
            Envelope::new(Some(author.clone()), [recipient], BodyKind::EightBitMime).expect("a recipient");
        let tenant = format!("t{}", n % run.mailboxes % run.tenants).parse().expect("a name");
        let message = Message { tenant, ingress: Ingress::Smtp, envelope, author, bounce_of: None };
        let new = NewMessage { id, message, body: body.finish().await.expect("room") };
        let spool = spool.clone();
        waiting.push(tokio::spawn(async move { spool.accept(new).await.map(drop) }));
        if waiting.len() == 500 {
            for accepted in waiting.drain(..) {
                accepted.await.expect("it ends").expect("it is stored");
            }
        }
    }
    for accepted in waiting {
        accepted.await.expect("it ends").expect("it is stored");
    }
}

/// `ca` is where the service's certificate is written to.
fn configuration(service: &Service, ca: &Path, run: &Run) -> String {
    let (url, smtp) = (service.url(), service.smtp_address().expect("it takes SMTP"));
    std::fs::write(ca, service.ca_pem()).expect("a certificate");
    let mut text = format!(
        "[spool]\npath = 'spool'\nmin_free = 0\n[smtp]\nhostname = 'bench.example'\n[[smtp.listener]]\naddress = '127.0.0.1:0'\n\
         [admin]\naddress = '127.0.0.1:0'\n[log]\nformat = 'json'\nfilter = 'warn,m365_relay::relay=info'\n\
         [limits]\nmessages_per_minute = 0\nconcurrent_requests = 0\nrecipients_per_day = 0\nrequests_per_10_minutes = 0\n\
         upload_per_5_minutes = 0\napp_requests_per_10_seconds = 0\n[clouds.bench]\nlogin = '{url}'\ngraph = '{url}'\nsmtp = '{smtp}'\n\
         ca_file = '{}'\n",
        ca.display()
    );
    for n in 0..run.tenants {
        text += &format!(
            "[tenants.t{n}]\ncloud = 'bench'\ndirectory = 't{n}.example'\nclient_id = 'app'\nclient_secret = 'secret'\n\
             senders = ['*']\nnetworks = ['127.0.0.{n}']\nconfirm = '{}'\nroute = '{}'\n",
            run.confirm, run.route
        );
    }
    text
}

/// Starts the relay and returns the address of its metrics. What this process had open of the spool is closed
/// a moment after it was dropped.
fn start(config: &Path) -> (Child, String) {
    for _ in 0..50 {
        if let Some(started) = try_start(config) {
            return started;
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    panic!("the relay does not start");
}

fn try_start(config: &Path) -> Option<(Child, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
        .args(["serve", "--config"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the relay starts");
    let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
    let (mut admin, mut is_ready) = (String::new(), false);
    for line in lines.by_ref().map_while(Result::ok) {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["message"] == "listening for metrics and health" {
            admin = entry["address"].as_str().unwrap_or_default().to_owned();
        }
        if entry["message"] == "ready" {
            is_ready = true;
            break;
        }
    }
    if !is_ready {
        child.wait().expect("it has ended");
        return None;
    }
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
    Some((child, admin))
}

/// User and system time together.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // The state is not a number: utime and stime are the 11th and 12th fields after it. Ticks are hundredths.
    Duration::from_millis((fields[10] + fields[11]) * 10)
}

/// In octets.
fn largest_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

fn in_flight(admin: &str) -> f64 {
    let Ok(mut stream) = TcpStream::connect(admin) else { return 0.0 };
    if write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").is_err() {
        return 0.0;
    }
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let lines = text.lines().filter(|line| line.starts_with("m365_relay_in_flight{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
