//! `managed_identity` of a tenant: the identity that Azure gives to the machine, without a secret of its own.
//!
//! Where tokens come from is found out when the configuration is read, as Microsoft's libraries do it: by
//! what Azure has put into the environment.

use std::{net::IpAddr, path::PathBuf};

use reqwest::Url;

use super::{
    SecretSource,
    loopback::is_this_machine,
    reader::{Item, TableReader},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedIdentity {
    pub source: TokenSource,
    /// `None`: the machine's own.
    pub user_assigned: Option<UserAssigned>,
}

/// What gives out tokens, and where; the whole URL but for its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A virtual machine's metadata service (IMDS).
    Vm { url: String },
    /// App Service, Functions and Container Apps. `header` proves that this process may ask.
    AppService { url: String, header: SecretSource },
    /// A machine outside of Azure with the agent of Azure Arc, which puts a secret into a file of this folder
    /// for each request.
    Arc { url: String, folder: PathBuf },
}

/// Which of the identities that were assigned to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserAssigned {
    ClientId(String),
    ObjectId(String),
    /// `/subscriptions/…/userAssignedIdentities/NAME`
    ResourceId(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vm,
    AppService,
    Arc,
}

const VM: &str = "http://169.254.169.254";
const TOKEN_PATH: &str = "/metadata/identity/oauth2/token";
const ARC: &str = "http://localhost:40342/metadata/identity/oauth2/token";
const ARC_FOLDER: &str = "/var/opt/azcmagent/tokens";
/// Where the agent of Azure Arc is, if it is on this machine.
const ARC_AGENT: &str = "/opt/azcmagent/bin/himds";
const HEADER: &str = "IDENTITY_HEADER";
pub(super) const KEYS: [&str; 6] =
    ["kind", "endpoint", "client_id", "object_id", "resource_id", "arc_token_folder"];

impl ManagedIdentity {
    /// `Some(None)`: it is switched off.
    pub(super) fn read(item: &Item<'_>) -> Option<Option<Self>> {
        let environment =
            Environment { variable: &|name| std::env::var(name).ok(), has_arc_agent: &has_arc_agent };
        match item.value.as_bool() {
            Some(false) => Some(None),
            Some(true) => environment
                .source(item, None, None, ARC_FOLDER.into())
                .map(|source| Some(Self { source, user_assigned: None })),
            None if item.value.as_table().is_some() => {
                item.table(|table| Self::read_table(item, table, &environment)).map(Some)
            }
            None => item.wrong_type(
                "true, or a table such as { client_id = \"11111111-2222-3333-4444-555555555555\" }",
            ),
        }
    }

    fn read_table(
        item: &Item<'_>,
        table: &mut TableReader<'_>,
        environment: &Environment<'_>,
    ) -> Option<Self> {
        let has_kind = table.has("kind");
        let kind = table.optional("kind", |item| {
            item.choice(&[("vm", Kind::Vm), ("app-service", Kind::AppService), ("arc", Kind::Arc)])
        });
        let has_endpoint = table.has("endpoint");
        let endpoint = table.optional("endpoint", read_endpoint);
        let folder = table.or_default("arc_token_folder", ARC_FOLDER.into(), Item::path);
        let ids = [
            table.optional("client_id", |item| Some(UserAssigned::ClientId(item.word(ID)?.to_owned()))),
            table.optional("object_id", |item| Some(UserAssigned::ObjectId(item.word(ID)?.to_owned()))),
            table.optional("resource_id", |item| {
                Some(UserAssigned::ResourceId(item.word(r#""/subscriptions/…""#)?.to_owned()))
            }),
        ];
        if ["client_id", "object_id", "resource_id"].iter().filter(|key| table.has(key)).count() > 1 {
            return item.fail("names an identity twice: write one of client_id, object_id and resource_id");
        }
        // A mistake in one of them is noted already.
        if has_kind && kind.is_none() || has_endpoint && endpoint.is_none() {
            return None;
        }
        let user_assigned = ids.into_iter().flatten().next();
        let source = environment.source(item, kind, endpoint, folder)?;
        if user_assigned.is_some() && matches!(source, TokenSource::Arc { .. }) {
            return item.fail("a machine with Azure Arc has its own identity only: remove client_id, object_id or resource_id");
        }
        Some(Self { source, user_assigned })
    }
}

const ID: &str = r#""11111111-2222-3333-4444-555555555555""#;

impl UserAssigned {
    pub fn as_str(&self) -> &str {
        match self {
            Self::ClientId(id) | Self::ObjectId(id) | Self::ResourceId(id) => id,
        }
    }
}

/// The environment that this process was started in.
struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    has_arc_agent: &'a dyn Fn() -> bool,
}

fn has_arc_agent() -> bool {
    std::path::Path::new(ARC_AGENT).exists()
}

impl Environment<'_> {
    /// In the order that MSAL uses.
    fn kind(&self) -> Kind {
        let has = |name: &str| (self.variable)(name).is_some();
        match (has("IDENTITY_ENDPOINT"), has(HEADER), has("IMDS_ENDPOINT")) {
            (true, true, _) => Kind::AppService,
            (true, false, true) => Kind::Arc,
            _ if (self.has_arc_agent)() => Kind::Arc,
            _ => Kind::Vm,
        }
    }

    fn source(
        &self,
        item: &Item<'_>,
        kind: Option<Kind>,
        endpoint: Option<String>,
        folder: PathBuf,
    ) -> Option<TokenSource> {
        let kind = kind.unwrap_or_else(|| self.kind());
        let given = match (endpoint, kind) {
            (Some(url), _) => Some(url),
            (None, Kind::Vm) => self.url(item, "AZURE_POD_IDENTITY_AUTHORITY_HOST")?,
            (None, Kind::AppService | Kind::Arc) => self.url(item, "IDENTITY_ENDPOINT")?,
        };
        match kind {
            Kind::Vm => {
                let host = given.unwrap_or_else(|| VM.to_owned());
                let url = if host.ends_with(TOKEN_PATH) { host } else { host + TOKEN_PATH };
                Some(TokenSource::Vm { url })
            }
            Kind::Arc => Some(TokenSource::Arc { url: given.unwrap_or_else(|| ARC.to_owned()), folder }),
            Kind::AppService => {
                let Some(url) = given else {
                    return item
                        .fail("this process does not run in App Service: IDENTITY_ENDPOINT is not set");
                };
                let header = SecretSource::Env(HEADER.to_owned());
                match header.read() {
                    Ok(_) => Some(TokenSource::AppService { url, header }),
                    Err(error) => item.fail(error.to_string()),
                }
            }
        }
    }

    /// The URL in a variable; `Some(None)` if that is not set.
    fn url(&self, item: &Item<'_>, name: &str) -> Option<Option<String>> {
        match (self.variable)(name) {
            None => Some(None),
            Some(text) => match url(&text) {
                Some(url) => Some(Some(url)),
                None => {
                    item.fail(format!("environment variable {name} is not a URL of this machine or its host"))
                }
            },
        }
    }
}

fn read_endpoint(item: &Item<'_>) -> Option<String> {
    let text = item.text(r#""http://169.254.169.254""#)?;
    url(text).or_else(|| {
        item.fail(format!(
            "{text:?} is not an address that tokens may come from: write https, or http to this machine or \
             to an address outside the internet"
        ))
    })
}

/// Without a slash at its end. Unencrypted, a token may come from this machine, or from the host that it runs
/// on.
fn url(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| url.query().is_none() && url.fragment().is_none())?;
    let host = url.host_str()?;
    let is_near = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local() || ip.is_private() || ip.is_loopback(),
        Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.is_unique_local() || ip.is_loopback(),
        Err(_) => is_this_machine(host),
    };
    let allowed = url.scheme() == "https" || url.scheme() == "http" && is_near;
    allowed.then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_found_out_as_microsofts_libraries_do() {
        let kind = |names: &'static [&'static str], has_agent: bool| {
            let variable = |name: &str| names.contains(&name).then(|| "x".to_owned());
            Environment { variable: &variable, has_arc_agent: &|| has_agent }.kind()
        };
        assert_eq!(kind(&[], false), Kind::Vm);
        assert_eq!(kind(&["AZURE_POD_IDENTITY_AUTHORITY_HOST"], false), Kind::Vm);
        assert_eq!(kind(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER"], false), Kind::AppService);
        assert_eq!(kind(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT"], true), Kind::AppService);
        assert_eq!(kind(&["IDENTITY_ENDPOINT", "IMDS_ENDPOINT"], false), Kind::Arc);
        assert_eq!(kind(&["IDENTITY_ENDPOINT"], false), Kind::Vm);
        assert_eq!(kind(&[], true), Kind::Arc);
    }

    #[test]
    fn tokens_in_clear_come_from_near_by_only() {
        for (text, url_of) in [
            ("http://169.254.169.254/", Some("http://169.254.169.254")),
            (
                "http://localhost:40342/metadata/identity/oauth2/token",
                Some("http://localhost:40342/metadata/identity/oauth2/token"),
            ),
            ("http://[::1]:1/x", Some("http://[::1]:1/x")),
            ("http://10.0.0.1:8081/msi/token", Some("http://10.0.0.1:8081/msi/token")),
            ("https://identity.example/msi", Some("https://identity.example/msi")),
            ("http://identity.example/msi", None),
            ("http://203.0.113.7/", None),
            ("http://127.0.0.1/?a", None),
            ("file:///etc/passwd", None),
            ("", None),
        ] {
            assert_eq!(url(text).as_deref(), url_of, "{text}");
        }
    }
}
