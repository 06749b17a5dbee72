//! swaks, which can be told each step of a session.

use std::{fs, process::Output};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, Mail, run},
    installed,
    login::{PASSWORD, USER, authority, lab_with_login_in_clear, lab_with_tls, with_user},
    shown,
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

#[test]
fn swaks_sends_eight_bits_as_they_are() {
    let lab = Lab::start();
    let content = eight_bit_message();
    let file = lab.folder().join("message.eml");
    // swaks adds the end of the last line.
    fs::write(&file, content.strip_suffix(b"\r\n").unwrap()).unwrap();
    swaks_sends(&lab, &["--from", FROM, "--to", TO, "--data", &format!("@{}", file.display())]);

    let delivered = lab.wait_for(1).remove(0);
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}

#[test]
fn swaks_logs_in() {
    logs_in(&lab_with_login_in_clear(), &[], "ESMTPA");
}

#[test]
fn swaks_encrypts_and_logs_in() {
    for (tls, option) in [("starttls", "--tls"), ("implicit", "--tls-on-connect")] {
        let lab = lab_with_tls(tls, with_user);
        let authority = authority(&lab).display().to_string();
        logs_in(&lab, &[option, "--tls-verify", "--tls-ca-path", &authority], "ESMTPSA");
    }
}

fn logs_in(lab: &Lab, encryption: &[&str], protocol: &str) {
    for mechanism in ["PLAIN", "LOGIN"] {
        let send = |password: &str| {
            let login = ["--auth", mechanism, "--auth-user", USER, "--auth-password", password];
            let mail = ["--from", FROM, "--to", TO, "--h-Subject", mechanism];
            swaks(lab, &[encryption, &login, &mail].concat())
        };
        let refused = send("wrong");
        assert!(!refused.status.success() && shown(&refused).contains("* 535 5.7.8 "), "{}", shown(&refused));
        assert_success(&send(PASSWORD));
    }
    for delivered in lab.wait_for(2) {
        let received = delivered.fields("Received").remove(0);
        assert!(received.contains(&format!(" with {protocol} id ")), "{received}");
    }
}

#[test]
fn swaks_finds_no_login_in_clear() {
    no_login(&Lab::with(with_user));
}

#[test]
fn swaks_finds_no_login_before_starttls() {
    no_login(&lab_with_tls("starttls", with_user));
}

fn no_login(lab: &Lab) {
    let login = ["--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD];
    let output = swaks(lab, &[&login[..], &["--from", FROM, "--to", TO]].concat());
    assert!(!output.status.success() && !shown(&output).contains("AUTH PLAIN"), "{}", shown(&output));
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 0);
}

#[test]
fn swaks_comes_through_a_proxy() {
    let lab = Lab::with(|setup| {
        setup.listener = "proxies = ['127.0.0.1']".into();
        setup.tenant("contoso").networks = "['192.0.2.0/24', '2001:db8::/32']".into();
    });
    for (version, family, source, destination) in [
        ("1", "TCP4", "192.0.2.7", "192.0.2.25"),
        ("1", "TCP6", "2001:db8::7", "2001:db8::25"),
        ("2", "AF_INET", "192.0.2.7", "192.0.2.25"),
        ("2", "AF_INET6", "2001:db8::7", "2001:db8::25"),
    ] {
        let proxy = ["--proxy-version", version, "--proxy-family", family, "--proxy-source", source];
        let ports = ["--proxy-source-port", "40000", "--proxy-dest", destination, "--proxy-dest-port", "25"];
        swaks_sends(
            &lab,
            &[&proxy[..], &ports, &["--from", FROM, "--to", TO, "--h-Subject", source]].concat(),
        );
    }
    for delivered in lab.wait_for(4) {
        let received = delivered.fields("Received").remove(0);
        let literal = match &*delivered.subject {
            "192.0.2.7" => "[192.0.2.7]",
            _ => "[IPv6:2001:db8::7]",
        };
        assert!(received.contains(literal), "{received}");
    }
}
