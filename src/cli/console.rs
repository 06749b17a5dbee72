//! Where commands print: standard output and standard error.
//!
//! # Contract
//!
//! * Nothing gives orders to the terminal: everything that is hidden ([`relay_mail::outside`]) except line
//!   ends is shown as an escape, whoever wrote it. Text from outside that must not break a line is also
//!   wrapped in [`Outside`](relay_mail::outside::Outside).
//! * Nothing panics. What cannot be written to standard output is an error: [`Unwritten::Closed`] if nobody
//!   reads any more, which ends the command without a word and with the exit code that a shell shows for a
//!   program that SIGPIPE ended, as it does for those of coreutils; [`Unwritten::Failed`] (a full disk) with
//!   a message and exit code 1.
//! * What cannot be written to standard error is lost: there is no other place to report it.
//!
//! The only place in the program that writes there, apart from the log and the dialogue of `sendmail -bs`.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde::Serialize;

use relay_mail::outside::{json_visible, visible};

/// What a command prints could not be written to standard output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritten {
    #[error("the reader of standard output has gone")]
    Closed,
    #[error("cannot write to standard output: {0}")]
    Failed(io::Error),
}

/// 128 and the number of SIGPIPE.
const CLOSED: u8 = 141;

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(error) }
    }
}

/// Writes a line, or several, to standard output.
pub(crate) fn say(text: impl Display) -> Result<(), Unwritten> {
    write(&mut io::stdout().lock(), &format!("{text}\n"))
}

/// A value as one line of JSON, in which what is hidden is escaped as JSON has it.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(json_visible(&serde_json::to_string(value)?).into_owned())
}

/// Writes to standard error and then to standard output what a command has put together: nothing, or whole
/// lines.
pub(crate) fn show(out: &str, err: &str) -> Result<(), Unwritten> {
    let _ = write(&mut io::stderr().lock(), err);
    write(&mut io::stdout().lock(), out)
}

/// Writes the beginning of a line to standard error, for an answer to follow.
pub(crate) fn ask(question: &str) -> Result<(), Unwritten> {
    write(&mut io::stderr().lock(), question)
}

/// Writes octets that are not the relay's: as they are to a file or a pipe, and to a terminal with everything
/// visible that could give orders to it.
pub(crate) fn octets(octets: &[u8]) -> Result<(), Unwritten> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        return write(&mut out, &String::from_utf8_lossy(octets).replace("\r\n", "\n"));
    }
    Ok(out.write_all(octets).and_then(|()| out.flush())?)
}

/// Writes a line, or several, to standard error.
pub(crate) fn complain(text: impl Display) {
    let _ = write(&mut io::stderr().lock(), &format!("{text}\n"));
}

/// Shows what ended a command, and returns the exit code.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Unwritten>().is_some_and(|error| matches!(error, Unwritten::Closed)) {
        return ExitCode::from(CLOSED);
    }
    complain(format_args!("m365-relay: {}", told_once(error)));
    ExitCode::FAILURE
}

/// The error with its causes. Many an error names its cause itself, which is not said again.
pub(crate) fn told_once(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

fn write(out: &mut impl Write, text: &str) -> Result<(), Unwritten> {
    // In one call: lines of two processes must not mix. Standard output keeps an unfinished line until it is
    // flushed.
    Ok(out.write_all(visible(text, |c| c == '\n').as_bytes()).and_then(|()| out.flush())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_and_orders_do_not() {
        let mut out = Vec::new();
        write(&mut out, "a\tb\r\u{1b}[2J\u{202e}\nc\n").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\\u{9}b\\u{d}\\u{1b}[2J\\u{202e}\nc\n");
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow::anyhow!("address in use").context("cannot listen: address in use");
        assert_eq!(told_once(&inner.context("smtp")), "smtp: cannot listen: address in use");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure_of_the_disk() {
        let error = |kind| Unwritten::from(io::Error::from(kind));
        assert!(matches!(error(io::ErrorKind::BrokenPipe), Unwritten::Closed));
        assert!(matches!(error(io::ErrorKind::StorageFull), Unwritten::Failed(_)));
    }
}
