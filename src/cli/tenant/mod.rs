//! `m365-relay tenant …`: how tenants do and who is suspended; whether a tenant is set up so that its mail
//! can be sent, and help to set it up.

mod check;
mod consent_url;
mod list;
mod login;
mod suspend;

use std::{process::ExitCode, sync::Arc};

use anyhow::bail;
use clap::Subcommand;

use crate::config::{Config, Tenant};

/// Look at tenants, suspend them, check that they are set up, and help to set them up
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::ListArgs),
    Show(list::ShowArgs),
    Check(check::Args),
    Suspend(suspend::SuspendArgs),
    Resume(suspend::ResumeArgs),
    ConsentUrl(consent_url::Args),
    Login(login::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::List(args) => list::list(args),
        Command::Show(args) => list::show(args),
        Command::Check(args) => check::run(args),
        Command::Suspend(args) => suspend::suspend(args),
        Command::Resume(args) => suspend::resume(args),
        Command::ConsentUrl(args) => consent_url::run(args),
        Command::Login(args) => login::run(args),
    }
}

/// The tenant of that name.
fn find<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a Arc<Tenant>> {
    if let Some(tenant) = config.tenants.get(name) {
        return Ok(tenant);
    }
    if let Some(tenant) = config.invalid.tenants.get(name) {
        let problems: Vec<_> = tenant.problems.iter().map(ToString::to_string).collect();
        bail!("the configuration of {name} has mistakes:\n{}", problems.join("\n"));
    }
    if let Some(problem) = config.invalid.files.values().flatten().next() {
        bail!("there is no tenant {name:?} as far as the configuration can be read:\n{problem}");
    }
    const NAMED: usize = 10;
    let known: Vec<&str> = config.tenants.keys().map(|name| name.as_str()).collect();
    match known.len() {
        0 => bail!("there is no tenant {name:?}: the configuration has no tenants"),
        1..=NAMED => bail!("there is no tenant {name:?}: the tenants are {}", known.join(", ")),
        many => bail!("there is no tenant {name:?} among the {many} in the configuration"),
    }
}
