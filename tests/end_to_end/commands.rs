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

#[test]
fn completions_and_manual_pages_have_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_m365-relay");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = std::process::Command::new(program).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("quarantine") && script.contains("dry-run"),
            "{shell}"
        );
    }
    // bash itself reads it.
    let script = std::process::Command::new(program).args(["completions", "bash"]).output().unwrap().stdout;
    let file = folder.path().join("m365-relay.bash");
    std::fs::write(&file, script).unwrap();
    let check = "source \"$1\" && COMP_WORDS=(m365-relay queue re) COMP_CWORD=2 && \
                 \"$(complete -p m365-relay | sed 's/.*-F \\([^ ]*\\).*/\\1/')\" m365-relay re queue \
                 && echo \"${COMPREPLY[*]}\"";
    let output = std::process::Command::new("bash").args(["-c", check, "-"]).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "retry release requeue", "{output:?}");
    let output = std::process::Command::new(program).arg("man").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for page in
        ["m365-relay.1", "m365-relay-queue.1", "m365-relay-queue-retry.1", "m365-relay-tenant-suspend.1"]
    {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let output = std::process::Command::new(program).args(["completions", "cmd"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
