//! nodemailer, through a script for Node.js.

use std::{path::Path, process::Command};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, Mail, message, run_with_input},
    installed,
    login::{PASSWORD, USER, authority, lab_with_login_in_clear, lab_with_tls, with_user},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside_clients/nodemailer/send.cjs");

/// Node.js, with the packages that `nodemailer/package.json` names.
pub(crate) fn node() -> Command {
    // Where scripts/test puts them: beside the folder that cargo gives to tests.
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("nodemailer/node_modules");
    assert!(modules.is_dir(), "nodemailer is not in {}: scripts/test puts it there", modules.display());
    let mut node = installed("node", "nodejs");
    node.env("NODE_PATH", modules);
    node
}

/// The result for each message.
fn nodemailer(lab: &Lab, mut transport: Value, messages: &[Value]) -> Vec<Value> {
    transport["port"] = lab.smtp_address().port().into();
    let input = json!({ "transport": transport, "messages": messages, "authority": authority(lab) });
    let output = run_with_input(node().arg(SCRIPT), input.to_string().as_bytes());
    assert_success(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn nodemailer_sends_by_a_pool_of_connections() {
    let lab = Lab::start();
    let mail = |n| json!({ "from": FROM, "to": TO, "subject": format!("number {n}"), "text": "Hello." });
    let messages: Vec<_> = (0..40).map(mail).collect();
    let transport = json!({ "pool": true, "maxConnections": 4, "maxMessages": 100 });
    for outcome in nodemailer(&lab, transport, &messages) {
        assert_eq!(outcome["accepted"], json!([TO]), "{outcome}");
    }
    let mut subjects: Vec<_> = lab.wait_for(40).iter().map(|message| message.subject.clone()).collect();
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), 40);
    let connections = lab.metric("m365_relay_smtp_commands_total", &[("verb", "ehlo")]);
    assert!((1.0..=4.0).contains(&connections), "{connections}");
}

#[test]
fn nodemailer_attaches_a_large_file() {
    let lab = Lab::start();
    let content: Vec<u8> = (0..1_500_000_u32).map(|n| (n.wrapping_mul(n) / 7) as u8).collect();
    let attachment = json!({
        "filename": "scan.bin", "content": BASE64_STANDARD.encode(&content), "encoding": "base64",
    });
    let to = [TO, "c@example.net"];
    let mail = json!({
        "from": FROM, "to": to, "bcc": "hidden@example.net", "subject": "large", "text": "Attached.",
        "attachments": [attachment],
    });
    nodemailer(&lab, json!({}), &[mail]);

    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [TO, "c@example.net", "hidden@example.net"]);
    let text = delivered.text();
    let (_, part) = text.rsplit_once("scan.bin").unwrap();
    let (_, attached) = part.split_once("\r\n\r\n").unwrap();
    let encoded: String = attached.split("\r\n").take_while(|line| !line.starts_with("--")).collect();
    assert!(BASE64_STANDARD.decode(encoded).unwrap() == content, "not the file that was attached");
}

#[test]
fn nodemailer_ends_lines_of_raw_mail_as_smtp_wants_it() {
    let lab = Lab::start();
    let content = eight_bit_message();
    let unix = String::from_utf8(content.clone()).unwrap().replace("\r\n", "\n");
    let raw = json!({ "envelope": { "from": FROM, "to": [TO] }, "raw": unix });
    let outcome = nodemailer(&lab, json!({}), &[raw]).remove(0);
    assert_eq!(outcome["accepted"], json!([TO]), "{outcome}");
    let delivered = lab.wait_for(1).remove(0);
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}

#[test]
fn nodemailer_sends_to_an_address_that_is_not_ascii() {
    let lab = Lab::start();
    let to = "b\u{fc}ro@example.net";
    let mail = json!({ "from": FROM, "to": to, "subject": "gr\u{fc}n", "text": "Gr\u{fc}\u{df}e" });
    let outcome = nodemailer(&lab, json!({}), &[mail]).remove(0);
    assert_eq!(outcome["accepted"], json!([to]), "{outcome}");
    assert_eq!(lab.wait_for(1)[0].recipients, [to]);
}

#[test]
fn nodemailer_asks_for_reports() {
    let lab = Lab::start();
    let dsn = json!({ "id": "QQ+1 =", "return": "headers", "notify": ["success"], "recipient": "first@example.org" });
    let mail = json!({ "from": FROM, "to": TO, "subject": "wishes", "text": "Hello.", "dsn": dsn });
    nodemailer(&lab, json!({}), &[mail]);
    let report = lab.wait_for(2).into_iter().find(|message| message.recipients == [FROM]).unwrap().text();
    for part in ["Original-Envelope-Id: QQ+1 =\r\n", "Original-Recipient: rfc822; first@example.org\r\n"] {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn nodemailer_is_told_what_was_refused() {
    let lab = Lab::start();
    let mail = |from: &str| {
        let envelope = json!({ "from": from, "to": ["postmaster", TO] });
        json!({ "envelope": envelope, "from": from, "to": TO, "subject": "refused", "text": "Hello." })
    };
    let outcomes = nodemailer(&lab, json!({}), &[mail(FROM), mail("a@elsewhere.example")]);
    assert_eq!(outcomes[0]["rejected"], json!(["postmaster"]), "{outcomes:?}");
    assert_eq!(outcomes[1]["responseCode"], 550, "{outcomes:?}");
    assert_eq!(lab.wait_for(1)[0].recipients, [TO]);
}

#[test]
fn nodemailer_logs_in() {
    logs_in(&lab_with_login_in_clear(), &json!({ "ignoreTLS": true }));
}

#[test]
fn nodemailer_encrypts_and_logs_in() {
    logs_in(&lab_with_tls("starttls", with_user), &json!({ "requireTLS": true }));
    logs_in(&lab_with_tls("implicit", with_user), &json!({ "secure": true }));
}

fn logs_in(lab: &Lab, encryption: &Value) {
    for mechanism in ["PLAIN", "LOGIN"] {
        let content = message(FROM, TO, mechanism);
        let raw =
            json!({ "envelope": { "from": FROM, "to": [TO] }, "raw": String::from_utf8(content).unwrap() });
        let send = |password: &str| {
            let mut transport = encryption.clone();
            transport["authMethod"] = mechanism.into();
            transport["auth"] = json!({ "user": USER, "pass": password });
            nodemailer(lab, transport, std::slice::from_ref(&raw)).remove(0)
        };
        let refused = send("wrong");
        assert!(refused["code"] == "EAUTH" && refused["responseCode"] == 535, "{refused}");
        assert_eq!(send(PASSWORD)["accepted"], json!([TO]));
    }
    for delivered in lab.wait_for(2) {
        assert!(delivered.as_sent() == message(FROM, TO, &delivered.subject), "{}", delivered.text());
    }
}
