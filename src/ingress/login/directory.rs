//! Finds users by what they call themselves.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use super::Login;
use crate::config::{PasswordHash, Tenant, TenantName, UserName};

/// All users of all tenants.
pub(super) struct Directory {
    tenants: BTreeMap<TenantName, BTreeMap<UserName, User>>,
    /// Where a name without its tenant leads to: nowhere, if two tenants have it.
    alone: HashMap<UserName, Option<TenantName>>,
    decoy: Option<PasswordHash>,
}

pub(super) struct User {
    pub(super) tenant: Arc<Tenant>,
    pub(super) name: UserName,
    pub(super) hash: PasswordHash,
}

impl Directory {
    pub(super) fn new(all: &BTreeMap<TenantName, Arc<Tenant>>) -> Self {
        let mut tenants = BTreeMap::<_, BTreeMap<_, _>>::new();
        let mut alone = HashMap::new();
        let mut costliest: Option<&PasswordHash> = None;
        for tenant in all.values() {
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

    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// `NAME@TENANT`, or `NAME` alone where one tenant has it; case does not count.
    pub(super) fn find(&self, login: &str) -> Option<&User> {
        let login = login.to_lowercase();
        match login.split_once('@') {
            Some((name, tenant)) => self.tenants.get(tenant)?.get(name),
            None => {
                let tenant = self.alone.get(&*login)?.as_ref()?;
                self.tenants.get(tenant)?.get(&*login)
            }
        }
    }

    /// What the password for the name of nobody is compared with, so that it takes as long as for a user.
    pub(super) fn decoy(&self) -> Option<PasswordHash> {
        self.decoy.clone()
    }
}

impl User {
    /// `NAME@TENANT`
    pub(super) fn full_name(&self) -> String {
        format!("{}@{}", self.name, self.tenant.name)
    }

    pub(super) fn login(&self) -> Login {
        Login { tenant: self.tenant.clone(), user: self.name.clone() }
    }
}
