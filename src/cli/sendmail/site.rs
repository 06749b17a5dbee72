//! Where this machine's relay takes files, and for which tenant a message is.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    exit::{Exit, Failure},
    options::Options,
};
use crate::{
    cli::config_path::ConfigPath,
    config::{Aliases, LocalSenders, LocalSubmission, Problem, SenderRule},
};
use relay_mail::{ByteSize, MailboxAddress, TenantName};

/// What the environment says. An option overrides it.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    /// `M365_RELAY_TENANT`
    pub(super) tenant: Option<String>,
    /// `M365_RELAY_PICKUP`
    pub(super) pickup: Option<PathBuf>,
    /// `M365_RELAY_FROM`: who sends if neither `-f` nor the header has an address with a domain.
    pub(super) from: Option<String>,
}

#[derive(Debug)]
pub(super) struct Site {
    pickup: PathBuf,
    named: Option<TenantName>,
    /// `None`: folder and tenant were named, and no configuration was read. The relay checks later.
    known: Option<Known>,
    /// None, where no configuration was read.
    aliases: Aliases,
}

/// What the configuration says.
#[derive(Debug)]
struct Known {
    max_message: ByteSize,
    senders: BTreeMap<TenantName, LocalSenders>,
    unread: Vec<Problem>,
}

impl Environment {
    pub(super) fn read() -> Self {
        // A variable that is set to nothing is how some service managers unset it.
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| variable(name).map(|value: OsString| value.to_string_lossy().into_owned());
        Self {
            tenant: text("M365_RELAY_TENANT"),
            pickup: variable("M365_RELAY_PICKUP").map(PathBuf::from),
            from: text("M365_RELAY_FROM"),
        }
    }
}

impl Site {
    /// With both folder and tenant named, no configuration is read.
    pub(super) fn find(options: &Options, environment: &Environment) -> Result<Self, Failure> {
        let named = options.tenant.as_ref().or(environment.tenant.as_ref());
        let named = named.map(|name| {
            let invalid = |why| Exit::Config.because(format!("tenant {name:?}: {why}"));
            name.parse::<TenantName>().map_err(|why| invalid(why.to_string()))
        });
        let named = named.transpose()?;
        let pickup = options.pickup.as_ref().map(PathBuf::from).or(environment.pickup.clone());
        if let (Some(pickup), Some(_)) = (&pickup, &named) {
            return Ok(Self { pickup: pickup.clone(), named, known: None, aliases: Aliases::default() });
        }
        let path = ConfigPath::of(options.config.as_ref().map(PathBuf::from)).path();
        let found = LocalSubmission::load(&path).map_err(|errors| {
            Exit::Config.because(format!(
                "{errors}\nwithout a configuration, --pickup PATH and --tenant NAME are needed, or M365_RELAY_PICKUP and \
                 M365_RELAY_TENANT in the environment"
            ))
        })?;
        let LocalSubmission { pickup: configured, max_message, senders, aliases, unread } = found;
        let known = Some(Known { max_message, senders, unread });
        Ok(Self { pickup: pickup.unwrap_or(configured), named, known, aliases })
    }

    /// The largest message that the relay takes, where that is known.
    pub(super) fn max_message(&self) -> Option<ByteSize> {
        self.known.as_ref().map(|known| known.max_message)
    }

    pub(super) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Who writes where nothing else says so: the only address that mail of a tenant here is sent as.
    pub(super) fn forced_author(&self) -> Option<&MailboxAddress> {
        let senders = &self.known.as_ref()?.senders;
        if let Some(named) = &self.named {
            return senders.get(named)?.forced.as_ref();
        }
        let mut forced = senders.values().filter_map(|senders| senders.forced.as_ref());
        forced.next().filter(|_| forced.next().is_none())
    }

    pub(super) fn folder(&self, tenant: &TenantName) -> PathBuf {
        self.pickup.join(Path::new(tenant.as_str()))
    }

    /// The tenant of mail in which these addresses are sender and authors. A tenant that was not named must
    /// be the only one that may send as all of them.
    pub(super) fn tenant_for(&self, addresses: &[&MailboxAddress]) -> Result<TenantName, Failure> {
        let Some(Known { senders, unread, .. }) = &self.known else {
            let nowhere = || Exit::Software.because("neither tenant nor configuration");
            return self.named.clone().ok_or_else(nowhere);
        };
        if let Some(named) = &self.named {
            return match senders.get(named) {
                Some(LocalSenders { forced: Some(_), .. }) => Ok(named.clone()),
                Some(LocalSenders { rules, .. }) => match addresses.iter().find(|one| !allow(rules, one)) {
                    None => Ok(named.clone()),
                    Some(address) => Err(Exit::NoPerm
                        .because(format!("tenant {named} may not send as {address}: see its senders"))),
                },
                // Its table may be in a file that is out of reach here. The relay checks.
                None if !unread.is_empty() => Ok(named.clone()),
                None => Err(Exit::Config.because(format!(
                    "there is no tenant {named}: the tenants are {}",
                    list(senders.keys())
                ))),
            };
        }
        // Another tenant that may send as these can be in a file that is out of reach here.
        if let Some(problem) = unread.first() {
            return Err(
                Exit::Config.because(format!("{problem}: the tenant cannot be determined, so name it {HOW}"))
            );
        }
        let may = |senders: &LocalSenders| addresses.iter().all(|address| allow(&senders.rules, address));
        let know_it: Vec<_> = senders.iter().filter(|(_, senders)| may(senders)).collect();
        let take_all = senders.iter().filter(|(_, senders)| senders.forced.is_some());
        // Who takes mail from anybody comes after those who know the sender.
        let candidates = if know_it.is_empty() { take_all.collect() } else { know_it };
        let mut candidates = candidates.into_iter().map(|(name, _)| name);
        match (candidates.next(), candidates.next()) {
            (Some(tenant), None) => Ok(tenant.clone()),
            (Some(first), Some(second)) => {
                let names = list([first, second].into_iter().chain(candidates));
                let text =
                    format!("more than one tenant may send as {}: {names}: name one {HOW}", list(addresses));
                Err(Exit::Config.because(text))
            }
            (None, _) => {
                Err(Exit::NoPerm
                    .because(format!("no tenant may send as {}: see their senders", list(addresses))))
            }
        }
    }
}

const HOW: &str = "with --tenant NAME or M365_RELAY_TENANT in the environment";

fn allow(rules: &[SenderRule], address: &MailboxAddress) -> bool {
    rules.iter().any(|rule| rule.allows(address))
}

/// `a`, `a and b`, `a, b and c`; each once.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in items.into_iter().map(|item| item.to_string()) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    match words.split_last() {
        None => "none".into(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(named: Option<&str>, unread: bool) -> Site {
        let rules = |text: &str| LocalSenders { rules: vec![SenderRule::Domain(text.into())], forced: None };
        let all = SenderRule::Address("both@x.se".parse().unwrap());
        let mut senders = BTreeMap::from([
            ("contoso".parse().unwrap(), rules("contoso.com")),
            ("fabrikam".parse().unwrap(), rules("fabrikam.com")),
        ]);
        senders.values_mut().for_each(|senders| senders.rules.push(all.clone()));
        let problem =
            Problem { file: "x.toml".into(), line: None, column: None, key: "".into(), message: "no".into() };
        let unread = if unread { vec![problem] } else { Vec::new() };
        let known = Some(Known { max_message: ByteSize::mb(1), senders, unread });
        let named = named.map(|name| name.parse().unwrap());
        Site { pickup: "p".into(), named, known, aliases: Aliases::default() }
    }

    fn tenant(site: &Site, addresses: &[&str]) -> Result<String, (Exit, String)> {
        let addresses: Vec<MailboxAddress> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let found = site.tenant_for(&addresses.iter().collect::<Vec<_>>());
        found.map(|tenant| tenant.to_string()).map_err(|failure| (failure.exit, failure.text))
    }

    #[test]
    fn the_only_one_that_may() {
        let site = site(None, false);
        assert_eq!(tenant(&site, &["a@contoso.com"]), Ok("contoso".into()));
        assert_eq!(tenant(&site, &["both@x.se", "a@fabrikam.com"]), Ok("fabrikam".into()));
        let (exit, text) = tenant(&site, &["both@x.se", "both@x.se"]).unwrap_err();
        assert_eq!(exit, Exit::Config);
        assert!(text.contains("as both@x.se: contoso and fabrikam: name one with --tenant"), "{text}");
        let (exit, text) = tenant(&site, &["a@contoso.com", "a@fabrikam.com"]).unwrap_err();
        assert_eq!(exit, Exit::NoPerm);
        assert!(text.contains("a@contoso.com and a@fabrikam.com"), "{text}");
    }

    #[test]
    fn who_takes_mail_from_anybody_comes_last() {
        let mut site = site(None, false);
        site.known.as_mut().unwrap().senders.get_mut("contoso").unwrap().forced =
            Some("a@contoso.com".parse().unwrap());
        assert_eq!(tenant(&site, &["a@fabrikam.com"]), Ok("fabrikam".into()));
        assert_eq!(tenant(&site, &["root@printer.local"]), Ok("contoso".into()));
        assert_eq!(site.forced_author().unwrap().as_str(), "a@contoso.com");
        site.named = Some("contoso".parse().unwrap());
        assert_eq!(tenant(&site, &["a@fabrikam.com"]), Ok("contoso".into()));
    }

    #[test]
    fn the_named_one() {
        assert_eq!(tenant(&site(Some("contoso"), false), &["both@x.se"]), Ok("contoso".into()));
        let (exit, text) = tenant(&site(Some("contoso"), false), &["a@fabrikam.com"]).unwrap_err();
        assert_eq!((exit, text.contains("contoso may not send as a@fabrikam.com")), (Exit::NoPerm, true));
        let (exit, text) = tenant(&site(Some("cotoso"), false), &["a@contoso.com"]).unwrap_err();
        assert_eq!((exit, text.contains("contoso and fabrikam")), (Exit::Config, true));
    }

    #[test]
    fn files_out_of_reach_leave_it_open() {
        assert_eq!(tenant(&site(Some("hidden"), true), &["a@contoso.com"]), Ok("hidden".into()));
        let (exit, text) = tenant(&site(None, true), &["a@contoso.com"]).unwrap_err();
        assert_eq!((exit, text.starts_with("x.toml: no")), (Exit::Config, true));
    }
}
