//! The simulated Microsoft 365's SMTP submission, without a relay, by clients that know the real one.

use std::{fs, path::PathBuf};

use relay_sandbox::Via;
use serde_json::{Value, json};

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, TenantSetup, run, run_with_input},
    installed, shown,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside_clients/smtplib/submit.py");

fn lab() -> Lab {
    Lab::without_relay(|setup| setup.tenant("contoso").roles.push("SMTP.SendAsApp".into()))
}

/// The certificate file that clients should trust.
fn authority(lab: &Lab) -> PathBuf {
    let file = lab.folder().join("submission.pem");
    fs::write(&file, lab.service.ca_pem()).unwrap();
    file
}

fn port(lab: &Lab) -> u16 {
    lab.service.smtp_address().unwrap().port()
}

/// A token for Exchange Online, from contoso's application.
fn token(lab: &Lab) -> String {
    let secret = format!("client_secret={}", TenantSetup::secret("contoso"));
    let mut curl = installed("curl", "curl");
    curl.args([
        "-q",
        "-sS",
        "--noproxy",
        "*",
        "-d",
        "grant_type=client_credentials",
        "-d",
        "client_id=contoso-app",
    ]);
    curl.args(["--data-urlencode", &secret, "-d", "scope=https://outlook.office365.com/.default"]);
    let output = run(curl.arg(format!("{}/contoso.example/oauth2/v2.0/token", lab.service.url())));
    assert_success(&output);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Asserts that the sent content arrived octet for octet, by SMTP.
fn assert_submitted(lab: &Lab, count: usize, content: &[u8]) {
    let delivered = lab.wait_for(count).remove(count - 1);
    assert_eq!((delivered.via, &*delivered.mailbox), (Via::Smtp, FROM));
    assert_eq!(delivered.recipients, [TO]);
    assert_eq!(delivered.envelope.as_ref().unwrap().mail_from, FROM);
    assert!(*delivered.raw == *content, "{}", String::from_utf8_lossy(&delivered.raw));
}

#[test]
fn smtplib_submits_with_a_token() {
    let lab = lab();
    let content = eight_bit_message();
    let submit = |token: &str, initial_response: bool| -> Value {
        let options = json!({
            "host": "localhost", "port": port(&lab), "authority": authority(&lab), "user": FROM, "token": token,
            "from": FROM, "to": [TO], "initial_response": initial_response,
        });
        let output = run_with_input(
            installed("python3", "python3").args(["-I", SCRIPT, &options.to_string()]),
            &content,
        );
        assert_success(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let token = token(&lab);
    for (count, initial_response) in [(1, true), (2, false)] {
        let said = submit(&token, initial_response);
        assert_eq!(said["code"], 250, "{said}");
        assert_submitted(&lab, count, &content);
    }
    let said = submit("forged", true);
    let text = said["text"].as_str().unwrap();
    assert!(said["login"] == 535 && text.starts_with("5.7.3 Authentication unsuccessful"), "{said}");
}

#[test]
fn curl_submits_with_a_token() {
    let lab = lab();
    let content = eight_bit_message();
    let file = lab.folder().join("message.eml");
    fs::write(&file, &content).unwrap();
    let curl = |token: &str| {
        let mut curl = installed("curl", "curl");
        curl.args(["-q", "-sS", "-v", "--noproxy", "*", "--ssl-reqd", "--cacert"]).arg(authority(&lab));
        curl.args(["--user", FROM, "--oauth2-bearer", token, "--login-options", "AUTH=XOAUTH2"]);
        curl.args(["--mail-from", FROM, "--mail-rcpt", TO, "--upload-file"]).arg(&file);
        run(curl.arg(format!("smtp://127.0.0.1:{}/client.example", port(&lab))))
    };
    assert_success(&curl(&token(&lab)));
    assert_submitted(&lab, 1, &content);
    let refused = curl("forged");
    assert!(!refused.status.success() && shown(&refused).contains("535 5.7.3"), "{}", shown(&refused));
}

#[test]
fn msmtp_submits_with_a_token() {
    let lab = lab();
    let content = eight_bit_message();
    let unix = String::from_utf8(content.clone()).unwrap().replace("\r\n", "\n");
    let token = lab.folder().join("token");
    fs::write(&token, self::token(&lab)).unwrap();
    let mut msmtp = installed("msmtp", "msmtp");
    msmtp.args(["--host=127.0.0.1", &format!("--port={}", port(&lab)), "--domain=client.example"]);
    msmtp.args(["--tls=on", &format!("--tls-trust-file={}", authority(&lab).display()), "--auth=xoauth2"]);
    msmtp.args([&format!("--user={FROM}"), &format!("--passwordeval=cat {}", token.display())]);
    assert_success(&run_with_input(msmtp.args([&format!("--from={FROM}"), "--", TO]), unix.as_bytes()));
    assert_submitted(&lab, 1, &content);
}

#[test]
fn swaks_is_let_in_by_no_password() {
    let lab = lab();
    let mut swaks = installed("swaks", "swaks");
    swaks.args([
        "--server",
        "127.0.0.1",
        "--port",
        &port(&lab).to_string(),
        "--helo",
        "client.example",
        "--tls",
    ]);
    swaks.args(["--tls-verify", "--tls-ca-path"]).arg(authority(&lab));
    swaks.args([
        "--auth",
        "LOGIN",
        "--auth-user",
        FROM,
        "--auth-password",
        "secret",
        "--from",
        FROM,
        "--to",
        TO,
    ]);
    let output = run(&mut swaks);
    let text = shown(&output);
    assert!(!output.status.success() && text.contains("535 5.7.139"), "{text}");
    assert!(text.contains("AUTH LOGIN XOAUTH2") && text.contains("TLS started"), "{text}");
    assert_eq!(lab.service.smtp_sessions().messages, 0);
}
