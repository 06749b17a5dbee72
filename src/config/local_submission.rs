//! What a program that submits mail on this machine needs to know: `[pickup]`, who may send, and how much.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Aliases, ConfigErrors, FromRules, PickupConfig, Problem, SenderRule,
    access::Owners,
    files::{self, Beside, ConfigFile},
    reader::{Findings, TableReader},
    smtp::SmtpConfig,
};
use relay_mail::{ByteSize, MailboxAddress, TenantName};

/// The part of a configuration that an ordinary user may need, and may read without access to any secret.
///
/// Secrets are not looked at, wherever they are; mistakes in other tables do not matter. A file of tenants.d
/// that cannot be read is left out and named in `unread`, and so is a tenant whose senders have a mistake.
#[derive(Debug, Clone)]
pub struct LocalSubmission {
    /// `pickup.path`: holds one folder per tenant.
    pub pickup: PathBuf,
    /// `smtp.max_message`
    pub max_message: ByteSize,
    /// The tenants that could be read, and who may send as each. No list is empty.
    pub senders: BTreeMap<TenantName, LocalSenders>,
    /// `[aliases]`
    pub aliases: Aliases,
    /// Why tenants may be missing.
    pub unread: Vec<Problem>,
}

/// Whose mail a tenant takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSenders {
    /// `senders`, and the addresses of `from_map`.
    pub rules: Vec<SenderRule>,
    /// `force_from`: it takes mail from anybody, and sends it as this.
    pub forced: Option<MailboxAddress>,
}

impl LocalSubmission {
    /// Reads `path`, and `tenants.d/*.toml` beside it as far as they can be read. An error is about the file
    /// at `path`, or about one of the values above.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let main = ConfigFile::read(path.to_owned(), Owners::Any)
            .map_err(|problem| ConfigErrors::new(vec![problem]))?;
        let beside = Beside::read(path, Owners::Any);
        let findings = Findings::default();
        let found = files::read_local_submission(&main, &beside, &findings);
        let errors = findings.errors.into_inner();
        match found {
            Some(found) if errors.is_empty() => Ok(found),
            _ => Err(ConfigErrors::new(errors)),
        }
    }

    /// Reads everything but the tenants.
    pub(super) fn read(root: &mut TableReader<'_>) -> Option<Self> {
        let pickup = root.table("pickup", PickupConfig::read);
        let smtp = root.table("smtp", |table| {
            let hostname = table.optional("hostname", |item| item.text("").map(ToOwned::to_owned));
            Some((SmtpConfig::read_max_message(table), hostname))
        });
        let (max_message, hostname) = smtp?;
        let aliases = root.table("aliases", |table| Some(Aliases::read(table, hostname.as_deref())));
        let senders = BTreeMap::new();
        let unread = Vec::new();
        Some(Self { pickup: pickup?.path, max_message, senders, aliases: aliases?, unread })
    }

    /// The `[tenants]` of one file.
    pub(super) fn read_tenants(root: &mut TableReader<'_>) -> BTreeMap<TenantName, LocalSenders> {
        let tenants = root.table("tenants", |table| {
            let read = table.named().into_iter().filter_map(|(name, item)| {
                // The relay does not start with any other kind of name.
                let name: TenantName = name.parse().ok()?;
                Some((name, item.table(LocalSenders::read)?))
            });
            Some(read.collect())
        });
        tenants.unwrap_or_default()
    }

    /// Whether a mistake at `key` is about what is read here.
    pub(super) fn concerns(key: &str) -> bool {
        let is_read =
            |part: &str| key.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        key.is_empty() || is_read("pickup") || key == "smtp.max_message" || is_read("aliases")
    }

    /// Whether a mistake at `key`, in the table of a tenant, is about what is read here.
    pub(super) fn concerns_tenants(key: &str) -> bool {
        let is_read =
            |key: &str| [".senders", ".force_from", ".from_map"].iter().any(|part| key.contains(part));
        key == "tenants" || key.starts_with("tenants.") && is_read(key)
    }
}

impl LocalSenders {
    fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let senders = SenderRule::read_required(table);
        let from_rules = FromRules::read(table, senders.as_deref());
        let mut rules = senders?;
        rules.extend(from_rules.mapped().cloned().map(SenderRule::Address));
        Some(Self { rules, forced: from_rules.forced().cloned() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MAIN: &str = "[pickup]\npath = 'drop'\n[smtp]\nmax_message = '1MB'\nhostnam = 1\n\
                        [tenants.contoso]\nclient_secret = { file = '/nowhere/secret' }\nsenders = ['@contoso.com']\n";

    fn load(main: &str, beside: &str) -> Result<LocalSubmission, String> {
        crate::config::umask_for_tests();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        fs::write(&path, main).unwrap();
        fs::create_dir(folder.path().join("tenants.d")).unwrap();
        fs::write(folder.path().join("tenants.d/more.toml"), beside).unwrap();
        fs::create_dir(folder.path().join("tenants.d/unreadable.toml")).unwrap();
        LocalSubmission::load(&path).map_err(|errors| errors.to_string())
    }

    #[test]
    fn secrets_and_other_tables_do_not_matter() {
        let found = load(MAIN, "[tenants.fabrikam]\nsenders = ['*']\nclient_secret = 7\n").unwrap();
        assert!(found.pickup.ends_with("drop") && found.pickup.is_absolute());
        assert_eq!(found.max_message, ByteSize::mb(1));
        let names: Vec<_> = found.senders.keys().map(TenantName::as_str).collect();
        assert_eq!(names, ["contoso", "fabrikam"]);
        assert_eq!(found.senders["fabrikam"].rules, [SenderRule::Any]);
        // A folder of that name stands for a file that is out of reach.
        assert_eq!(found.unread.len(), 1);
        assert!(found.unread[0].file.ends_with("unreadable.toml"));
    }

    #[test]
    fn what_is_needed_has_to_be_right() {
        for (main, beside, part) in [
            ("[tenants.contoso]\nsenders = ['*']\n", "", "pickup.path: missing"),
            ("[pickup]\npath = 7\n", "", "pickup.path: is a number"),
            ("[pickup]\npath = 'x'\n[smtp]\nmax_message = 'big'\n", "", "smtp.max_message"),
            ("pickup = [", "", "not TOML"),
        ] {
            let errors = load(main, beside).unwrap_err();
            assert!(errors.contains(part) && errors.lines().count() == 1, "{part}: {errors}");
        }
    }

    #[test]
    fn a_mistake_of_a_tenant_leaves_out_that_tenant() {
        for (beside, part) in [
            ("[tenants.fabrikam]\nsenders = ['fabrikam.com']\n", "tenants.fabrikam.senders[0]"),
            ("[tenants.fabrikam]\nsender = ['*']\n", "tenants.fabrikam.senders: missing"),
            ("tenants = 7", "tenants: is a number"),
            ("[tenants.fabrikam", "not TOML"),
        ] {
            let found = load(MAIN, beside).unwrap();
            assert_eq!(found.senders.keys().map(TenantName::as_str).collect::<Vec<_>>(), ["contoso"]);
            let unread: Vec<_> = found.unread.iter().map(ToString::to_string).collect();
            assert!(unread.len() == 2 && unread[1].contains(part), "{part}: {unread:?}");
        }
    }
}
