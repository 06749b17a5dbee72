//! `m365-relay serve`: the daemon.

use std::process::ExitCode;

use anyhow::Context;
use tracing::warn;

use super::{config_path::ConfigPath, descriptors, stop};
use crate::{config::Config, relay::Relay, telemetry};

/// Run the relay
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigPath,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.config.path();
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::FAILURE);
        }
    };
    telemetry::start_logs(&config.log);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    descriptors::provide(&config);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = stop::on_signal()?;
        stop::ignore_hangup()?;
        Relay::start(config).await?.run(shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}
