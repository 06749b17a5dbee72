//! `m365-relay queue`: what the running relay has in its queues.
//!
//! Asks the relay at `admin.address`. Exit code 0: answered. 1: there is no such message, or the relay does
//! not answer.

mod show;

use std::process::ExitCode;

/// Inspect the queues of the running relay
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Show(show::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Show(args) => show::run(args),
    }
}
