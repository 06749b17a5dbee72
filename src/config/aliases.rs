//! `[aliases]`: whom mail goes to that is addressed to a name of this machine, such as `root`.

use std::collections::HashMap;

use relay_mail::MailboxAddress;

use super::reader::{Item, TableReader};

/// Names, each with the addresses that its mail goes to. Applies to recipients, of all tenants, by SMTP and
/// sendmail; not to the header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases {
    /// In lower case: names without a domain, or whole addresses.
    names: HashMap<String, Vec<MailboxAddress>>,
    /// What this machine is called, in lower case: a name there is a name here.
    hosts: Vec<String>,
}

impl Aliases {
    /// Whom a recipient stands for that was written so. `None`: for itself, if it is an address.
    pub fn find(&self, written: &str) -> Option<&[MailboxAddress]> {
        if self.names.is_empty() {
            return None;
        }
        let written = written.trim_end_matches('.').to_lowercase();
        let name = match written.rsplit_once('@') {
            Some((name, host)) if self.hosts.iter().any(|known| known == host) => name,
            _ => &written,
        };
        self.names.get(&written).or_else(|| self.names.get(name)).map(Vec::as_slice)
    }

    /// `hostname` is the relay's.
    pub(super) fn read(table: &mut TableReader<'_>, hostname: Option<&str>) -> Self {
        let mut names = HashMap::new();
        for (name, item) in table.named() {
            let valid = name.parse::<MailboxAddress>().is_ok() || is_local_name(name);
            if !valid {
                item.fail::<()>(format!(
                    "{name:?} is neither a name such as root nor an address: write root = \"admin@contoso.com\""
                ));
            }
            let Some(addresses) = read_addresses(&item) else { continue };
            if names.insert(name.to_lowercase(), addresses).is_some() {
                item.fail::<()>("this alias is listed twice (case makes no difference): remove one");
            }
        }
        let mut hosts = vec!["localhost".to_owned(), "localhost.localdomain".to_owned()];
        hosts.extend(hostname.map(str::to_lowercase));
        Self { names, hosts }
    }
}

fn is_local_name(name: &str) -> bool {
    format!("{name}@example.com").parse::<MailboxAddress>().is_ok()
}

/// One address, or several in a list.
fn read_addresses(item: &Item<'_>) -> Option<Vec<MailboxAddress>> {
    if item.value.as_array().is_none() {
        return Some(vec![item.mailbox()?]);
    }
    let elements = item.elements(r#"["admin@contoso.com"]"#)?;
    if elements.is_empty() {
        return item.fail("is empty: write an address, or remove the alias");
    }
    // All elements are read before the first bad one ends it.
    let addresses: Vec<_> = elements.iter().map(Item::mailbox).collect();
    addresses.into_iter().collect()
}
