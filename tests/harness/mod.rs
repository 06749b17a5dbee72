//! A laboratory for tests of the real binary: the simulated Microsoft 365 in the test's process, a folder of
//! its own, and the relay as a child process with every port chosen by the system, so that tests run beside
//! each other.
//!
//! A test waits for conditions, with [`PATIENCE`] as the deadline. That nothing more arrives is never shown
//! by waiting: it follows from [`Lab::wait_until_empty`], after which nothing is left that could arrive.
//!
//! When a test fails, the relay's log is printed. However it ends, the relay is killed.

mod keys;
mod mail;
mod metrics;
mod process;
mod proxy;
mod setup;
mod smtp;
mod tls;

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use relay_sandbox::{Call, Delivered, Fault, Service};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::Instant};

pub use keys::{APP, APP_KEY, OTHER, certificate_der, federated_token, federates, first_token};
pub use mail::{Attached, Mail, base64_mail, fields, message, mixed_mail};
pub use metrics::Metrics;
pub use process::{Log, Process, Reading, socket_ask};
pub use proxy::{Proxy, ProxySetup, TlsFront};
pub use setup::{Setup, TenantSetup};
pub use smtp::{Reply, Smtp, Stream, with_end};
pub use tls::{make_certificate, shake};

/// For anything that takes milliseconds on an otherwise idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Lab {
    pub service: Service,
    pub setup: Setup,
    folder: TempDir,
    log: Arc<Log>,
    relay: Option<Process>,
    runtime: Runtime,
}

impl Lab {
    /// Two tenants, `contoso` and `fabrikam`, with `@NAME.example` as senders; no limits; retries after 200
    /// ms.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut lab = Self::without_relay(change);
        lab.restart();
        lab
    }

    /// Makes everything ready, without starting the relay: see [`Lab::restart`].
    pub fn without_relay(change: impl FnOnce(&mut Setup)) -> Self {
        private_umask();
        let mut setup = Setup::default();
        change(&mut setup);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = runtime.block_on(Service::start(setup.options())).unwrap();
        let lab = Self {
            service,
            setup,
            folder: tempfile::tempdir().unwrap(),
            log: Arc::default(),
            relay: None,
            runtime,
        };
        lab.write_config();
        lab
    }

    // === the relay's process ===

    /// Starts the relay, again or for the first time, and returns when it is ready.
    pub fn restart(&mut self) {
        assert!(self.relay.is_none(), "the relay runs already");
        self.relay = Some(Process::start(&self.setup, &self.config_file(), &self.log));
    }

    /// Kills the relay as a crash or `kill -9` does: returns when the process is gone.
    pub fn kill9(&mut self) {
        self.relay.take().expect("the relay runs").kill();
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.relay.take().expect("the relay runs").terminate()
    }

    /// Waits until the relay has ended by itself, and returns the exit code.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        self.relay.take().expect("the relay runs").end(2 * PATIENCE)
    }

    /// Whether the relay has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.relay.as_mut().expect("the relay runs").has_ended()
    }

    /// Sets how the relay's log is read from its next line on. A start reads it steadily.
    pub fn read_log(&self, how: Reading) {
        self.log.read(how);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.process().hang_up();
    }

    /// Runs the binary to its end, beside the relay.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(Command::new(env!("CARGO_BIN_EXE_m365-relay")).args(arguments).current_dir(self.folder()))
    }

    // === mail ===

    /// A client that has said EHLO.
    pub fn smtp(&self) -> Smtp {
        let mut smtp = Smtp::connect(self.smtp_address());
        assert_eq!(smtp.command("EHLO client.example").code, 250);
        smtp
    }

    /// Sends a message on a connection of its own; panics if it is not accepted.
    pub fn send(&self, from: &str, to: &[&str], content: &[u8]) {
        let mut smtp = self.smtp();
        smtp.send(from, to, content);
        smtp.quit();
    }

    pub fn process_id(&self) -> u32 {
        self.process().id()
    }

    pub fn smtp_address(&self) -> std::net::SocketAddr {
        self.process().smtp
    }

    pub fn admin_address(&self) -> std::net::SocketAddr {
        self.process().admin
    }

    /// The listener with that number, from 0.
    pub fn listener(&self, number: usize) -> std::net::SocketAddr {
        self.process().listeners[number]
    }

    /// The pickup folder of a tenant, once the relay has made it.
    pub fn pickup(&self, tenant: &str) -> PathBuf {
        let folder = self.folder().join("pickup").join(tenant);
        wait_until("the pickup folder", || folder.is_dir());
        folder
    }

    /// Returns the messages that the service has taken, once there are `count`. More than that fails.
    pub fn wait_for(&self, count: usize) -> Vec<Arc<Delivered>> {
        let messages = self.runtime.block_on(self.service.wait_for(count, PATIENCE));
        let subjects: Vec<_> = messages.iter().map(|message| &message.subject).collect();
        assert_eq!(messages.len(), count, "delivered are {subjects:?}");
        messages
    }

    /// Returns when the relay has nothing left to do: no mail in the spool, no delivery in progress.
    pub fn wait_until_empty(&self) {
        let names = ["m365_relay_queue_messages", "m365_relay_queue_bytes", "m365_relay_in_flight"];
        self.wait_for_metrics("the queue to be empty", |metrics| {
            names.iter().all(|name| metrics.sum(name, &[]) == 0.0)
        });
    }

    /// Returns when no worker holds a message: the spool has noted everything that the service has taken. A
    /// kill before that would leave a delivered message in doubt, and it may arrive twice.
    pub fn wait_until_settled(&self) {
        self.wait_for_metrics("deliveries to be settled", |metrics| {
            metrics.sum("m365_relay_in_flight", &[]) == 0.0
                && metrics.sum("m365_relay_queue_messages", &[("state", "leased")]) == 0.0
        });
    }

    // === the simulated service ===

    pub fn inject(&self, fault: Fault) {
        self.service.inject(fault);
    }

    /// The calls of sendMail of one mailbox that have been answered. A message is among the delivered ones a
    /// moment before its call is here: see [`Lab::wait_until_empty`].
    pub fn sends(&self, mailbox: &str) -> Vec<Call> {
        let calls = self.service.calls().into_iter();
        calls
            .filter(|call| call.path.ends_with("/sendMail"))
            .filter(|call| call.mailbox.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(mailbox)))
            .collect()
    }

    // === what the relay shows ===

    /// Status and body of a page of the relay.
    pub fn page(&self, path: &str) -> (u16, String) {
        process::http_get(self.process().admin, path)
    }

    /// Status and body of a page of the API, by the socket for commands.
    pub fn api(&self, method: &str, path: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: 0\r\n\r\n"
        );
        process::socket_ask(&self.socket(), &request)
    }

    /// The socket for commands.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("spool/admin.sock")
    }

    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.page("/metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
    }

    /// The sum over all series with these labels; zero if there are none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.wait_for_metrics(&format!("{name} {labels:?} to be {value}"), |metrics| {
            metrics.sum(name, labels) == value
        });
    }

    pub fn wait_for_metrics(&self, what: &str, is_so: impl Fn(&Metrics) -> bool) {
        wait_until(what, || is_so(&self.metrics()));
    }

    /// The log line with this message, as JSON, once it is there.
    pub fn wait_for_log(&self, message: &str) -> Value {
        self.wait_for_logs(message, 1).remove(0)
    }

    /// Waits for `count` log lines with this message, and returns all that have arrived by then.
    pub fn wait_for_logs(&self, message: &str, count: usize) -> Vec<Value> {
        wait_until(&format!("{count} times {message:?} in the log"), || self.logged(message).len() >= count);
        self.logged(message)
    }

    /// Log lines with this message, as JSON, over all starts, as far as they have arrived. A thread of its
    /// own writes the log: a line about an event of just now may not be in it yet, and never is if the relay
    /// is killed.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        self.log.entries().into_iter().filter(|entry| entry["message"] == message).collect()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    // === files ===

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    /// Writes the setup down, for the next start.
    pub fn write_config(&self) {
        let ca_file = self.folder().join("service.pem");
        fs::write(&ca_file, self.service.ca_pem()).unwrap();
        fs::write(self.config_file(), self.setup.config(&self.service, &ca_file)).unwrap();
    }

    fn process(&self) -> &Process {
        self.relay.as_ref().expect("the relay runs")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.relay.take());
        if thread::panicking() {
            eprintln!("=== the relay's log ===\n{}\n=== end of log ===", self.log.lines().join("\n"));
            eprintln!("=== calls ===");
            for Call { received_at_ms, path, status, body_len, .. } in self.service.calls() {
                eprintln!("{received_at_ms} {path} {status:?} {body_len}");
            }
            self.service.smtp_log().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Checks every few milliseconds; panics after [`PATIENCE`].
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, is_so), "waited {PATIENCE:?} for {what}");
}

/// Whether it becomes true within that time.
pub fn holds_within(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs a program that ends by itself, and kills it if it does not.
pub fn run(command: &mut Command) -> Output {
    run_with_input(command, b"")
}

/// The same, with something on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    // Files take any amount; a pipe that nobody reads would stop the program.
    let stdout = tempfile::tempfile().unwrap();
    let stderr = tempfile::tempfile().unwrap();
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    command.stdin(stdin).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let ended = holds_within(2 * PATIENCE, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let written = |mut file: File| {
        let mut octets = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut octets).unwrap();
        octets
    };
    let status = child.wait().unwrap();
    let output = Output { status, stdout: written(stdout), stderr: written(stderr) };
    assert!(ended, "{command:?} did not end: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Some people's umask lets a group write to a configuration, and the relay does not trust such a file.
pub fn private_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}
