//! `[network]`: how the relay reaches Microsoft 365.

use std::time::Duration;

use reqwest::Url;

use super::{
    Cloud, SecretSource,
    cloud::Clouds,
    loopback::is_this_machine,
    reader::{Item, TableReader},
    value::SHORTEST,
};
use relay_mail::ByteSize;

#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// All calls use it: login, Graph and uploads, whatever the host. `None`: direct.
    pub proxy: Option<Proxy>,
    /// For a connection, TLS included. Default 10 seconds; 30 seconds at most, which a login may take in all.
    pub connect_timeout: Duration,
    /// For the answer to a call once all of it was sent. Default 100 seconds; 1 hour at most.
    pub answer_timeout: Duration,
    /// What a slow line sends per second at least: the time for a call grows with its size. Default 64 KiB;
    /// 1 KiB at least.
    pub slowest: ByteSize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// `http` or `https`, host and port; no user, no password, no path.
    pub url: String,
    pub login: Option<ProxyLogin>,
}

/// Basic authentication (RFC 7617).
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyLogin {
    /// Without a colon.
    pub user: String,
    /// Read when the relay starts.
    pub password: SecretSource,
}

const PROXY: &str = r#""http://proxy:3128""#;
const LONGEST_CONNECT: Duration = Duration::from_secs(30);
const LONGEST_ANSWER: Duration = Duration::from_secs(3600);

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            proxy: None,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(100),
            slowest: ByteSize::kib(64),
        }
    }
}

impl NetworkConfig {
    pub(super) fn read(table: &mut TableReader<'_>, clouds: &Clouds) -> Self {
        let default = Self::default();
        Self {
            proxy: Proxy::read(table, clouds),
            connect_timeout: table.or_default("connect_timeout", default.connect_timeout, |item| {
                item.duration(SHORTEST..=LONGEST_CONNECT)
            }),
            answer_timeout: table.or_default("answer_timeout", default.answer_timeout, |item| {
                item.duration(SHORTEST..=LONGEST_ANSWER)
            }),
            slowest: table.or_default("slowest", default.slowest, |item| item.size(ByteSize::kib(1))),
        }
    }
}

impl Proxy {
    fn read(table: &mut TableReader<'_>, clouds: &Clouds) -> Option<Self> {
        let [has_proxy, has_user, has_password] =
            ["proxy", "proxy_user", "proxy_password"].map(|key| table.has(key));
        let url = table.optional("proxy", |item| read_url(item, clouds));
        let user = table.optional("proxy_user", read_user);
        let password = SecretSource::read_optional(table, "proxy_password");
        if !has_proxy && (has_user || has_password) {
            let key = if has_user { "proxy_user" } else { "proxy_password" };
            return table.fail_at(key, format!("there is no proxy to log in to: write proxy = {PROXY} too"));
        }
        match (has_user, has_password) {
            (true, false) => {
                table.fail_at("proxy_password", "missing, and proxy_user is there: write both")?
            }
            (false, true) => {
                table.fail_at("proxy_user", "missing, and proxy_password is there: write both")?
            }
            _ => {}
        }
        let login = user.zip(password).map(|(user, password)| ProxyLogin { user, password });
        Some(Self { url: url?, login })
    }
}

/// Does not show what it refuses if that may hold a password.
fn read_url(item: &Item<'_>, clouds: &Clouds) -> Option<String> {
    let text = item.text(PROXY)?;
    if text.contains('@') {
        return item.fail(format!(
            "has a user or a password in it: write {PROXY} alone, and these as proxy_user and proxy_password"
        ));
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host_str()?))) else {
        return item
            .fail(format!("{text:?} is not the http(s) address of a proxy: write one such as {PROXY}"));
    };
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return item.fail(format!("has more than a host and a port: write only those, as in {PROXY}"));
    }
    let in_clear = |cloud: &Cloud| [&cloud.login, &cloud.graph].iter().any(|url| url.starts_with("http:"));
    if !is_this_machine(host)
        && let Some(cloud) = clouds.values().flatten().find(|cloud| in_clear(cloud))
    {
        item.warn(format!(
            "secrets and mail of the cloud {} go to the proxy unencrypted: write https for its addresses, if any tenant is \
             in it",
            cloud.name
        ));
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// RFC 7617 section 2: a colon ends the name.
fn read_user(item: &Item<'_>) -> Option<String> {
    const EXAMPLE: &str = r#""relay""#;
    let text = item.text(EXAMPLE)?;
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        return item.fail(format!(
            "is empty, or has a colon or a control character: write the name alone, such as {EXAMPLE}"
        ));
    }
    Some(text.to_owned())
}
