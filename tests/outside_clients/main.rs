//! Mail clients and checkers by others, with the real binary, and a library for logins with the simulated
//! service: one file per program.
//!
//! Behind the feature `outside-clients`, so that plain `cargo test` needs nothing but Rust. With it, a
//! program that is not installed fails its tests; `scripts/test` installs them all.
#![cfg(feature = "outside-clients")]
// Test helpers are no test functions, which alone may unwrap by clippy's rules.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, reason = "shared with the attacks")]
#[path = "../hostile/from_fields.rs"]
mod from_fields;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared by several test programs")]
#[path = "../harness/mod.rs"]
mod harness;

mod authors;
mod curl;
mod judged;
mod login;
mod msal;
mod msmtp;
mod nodemailer;
#[cfg(feature = "postfix")]
mod postfix;
mod promtool;
mod smtp_source;
mod smtplib;
mod strace;
mod submission;
mod swaks;
mod unit;

use std::{
    env,
    process::{Command, Output},
};

use harness::message;

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// A program, which a Debian package provides.
fn installed(program: &str, package: &str) -> Command {
    // Postfix's programs are where only root's shell finds them.
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.find(|folder| folder.join(program).is_file());
    let folder =
        found.unwrap_or_else(|| panic!("{program} is not installed: it is in Debian's package {package}"));
    let mut command = Command::new(folder.join(program));
    // No settings of the user who runs the tests: no .msmtprc, .swaksrc, .curlrc or .netrc.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8");
    command
}

fn shown(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, shown(output));
}

/// A message with lines that begin with dots, and with UTF-8 in its body.
fn eight_bit_message() -> Vec<u8> {
    let mut content = message(FROM, TO, "eight bits");
    let body = content.len() - "\r\nHello.\r\n".len();
    content.truncate(body);
    content.extend_from_slice(
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         Gr\u{fc}\u{df}e.\r\n.\r\n..\r\n.hidden\r\n\r\n\u{1f4e0}\r\n"
            .as_bytes(),
    );
    content
}
