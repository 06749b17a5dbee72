//! Python's smtplib, through a script.

use serde_json::{Value, json};

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, Mail, fields, message, run_with_input},
    installed,
    login::{PASSWORD, USER, authority, lab_with_login_in_clear, lab_with_tls, with_user},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside_clients/smtplib/send.py");

/// The result that the script prints.
fn smtplib(lab: &Lab, mut options: Value, content: &[u8]) -> Value {
    options["port"] = lab.smtp_address().port().into();
    options["authority"] = authority(lab).to_str().unwrap().into();
    let mut python = installed("python3", "python3");
    // Isolated from the environment of the user who runs the tests.
    let output = run_with_input(python.args(["-I", SCRIPT, &options.to_string()]), content);
    assert_success(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn smtplib_is_told_which_recipient_was_refused() {
    let lab = Lab::start();
    let content = eight_bit_message();
    let to = [TO, "postmaster", "no address"];
    let said = smtplib(&lab, json!({ "from": FROM, "to": to, "mail": ["BODY=8BITMIME"] }), &content);
    assert_eq!(said, json!({ "refused": { "postmaster": 550, "no address": 501 } }));

    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [TO]);
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}

#[test]
fn smtplib_asks_for_reports() {
    let lab = Lab::start();
    let wishes = json!({
        "from": FROM, "to": [TO], "mail": ["RET=HDRS", "ENVID=QQ+2B1"],
        "rcpt": ["NOTIFY=SUCCESS", "ORCPT=rfc822;first@example.org"],
    });
    smtplib(&lab, wishes, &message(FROM, TO, "wishes"));
    let report = lab.wait_for(2).into_iter().find(|message| message.recipients == [FROM]).unwrap().text();
    for part in ["Original-Envelope-Id: QQ+1\r\n", "Original-Recipient: rfc822; first@example.org\r\n"] {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn smtplib_sends_to_an_address_that_is_not_ascii() {
    let lab = Lab::start();
    let to = "b\u{fc}ro@example.net";
    let content = message(FROM, to, "gr\u{fc}n");
    assert_eq!(smtplib(&lab, json!({ "parsed": true }), &content), json!({ "refused": {} }));

    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [to]);
    assert_eq!(delivered.fields("Subject"), fields(&content, "Subject"));
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}

#[test]
fn smtplib_logs_in() {
    logs_in(&lab_with_login_in_clear(), "off");
}

#[test]
fn smtplib_encrypts_and_logs_in() {
    for tls in ["starttls", "implicit"] {
        logs_in(&lab_with_tls(tls, with_user), tls);
    }
}

fn logs_in(lab: &Lab, tls: &str) {
    let content = message(FROM, TO, "login");
    let send = |password: &str| {
        let options = json!({ "from": FROM, "to": [TO], "tls": tls, "user": USER, "password": password });
        smtplib(lab, options, &content)
    };
    assert_eq!(send("wrong"), json!({ "login": 535 }));
    assert_eq!(send(PASSWORD), json!({ "refused": {} }));
    let delivered = lab.wait_for(1).remove(0);
    assert!(delivered.as_sent() == content, "{}", delivered.text());
}
