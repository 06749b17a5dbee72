//! `m365-relay tenant login T`: somebody signs in for a tenant, and the relay keeps what that gives it.
//!
//! Microsoft, "Microsoft identity platform and the OAuth 2.0 device authorization grant flow". What is kept is a refresh token, in
//! the spool's folder; a relay that runs finds it there within seconds.

use std::process::ExitCode;

use anyhow::{anyhow, bail};

use crate::{
    cli::config_path::ConfigPath,
    config::{Config, Credential, UserGrant},
    identity::{DeviceCode, credential_folder, log_in},
    network::Clients,
};

/// Sign in for a tenant whose grant is "refresh_token": shows a code to type in in a browser
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT")]
    tenant: String,
    #[command(flatten)]
    config: ConfigPath,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config.path())?;
    let tenant = super::find(&config, &args.tenant)?;
    let name = &tenant.name;
    if !matches!(&tenant.credential, Credential::User { grant: UserGrant::RefreshToken { .. }, .. }) {
        bail!("nobody signs in for {name}: that is for tenants with grant = \"refresh_token\"");
    }
    let folder = credential_folder(&config.spool.path);
    let clients = Clients::new(&config.network, [&tenant.cloud].into_iter())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let claims =
        runtime.block_on(log_in(tenant, clients, &folder, show)).map_err(|error| anyhow!(error.why))?;
    match claims.and_then(|claims| claims.user) {
        Some(user) => println!("Signed in as {user}. It is stored in {}.", folder.display()),
        None => println!("Signed in. It is stored in {}.", folder.display()),
    }
    println!("Try it: m365-relay tenant check {name}");
    Ok(ExitCode::SUCCESS)
}

fn show(code: &DeviceCode) {
    let DeviceCode { user_code, verification_uri, expires_in, .. } = code;
    println!(
        "Open  {verification_uri}\nand type in  {user_code}\n\nSign in there as the user whose mailbox is to send. The code is good for \
         {}.",
        humantime::format_duration(*expires_in)
    );
}
