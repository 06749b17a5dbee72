//! Tenants whose configuration has mistakes.
//!
//! A mistake in one tenant's table, or in a file of tenants.d, is that tenant's: the others run. What can be
//! read of it all the same is kept, so that its clients are told to try again rather than that nobody knows
//! them. Where nothing can be read, that is the answer to every client that no other tenant knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use relay_mail::MailboxAddress;

use super::{Config, Problem, SenderRule, UserName};

/// What of the tenants' configuration has mistakes. Usually nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invalid {
    /// By their names as they are written, which may be among the mistakes.
    pub tenants: BTreeMap<String, InvalidTenant>,
    /// Files of which nobody knows whose tables are in them, by their names as in [`Problem::file`].
    pub files: BTreeMap<String, Vec<Problem>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTenant {
    /// At least one.
    pub problems: Vec<Problem>,
    reach: Reach,
}

/// Whose mail a tenant with mistakes is meant to take. `None`: that cannot be read, and may be anybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) senders: Option<Vec<SenderRule>>,
    pub(super) networks: Option<Vec<IpNet>>,
    pub(super) users: Option<BTreeSet<UserName>>,
}

impl Invalid {
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.files.is_empty()
    }

    /// Tenants with mistakes; a file counts as one.
    pub fn count(&self) -> usize {
        self.tenants.len() + self.files.len()
    }

    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.tenants.values().flat_map(|tenant| &tenant.problems).chain(self.files.values().flatten())
    }

    /// What is wrong with this tenant's configuration, if anything is: its first mistake.
    pub fn first_of(&self, tenant: &str) -> Option<&Problem> {
        self.tenants.get(tenant)?.problems.first()
    }

    /// Whether mail from `sender`, which a client at `peer` brings without a login, may be for a tenant with
    /// mistakes. `None` is the null sender.
    pub fn may_be_meant(&self, peer: IpAddr, sender: Option<&MailboxAddress>) -> bool {
        let peer = peer.to_canonical();
        let is_meant = |Reach { senders, networks, .. }: &Reach| {
            let trusts = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&peer));
            let allows = |rules: &[SenderRule]| {
                sender.is_none_or(|sender| rules.iter().any(|rule| rule.allows(sender)))
            };
            networks.as_deref().is_none_or(trusts) && senders.as_deref().is_none_or(allows)
        };
        !self.files.is_empty() || self.tenants.values().any(|tenant| is_meant(&tenant.reach))
    }

    /// Whether a login of this name may be one of a tenant with mistakes.
    pub fn may_log_in(&self, login: &str) -> bool {
        let login = login.to_lowercase();
        let has = |name: &str, tenant: &InvalidTenant| {
            tenant.reach.users.as_ref().is_none_or(|users| users.contains(name))
        };
        match login.split_once('@') {
            Some((name, tenant)) => match self.tenants.get(tenant) {
                Some(tenant) => has(name, tenant),
                None => !self.files.is_empty(),
            },
            None => !self.files.is_empty() || self.tenants.values().any(|tenant| has(&login, tenant)),
        }
    }

    /// Whether any of them may have users who log in.
    pub fn may_have_users(&self) -> bool {
        let may = |tenant: &InvalidTenant| tenant.reach.users.as_ref().is_none_or(|users| !users.is_empty());
        !self.files.is_empty() || self.tenants.values().any(may)
    }

    /// Adds what is wrong with a tenant.
    pub(super) fn add(&mut self, tenant: &str, problems: Vec<Problem>, reach: Reach) {
        let before = self.tenants.get_mut(tenant);
        match before {
            // Two tables, and nobody knows which is meant.
            Some(before) => {
                before.problems.extend(problems);
                before.reach = Reach::default();
            }
            None => drop(self.tenants.insert(tenant.to_owned(), InvalidTenant { problems, reach })),
        }
    }
}

impl Config {
    /// Tenants that `running` has and in whose configuration there is a mistake now stay as they are.
    pub fn keep_as_in(&mut self, running: &Self) {
        for (name, tenant) in &running.tenants {
            let file = running.files.get(name);
            let is_invalid = self.invalid.tenants.contains_key(name.as_str())
                || file.is_some_and(|file| self.invalid.files.contains_key(&**file));
            if is_invalid && !self.tenants.contains_key(name) {
                self.tenants.insert(name.clone(), tenant.clone());
                self.files.extend(file.map(|file| (name.clone(), file.clone())));
            }
        }
    }
}
