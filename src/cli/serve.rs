//! `m365-relay serve`: the daemon.

use std::process::ExitCode;

use anyhow::Context;
use tracing::warn;

use super::{config_path::ConfigPath, console, core_dumps, descriptors, root_traps, stop};
use crate::{
    admin::Reloads,
    config::Config,
    relay::{Given, Relay, service_manager},
    telemetry::{self, Metrics},
    vital::{self, Watchdog},
};

/// Run the relay
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigPath,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.config.path();
    let config = match Config::load_to_run(&path) {
        Ok(config) => config,
        Err(errors) => {
            service_manager::failed(&errors.to_string());
            console::complain(errors);
            return Ok(ExitCode::FAILURE);
        }
    };
    // First, so that it is dropped last.
    let watchdog = Watchdog::default();
    let metrics = Metrics::new();
    let vital = vital::watched();
    let _logs =
        telemetry::start_logs(&config.log, &metrics, &vital.0).context("cannot start the log's thread")?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    for trap in root_traps::traps(&config) {
        warn!("{trap}");
    }
    descriptors::provide(&config);
    if !core_dumps::forbid() {
        warn!(
            "core dumps not disabled: a dump would contain mail and secrets. Set LimitCORE=0 in the systemd unit"
        );
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let spool = config.spool.path.clone();
    let ended = runtime.block_on(async {
        let shutdown = stop::on_signal()?;
        // Before the relay is ready: a SIGHUP would end a process that says nothing about it.
        let reloads = Reloads::new();
        stop::reload_on_hangup(reloads.0.clone())?;
        let started = Relay::start(config, Given { metrics, reloads, vital }).await;
        let relay = started.inspect_err(|error| service_manager::failed(&error.to_string()))?;
        Ok(match relay.run(shutdown, &watchdog).await {
            Ok(()) => ExitCode::SUCCESS,
            // The error is in the log.
            Err(_) => ExitCode::FAILURE,
        })
    });
    // Work that blocks may never come back.
    runtime.shutdown_background();
    if let Err(error) = relay_spool::give_to_owner(&spool) {
        console::complain(format_args!(
            "m365-relay: {}: files not given to the folder's owner: {error}",
            spool.display()
        ));
    }
    ended
}
