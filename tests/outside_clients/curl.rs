//! curl, with which scripts send mail.

use std::{fs, process::Output};

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, Mail, base64_mail, message, run},
    installed,
    login::{PASSWORD, USER, authority, lab_with_login_in_clear, lab_with_tls, with_user},
    shown,
};

fn curl(lab: &Lab, scheme: &str, arguments: &[&str], content: &[u8]) -> Output {
    let file = lab.folder().join("message.eml");
    fs::write(&file, content).unwrap();
    let url = format!("{scheme}://{}/client.example", lab.smtp_address());
    let mut curl = installed("curl", "curl");
    // The first: do not read a settings file.
    curl.args(["-q", "-sS", "-v", "--noproxy", "*", &url, "--upload-file"]).arg(&file);
    run(curl.args(["--mail-from", FROM]).args(arguments))
}

#[test]
fn curl_sends_a_file() {
    let lab = Lab::start();
    let content = eight_bit_message();
    assert_success(&curl(&lab, "smtp", &["--mail-rcpt", TO, "--mail-rcpt", "c@example.net"], &content));

    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [TO, "c@example.net"]);
    // The second recipient is in no field, and is put into one for Microsoft 365.
    let (header, body) = split(delivered.as_sent());
    let (sent_header, sent_body) = split(&content);
    assert!(
        body == sent_body && header == format!("{sent_header}Bcc: <c@example.net>\r\n"),
        "{}",
        delivered.text()
    );
}

/// Header and body as text.
fn split(content: &[u8]) -> (String, String) {
    let text = String::from_utf8(content.to_vec()).unwrap();
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    (format!("{header}\r\n"), body.to_owned())
}

#[test]
fn curl_sends_a_large_file() {
    let lab = Lab::start();
    let content = base64_mail(FROM, TO, "large", 1_500_000);
    assert_success(&curl(&lab, "smtp", &["--mail-rcpt", TO], &content));
    assert!(lab.wait_for(1)[0].as_sent() == content);
}

#[test]
fn curl_goes_on_without_a_recipient_that_is_refused() {
    let lab = Lab::start();
    let recipients = ["--mail-rcpt-allowfails", "--mail-rcpt", "postmaster", "--mail-rcpt", TO];
    assert_success(&curl(&lab, "smtp", &recipients, &message(FROM, TO, "some")));
    assert_eq!(lab.wait_for(1)[0].recipients, [TO]);
}

#[test]
fn curl_writes_to_an_address_that_is_not_ascii() {
    let lab = Lab::start();
    let to = "b\u{fc}ro@example.net";
    let content = message(FROM, to, "utf8");
    assert_success(&curl(&lab, "smtp", &["--mail-rcpt", to], &content));
    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [to]);
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}

#[test]
fn curl_logs_in() {
    logs_in(&lab_with_login_in_clear(), "smtp", &[]);
}

#[test]
fn curl_encrypts_and_logs_in() {
    logs_in(&lab_with_tls("starttls", with_user), "smtp", &["--ssl-reqd"]);
    let implicit = lab_with_tls("implicit", with_user);
    logs_in(&implicit, "smtps", &[]);
    // CURLE_PEER_FAILED_VERIFICATION: a client that does not know the authority does not send.
    let stranger = curl(&implicit, "smtps", &["--mail-rcpt", TO], &message(FROM, TO, "stranger"));
    assert_eq!(stranger.status.code(), Some(60), "{}", shown(&stranger));
}

fn logs_in(lab: &Lab, scheme: &str, encryption: &[&str]) {
    let content = message(FROM, TO, "login");
    let trusted = authority(lab).display().to_string();
    let send = |password: &str, options: &[&str]| {
        let user = format!("{USER}:{password}");
        let usual = ["--cacert", &*trusted, "--mail-rcpt", TO, "--user", &user];
        curl(lab, scheme, &[encryption, &usual, options].concat(), &content)
    };
    let refused = send("wrong", &[]);
    // CURLE_LOGIN_DENIED
    assert_eq!(refused.status.code(), Some(67), "{}", shown(&refused));
    for mechanism in ["AUTH=PLAIN", "AUTH=LOGIN"] {
        assert_success(&send(PASSWORD, &["--login-options", mechanism]));
    }
    // The initial response on the command line.
    assert_success(&send(PASSWORD, &["--sasl-ir"]));
    for delivered in lab.wait_for(3) {
        assert!(delivered.as_sent() == content, "{}", delivered.text());
    }
}
