//! Tenants and mailboxes that an operator has suspended.
//!
//! They are kept in `suspensions.json` in the spool's folder, so that they outlast a restart, and are laid
//! over the configuration: a suspended tenant is to all rooms as if its configuration said so. The file is
//! replaced as a whole and synced before a change takes effect. A file that cannot be read keeps the relay
//! from starting: mail that somebody has stopped must not go.
//!
//! Owned by what reloads the configuration, which lifts suspensions when their time is over.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    clock,
    config::{Suspension, Tenant},
};
use relay_mail::{MailboxAddress, TenantName, Timestamp};

pub(super) struct Suspensions {
    file: PathBuf,
    kept: Kept,
    /// What was made of tenants, so that a tenant that has not changed is the same again.
    laid: HashMap<TenantName, Laid>,
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Kept {
    tenants: BTreeMap<TenantName, Entry>,
    mailboxes: Vec<MailboxEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Milliseconds since the Unix epoch, and so is `until`.
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MailboxEntry {
    tenant: TenantName,
    mailbox: MailboxAddress,
    #[serde(flatten)]
    entry: Entry,
}

struct Laid {
    base: Arc<Tenant>,
    suspended: Option<Suspension>,
    mailboxes: HashMap<MailboxAddress, Suspension>,
    over: Arc<Tenant>,
}

impl Entry {
    fn suspension(&self) -> Suspension {
        let why = match &self.reason {
            Some(reason) => format!("suspended by an operator: {reason}"),
            None => "suspended by an operator".to_owned(),
        };
        Suspension {
            why,
            since: Some(Timestamp::from_millis(self.since)),
            until: self.until.map(Timestamp::from_millis),
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now.as_millis())
    }
}

impl Suspensions {
    /// Of the spool in `root`. Blocks.
    pub(super) fn load(root: &Path) -> io::Result<Self> {
        let file = root.join("suspensions.json");
        let kept = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, kept, laid: HashMap::new() })
    }

    /// The tenants as they are to be, with the suspensions of now.
    pub(super) fn over(
        &mut self,
        tenants: &BTreeMap<TenantName, Arc<Tenant>>,
    ) -> BTreeMap<TenantName, Arc<Tenant>> {
        let now = clock::wall();
        let mut of_mailboxes: HashMap<&TenantName, HashMap<MailboxAddress, Suspension>> = HashMap::new();
        for MailboxEntry { tenant, mailbox, entry } in &self.kept.mailboxes {
            if !entry.is_over(now) {
                of_mailboxes.entry(tenant).or_default().insert(mailbox.clone(), entry.suspension());
            }
        }
        let mut laid = HashMap::new();
        let over = tenants.iter().map(|(name, base)| {
            let entry = self.kept.tenants.get(name).filter(|entry| !entry.is_over(now));
            // What the configuration says counts as long as it says so.
            let suspended = base.suspended.clone().or_else(|| entry.map(Entry::suspension));
            let mailboxes = of_mailboxes.remove(name).unwrap_or_default();
            if suspended == base.suspended && mailboxes.is_empty() {
                return (name.clone(), base.clone());
            }
            let before = self.laid.remove(name).filter(|laid| {
                Arc::ptr_eq(&laid.base, base) && laid.suspended == suspended && laid.mailboxes == mailboxes
            });
            let one = before.unwrap_or_else(|| Laid {
                base: base.clone(),
                suspended: suspended.clone(),
                mailboxes: mailboxes.clone(),
                over: Arc::new(Tenant { suspended, suspended_mailboxes: mailboxes, ..Tenant::clone(base) }),
            });
            let over = one.over.clone();
            laid.insert(name.clone(), one);
            (name.clone(), over)
        });
        let over = over.collect();
        self.laid = laid;
        over
    }

    /// Suspends a tenant, or one mailbox of it; again with another reason or end. On an error, nothing has
    /// changed.
    pub(super) async fn suspend(
        &mut self,
        tenant: &TenantName,
        mailbox: Option<&MailboxAddress>,
        until: Option<Timestamp>,
        reason: Option<String>,
    ) -> io::Result<()> {
        let mut kept = self.kept.clone();
        let mut entry =
            Entry { since: clock::wall().as_millis(), until: until.map(Timestamp::as_millis), reason };
        match mailbox {
            None => {
                if let Some(before) = kept.tenants.get(tenant) {
                    entry.since = before.since;
                }
                kept.tenants.insert(tenant.clone(), entry);
            }
            Some(mailbox) => {
                let is_it = |other: &MailboxEntry| other.tenant == *tenant && other.mailbox == *mailbox;
                if let Some(before) = kept.mailboxes.iter().find(|other| is_it(other)) {
                    entry.since = before.entry.since;
                }
                kept.mailboxes.retain(|other| !is_it(other));
                kept.mailboxes.push(MailboxEntry { tenant: tenant.clone(), mailbox: mailbox.clone(), entry });
            }
        }
        self.keep(kept).await
    }

    /// Returns whether it was suspended by an operator. On an error, nothing has changed.
    pub(super) async fn resume(
        &mut self,
        tenant: &TenantName,
        mailbox: Option<&MailboxAddress>,
    ) -> io::Result<bool> {
        let mut kept = self.kept.clone();
        match mailbox {
            None => drop(kept.tenants.remove(tenant)),
            Some(mailbox) => {
                kept.mailboxes.retain(|other| other.tenant != *tenant || other.mailbox != *mailbox);
            }
        }
        if kept == self.kept {
            return Ok(false);
        }
        self.keep(kept).await.map(|()| true)
    }

    /// When the next suspension is over.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let tenants = self.kept.tenants.values();
        let all = tenants.chain(self.kept.mailboxes.iter().map(|mailbox| &mailbox.entry));
        all.filter_map(|entry| entry.until).min().map(Timestamp::from_millis)
    }

    /// Forgets what is over. Returns who is no longer suspended. If the file cannot be written, they are
    /// forgotten all the same: the next start sees that they are over.
    pub(super) async fn lift(&mut self) -> (Vec<String>, io::Result<()>) {
        let now = clock::wall();
        let mut lifted = Vec::new();
        self.kept.tenants.retain(|tenant, entry| {
            let is_over = entry.is_over(now);
            lifted.extend(is_over.then(|| tenant.to_string()));
            !is_over
        });
        self.kept.mailboxes.retain(|MailboxEntry { tenant, mailbox, entry }| {
            let is_over = entry.is_over(now);
            lifted.extend(is_over.then(|| format!("{tenant}: {mailbox}")));
            !is_over
        });
        let written = if lifted.is_empty() { Ok(()) } else { self.keep(self.kept.clone()).await };
        (lifted, written)
    }

    async fn keep(&mut self, kept: Kept) -> io::Result<()> {
        let file = self.file.clone();
        let to_write = kept.clone();
        let written = spawn_blocking(move || write(&file, &to_write)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        self.kept = kept;
        Ok(())
    }
}

/// Replaces the file, durably.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_extension("json.new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    serde_json::to_writer_pretty(&mut file, kept)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cloud;

    fn tenants() -> BTreeMap<TenantName, Arc<Tenant>> {
        let tenant = |name: &str| Arc::new(Tenant::sample(name, Cloud::loopback("http://127.0.0.1:1")));
        ["contoso", "fabrikam"].map(|name| (name.parse().unwrap(), tenant(name))).into()
    }

    #[tokio::test]
    async fn what_is_suspended_stays_so_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let tenants = tenants();
        let contoso: TenantName = "contoso".parse().unwrap();
        let mailbox: MailboxAddress = "a@fabrikam.example".parse().unwrap();
        let fabrikam: TenantName = "fabrikam".parse().unwrap();
        let mut suspensions = Suspensions::load(folder.path()).unwrap();
        let until = clock::wall() + std::time::Duration::from_secs(3600);
        suspensions.suspend(&contoso, None, Some(until), Some("an audit".into())).await.unwrap();
        suspensions.suspend(&fabrikam, Some(&mailbox), None, None).await.unwrap();
        for _ in 0..2 {
            let over = suspensions.over(&tenants);
            let suspension = over[&contoso].suspended.clone().unwrap();
            assert_eq!(suspension.why, "suspended by an operator: an audit");
            assert_eq!(suspension.until, Some(until));
            assert!(over[&fabrikam].suspended.is_none());
            assert!(over[&fabrikam].suspended_mailboxes.contains_key(&mailbox));
            // Nobody is disturbed by what has not changed.
            let again = suspensions.over(&tenants);
            assert!(over.iter().all(|(name, tenant)| Arc::ptr_eq(tenant, &again[name])));
            assert_eq!(suspensions.next_end(), Some(until));
            suspensions = Suspensions::load(folder.path()).unwrap();
        }
        assert!(suspensions.resume(&contoso, None).await.unwrap());
        assert!(!suspensions.resume(&contoso, None).await.unwrap());
        assert!(suspensions.resume(&fabrikam, Some(&mailbox)).await.unwrap());
        let over = Suspensions::load(folder.path()).unwrap().over(&tenants);
        assert!(over.iter().all(|(name, tenant)| Arc::ptr_eq(tenant, &tenants[name])));
    }

    #[tokio::test]
    async fn what_is_over_is_lifted_and_a_later_word_keeps_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let contoso: TenantName = "contoso".parse().unwrap();
        let mut suspensions = Suspensions::load(folder.path()).unwrap();
        suspensions.suspend(&contoso, None, None, None).await.unwrap();
        let since = suspensions.kept.tenants[&contoso].since;
        let past = Timestamp::from_millis(1);
        suspensions.suspend(&contoso, None, Some(past), None).await.unwrap();
        assert_eq!(suspensions.kept.tenants[&contoso].since, since);
        assert!(suspensions.over(&tenants())[&contoso].suspended.is_none());
        let (lifted, written) = suspensions.lift().await;
        written.unwrap();
        assert_eq!(lifted, ["contoso"]);
        assert_eq!(Suspensions::load(folder.path()).unwrap().kept, Kept::default());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("suspensions.json"), "{").unwrap();
        assert!(Suspensions::load(folder.path()).is_err());
        fs::remove_file(folder.path().join("suspensions.json")).unwrap();
        fs::create_dir(folder.path().join("suspensions.json")).unwrap();
        let mut suspensions = Suspensions {
            file: folder.path().join("suspensions.json"),
            kept: Kept::default(),
            laid: HashMap::new(),
        };
        assert!(suspensions.suspend(&"contoso".parse().unwrap(), None, None, None).await.is_err());
        assert_eq!(suspensions.kept, Kept::default());
    }
}
