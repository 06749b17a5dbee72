//! The command line: one file a subcommand.

pub mod check_config;
mod completions;
pub mod config_path;
mod console;
mod core_dumps;
mod daemon;
mod descriptors;
mod hash_password;
mod init;
mod progress;
mod quarantine;
mod queue;
mod reload;
mod root_traps;
#[cfg(feature = "sandbox")]
mod sandbox;
#[cfg(not(feature = "sandbox"))]
#[path = "no_sandbox.rs"]
mod sandbox;
mod sendmail;
mod serve;
mod spool;
mod status;
mod stop;
mod tenant;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use relay_mail::outside::visible;

/// Runs the command of this process's command line, and returns the exit code.
pub fn run() -> ExitCode {
    // Programs that call sendmail write options that clap cannot read.
    if let Some(code) = sendmail::by_command_line(std::env::args_os()) {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return answer_of_clap(&answer),
    };
    cli.run().unwrap_or_else(|error| console::fail(&error))
}

/// What was asked for with `--help` or `--version`, or what is wrong with the command line.
fn answer_of_clap(answer: &clap::Error) -> ExitCode {
    // With clap's colours, if there is nothing in it that clap has not written itself.
    let text = answer.to_string();
    let own = visible(&text, |c| c == '\n') == text;
    if answer.use_stderr() {
        let printed = own && answer.print().is_ok();
        if !printed {
            console::complain(text.trim_end());
        }
        return ExitCode::from(2);
    }
    match answer.print() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console::fail(&console::Unwritten::from(error).into()),
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
    Init(init::Args),
    Sandbox(sandbox::Args),
    CheckConfig(check_config::Args),
    Reload(reload::Args),
    Queue(queue::Args),
    Quarantine(quarantine::Args),
    Status(status::Args),
    Top(top::Args),
    Tenant(tenant::Args),
    Spool(spool::Args),
    HashPassword(hash_password::Args),
    Sendmail(sendmail::Args),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

impl Cli {
    /// Runs the command that was asked for. Exit code 0: done, 1: failed, 2: wrong use.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // Before anything is read. The daemon asks again, and says if it cannot.
        core_dumps::forbid();
        match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Init(args) => init::run(&args),
            Command::Sandbox(args) => sandbox::run(&args),
            Command::CheckConfig(args) => check_config::run(args),
            Command::Reload(args) => reload::run(&args),
            Command::Queue(args) => queue::run(&args),
            Command::Quarantine(args) => quarantine::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Top(args) => top::run(&args),
            Command::Tenant(args) => tenant::run(&args),
            Command::Spool(args) => spool::run(&args),
            Command::HashPassword(args) => hash_password::run(&args),
            Command::Sendmail(args) => Ok(sendmail::run(args)),
            Command::Completions(args) => completions::completions(&args),
            Command::Man(args) => completions::man(&args),
        }
    }
}
