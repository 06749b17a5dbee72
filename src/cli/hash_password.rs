//! `m365-relay hash-password`: what to write for a user's password in the configuration.
//!
//! Asks for the password twice, without showing it; if standard input is not a terminal, reads one line of
//! it. The hash is written to standard output. Exit code 0: done; 1: cannot read the password; 2: it is
//! empty, too long, or was typed differently.

use std::{
    io::{self, BufRead, IsTerminal},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use zeroize::Zeroizing;

use super::console;
use crate::config::PasswordHash;

/// Hash a password for `users` of a tenant; asks for it, or reads one line of standard input
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Octets. Anything longer is not a password: it does not fit into what clients send either.
const LONGEST: usize = 1024;

pub(super) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() { ask()? } else { read_line(stdin.lock())? };
    let password = match password {
        Ok(password) => password,
        Err(wrong) => {
            console::complain(format_args!("m365-relay: {wrong}"));
            return Ok(ExitCode::from(2));
        }
    };
    // The library's error has no source and may not be one for anyhow.
    let hash = PasswordHash::of(password.as_bytes())
        .map_err(|error| anyhow!("cannot hash the password: {error}"))?;
    console::say(hash.expose())?;
    Ok(ExitCode::SUCCESS)
}

/// A password, or what is wrong with it.
type Given = Result<Zeroizing<String>, &'static str>;

fn ask() -> anyhow::Result<Given> {
    let prompt = |text| {
        let typed = rpassword::prompt_password(text).context("cannot read from the terminal")?;
        anyhow::Ok(Zeroizing::new(typed))
    };
    let password = match checked(prompt("Password: ")?) {
        Ok(password) => password,
        wrong => return Ok(wrong),
    };
    let again = prompt("Again: ")?;
    Ok(if password == again { Ok(password) } else { Err("the two passwords differ") })
}

/// The first line, without its end.
fn read_line(input: impl BufRead) -> anyhow::Result<Given> {
    // Room for the longest, so that growing leaves no copy behind in freed memory.
    let mut line = Zeroizing::new(String::with_capacity(LONGEST + 3));
    let limit = u64::try_from(LONGEST + 2).unwrap_or(u64::MAX);
    input.take(limit).read_line(&mut line).context("cannot read the password from standard input")?;
    let end = line.trim_end_matches('\n').trim_end_matches('\r').len();
    line.truncate(end);
    Ok(checked(line))
}

fn checked(password: Zeroizing<String>) -> Given {
    match password.len() {
        0 => Err("the password is empty"),
        1..=LONGEST if password.contains('\0') => {
            Err("the password has a NUL character, which no client can send")
        }
        1..=LONGEST => Ok(password),
        _ => Err("the password is over 1024 bytes long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &str) -> Result<String, &'static str> {
        read_line(input.as_bytes()).unwrap().map(|password| password.to_string())
    }

    #[test]
    fn one_line_is_the_password() {
        for input in ["s3cret é ", "s3cret é \n", "s3cret é \r\n", "s3cret é \nmore\n"] {
            assert_eq!(read(input).unwrap(), "s3cret é ");
        }
        for input in ["", "\n", "\r\n", "\nmore\n"] {
            assert_eq!(read(input), Err("the password is empty"));
        }
        assert_eq!(read(&"x".repeat(1024)).unwrap().len(), 1024);
        assert!(read(&"x".repeat(1025)).unwrap_err().contains("1024"));
        assert!(read("a\0b\n").unwrap_err().contains("NUL"));
        assert!(read_line(&b"\xff\n"[..]).is_err());
    }
}
