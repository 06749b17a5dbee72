//! `m365-relay spool`: looking into a spool and moving it, with the relay stopped.
//!
//! Results go to standard output, with `--json` as one object; files that were left go to standard error, and
//! so does progress. Exit code 0: all is done and whole. 1: it failed, or something is damaged or left.

mod check;
mod export;
mod import;
mod progress;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use serde::Serialize;

use super::{
    config_path::ConfigPath,
    console::{self, Unwritten},
};
use crate::{
    config::{LogConfig, STALLED_AFTER, SpoolConfig},
    telemetry::{self, Metrics},
    vital::Vital,
};
use relay_mail::ByteSize;
use relay_spool::{OpenError, archive::ArchiveError};

/// Inspect and move a spool, with the relay stopped
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(check::Args),
    Export(export::Args),
    Import(import::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // For what is moved aside or swept while a spool is opened.
    let log = LogConfig { filter: "m365_relay=warn".into(), ..LogConfig::default() };
    let _logs = telemetry::start_logs(&log, &Metrics::new(), &Vital::unwatched())
        .context("cannot start the log's thread")?;
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
    }
}

/// Which spool, and how to answer: the same for all three.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigPath,
    /// The spool folder itself, without a configuration: for a spool from another machine
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    spool: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// If no configuration says more. Enough for the index not to see a full disk.
const MIN_FREE: ByteSize = ByteSize::mb(100);

impl Common {
    /// Of the configuration only `[spool]` is read: the rest may be wrong, or its secrets out of reach.
    fn spool(&self) -> anyhow::Result<SpoolConfig> {
        match &self.spool {
            Some(path) => Ok(SpoolConfig {
                path: path.clone(),
                min_free: MIN_FREE,
                min_free_inodes: 1000,
                stalled_after: STALLED_AFTER,
            }),
            None => Ok(SpoolConfig::load(&self.config.path())?),
        }
    }

    /// Shows how a command went, and returns its exit code.
    fn answer<T: Serialize>(
        &self,
        outcome: anyhow::Result<T>,
        is_well: impl FnOnce(&T) -> bool,
        tell: impl FnOnce(&T) -> Result<(), Unwritten>,
    ) -> anyhow::Result<ExitCode> {
        #[derive(Serialize)]
        struct Report<'a, T> {
            ok: bool,
            #[serde(flatten)]
            outcome: &'a T,
        }
        if let Ok(spool) = self.spool()
            && let Err(error) = relay_spool::give_to_owner(&spool.path)
        {
            console::complain(format_args!("warning: files not given to the folder's owner: {error}"));
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                if self.json {
                    let answer = serde_json::json!({ "ok": false, "error": console::told_once(&error) });
                    console::say(console::json(&answer)?)?;
                }
                return Err(error);
            }
        };
        let ok = is_well(&outcome);
        if self.json {
            console::say(console::json(&Report { ok, outcome: &outcome })?)?;
        } else {
            tell(&outcome)?;
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Says what to do where the library can only say what is wrong.
fn advise(error: ArchiveError) -> anyhow::Error {
    match error {
        ArchiveError::Open(locked @ OpenError::Locked { .. }) => {
            anyhow::anyhow!("{locked}: stop the relay first (systemctl stop m365-relay), and run this again")
        }
        // It names its sources itself.
        error => anyhow::anyhow!("{error}"),
    }
}

fn counted(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "message")), ["0 messages", "1 message", "2 messages"]);
        assert_eq!([1, 2].map(|n| counted(n, "body")), ["1 body", "2 bodies"]);
    }
}
