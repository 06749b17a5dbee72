//! `m365-relay queue`: what the running relay has in its queues, and what is to become of it.
//!
//! Asks the running relay. Exit code 0: answered, and all done. 1: there is no such message, it is being
//! delivered, or the relay does not answer.

mod act;
mod export;
mod filter;
mod list;
mod show;
mod summary;

use std::process::ExitCode;

use super::config_path::ConfigPath;
use crate::admin::Action;

/// Look at messages in the queues of the running relay, and decide what becomes of them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Summary(summary::Args),
    Show(show::Args),
    Export(export::Args),
    /// Try messages now that wait for a later attempt, and what stops their mailbox or tenant. Limits still
    /// apply
    Retry(act::Args),
    /// Keep messages from being delivered until they are released. They do not expire meanwhile
    Hold(act::Args),
    /// Let messages go that are held
    Release(act::Args),
    /// Return messages to their senders
    Bounce(act::Args),
    /// Remove messages for good. Their senders are not told
    Delete(act::Args),
    /// Let messages begin anew, as if they had just arrived: with no attempts and all their time
    Requeue(act::Args),
}

/// All messages, for people.
pub(super) fn list_all(config: ConfigPath) -> anyhow::Result<ExitCode> {
    list::run(&list::Args::all(config))
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::List(args) => list::run(args),
        Command::Summary(args) => summary::run(args),
        Command::Show(args) => show::run(args),
        Command::Export(args) => export::run(args),
        Command::Retry(args) => act::run(Action::Retry, args),
        Command::Hold(args) => act::run(Action::Hold, args),
        Command::Release(args) => act::run(Action::Release, args),
        Command::Bounce(args) => act::run(Action::Bounce, args),
        Command::Delete(args) => act::run(Action::Delete, args),
        Command::Requeue(args) => act::run(Action::Requeue, args),
    }
}
