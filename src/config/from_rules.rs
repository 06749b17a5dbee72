//! `force_from` and `from_map` of a tenant: mail that goes out from another address than it came with.
//!
//! For devices and programs that have a wrong address, or none, and that nobody wants to set up again.

use std::collections::HashMap;

use relay_mail::MailboxAddress;

use super::{
    SenderRule,
    reader::{Item, TableReader},
};

/// Which address mail goes out from instead of its own. No rule by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromRules {
    force: Option<MailboxAddress>,
    map: HashMap<MailboxAddress, MailboxAddress>,
}

impl FromRules {
    /// What mail from `from` goes out as. `None`: as it is.
    pub fn instead_of(&self, from: &MailboxAddress) -> Option<&MailboxAddress> {
        self.map.get(from).or(self.force.as_ref())
    }

    /// What all mail goes out as that has no address in `from_map`, or none at all.
    pub fn forced(&self) -> Option<&MailboxAddress> {
        self.force.as_ref()
    }

    /// The addresses that are replaced by others, each by its own.
    pub fn mapped(&self) -> impl Iterator<Item = &MailboxAddress> {
        self.map.keys()
    }

    /// `senders` is `None` if they have errors.
    pub(super) fn read(table: &mut TableReader<'_>, senders: Option<&[SenderRule]>) -> Self {
        let force = table.optional("force_from", |item| sender(item, senders));
        let map = table.table("from_map", |table| {
            let mut map = HashMap::new();
            for (name, item) in table.named() {
                let from = match name.parse::<MailboxAddress>() {
                    Ok(from) => Some(from),
                    Err(error) => item.fail(format!(
                        "{name:?} is not an address ({error}): write \"copier@old.example\" = \
                         \"scanner@contoso.com\", with the quotes"
                    )),
                };
                let Some((from, instead)) = from.zip(sender(&item, senders)) else { continue };
                if map.insert(from, instead).is_some() {
                    item.fail::<()>("this address is listed twice (case makes no difference): remove one");
                }
            }
            Some(map)
        });
        Self { force, map: map.unwrap_or_default() }
    }
}

/// An address that the tenant may send as.
pub(super) fn sender(item: &Item<'_>, senders: Option<&[SenderRule]>) -> Option<MailboxAddress> {
    let address = item.mailbox()?;
    if senders.is_none_or(|rules| rules.iter().any(|rule| rule.allows(&address))) {
        return Some(address);
    }
    item.fail(format!("{address} is not among this tenant's senders: add it there, or write another"))
}
