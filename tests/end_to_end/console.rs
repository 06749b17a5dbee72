//! What commands print: with no reader, on a full disk, and with text that gives orders to a terminal.

use std::{
    fs::{self, OpenOptions},
    io::pipe,
    process::{Command, ExitStatus, Stdio},
};

use crate::harness::Lab;

/// Commands that print output and need no relay, with their arguments.
fn commands(lab: &Lab) -> Vec<Vec<String>> {
    let config = lab.config_file().display().to_string();
    let spool = lab.folder().join("spool").display().to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    vec![
        words(&["--help"]),
        words(&["--version"]),
        words(&["check-config", "--config", &config]),
        words(&["check-config", "--json", "--config", &config]),
        words(&["tenant", "consent-url", "contoso", "--config", &config]),
        words(&["tenant", "consent-url", "contoso", "--json", "--config", &config]),
        words(&["tenant", "check", "contoso", "--config", &config]),
        words(&["spool", "check", "--spool", &spool]),
        words(&["spool", "check", "--json", "--spool", &spool]),
        words(&["spool", "export", "--spool", &spool, &lab.folder().join("export").display().to_string()]),
        words(&[
            "sandbox",
            "--smtp",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--service",
            "127.0.0.1:0",
            "--submission",
            "127.0.0.1:0",
        ]),
        words(&["sendmail", "--help"]),
        words(&["sendmail", "--version"]),
    ]
}

/// A relay that has run, so that there is a spool.
fn lab() -> Lab {
    let mut lab = Lab::start();
    assert_eq!(lab.terminate(), Some(0));
    lab
}

fn run(arguments: &[String], out: impl Into<Stdio>) -> (ExitStatus, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    let lab = lab();
    for arguments in commands(&lab) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (status, said) = run(&arguments, full);
        let expected = if arguments[0] == "sendmail" { 74 } else { 1 };
        assert_eq!(status.code(), Some(expected), "{arguments:?}: {said}");
        assert!(said.contains("standard output: No space left on device"), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_reader_that_has_gone_ends_a_command_quietly() {
    let lab = lab();
    for arguments in commands(&lab) {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (status, said) = run(&arguments, writer);
        let expected = if arguments[0] == "sendmail" { 74 } else { 141 };
        assert_eq!(status.code(), Some(expected), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        if !matches!(&*arguments[0], "sendmail" | "sandbox") {
            let is_quiet = said.lines().all(|line| line.starts_with("warning: "));
            assert!(is_quiet, "{arguments:?}: {said}");
        }
    }
}

#[test]
fn nobody_who_reads_the_errors_is_no_panic() {
    let lab = Lab::without_relay(|_| {});
    for (arguments, code) in [
        (&["serv"][..], 2),
        (&["serve", "--config", "no-such.toml"], 1),
        (&["check-config", "--config", "no-such.toml"], 1),
        (&["queue", "show", "0D3S", "--config", "no-such.toml"], 2),
        (&["spool", "check", "--spool", "/no/such"], 1),
        (&["sandbox", "--smtp", "192.0.2.1:0"], 1),
        (&["sendmail", "-x"], 64),
    ] {
        for gone in [false, true] {
            let err: Stdio = if gone {
                pipe().unwrap().1.into()
            } else {
                OpenOptions::new().write(true).open("/dev/full").unwrap().into()
            };
            let status = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
                .args(arguments)
                .current_dir(lab.folder())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(err)
                .status()
                .unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
}

#[test]
fn nothing_gives_orders_to_the_terminal() {
    let lab = Lab::without_relay(|_| {});
    let orders = "\u{1b}]0;x\u{7}\u{9b}2J\r\u{202e}\u{2028}\u{feff}";
    let file = lab.folder().join(format!("{orders}.toml"));
    fs::write(&file, format!("[spool]\npath = '{}'\n'a\u{202e}\u{9b}b' = 1\n", lab.folder().display()))
        .unwrap();
    let name = file.to_str().unwrap();
    let id = "0DSX2Q0X5ZK7R";
    for arguments in [
        &["check-config", "--config", name][..],
        &["check-config", "--json", "--config", name],
        &["serve", "--config", name],
        &["reload", "--config", name],
        &["queue", "show", id, "--config", name],
        &["queue", "show", orders, "--config", name],
        &["tenant", "check", orders, "--config", name],
        &["spool", "check", "--spool", orders],
        &["spool", "check", "--json", "--spool", orders],
        &["sendmail", "--config", name, orders],
        &["sendmail", orders],
        &["hash-password", orders],
        &[orders],
    ] {
        let output = lab.run(arguments);
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8(shown).unwrap();
        let hidden = |c: char| c != '\n' && relay_mail::outside::is_hidden(c);
        assert!(!shown.is_empty() && !shown.contains(hidden), "{arguments:?}: {shown:?}");
    }
}
