//! `clouds.NAME.upload_hosts`: where attachments may be put.
//!
//! Graph names the address of each upload. That address is believed only if its host is one of these: a
//! service, a proxy or a cache that is not what it says could have the mail of a tenant put anywhere.

use std::{fmt, str::FromStr};

use super::{reader::Item, value::is_domain};

/// A host by its name, or with `*.` in front that name and all below it. In lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    name: String,
    and_below: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name of two parts at least, or \"*.\" and one")]
pub struct InvalidHostRule;

impl HostRule {
    pub(super) fn read_all(item: &Item<'_>) -> Option<Vec<Self>> {
        const EXAMPLE: &str = r#"["*.outlook.office.com"]"#;
        let read = |element: &Item<'_>| {
            let text = element.text(EXAMPLE)?;
            match text.parse() {
                Ok(rule) => Some(rule),
                Err(InvalidHostRule) => element.fail(format!("{text:?} is {InvalidHostRule}")),
            }
        };
        // All elements are read before the first bad one ends it.
        let rules: Vec<_> = item.elements(EXAMPLE)?.iter().map(read).collect();
        rules.into_iter().collect()
    }

    /// Where Exchange takes uploads, by the resource that tokens for it are asked for. Microsoft, "Attach
    /// large files to Outlook messages", shows `outlook.office.com` for the global cloud; it has no page
    /// about the others.
    pub(super) fn of_exchange(resource: &str) -> Vec<Self> {
        let host =
            resource.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
        let hosts = match host {
            "outlook.office365.com" => vec!["outlook.office.com", host],
            host => vec![host],
        };
        hosts.into_iter().filter_map(|host| format!("*.{host}").parse().ok()).collect()
    }

    pub fn allows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        match host.strip_suffix(&self.name) {
            Some("") => true,
            Some(above) => self.and_below && above.ends_with('.'),
            None => false,
        }
    }
}

impl FromStr for HostRule {
    type Err = InvalidHostRule;

    fn from_str(text: &str) -> Result<Self, InvalidHostRule> {
        let (name, and_below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        // A name whose last part is a number is an IP address to a URL.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_name = name.contains('.')
            && name.is_ascii()
            && !name.contains(['[', '*'])
            && is_domain(name)
            && !last.bytes().all(|octet| octet.is_ascii_digit());
        if is_name { Ok(Self { name: name.to_ascii_lowercase(), and_below }) } else { Err(InvalidHostRule) }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.and_below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_name_or_all_below_one() {
        let rule: HostRule = "*.Outlook.office.com".parse().unwrap();
        assert_eq!(rule.to_string(), "*.outlook.office.com");
        for host in ["outlook.office.com", "OUTLOOK.office.com", "a.b.outlook.office.com"] {
            assert!(rule.allows(host), "{host}");
        }
        for host in
            ["evil-outlook.office.com", "office.com", "outlook.office.com.evil.example", "evil.example", ""]
        {
            assert!(!rule.allows(host), "{host}");
        }
        let one: HostRule = "up.example".parse().unwrap();
        assert!(one.allows("up.example") && !one.allows("a.up.example"));
        for wrong in [
            "",
            "*",
            "*.",
            "com",
            "*.com",
            "a.*.example",
            "10.0.0.1",
            "[::1]",
            "a b.example",
            "a.example:443",
            "https://a.example",
        ] {
            assert_eq!(wrong.parse::<HostRule>(), Err(InvalidHostRule), "{wrong}");
        }
    }
}
