//! `m365-relay tenant consent-url T`: the address at which an administrator of the tenant consents to the
//! app.
//!
//! Microsoft, "Admin consent on the Microsoft identity platform". One address per resource: a consent with
//! `/.default` is for one.

use std::process::ExitCode;

use reqwest::Url;
use serde::Serialize;

use crate::{
    cli::{config_path::ConfigPath, console},
    config::{Config, RouteRule, Tenant},
};

/// Print the address at which an administrator of the tenant consents to the app
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT")]
    tenant: String,
    #[command(flatten)]
    config: ConfigPath,
    /// Where the browser goes afterwards: a registered redirect URI of the app
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<Url>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Consent {
    /// What is consented to.
    resource: String,
    url: String,
    /// What the browser brings back as `state`, if everything is right.
    state: String,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load_valid(&args.config.path())?;
    let tenant = super::find(&config, &args.tenant)?;
    if tenant.client_id.is_empty() {
        anyhow::bail!("{} logs in as a managed identity, which needs no consent", tenant.name);
    }
    let state = uuid::Uuid::new_v4().simple().to_string();
    let consents = consents(tenant, &tenant.client_id, args.redirect_uri.as_ref(), &state)?;
    if args.json {
        console::say(console::json(&consents)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let directory = &tenant.directory;
    console::say(format_args!("An administrator of {directory} must open this in a browser and accept:\n"))?;
    for Consent { resource, url, .. } in &consents {
        console::say(format_args!("  for {resource}\n  {url}\n"))?;
    }
    console::say(format_args!(
        "If the consent failed, the address of the page that follows contains error=…, whatever the page \
         says. \
         To check:\n\n  m365-relay tenant check {}\n",
        tenant.name
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// One for each service that the tenant's route uses.
fn consents(
    tenant: &Tenant,
    client_id: &str,
    redirect_uri: Option<&Url>,
    state: &str,
) -> anyhow::Result<Vec<Consent>> {
    let cloud = &tenant.cloud;
    let resources = match tenant.route {
        RouteRule::Graph => vec![&cloud.graph],
        RouteRule::Smtp => vec![&cloud.exchange],
        RouteRule::Auto => vec![&cloud.graph, &cloud.exchange],
    };
    // What every app registration can have: "Mobile and desktop applications".
    let native = Url::parse(&format!("{}/common/oauth2/nativeclient", cloud.login))?;
    let redirect_uri = redirect_uri.unwrap_or(&native);
    let consent = |resource: &String| {
        let mut url = Url::parse(&format!("{}/{}/v2.0/adminconsent", cloud.login, tenant.directory))?;
        url.query_pairs_mut()
            .append_pair("client_id", client_id)
            .append_pair("scope", &format!("{resource}/.default"))
            .append_pair("redirect_uri", redirect_uri.as_str())
            .append_pair("state", state);
        Ok(Consent { resource: resource.clone(), url: url.into(), state: state.to_owned() })
    };
    resources.into_iter().map(consent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cloud;

    #[test]
    fn one_address_a_service() {
        let cloud = Cloud::built_in().next().unwrap();
        let mut tenant = Tenant { route: RouteRule::Auto, ..Tenant::sample("contoso", cloud) };
        let urls = |tenant: &Tenant| {
            let consents = consents(tenant, "an app", None, "s1").unwrap();
            consents.into_iter().map(|consent| consent.url).collect::<Vec<_>>()
        };
        let begin = "https://login.microsoftonline.com/contoso.example/v2.0/adminconsent?client_id=an+app&scope=https%3A%2F%2F";
        let end = "%2F.default&redirect_uri=https%3A%2F%2Flogin.microsoftonline.com%2Fcommon%2Foauth2%2Fnativeclient&state=s1";
        let graph = format!("{begin}graph.microsoft.com{end}");
        assert_eq!(urls(&tenant), [graph.clone(), format!("{begin}outlook.office365.com{end}")]);
        tenant.route = RouteRule::Graph;
        assert_eq!(urls(&tenant), [graph]);
    }
}
