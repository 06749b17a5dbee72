//! Mail clients and checkers that others wrote: swaks, smtp-source (Postfix), promtool (Prometheus) and strace.
//!
//! Behind the feature `outside-clients`, so that plain `cargo test` needs nothing but Rust. With it, a program that is not
//! installed fails its test.
#![cfg(feature = "outside-clients")]
// Test helpers are no test functions, which alone may unwrap by clippy's rules.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared by several test programs")]
mod harness;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use harness::{Lab, Mail, base64_mail, message, run, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

fn swaks(lab: &Lab, arguments: &[&str]) -> Output {
    let server = lab.smtp_address().to_string();
    run(Command::new("swaks").args(["--server", &server, "--helo", "client.example"]).args(arguments))
}

fn swaks_sends(lab: &Lab, arguments: &[&str]) {
    let output = swaks(lab, arguments);
    assert!(output.status.success(), "{}", shown(&output));
}

fn shown(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Postfix' programs are where only root's shell finds them.
fn smtp_source() -> Command {
    let installed = Path::new("/usr/sbin/smtp-source");
    Command::new(if installed.exists() { installed } else { Path::new("smtp-source") })
}

#[test]
fn swaks_sends_a_plain_message() {
    let lab = Lab::start();
    swaks_sends(&lab, &["--from", FROM, "--to", TO, "--body", "Hello.\n.\n.dot\n", "--h-Subject", "plain"]);

    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!((&*delivered.subject, &*delivered.mailbox), ("plain", FROM));
    assert_eq!(delivered.recipients, [TO]);
    assert!(delivered.text().contains("\r\n\r\nHello.\r\n.\r\n.dot\r\n"), "{}", delivered.text());
}

#[test]
fn swaks_pipelines() {
    let lab = Lab::start();
    let output = swaks(&lab, &["--pipeline", "--from", FROM, "--to", &format!("{TO},c@example.net")]);
    assert!(output.status.success() && shown(&output).contains("PIPELINING"), "{}", shown(&output));

    assert_eq!(lab.wait_for(1)[0].recipients, [TO, "c@example.net"]);
}

#[test]
fn swaks_attaches_a_file() {
    let lab = Lab::start();
    let file = lab.folder().join("scan.bin");
    let content: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) / 7) as u8).collect();
    fs::write(&file, &content).unwrap();
    let attach = format!("@{}", file.display());
    swaks_sends(&lab, &["--from", FROM, "--to", TO, "--attach", &attach]);

    let delivered = lab.wait_for(1).remove(0);
    let text = delivered.text();
    let (_, attached) = text.rsplit_once("Content-Transfer-Encoding: BASE64\r\n\r\n").unwrap();
    let encoded: String = attached.split("\r\n").take_while(|line| !line.starts_with("--")).collect();
    assert!(BASE64_STANDARD.decode(encoded).unwrap() == content, "not the file that was attached");
}

#[test]
fn swaks_sends_to_many_of_whom_the_header_names_one() {
    let lab = Lab::start();
    let recipients: Vec<String> = (0..20).map(|n| format!("r{n}@example.net")).collect();
    swaks_sends(&lab, &["--from", FROM, "--to", &recipients.join(","), "--h-To", "r0@example.net"]);

    let mut reached = lab.wait_for(1)[0].recipients.clone();
    let mut expected = recipients;
    reached.sort();
    expected.sort();
    assert_eq!(reached, expected);
}

#[test]
fn swaks_is_refused_with_a_foreign_sender() {
    let lab = Lab::start();
    let envelope = swaks(&lab, &["--from", "a@elsewhere.example", "--to", TO]);
    assert!(!envelope.status.success() && shown(&envelope).contains("550 5.7.1"), "{}", shown(&envelope));
    let header = swaks(&lab, &["--from", FROM, "--to", TO, "--h-From", "Boss <boss@fabrikam.example>"]);
    assert!(!header.status.success() && shown(&header).contains("550 5.7.1"), "{}", shown(&header));
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 0);
}

#[test]
fn smtp_source_sends_a_hundred_messages_in_ten_sessions() {
    let lab = Lab::start();
    let server = format!("inet:{}", lab.smtp_address());
    let arguments =
        ["-m", "100", "-s", "10", "-l", "10240", "-r", "2", "-f", FROM, "-t", TO, "-S", "load", &server];
    let output = run(smtp_source().args(arguments));
    assert!(output.status.success(), "{}", shown(&output));

    let delivered = lab.wait_for(100);
    lab.wait_until_empty();
    for message in &delivered {
        assert_eq!(message.recipients.len(), 2);
        assert!(message.raw.len() > 10_000);
    }
    assert_eq!(lab.metric("m365_relay_received_total", &[("tenant", "contoso")]), 100.0);
}

#[test]
fn promtool_accepts_the_metrics() {
    let lab = Lab::start();
    lab.send(FROM, &[TO], &message(FROM, TO, "counted"));
    lab.wait_for(1);
    lab.wait_until_empty();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(lab.page("/metrics").1.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    // It also complains about style: no word of that either.
    assert!(output.status.success() && shown(&output).is_empty(), "{}", shown(&output));
}

/// What the promise of the 250 rests on, seen from outside: body synced, its directory synced, index written, index synced,
/// and only then the reply.
#[test]
fn a_message_is_on_the_disk_before_its_250() {
    for (body, content) in
        [(".seg>", message(FROM, TO, "small")), ("/body/large/", base64_mail(FROM, TO, "large", 500_000))]
    {
        let lab = Lab::start();
        let trace = Trace::of(lab.process_id(), &lab.folder().join("strace"));
        lab.send(FROM, &[TO], &content);
        lab.wait_for(1);
        let calls = trace.calls();
        let after = |from: usize, what: &str, is_it: &dyn Fn(&str) -> bool| {
            let found = calls[from..].iter().position(|call| is_it(call));
            from + found.unwrap_or_else(|| panic!("no {what} after call {from}:\n{}", calls.join("\n")))
        };
        let written = after(0, "body", &|call| call.contains("write") && call.contains(body));
        let synced =
            after(written, "sync of the body", &|call| call.starts_with("fdatasync") && call.contains(body));
        let directory = calls.iter().position(|call| call.starts_with("fsync") && call.contains("/body"));
        let indexed = after(synced, "write to the index", &|call| {
            call.starts_with("pwrite64") && call.contains("/index/db>")
        });
        let index_synced = after(indexed, "sync of the index", &|call| {
            call.starts_with("fdatasync") && call.contains("/index/db>")
        });
        let replied = calls.iter().position(|call| call.contains("250 2.0.0 Ok: queued")).expect("a reply");
        assert!(directory.is_some_and(|directory| directory < index_synced), "{}", calls.join("\n"));
        assert!(index_synced < replied, "{}", calls.join("\n"));
    }
}

/// The same for each message of a group: many come at once, and each of them waits for its own.
#[test]
fn each_message_of_a_group_is_on_the_disk_before_its_250() {
    const CLIENTS: usize = 20;
    let lab = Lab::start();
    let trace = Trace::of(lab.process_id(), &lab.folder().join("strace"));
    let ids: Vec<String> = std::thread::scope(|scope| {
        let send = |n: usize| {
            let lab = &lab;
            move || lab.smtp().send(FROM, &[TO], &message(FROM, TO, &format!("number {n}")))
        };
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(send(n))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    lab.wait_for(CLIENTS);
    let calls = trace.calls();
    let all = calls.join("\n");
    let find = |from: usize, what: &str, is_it: &dyn Fn(&str) -> bool| {
        let found = calls[from..].iter().position(|call| is_it(call));
        from + found.unwrap_or_else(|| panic!("no {what} after call {from}:\n{all}"))
    };
    let directory =
        find(0, "sync of the directory", &|call| call.starts_with("fsync") && call.contains("/body>"));
    let mut groups = std::collections::BTreeSet::new();
    for id in ids {
        let written = find(0, "body", &|call| call.starts_with("pwritev") && call.contains(&id));
        let synced = find(written, "sync", &|call| call.starts_with("fdatasync") && call.contains(".seg>"));
        let indexed =
            find(synced, "index", &|call| call.starts_with("pwrite64") && call.contains("/index/db>"));
        let index_synced =
            find(indexed, "index sync", &|call| call.starts_with("fdatasync") && call.contains("/index/db>"));
        let replied =
            find(0, "reply", &|call| call.starts_with("send") && call.contains(&format!("queued as {id}")));
        assert!(directory < index_synced && index_synced < replied, "{id}:\n{all}");
        groups.insert(written);
    }
    assert!(groups.len() < CLIENTS, "nothing was written together");
}

/// strace on all threads of a process.
struct Trace {
    strace: std::process::Child,
    file: std::path::PathBuf,
}

impl Trace {
    fn of(process: u32, file: &Path) -> Self {
        let calls = "trace=write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,sendto,sendmsg";
        let strace = Command::new("strace")
            .args(["-f", "-y", "-s", "200", "-v", "-e", calls, "-p", &process.to_string(), "-o"])
            .arg(file)
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        wait_until("every thread is traced", || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
            let status =
                |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            threads.flatten().all(|thread| !status(thread).contains("TracerPid:\t0\n"))
        });
        Self { strace, file: file.to_owned() }
    }

    /// The calls in the order in which they ended, without the thread's number in front; the reply in the order in which it
    /// began.
    fn calls(mut self) -> Vec<String> {
        let terminate = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(terminate, rustix::process::Signal::TERM).unwrap();
        self.strace.wait().unwrap();
        let text = fs::read_to_string(&self.file).unwrap();
        let mut begun = std::collections::HashMap::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let (thread, call) = line.split_once(' ').unwrap();
            let call = call.trim_start();
            if call.starts_with("send") {
                calls.push(call.to_owned());
            } else if let Some(unfinished) = call.strip_suffix(" <unfinished ...>") {
                begun.insert(thread, unfinished);
            } else if call.starts_with("<...") {
                calls.extend(begun.remove(thread).map(str::to_owned));
            } else {
                calls.push(call.to_owned());
            }
        }
        calls
    }
}
