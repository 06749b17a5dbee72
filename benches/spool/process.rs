//! The real binary on a spool, with a tenant whose login service does not exist: nothing is delivered.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::mail::TENANT;

/// A start that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Killed when it is dropped.
pub(crate) struct Relay {
    child: Child,
    _config: TempDir,
}

impl Relay {
    /// Starts a relay; returns once `/readyz` answers 200, with the time since the spawning.
    pub(crate) async fn start(spool: &Path) -> (Self, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        fs::write(&config, configuration(spool)).unwrap();
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut relay = Self { child, _config: folder };
        let (lines, said) = mpsc::channel();
        let stderr = relay.child.stderr.take().unwrap();
        // Keeps reading when nothing listens any more: a full pipe would hold the relay up.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let admin = admin_address(&said);
        while !is_ready(admin) {
            assert!(started.elapsed() < PATIENCE, "the relay does not get ready");
            sleep(Duration::from_millis(1)).await;
        }
        (relay, started.elapsed())
    }

    /// A field of `/proc/PID/status`, in octets.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        memory_of(&self.child.id().to_string(), field)
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the relay stops with {status}");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `process` is a number or `self`.
pub(crate) fn memory_of(process: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn admin_address(said: &mpsc::Receiver<String>) -> SocketAddr {
    let mut lines = Vec::new();
    loop {
        let Ok(line) = said.recv_timeout(PATIENCE) else {
            panic!("the relay does not start:\n{}", lines.join("\n"));
        };
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["message"] == "listening for metrics and health" {
            return entry["address"].as_str().unwrap().parse().unwrap();
        }
        lines.push(line);
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin) else { return false };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200 ")
}

fn configuration(spool: &Path) -> String {
    // Nothing listens on port 1 of loopback.
    format!(
        r#"
[spool]
path = {spool:?}
min_free = 0
[smtp]
hostname = "relay.example"
[[smtp.listener]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[log]
format = "json"
[clouds.lab]
login = "http://127.0.0.1:1"
graph = "http://127.0.0.1:1"
[tenants.{TENANT}]
cloud = "lab"
directory = "{TENANT}.example"
client_id = "{TENANT}-app"
client_secret = "a secret"
senders = ["@{TENANT}.example"]
networks = ["127.0.0.0/8"]
"#
    )
}
