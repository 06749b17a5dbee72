//! `m365-relay sendmail`: what programs call to submit mail by `/usr/sbin/sendmail`.
//!
//! # Contract
//!
//! * Exit code 0 means that the message is on stable storage in the tenant's pickup folder. It does not
//!   matter whether the relay runs. Any other code, by `<sysexits.h>`, means that nothing was left that will
//!   be picked up; 75 means "try again". (One exception says so: a folder that cannot be synced after its
//!   file has got its name.)
//! * Killed at any moment, it leaves no message or a whole one, and at most a hidden file that a later run
//!   removes.
//! * Whatever the relay would refuse is already refused here, as far as the configuration can be read: a
//!   sender who may not send for the tenant, a message that is too large, an address without a domain, a lone
//!   CR. No secret is opened.
//! * Only the header of a message is held in memory.
//! * `-bs` holds the same for each message before its 250.
//!
//! ```text
//! options, site (configuration, environment)
//!    │
//! input (standard input) ─┐
//!                         ├─> posting ─> letter (header -> sender, recipients, tenant) ─> outgoing (file)
//! dialogue (-bs) ─────────┘
//! ```
//!
//! The program is this command by its name, too: through a link named `sendmail`, `mailq` or `newaliases`.

mod dialogue;
mod exit;
mod input;
mod letter;
mod options;
mod outgoing;
mod posting;
mod site;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{config_path::ConfigPath, console, queue};
use exit::{Exit, Failure};
use input::Input;
use letter::Wishes;
use options::{Mode, Options};
use posting::Posting;
use site::{Environment, Site};

/// Submit a message, as /usr/sbin/sendmail does
///
/// See `m365-relay sendmail --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// The options of sendmail, and recipients
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

const HELP: &str = "\
Submit a message: a drop-in for /usr/sbin/sendmail

Usage: sendmail [OPTIONS] [--] [RECIPIENT]...

The message comes from standard input and goes into the pickup folder of its tenant, on stable storage, whether the relay
runs or not.

  -t              also to everybody in To, Cc and Bcc (of a resent message: Resent-To, Resent-Cc and Resent-Bcc)
  -f ADDRESS      the envelope sender, also as -r; -f '' is the null sender. Without it: who is in From
  -F NAME         the name in a From field that has to be made
  -i, -oi         a line with a single dot does not end the message
  -B 7BIT|8BITMIME, -N NOTIFY, -R full|hdrs, -V ENVID
                  go into the envelope
  -bm             take a message (the default)
  -bs             speak SMTP on standard input and output
  -bp, -bi        what mailq and newaliases do
  --config FILE   the configuration [default: $M365_RELAY_CONFIG, else /etc/m365-relay/config.toml]
  --tenant NAME   for which tenant [default: $M365_RELAY_TENANT, else the only one that may send so]
  --pickup PATH   the folder of pickup folders [default: $M365_RELAY_PICKUP, else as configured]
  --help, --version

Other options of sendmail are taken and ignored: -A -C -E -G -L -M -O -U -X -c -d -e -h -m -n -o -p -q -v -x.
$M365_RELAY_FROM is the author of a message whose From field is missing or has no domain.
Exit codes are those of sysexits.h: 75 asks to try again.
";

/// Runs the command if it is named by the program's own name, or as the first argument.
pub(super) fn by_command_line(mut words: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program = words.next()?;
    match Path::new(&program).file_name().and_then(|name| name.to_str()) {
        Some("sendmail") => Some(sendmail(words, None)),
        Some("mailq") => Some(sendmail(words, Some(Mode::Queue))),
        Some("newaliases") => Some(sendmail(words, Some(Mode::Aliases))),
        _ => words.next().filter(|word| word == "sendmail").map(|_| sendmail(words, None)),
    }
}

/// Runs the command as clap read it.
pub(super) fn run(args: Args) -> ExitCode {
    sendmail(args.arguments.into_iter(), None)
}

fn sendmail(arguments: impl Iterator<Item = OsString>, mode: Option<Mode>) -> ExitCode {
    match carry_out(arguments, mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, text }) => {
            console::complain(format_args!("sendmail: {text}"));
            exit.into()
        }
    }
}

fn carry_out(arguments: impl Iterator<Item = OsString>, mode: Option<Mode>) -> Result<(), Failure> {
    let mut words = Vec::new();
    for argument in arguments {
        let not_text = |argument| Exit::Usage.because(format!("not UTF-8 text: {argument:?}"));
        words.push(argument.into_string().map_err(not_text)?);
    }
    let mut options = Options::parse(words)?;
    if let Some(mode) = mode {
        options.mode = mode;
    }
    match options.mode {
        Mode::Message => hand_in(&options),
        Mode::Smtp => {
            let environment = Environment::read();
            let site = Site::find(&options, &environment)?;
            let wishes = Wishes::of(&options, &environment, &site)?;
            dialogue::hold(io::stdin().lock(), io::stdout().lock(), &site, &wishes)
        }
        Mode::Queue => {
            let config = ConfigPath::of(options.config.as_ref().map(PathBuf::from));
            let listed = queue::list_all(config);
            listed.map(drop).map_err(|error| Exit::Unavailable.because(console::told_once(&error)))
        }
        Mode::Aliases | Mode::RunQueue => Ok(()),
        Mode::Help => print(HELP.trim_end()),
        Mode::Version => print(concat!("m365-relay ", env!("CARGO_PKG_VERSION"), " (sendmail)")),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    console::say(text).map_err(|error| Exit::Io.because(error.to_string()))
}

fn hand_in(options: &Options) -> Result<(), Failure> {
    // Nobody should have to type a message to learn this.
    if !options.from_header && options.recipients.is_empty() {
        return Err(Exit::Usage
            .because("No recipient addresses found: name them, or use -t to take them from the header"));
    }
    let environment = Environment::read();
    let site = Site::find(options, &environment)?;
    let wishes = Wishes::of(options, &environment, &site)?;
    let mut posting = Posting::new(&site, wishes);
    let mut input = Input::new(io::stdin().lock(), options.ignore_dots);
    let mut chunk = Vec::new();
    while input
        .next(&mut chunk)
        .map_err(|error| Exit::Io.because(format!("cannot read the message: {error}")))?
    {
        posting.write(&chunk)?;
    }
    posting.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_goes_by_several_names() {
        let is_ours = |words: &[&str]| by_command_line(words.iter().map(OsString::from)).is_some();
        assert!(is_ours(&["/usr/sbin/sendmail", "-q"]));
        assert!(is_ours(&["newaliases"]));
        assert!(is_ours(&["mailq"]));
        assert!(is_ours(&["/usr/bin/m365-relay", "sendmail", "-bi"]));
        assert!(!is_ours(&["/usr/bin/m365-relay", "serve"]));
        assert!(!is_ours(&["/usr/bin/m365-relay"]));
        assert!(!is_ours(&[]));
    }
}
