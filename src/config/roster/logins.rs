//! Finds users by what they call themselves.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Roster, Tenant};
use crate::config::{PasswordHash, UserName};
use relay_mail::TenantName;

/// All users of all tenants.
#[derive(Default)]
pub(super) struct UserIndex {
    tenants: BTreeMap<TenantName, BTreeMap<UserName, User>>,
    /// Where a name without its tenant leads: nowhere, if two tenants have it.
    alone: HashMap<UserName, Option<TenantName>>,
    /// One for each cost that a hash of a user has.
    decoys: Arc<[PasswordHash]>,
}

/// Somebody who may log in by SMTP.
pub struct User {
    pub tenant: Arc<Tenant>,
    pub name: UserName,
    pub hash: PasswordHash,
}

impl UserIndex {
    pub(super) fn new<'a>(all: impl Iterator<Item = &'a Arc<Tenant>>) -> Self {
        let mut tenants = BTreeMap::<_, BTreeMap<_, _>>::new();
        let mut alone = HashMap::new();
        let mut decoys = Vec::<PasswordHash>::new();
        for tenant in all {
            for (name, hash) in &tenant.users {
                let user = User { tenant: tenant.clone(), name: name.clone(), hash: hash.clone() };
                tenants.entry(tenant.name.clone()).or_default().insert(name.clone(), user);
                let only = Some(tenant.name.clone());
                alone.entry(name.clone()).and_modify(|tenant| *tenant = None).or_insert(only);
                if !decoys.iter().any(|decoy| decoy.costs_as(hash)) {
                    decoys.push(hash.decoy());
                }
            }
        }
        Self { tenants, alone, decoys: decoys.into() }
    }
}

impl Roster {
    /// Whether there is anybody who could log in, now or when mistakes have been corrected.
    pub fn has_users(&self) -> bool {
        !self.users.tenants.is_empty() || self.invalid.may_have_users()
    }

    /// `NAME@TENANT`, or `NAME` alone if only one tenant has it; case does not count.
    pub fn user(&self, login: &str) -> Option<&User> {
        let UserIndex { tenants, alone, .. } = &self.users;
        let login = login.to_lowercase();
        match login.split_once('@') {
            Some((name, tenant)) => tenants.get(tenant)?.get(name),
            None => tenants.get(alone.get(&*login)?.as_ref()?)?.get(&*login),
        }
    }

    /// Hashes to compare a wrong password with, so that it takes as long for a user as for nobody.
    pub fn decoys(&self) -> Arc<[PasswordHash]> {
        self.users.decoys.clone()
    }

    /// Whether a client at `address` is in a network of the tenant that `login` names or, if it names none,
    /// of any tenant: this says as much about the names of nobody as about those of users.
    pub fn is_at_home(&self, login: &str, address: IpAddr) -> bool {
        match login.to_lowercase().split_once('@') {
            Some((_, tenant)) => self.tenants.get(tenant).is_some_and(|tenant| tenant.trusts(address)),
            None => self.neighbours_of(address).next().is_some(),
        }
    }
}

impl User {
    /// `NAME@TENANT`
    pub fn full_name(&self) -> String {
        format!("{}@{}", self.name, self.tenant.name)
    }
}
