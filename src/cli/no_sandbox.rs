//! `m365-relay sandbox` in a build that has none: says so, whatever options it is given.

use std::process::ExitCode;

/// Not in this build: see `cargo build --features sandbox`
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _options: Vec<String>,
}

pub(super) fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "this build has no simulated Microsoft 365: use one that was built with the feature sandbox, which \
         cargo build includes by default"
    )
}
