//! `m365-relay tenant suspend T` and `resume T`: the running relay keeps back a tenant's mail, or lets it go
//! again.

use std::process::ExitCode;

use super::list::{path, print};
use crate::{
    admin::SuspendRequest,
    cli::{config_path::ConfigPath, daemon::Daemon},
};

/// Keep back a tenant's mail until it is resumed. It does not expire meanwhile
#[derive(Debug, clap::Args)]
pub(super) struct SuspendArgs {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Resume it after this time: 30m, 4h, 2d
    #[arg(long = "for", value_name = "TIME")]
    long: Option<String>,
    /// Why, in words: for the log, and for whoever asks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The mail of this mailbox only
    #[arg(long, value_name = "ADDRESS")]
    mailbox: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
    /// Print the tenant as JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Let the mail of a suspended tenant go again
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The mail of this mailbox, which was suspended by itself
    #[arg(long, value_name = "ADDRESS")]
    mailbox: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
    /// Print the tenant as JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn suspend(args: &SuspendArgs) -> anyhow::Result<ExitCode> {
    let SuspendArgs { tenant, long, reason, mailbox, config, json } = args;
    let request = SuspendRequest { long: long.clone(), reason: reason.clone(), mailbox: mailbox.clone() };
    order(config, &format!("{}/suspend", path(tenant)), &request, *json)
}

pub(super) fn resume(args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    let ResumeArgs { tenant, mailbox, config, json } = args;
    let request = SuspendRequest { mailbox: mailbox.clone(), ..SuspendRequest::default() };
    order(config, &format!("{}/resume", path(tenant)), &request, *json)
}

fn order(config: &ConfigPath, path: &str, request: &SuspendRequest, json: bool) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&config.path())?;
    print(&daemon.order(path, request)?, json)
}
