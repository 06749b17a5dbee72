//! `m365-relay tenant login T`: somebody signs in for a tenant, and the relay keeps the result.
//!
//! Microsoft, "Microsoft identity platform and the OAuth 2.0 device authorization grant flow". The result is
//! a refresh token, in the spool's folder; a running relay finds it there within seconds.

use std::process::ExitCode;

use anyhow::{anyhow, bail};

use crate::{
    cli::{config_path::ConfigPath, console},
    config::{Config, Credential, UserGrant},
    identity::{DeviceCode, credential_folder, log_in},
    network::Clients,
};
use relay_mail::outside::Outside;

/// Sign in for a tenant whose grant is "refresh_token": shows a code to enter in a browser
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT")]
    tenant: String,
    #[command(flatten)]
    config: ConfigPath,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load_valid(&args.config.path())?;
    let tenant = super::find(&config, &args.tenant)?;
    let name = &tenant.name;
    if !matches!(&tenant.credential, Credential::User { grant: UserGrant::RefreshToken { .. }, .. }) {
        bail!("{name} needs no sign-in: only tenants with grant = \"refresh_token\" do");
    }
    let folder = credential_folder(&config.spool.path);
    let clients = Clients::new(&config.network, [&tenant.cloud].into_iter())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut unwritten = None;
    let show = |code: &DeviceCode| {
        unwritten = console::say(instructions(code)).err();
        unwritten.is_none()
    };
    let claims = runtime.block_on(log_in(tenant, clients, &folder, show));
    if let Some(error) = unwritten {
        return Err(error.into());
    }
    let user = claims.map_err(|error| anyhow!(error.why))?.and_then(|claims| claims.user);
    let as_user = user.map(|user| format!(" as {}", Outside::new(user))).unwrap_or_default();
    console::say(format_args!("Signed in{as_user}. It is stored in {}.", folder.display()))?;
    console::say(format_args!("Try it: m365-relay tenant check {name}"))?;
    Ok(ExitCode::SUCCESS)
}

fn instructions(code: &DeviceCode) -> String {
    let DeviceCode { user_code, verification_uri, expires_in, .. } = code;
    format!(
        "Open  {}\nand enter  {}\n\nSign in there as the user whose mailbox is to send. The code is valid \
         for {}.",
        Outside::new(verification_uri),
        Outside::new(user_code),
        humantime::format_duration(*expires_in)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_the_service_says_gives_no_orders_to_the_terminal() {
        let code = DeviceCode {
            user_code: "ABC\u{1b}[2J\rXYZ".into(),
            verification_uri: "https://x.example/\u{9b}1A\n".into(),
            message: String::new(),
            expires_in: Duration::from_secs(900),
        };
        let shown = instructions(&code);
        assert!(
            shown.starts_with("Open  https://x.example/\\u{9b}1A\\u{a}\nand enter  ABC\\u{1b}[2J\\u{d}XYZ\n"),
            "{shown:?}"
        );
        assert!(shown.ends_with("valid for 15m.") && !shown.replace('\n', "").contains(char::is_control));
    }
}
