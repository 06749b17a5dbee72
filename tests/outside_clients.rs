//! Mail clients and a checker that others wrote: swaks, smtp-source (Postfix) and promtool (Prometheus).
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

use harness::{Lab, Mail, message, run};

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
