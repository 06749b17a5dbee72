//! swaks, which can be told each step of a session.

use std::{fs, process::Output};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    FROM, TO, assert_success,
    harness::{Lab, Mail, run},
    installed, shown,
};

fn swaks(lab: &Lab, arguments: &[&str]) -> Output {
    let server = lab.smtp_address().to_string();
    run(installed("swaks", "swaks").args(["--server", &server, "--helo", "client.example"]).args(arguments))
}

fn swaks_sends(lab: &Lab, arguments: &[&str]) {
    let output = swaks(lab, arguments);
    assert_success(&output);
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
