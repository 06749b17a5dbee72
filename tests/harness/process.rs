//! The relay as a child process: its addresses, its log, its end.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

use super::{PATIENCE, Setup, holds_within};

/// Killed when it is dropped.
pub struct Process {
    pub smtp: SocketAddr,
    /// Every listener, in the order of the configuration.
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
    child: Child,
    log: Arc<Log>,
    /// The reader of its log.
    reader: Option<JoinHandle<()>>,
}

/// What the relay has written to standard error, line by line, over all its starts.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Vec<String>>,
    reading: Mutex<Reading>,
}

/// How standard error is read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    #[default]
    Steadily,
    /// Not now: the pipe fills up.
    Paused,
    /// No longer read: the pipe is closed.
    Never,
}

impl Process {
    /// Returns when the relay says that it is ready.
    pub fn start(setup: &Setup, config: &Path, log: &Arc<Log>) -> Self {
        let Setup { wrapper, nonblocking_log, log_file, .. } = setup;
        let log_file = log_file.clone();
        let command_line = wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_m365-relay")]);
        let command_line: Vec<_> = command_line.collect();
        let (reader, stderr) = std::io::pipe().unwrap();
        if *nonblocking_log {
            fcntl_setfl(&stderr, OFlags::NONBLOCK).unwrap();
        }
        let child = Command::new(command_line[0])
            .args(&command_line[1..])
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let first = log.lines().len();
        log.read(Reading::Steadily);
        let to_log = log.clone();
        let process = child.id();
        let file = log_file.map(|file| format!("/proc/{process}/root{}", file.display()));
        let reader = thread::spawn(move || {
            if let Some(file) = file {
                return to_log.follow(&file, process);
            }
            let mut lines = BufReader::new(reader).lines();
            loop {
                match to_log.reading() {
                    Reading::Steadily => match lines.next() {
                        Some(Ok(line)) => to_log.push(line),
                        Some(Err(_)) | None => return,
                    },
                    Reading::Paused => thread::park_timeout(Duration::from_millis(5)),
                    Reading::Never => return,
                }
            }
        });
        // A child that does not start properly is killed all the same.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = Vec::new();
        let mut process =
            Self { smtp: nowhere, listeners, admin: nowhere, child, log: log.clone(), reader: None };
        let said = |message: &str| log.entries_from(first).into_iter().find(|e| e["message"] == message);
        let mut died = false;
        let is_ready = holds_within(PATIENCE, || {
            died = process.child.try_wait().unwrap().is_some();
            died || said("ready").is_some()
        });
        process.reader = Some(reader);
        if died {
            // Its last words.
            process.reader.take().unwrap().join().unwrap();
        }
        assert!(is_ready && !died, "the relay does not start: {:?}", &log.lines()[first..]);
        let address = |message| said(message).unwrap()["address"].as_str().unwrap().parse().unwrap();
        process.smtp = address("listening for SMTP");
        let listeners = log.entries_from(first).into_iter().filter(|e| e["message"] == "listening for SMTP");
        process.listeners = listeners.map(|e| e["address"].as_str().unwrap().parse().unwrap()).collect();
        process.admin = address("listening for metrics and health");
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.read_last_words();
    }

    /// For a process that has ended: what it wrote is then in the log, as far as it is still read.
    fn read_last_words(&mut self) {
        if self.log.reading() != Reading::Paused {
            holds_within(PATIENCE, || self.reader.as_ref().is_none_or(JoinHandle::is_finished));
        }
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Waits for the process to end by itself, in `time` at most, and for its last words. Returns the exit
    /// code, `None` after a signal.
    pub fn end(mut self, time: Duration) -> Option<i32> {
        let ended = holds_within(time, || self.child.try_wait().unwrap().is_some());
        assert!(ended, "the relay does not end");
        let status = self.child.wait().unwrap();
        self.read_last_words();
        status.code()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends SIGTERM. Returns the exit code, `None` after a signal.
    pub fn terminate(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let ended = holds_within(PATIENCE, || self.child.try_wait().unwrap().is_some());
        assert!(ended, "the relay does not stop");
        let status = self.child.wait().unwrap();
        self.read_last_words();
        status.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    /// Sets how the log is read from the next line on.
    pub fn read(&self, how: Reading) {
        *self.reading.lock().unwrap() = how;
    }

    fn reading(&self) -> Reading {
        *self.reading.lock().unwrap()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn entries(&self) -> Vec<Value> {
        self.entries_from(0)
    }

    fn entries_from(&self, first: usize) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines[first..].iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Reads what is appended to a file while the process exists, as that process sees it.
    fn follow(&self, path: &str, process: u32) {
        let mut file = None;
        let mut rest = Vec::new();
        loop {
            let is_over = !Path::new(&format!("/proc/{process}/root/")).exists();
            if file.is_none() {
                file = File::open(path).ok();
            }
            if let Some(file) = &mut file {
                file.read_to_end(&mut rest).unwrap();
            }
            while let Some(end) = rest.iter().position(|&octet| octet == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                self.push(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if is_over {
                return;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn push(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

/// Status and body.
pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    http_ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

/// The same by the socket for commands.
pub fn socket_ask(socket: &Path, request: &str) -> (u16, String) {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    http_ask(stream, request)
}

fn http_ask(mut stream: impl Read + Write, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    (head[9..12].parse().unwrap(), body.to_owned())
}
