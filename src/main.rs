use std::process::ExitCode;

use clap::Parser;
use m365_relay::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("m365-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
