//! msmtp, as programs on Unix call it in place of sendmail.

use std::process::Output;

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, Mail, message, run_with_input},
    installed,
    login::{PASSWORD, USER, authority, lab_with_login_in_clear, lab_with_tls, with_user},
    shown,
};

/// Runs with only these settings. `--host` keeps it from reading a file.
fn msmtp(lab: &Lab, arguments: &[&str], content: &[u8]) -> Output {
    let port = format!("--port={}", lab.smtp_address().port());
    let mut msmtp = installed("msmtp", "msmtp");
    msmtp.args(["--host=127.0.0.1", &port, "--domain=client.example"]).args(arguments);
    run_with_input(&mut msmtp, content)
}

fn msmtp_sends(lab: &Lab, arguments: &[&str], content: &[u8]) {
    assert_success(&msmtp(lab, arguments, content));
}

#[test]
fn msmtp_sends_what_it_is_given() {
    let lab = Lab::start();
    let content = eight_bit_message();
    // As programs on Unix write it.
    let unix = String::from_utf8(content.clone()).unwrap().replace("\r\n", "\n");
    msmtp_sends(&lab, &[&format!("--from={FROM}"), "--", TO], unix.as_bytes());

    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [TO]);
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}

#[test]
fn msmtp_reads_recipients_from_the_header() {
    let lab = Lab::start();
    let content = format!(
        "From: {FROM}\nTo: {TO}\nCc: c@example.net\nBcc: hidden@example.net\nSubject: three\n\nHello.\n"
    );
    // Once by default, and once with the Bcc field left for the relay to take out.
    for (n, bcc) in ["--remove-bcc-headers=on", "--remove-bcc-headers=off"].into_iter().enumerate() {
        msmtp_sends(&lab, &[&format!("--from={FROM}"), bcc, "-t"], content.as_bytes());
        let delivered = lab.wait_for(n + 1).remove(n);
        assert_eq!(delivered.recipients, [TO, "c@example.net", "hidden@example.net"]);
        assert_eq!(delivered.fields("Bcc").len(), 1, "only what Microsoft 365 needs to be told");
    }
}

#[test]
fn msmtp_learns_that_its_mail_was_handed_over() {
    let lab = Lab::start();
    let wishes = ["--dsn-notify=success,failure", "--dsn-return=headers"];
    let from = format!("--from={FROM}");
    msmtp_sends(&lab, &[&wishes[..], &[&from, "--", TO]].concat(), &message(FROM, TO, "wishes"));
    let report = lab.wait_for(2).into_iter().find(|message| message.recipients == [FROM]).unwrap();
    for part in ["Action: relayed\r\n", "Final-Recipient: rfc822; b@example.net\r\n"] {
        assert!(report.text().contains(part), "{}", report.text());
    }

    // And never about anything.
    msmtp_sends(&lab, &["--dsn-notify=never", &from, "--", TO], &message(FROM, TO, "no wishes"));
    lab.wait_until_empty();
    assert_eq!(lab.wait_for(3)[2].subject, "no wishes");
}

#[test]
fn msmtp_is_refused_with_a_foreign_sender() {
    let lab = Lab::start();
    let output = msmtp(&lab, &["--from=a@elsewhere.example", "--", TO], &message(FROM, TO, "foreign"));
    // EX_DATAERR and friends: what programs look at.
    assert!(!output.status.success() && shown(&output).contains("550 5.7.1"), "{}", shown(&output));
}

#[test]
fn msmtp_logs_in() {
    logs_in(&lab_with_login_in_clear(), &["--tls=off"]);
}

#[test]
fn msmtp_encrypts_and_logs_in() {
    for (tls, starttls) in [("starttls", "--tls-starttls=on"), ("implicit", "--tls-starttls=off")] {
        let lab = lab_with_tls(tls, with_user);
        let trust = format!("--tls-trust-file={}", authority(&lab).display());
        logs_in(&lab, &["--tls=on", starttls, &trust]);
        // A client that does not know the authority does not send.
        let from = format!("--from={FROM}");
        let stranger = msmtp(&lab, &["--tls=on", starttls, &from, "--", TO], &message(FROM, TO, "stranger"));
        assert!(
            !stranger.status.success() && shown(&stranger).contains("certificate"),
            "{}",
            shown(&stranger)
        );
    }
}

fn logs_in(lab: &Lab, encryption: &[&str]) {
    let from = format!("--from={FROM}");
    let user = format!("--user={USER}");
    for mechanism in ["--auth=plain", "--auth=login"] {
        let send = |password: &str, subject: &str| {
            let password = format!("--passwordeval=echo '{password}'");
            let mail = [&*from, &user, mechanism, &password, "--", TO];
            msmtp(lab, &[encryption, &mail].concat(), &message(FROM, TO, subject))
        };
        let refused = send("wrong", "refused");
        // EX_NOPERM
        assert_eq!(refused.status.code(), Some(77), "{}", shown(&refused));
        assert!(shown(&refused).contains("535 5.7.8"), "{}", shown(&refused));
        assert_success(&send(PASSWORD, mechanism));
    }
    for delivered in lab.wait_for(2) {
        assert!(delivered.as_sent() == message(FROM, TO, &delivered.subject), "{}", delivered.text());
    }
}
