//! The command line: exit codes, and errors that name line and key.

use std::fs;

use serde_json::Value;

use crate::harness::Lab;

/// A configuration with mistakes in these lines.
const MISTAKES: &str = "[spool]
path = 7
[smtp]
hostname = 'relay.example'
max_mesage = '1MB'
[[smtp.listener]]
address = 'here'
[delivery.retry]
jitter = 1.5
[tenants.contoso]
directory = 'contoso.example'
client_secret = 'Do.Not~Print~Me'
senders = ['contoso.example']
networks = ['127.0.0.1/8']
";
const KEYS: [(usize, &str); 7] = [
    (2, "spool.path"),
    (5, "smtp.max_mesage"),
    (7, "smtp.listener[0].address"),
    (9, "delivery.retry.jitter"),
    (10, "tenants.contoso.client_id"),
    (13, "tenants.contoso.senders[0]"),
    (14, "tenants.contoso.networks[0]"),
];

#[test]
fn check_config_accepts_what_serve_runs_with() {
    let lab = Lab::without_relay(|_| {});
    let file = lab.config_file();
    let output = lab.run(&["check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{}: ok, 2 tenants, 1 listener\n", file.display()));
    // It starts nothing and leaves nothing.
    assert!(!lab.folder().join("spool").exists());
}

#[test]
fn every_mistake_is_shown_with_line_and_key() {
    let lab = Lab::without_relay(|_| {});
    let file = lab.folder().join("bad.toml");
    fs::write(&file, MISTAKES).unwrap();
    let name = file.to_str().unwrap();
    for command in ["check-config", "serve"] {
        let output = lab.run(&[command, "--config", name]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        for (line, key) in KEYS {
            assert!(said.contains(&format!("{name}:{line}: {key}: ")), "{line} {key} in\n{said}");
        }
        assert_eq!(said.lines().count(), KEYS.len(), "{said}");
        assert!(said.contains("did you mean max_message?"), "{said}");
        assert!(!said.contains("Do.Not~Print~Me"), "{said}");
    }
    let output = lab.run(&["check-config", "--json", "--config", name]);
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = said["errors"].as_array().unwrap();
    let keys: Vec<_> =
        errors.iter().map(|e| (e["line"].as_u64().unwrap() as usize, e["key"].as_str().unwrap())).collect();
    assert_eq!(keys, KEYS);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let lab = Lab::without_relay(|_| {});
    for command in ["check-config", "serve"] {
        let output = lab.run(&[command, "--config", "no-such.toml"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no-such.toml"), "{said}");
    }
}

#[test]
fn wrong_use_is_2() {
    let lab = Lab::without_relay(|_| {});
    for arguments in [&["serv"][..], &["serve", "--confg", "x"], &["check-config", "x"], &[]] {
        let output = lab.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert_eq!(lab.run(&["--help"]).status.code(), Some(0));
    assert_eq!(lab.run(&["--version"]).status.code(), Some(0));
}

#[test]
fn health_is_shown() {
    let lab = Lab::start();
    assert_eq!(lab.page("/healthz"), (200, "alive\n".into()));
    assert_eq!(lab.page("/readyz"), (200, "ready\n".into()));
    assert_eq!(lab.page("/nothing").0, 404);
}
