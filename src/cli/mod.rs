//! The command line: one file a subcommand.

pub mod check_config;
pub mod config_path;
mod daemon;
mod descriptors;
mod hash_password;
mod queue;
mod reload;
mod sandbox;
mod sendmail;
mod serve;
mod spool;
mod stop;
mod tenant;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the command of this process's command line, and answers the exit code.
pub fn run() -> ExitCode {
    // Programs that call sendmail write options that clap cannot read.
    if let Some(code) = sendmail::by_command_line(std::env::args_os()) {
        return code;
    }
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("m365-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A mail relay that queues on disk and delivers through the senders' own Microsoft 365
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Sandbox(sandbox::Args),
    CheckConfig(check_config::Args),
    Reload(reload::Args),
    Queue(queue::Args),
    Tenant(tenant::Args),
    Spool(spool::Args),
    HashPassword(hash_password::Args),
    Sendmail(sendmail::Args),
}

impl Cli {
    /// Runs the command that was asked for. Exit code 0: done, 1: failed, 2: wrong use.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Sandbox(args) => sandbox::run(&args),
            Command::CheckConfig(args) => check_config::run(args),
            Command::Reload(args) => reload::run(&args),
            Command::Queue(args) => queue::run(&args),
            Command::Tenant(args) => tenant::run(&args),
            Command::Spool(args) => spool::run(&args),
            Command::HashPassword(args) => hash_password::run(&args),
            Command::Sendmail(args) => Ok(sendmail::run(args)),
        }
    }
}
