//! `[clouds.NAME]`: where login, Graph and SMTP submission are. Built in: `global`, `us-gov-high`,
//! `us-gov-dod`, `china`.

use std::{collections::BTreeMap, fmt, net::Ipv6Addr, path::PathBuf, str::FromStr};

use reqwest::Url;

use super::{
    loopback::is_this_machine,
    reader::{Item, TableReader},
    upload_hosts::HostRule,
    value::is_domain,
};

/// 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudName(String);

/// The end points of one Microsoft cloud. Base URLs have no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    pub name: CloudName,
    /// Such as `https://login.microsoftonline.com`.
    pub login: String,
    /// Such as `https://graph.microsoft.com`; also the resource that tokens are asked for.
    pub graph: String,
    /// The resource that tokens for SMTP submission are asked for, such as `https://outlook.office365.com`.
    pub exchange: String,
    /// Where mail is submitted by SMTP. `None`: this cloud has no such place.
    pub smtp: Option<SmtpAddress>,
    /// Hosts that attachments may be put to, besides Graph's own.
    pub upload_hosts: Vec<HostRule>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// A host, which the certificate must name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SmtpAddress {
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host and a port")]
pub struct InvalidSmtpAddress;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cloud's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")]
pub struct InvalidCloudName;

/// Name, login, Graph, Exchange's resource, SMTP. Microsoft, "Microsoft Entra authentication and national
/// clouds" and "Microsoft Graph national cloud deployments". `global` is also GCC. Exchange and SMTP outside
/// `global` are what other programs use; Microsoft has no page about them.
const BUILT_IN: [[&str; 5]; 4] = [
    [
        "global",
        "https://login.microsoftonline.com",
        "https://graph.microsoft.com",
        "https://outlook.office365.com",
        "smtp.office365.com:587",
    ],
    [
        "us-gov-high",
        "https://login.microsoftonline.us",
        "https://graph.microsoft.us",
        "https://outlook.office365.us",
        "smtp.office365.us:587",
    ],
    [
        "us-gov-dod",
        "https://login.microsoftonline.us",
        "https://dod-graph.microsoft.us",
        "https://outlook-dod.office365.us",
        "outlook-dod.office365.us:587",
    ],
    [
        "china",
        "https://login.partner.microsoftonline.cn",
        "https://microsoftgraph.chinacloudapi.cn",
        "https://partner.outlook.cn",
        "smtp.partner.outlook.cn:587",
    ],
];

/// The resource that a cloud of one's own asks SMTP tokens for, if it names none.
const EXCHANGE: &str = "https://outlook.office365.com";

/// All clouds by name. `None`: its table has errors, which are noted already.
pub(super) type Clouds = BTreeMap<String, Option<Cloud>>;

impl Cloud {
    /// The built-in clouds.
    pub fn built_in() -> impl Iterator<Item = Self> {
        BUILT_IN.iter().map(|[name, login, graph, exchange, smtp]| Self {
            name: CloudName((*name).to_owned()),
            login: (*login).to_owned(),
            graph: (*graph).to_owned(),
            exchange: (*exchange).to_owned(),
            upload_hosts: HostRule::of_exchange(exchange),
            smtp: smtp.parse().ok(),
            ca_file: None,
        })
    }

    /// Reads `[clouds]`. A table with the name of a built-in cloud changes what it names and leaves the rest.
    pub(super) fn read_all(table: &mut TableReader<'_>) -> Clouds {
        let mut clouds: Clouds =
            Self::built_in().map(|cloud| (cloud.name.as_str().to_owned(), Some(cloud))).collect();
        for (name, item) in table.named() {
            let built_in = clouds.get(name).cloned().flatten();
            let cloud = match name.parse() {
                Ok(name) => item.table(|table| Self::read(table, name, built_in)),
                Err(error @ InvalidCloudName) => item.fail(error.to_string()),
            };
            clouds.insert(name.to_owned(), cloud);
        }
        clouds
    }

    fn read(table: &mut TableReader<'_>, name: CloudName, built_in: Option<Self>) -> Option<Self> {
        let mut url = |key, example, default: Option<String>| match default {
            Some(url) => Some(table.or_default(key, url, |item| read_base_url(item, example))),
            None => table.required(key, example, |item| read_base_url(item, example)),
        };
        let (exchange, smtp) = match &built_in {
            Some(cloud) => (cloud.exchange.clone(), cloud.smtp.clone()),
            None => (EXCHANGE.to_owned(), None),
        };
        let (login, graph) = built_in.map(|cloud| (cloud.login, cloud.graph)).unzip();
        let login = url("login", r#""https://login.microsoftonline.com""#, login);
        let graph = url("graph", r#""https://graph.microsoft.com""#, graph);
        let exchange = url("exchange", r#""https://outlook.office365.com""#, Some(exchange))?;
        let smtp = table.optional("smtp", SmtpAddress::read).or(smtp);
        let upload_hosts =
            table.or_default("upload_hosts", HostRule::of_exchange(&exchange), HostRule::read_all);
        let ca_file = table.optional("ca_file", read_ca_file);
        Some(Self { name, login: login?, graph: graph?, exchange, upload_hosts, smtp, ca_file })
    }
}

fn read_base_url(item: &Item<'_>, example: &str) -> Option<String> {
    let text = item.text(example)?;
    let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return item.fail(format!("{text:?} is not an http(s) address: write one such as {example}"));
    };
    if url.scheme() == "http" && !is_this_machine(url.host_str().unwrap_or_default()) {
        return item
            .fail("secrets and mail would travel unencrypted: write https (http is for this machine only)");
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return item
            .fail(format!("has more than a host, a port and a path: write only those, as in {example}"));
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn read_ca_file(item: &Item<'_>) -> Option<PathBuf> {
    let path = item.path()?;
    item.only_ours(&path)?;
    match std::fs::read_to_string(&path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => Some(path),
        Ok(_) => item.fail(format!("{} has no certificate: write the path of a PEM file", path.display())),
        Err(error) => item.fail(format!("{} cannot be read: {error}", path.display())),
    }
}

impl CloudName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CloudName {
    type Err = InvalidCloudName;

    fn from_str(text: &str) -> Result<Self, InvalidCloudName> {
        // The same rule as for tenants, so that there is one to remember.
        match text.parse::<super::TenantName>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(InvalidCloudName),
        }
    }
}

impl fmt::Display for CloudName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Cloud {
    /// Login and Graph on one loopback address, as the sandbox has them.
    pub fn loopback(url: &str) -> Self {
        Self {
            name: CloudName("sandbox".into()),
            login: url.into(),
            graph: url.into(),
            exchange: EXCHANGE.into(),
            upload_hosts: HostRule::of_exchange(EXCHANGE),
            smtp: None,
            ca_file: None,
        }
    }
}

impl SmtpAddress {
    fn read(item: &Item<'_>) -> Option<Self> {
        const EXAMPLE: &str = r#""smtp.office365.com:587""#;
        let text = item.text(EXAMPLE)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(InvalidSmtpAddress) => {
                item.fail(format!("{text:?} is not a host with a port: write one such as {EXAMPLE}"))
            }
        }
    }
}

impl FromStr for SmtpAddress {
    type Err = InvalidSmtpAddress;

    fn from_str(text: &str) -> Result<Self, InvalidSmtpAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidSmtpAddress)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(InvalidSmtpAddress)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None => host.is_ascii() && is_domain(host) && !host.starts_with('['),
        };
        let host = bare.unwrap_or(host).to_owned();
        if is_host { Ok(Self { host, port }) } else { Err(InvalidSmtpAddress) }
    }
}

impl fmt::Display for SmtpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
