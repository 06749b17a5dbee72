//! `m365-relay queue`: what the running relay has in its queues, and what is to become of it.
//!
//! Asks the running relay. Exit code 0: answered, and done. 1: there is no such message, it is being
//! delivered, or the relay does not answer.

mod act;
mod show;

use std::process::ExitCode;

/// Look at messages in the queues of the running relay, and hold, release or delete them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Show(show::Args),
    /// Keep messages from being delivered until they are released. They do not expire meanwhile
    Hold(act::Args),
    /// Try messages now, whether they are held or wait for a later attempt. Limits still apply
    Release(act::Args),
    /// Remove messages for good. Their senders are not told
    Delete(act::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Show(args) => show::run(args),
        Command::Hold(args) => act::run(act::Action::Hold, args),
        Command::Release(args) => act::run(act::Action::Release, args),
        Command::Delete(args) => act::run(act::Action::Delete, args),
    }
}
