//! What an operator waits for, and what others wait for meanwhile: a spool full of messages of one tenant,
//! which is suspended, the relay's binary, and another tenant whose mail is delivered by a simulated
//! Microsoft 365 in this process.
//!
//!     cargo bench --bench operate -- [--messages N]
//!
//! Prints how long the commands of the queue take, and the 99th percentile of the time from the client's
//! first octet to the arrival at the service, with and without a deletion of a tenth of the messages beside
//! it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use relay_mail::{BodyKind, Envelope, Ingress, MailboxAddress};
use relay_sandbox::{Directory, Limits, Options, Service};
use relay_spool::{DiskStore, Message, NewMessage, Spool};

/// A tenth of the messages is of each.
const MAILBOXES: usize = 10;
const OCTETS: usize = 1_000;
/// Runs of a command.
const TIMES: usize = 11;

fn main() {
    let mut messages = 1_000_000;
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        assert_eq!(name, "--messages", "the only option");
        messages = arguments.next().and_then(|value| value.parse().ok()).expect("a number");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(operate(messages));
}

async fn operate(messages: usize) {
    // No group may write to a configuration's files, whatever the umask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().expect("a folder");
    let last = fill(&dir.path().join("spool"), messages).await;
    let service = Service::start(Options {
        directories: vec![Directory::new("t1.example", "app", "secret")],
        limits: Limits::unthrottled(),
        keep_messages: 1,
        keep_calls: 0,
        ..Options::default()
    })
    .await
    .expect("the simulated service");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, configuration(&service)).expect("a configuration");
    let (mut relay, smtp) = start(&config);

    println!("{messages} messages of {OCTETS} octets");
    for (what, arguments) in [
        ("queue list --limit 50", &["queue", "list", "--limit", "50"][..]),
        ("queue list --limit 1000 --json", &["queue", "list", "--limit", "1000", "--json"]),
        ("queue show ID", &["queue", "show", &last]),
        ("queue list --tenant t1", &["queue", "list", "--tenant", "t1"]),
        ("queue summary", &["queue", "summary"]),
        ("queue summary --by mailbox", &["queue", "summary", "--by", "mailbox"]),
        ("status", &["status"]),
        ("tenant list", &["tenant", "list"]),
    ] {
        let mut times: Vec<_> = (0..TIMES).map(|_| timed(&config, arguments)).collect();
        times.sort_unstable();
        println!("{what:<40} {:>9.1} ms", times[TIMES / 2].as_secs_f64() * 1e3);
    }
    let whole = timed(&config, &["queue", "list", "--to", "nobody@example.net"]);
    println!("{:<40} {:>9.1} ms", "queue list --to (of nobody)", whole.as_secs_f64() * 1e3);

    let mut client = Client::connect(&smtp);
    let count = (messages / 500).clamp(200, 2000);
    client.latencies(&service, 50, || false).await;
    let quiet = client.latencies(&service, count, || false).await;
    let mailbox = format!("m0@{}", "t0.example");
    let mut deletion = relay_command(&config, &["queue", "delete", "--yes", "--mailbox", &mailbox])
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let began = Instant::now();
    let mut took = None;
    let busy = client
        .latencies(&service, usize::MAX, || {
            let status = deletion.try_wait().expect("it runs");
            status.is_some_and(|status| {
                assert!(status.success(), "{status}");
                took = Some(began.elapsed());
                true
            })
        })
        .await;
    let took = took.expect("it has ended").as_secs_f64();
    println!(
        "queue delete --mailbox of {}: {took:.1} s, {:.0}/s",
        messages / MAILBOXES,
        (messages / MAILBOXES) as f64 / took
    );
    for (what, latencies) in [("without it", &quiet), ("beside it", &busy)] {
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!(
            "another tenant's mail, {what}: {} messages, median {:.2} ms, p99 {:.2} ms",
            latencies.len(),
            at(0.5),
            at(0.99)
        );
    }
    relay.kill().expect("the relay runs");
    relay.wait().expect("it ends");
}

/// Returns an id.
async fn fill(spool: &Path, messages: usize) -> String {
    let store = DiskStore::open(spool).expect("a spool");
    let (spool, _events) = Spool::start(store, ()).expect("a spool");
    let mut waiting = Vec::new();
    let mut last = String::new();
    for n in 0..messages {
        let author: MailboxAddress = format!("m{}@t0.example", n % MAILBOXES).parse().expect("an address");
        let recipient: MailboxAddress = format!("b{n}@example.net").parse().expect("an address");
        let (id, mut body) = spool.begin();
        last = id.to_string();
        body.write(&mail(&author, n)).await.expect("room");
        let envelope =
            Envelope::new(Some(author.clone()), [recipient], BodyKind::EightBitMime).expect("a recipient");
        let tenant = "t0".parse().expect("a name");
        let message = Message { tenant, ingress: Ingress::Smtp, envelope, author, bounce_of: None };
        let new = NewMessage { id, message, body: body.finish().await.expect("room") };
        let spool = spool.clone();
        waiting.push(tokio::spawn(async move { spool.accept(new).await.map(drop) }));
        if waiting.len() == 500 || n + 1 == messages {
            for accepted in waiting.drain(..) {
                accepted.await.expect("it ends").expect("it is stored");
            }
        }
    }
    last
}

fn mail(author: &MailboxAddress, n: usize) -> Vec<u8> {
    let header = format!(
        "From: {author}\r\nTo: b@example.net\r\nSubject: number {n}\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n\
         Message-ID: <{n}@bench.example>\r\n\r\n"
    );
    let line = format!("{}\r\n", "x".repeat(76));
    let lines = line.repeat(OCTETS.saturating_sub(header.len()) / line.len());
    format!("{header}{lines}").into_bytes()
}

fn configuration(service: &Service) -> String {
    let url = service.url();
    let mut text = format!(
        "[spool]\npath = 'spool'\nmin_free = 0\n[smtp]\nhostname = 'bench.example'\n\
         [[smtp.listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n\
         [log]\nformat = 'json'\nfilter = 'warn,m365_relay::relay=info,m365_relay::admin=info'\n\
         [limits]\nmessages_per_minute = 0\nconcurrent_requests = 0\nrecipients_per_day = 0\n\
         requests_per_10_minutes = 0\nupload_per_5_minutes = 0\napp_requests_per_10_seconds = 0\n\
         [clouds.bench]\nlogin = '{url}'\ngraph = '{url}'\n"
    );
    for (name, more) in [("t0", "suspended = true"), ("t1", "networks = ['127.0.0.1']")] {
        text += &format!(
            "[tenants.{name}]\ncloud = 'bench'\ndirectory = '{name}.example'\nclient_id = 'app'\n\
             client_secret = 'secret'\nsenders = ['@{name}.example']\nconfirm = 'off'\n{more}\n"
        );
    }
    text
}

fn relay_command(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_m365-relay"));
    command.args(arguments).arg("--config").arg(config);
    command
}

/// How long a command takes, from the start of its process to its end.
fn timed(config: &Path, arguments: &[&str]) -> Duration {
    let began = Instant::now();
    let output = relay_command(config, arguments).output().expect("it starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    began.elapsed()
}

/// Starts the relay and returns its address for SMTP. What this process had open of the spool is closed a
/// moment after it was dropped.
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
    let mut child = relay_command(config, &["serve"]).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
    let (mut smtp, mut is_ready) = (String::new(), false);
    for line in lines.by_ref().map_while(Result::ok) {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["message"] == "listening for SMTP" {
            smtp = entry["address"].as_str().unwrap_or_default().to_owned();
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
    // Read, as a log is.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Some((child, smtp))
}

/// Messages of one connection: the relay takes a limited number.
const A_CONNECTION: usize = 1000;

/// A client of the other tenant.
struct Client {
    stream: BufReader<TcpStream>,
    address: String,
}

impl Client {
    fn connect(address: &str) -> Self {
        let stream = BufReader::new(TcpStream::connect(address).expect("it listens"));
        let mut client = Self { stream, address: address.to_owned() };
        client.reply("220");
        client.say("EHLO bench.example", "250");
        client
    }

    /// Sends one message after the other, each when the last has arrived. Returns how long each took, sorted.
    async fn latencies(
        &mut self,
        service: &Service,
        count: usize,
        mut is_over: impl FnMut() -> bool,
    ) -> Vec<Duration> {
        let author = "a@t1.example".parse().expect("an address");
        let content = [mail(&author, 0), b".\r\n".to_vec()].concat();
        let mut latencies = Vec::new();
        while latencies.len() < count && !is_over() {
            if latencies.len() % A_CONNECTION == A_CONNECTION - 1 {
                *self = Self::connect(&self.address.clone());
            }
            let before = service.counts().messages;
            let began = Instant::now();
            self.say(&format!("MAIL FROM:<{author}>"), "250");
            self.say("RCPT TO:<b@example.net>", "250");
            self.say("DATA", "354");
            self.stream.get_mut().write_all(&content).expect("it reads");
            self.reply("250");
            while service.counts().messages == before {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            latencies.push(began.elapsed());
        }
        latencies.sort_unstable();
        latencies
    }

    fn say(&mut self, line: &str, code: &str) {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("it reads");
        self.reply(code);
    }

    fn reply(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("it answers");
            assert!(line.starts_with(code), "{line}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return;
            }
        }
    }
}
