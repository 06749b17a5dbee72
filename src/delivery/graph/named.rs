//! Addresses that the service names: they are checked before anything is sent there.
//!
//! The service, or anybody who answers in its place, must not be able to divert mail or a token, nor to have
//! machines of the relay's own network called. Redirects are not followed at all (see
//! [`network`](crate::network)).

use std::fmt;

use reqwest::Url;

use crate::config::{Cloud, is_this_machine};

/// Where the pieces of an attachment are sent. A secret: it is its own permission.
pub(super) struct UploadUrl {
    url: Url,
    /// It is Graph itself or, in a laboratory, this machine: the configuration names it, and its addresses
    /// are accepted as they are.
    pub(super) is_configured: bool,
}

/// The next page of a list, to which the token is sent.
pub(super) struct PageUrl(Url);

/// Shows a host and nothing else of an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Foreign {
    #[error("Graph gives no readable address for the upload")]
    None,
    #[error("Graph gives an address for the upload that is not https at a host with a name: {0}")]
    Form(&'static str),
    #[error(
        "Graph names the host {host} for the upload, which is not in upload_hosts of [clouds.{cloud}]: nothing was sent there; \
         add it if it is Microsoft's"
    )]
    Host { host: String, cloud: String },
    #[error("Graph names a next page that is not its own, at {0}")]
    Page(String),
}

impl UploadUrl {
    pub(super) fn parse(text: &str, cloud: &Cloud) -> Result<Self, Foreign> {
        let url = Url::parse(text).map_err(|_| Foreign::None)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Foreign::Form("it has a user in it"));
        }
        if is_of(&url, &cloud.graph) || is_in_laboratory(&url, cloud) {
            return Ok(Self { url, is_configured: true });
        }
        if url.scheme() != "https" {
            return Err(Foreign::Form("it is not https"));
        }
        // The usual port of https need not be named.
        if url.port().is_some() {
            return Err(Foreign::Form("it has a port"));
        }
        let Some(host) = url.domain() else { return Err(Foreign::Form("it is an IP address")) };
        if !cloud.upload_hosts.iter().any(|rule| rule.allows(host)) {
            return Err(Foreign::Host { host: shown(host), cloud: cloud.name.to_string() });
        }
        Ok(Self { url, is_configured: false })
    }

    pub(super) fn url(&self) -> Url {
        self.url.clone()
    }
}

impl PageUrl {
    /// An address of Graph itself, below its `/v1.0/`.
    pub(super) fn parse(text: &str, cloud: &Cloud) -> Result<Self, Foreign> {
        let url = Url::parse(text).map_err(|_| Foreign::Page("no address".into()))?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        let path =
            Url::parse(&cloud.graph).map(|graph| format!("{}/v1.0/", graph.path().trim_end_matches('/')));
        let is_own = is_of(&url, &cloud.graph) && path.is_ok_and(|path| url.path().starts_with(&path));
        if is_own && !has_user {
            Ok(Self(url))
        } else {
            Err(Foreign::Page(shown(url.host_str().unwrap_or_default())))
        }
    }

    pub(super) fn url(&self) -> Url {
        self.0.clone()
    }
}

/// Scheme, host and port are the same. Those of the configuration are https, except in a laboratory.
fn is_of(url: &Url, configured: &str) -> bool {
    Url::parse(configured).is_ok_and(|configured| configured.origin() == url.origin())
}

/// A cloud that is on this machine without TLS may take its uploads at another port of this machine.
fn is_in_laboratory(url: &Url, cloud: &Cloud) -> bool {
    cloud.graph.starts_with("http:")
        && url.scheme() == "http"
        && is_this_machine(url.host_str().unwrap_or_default())
}

/// A URL has no control characters in its host, but may have any number of others.
fn shown(host: &str) -> String {
    const LONGEST: usize = 253;
    host.chars().take(LONGEST).collect()
}

impl fmt::Debug for UploadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(upload URL)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global() -> Cloud {
        Cloud::built_in().next().unwrap()
    }

    #[test]
    fn uploads_go_to_hosts_of_the_cloud_only() {
        for good in [
            "https://outlook.office.com/api/v2.0/x?authtoken=s3cret",
            "https://OUTLOOK.office365.com/api",
            "https://eu1.outlook.office.com:443/api",
        ] {
            assert!(!UploadUrl::parse(good, &global()).unwrap().is_configured, "{good}");
        }
        for bad in [
            "",
            "outlook.office.com/api",
            "http://outlook.office.com/s3cret",
            "ftp://outlook.office.com/s3cret",
            "file:///etc/passwd",
            "https://outlook.office.com:8443/s3cret",
            "https://user@outlook.office.com/s3cret",
            "https://outlook.office.com@evil.example/s3cret",
            "https://outlook.office.com.evil.example/s3cret",
            "https://evil.example/outlook.office.com/s3cret",
            "https://evil.example#outlook.office.com",
            "https://evil-outlook.office.com.",
            "https://10.0.0.1/s3cret",
            "https://169.254.169.254/s3cret",
            "https://0x7f.1/s3cret",
            "https://2130706433/s3cret",
            "https://[::1]/s3cret",
            "https://localhost/s3cret",
            "http://127.0.0.1/s3cret",
            "https://outlook.office.com%00.evil.example/s3cret",
        ] {
            let error = UploadUrl::parse(bad, &global()).err().unwrap_or_else(|| panic!("{bad}")).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = UploadUrl::parse("https://evil.example/s3cret", &global()).unwrap_err().to_string();
        assert!(
            error.contains("evil.example") && error.contains("upload_hosts of [clouds.global]"),
            "{error}"
        );
    }

    #[test]
    fn each_cloud_has_hosts_of_its_own() {
        for (cloud, host) in Cloud::built_in().zip([
            "outlook.office.com",
            "outlook.office365.us",
            "outlook-dod.office365.us",
            "partner.outlook.cn",
        ]) {
            for other in Cloud::built_in() {
                let is_taken = UploadUrl::parse(&format!("https://{host}/x"), &other).is_ok();
                assert_eq!(is_taken, other.name == cloud.name, "{host} in {}", other.name);
            }
        }
    }

    #[test]
    fn a_laboratory_has_this_machine() {
        let lab = Cloud::loopback("http://127.0.0.1:18080");
        for good in
            ["http://127.0.0.1:18080/x", "http://127.0.0.1:1/x", "http://localhost:1/x", "http://[::1]:1/x"]
        {
            assert!(UploadUrl::parse(good, &lab).unwrap().is_configured, "{good}");
        }
        for bad in [
            "http://10.0.0.1/x",
            "http://evil.example/x",
            "http://user@127.0.0.1:18080/",
            "https://127.0.0.1/x",
        ] {
            assert!(UploadUrl::parse(bad, &lab).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_next_page_is_graphs_own() {
        let good = "https://graph.microsoft.com/v1.0/users/a/messages?$skip=10";
        assert_eq!(PageUrl::parse(good, &global()).unwrap().url().as_str(), good);
        for bad in [
            "",
            "/v1.0/users/a",
            "http://graph.microsoft.com/v1.0/users/a",
            "https://graph.microsoft.com:444/v1.0/users/a",
            "https://graph.microsoft.us/v1.0/users/a",
            "https://x@graph.microsoft.com/v1.0/users/a",
            "https://graph.microsoft.com/beta/users/a",
            "https://graph.microsoft.com.evil.example/v1.0/users/a",
            "https://evil.example/v1.0/users/a",
        ] {
            assert!(PageUrl::parse(bad, &global()).is_err(), "{bad}");
        }
    }
}
