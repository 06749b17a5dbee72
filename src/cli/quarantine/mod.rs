//! `m365-relay quarantine`: what is damaged and was put aside, and what is to become of it.
//!
//! Asks the running relay. Exit code 0: answered, and all done. 1: there is no such entry, nothing can be
//! done with it, or the relay does not answer.

mod act;
mod export;
mod list;

use std::process::ExitCode;

/// Look at what was damaged and put aside, and decide what becomes of it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::ListArgs),
    Show(list::ShowArgs),
    Export(export::Args),
    /// Send messages after all, with what is left of their bodies
    Release(act::Args),
    /// Remove entries for good
    Delete(act::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::List(args) => list::list(args),
        Command::Show(args) => list::show(args),
        Command::Export(args) => export::run(args),
        Command::Release(args) => act::run(act::Act::Release, args),
        Command::Delete(args) => act::run(act::Act::Delete, args),
    }
}
