//! Finds users by what they call themselves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Roster, Tenant, TenantName};
use crate::config::{PasswordHash, UserName};

/// All users of all tenants.
#[derive(Default)]
pub(super) struct UserIndex {
    tenants: BTreeMap<TenantName, BTreeMap<UserName, User>>,
    /// Where a name without its tenant leads to: nowhere, if two tenants have it.
    alone: HashMap<UserName, Option<TenantName>>,
    decoy: Option<PasswordHash>,
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
        let mut costliest: Option<&PasswordHash> = None;
        for tenant in all {
            for (name, hash) in &tenant.users {
                let user = User { tenant: tenant.clone(), name: name.clone(), hash: hash.clone() };
                tenants.entry(tenant.name.clone()).or_default().insert(name.clone(), user);
                let only = Some(tenant.name.clone());
                alone.entry(name.clone()).and_modify(|tenant| *tenant = None).or_insert(only);
                if costliest.is_none_or(|costliest| costliest.cost() < hash.cost()) {
                    costliest = Some(hash);
                }
            }
        }
        Self { tenants, alone, decoy: costliest.map(PasswordHash::decoy) }
    }
}

impl Roster {
    /// Whether there is anybody who could log in.
    pub fn has_users(&self) -> bool {
        !self.users.tenants.is_empty()
    }

    /// `NAME@TENANT`, or `NAME` alone where one tenant has it; case does not count.
    pub fn user(&self, login: &str) -> Option<&User> {
        let UserIndex { tenants, alone, .. } = &self.users;
        let login = login.to_lowercase();
        match login.split_once('@') {
            Some((name, tenant)) => tenants.get(tenant)?.get(name),
            None => tenants.get(alone.get(&*login)?.as_ref()?)?.get(&*login),
        }
    }

    /// What the password for the name of nobody is compared with, so that it takes as long as for a user.
    pub fn decoy(&self) -> Option<PasswordHash> {
        self.users.decoy.clone()
    }
}

impl User {
    /// `NAME@TENANT`
    pub fn full_name(&self) -> String {
        format!("{}@{}", self.name, self.tenant.name)
    }
}
