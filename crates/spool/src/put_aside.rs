//! How much of the quarantine belongs to each tenant.
//!
//! What was quarantined stays on the disk until a person has looked at it. It counts against the share of its
//! tenant, so that damage to one tenant's mail never fills another's disk. The folder is looked at now and
//! then, in the background; what was looked at once is not read again.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{QuarantineName, Tally};
use relay_mail::TenantName;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct PutAside(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Where the relay moves files aside that it cannot read.
    limits: PathBuf,
    /// The tenant by the name of the file that states it; `None`: unknown.
    known: Mutex<HashMap<OsString, Option<TenantName>>>,
}

/// The part of `ID.json` that is needed here.
#[derive(serde::Deserialize)]
struct About {
    message: Option<Whose>,
}

#[derive(serde::Deserialize)]
struct Whose {
    tenant: TenantName,
}

impl PutAside {
    /// For the spool in `root`. Nothing is measured yet.
    pub fn of(root: &Path) -> Self {
        let path = root.join("quarantine");
        Self(Arc::new(Folder { path, limits: root.join("limits"), known: Mutex::default() }))
    }

    /// Looks at the folder, and tells the tally. Returns how many entries it has, and how many unreadable
    /// files have been moved aside beside it. Blocks.
    pub fn measure(&self, tally: &Tally) -> io::Result<u64> {
        // What is inserted is whole, so a panic elsewhere leaves it in order.
        let mut known = self.0.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut entries = damaged_in(&self.0.limits);
        let mut found = HashMap::new();
        let mut sums = HashMap::<TenantName, u64>::new();
        for entry in fs::read_dir(&self.0.path)? {
            let name = entry?.file_name();
            let about = self.0.path.join(&name);
            entries += u64::from(is_entry(&name));
            if about.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let tenant = known.remove(&name).unwrap_or_else(|| whose(&about));
            if let Some(tenant) = &tenant {
                let sizes = [size(&about), size(&about.with_extension("raw"))];
                *sums.entry(tenant.clone()).or_default() += sizes.iter().sum::<u64>();
            }
            found.insert(name, tenant);
        }
        *known = found;
        for (name, tenant) in tally.tenants() {
            tenant.set_put_aside(sums.remove(&name).unwrap_or(0));
        }
        for (name, sum) in sums {
            tally.tenant(&name).set_put_aside(sum);
        }
        Ok(entries)
    }
}

/// Whether it is what an entry of the quarantine is counted by.
fn is_entry(name: &OsStr) -> bool {
    let name = name.to_str().unwrap_or_default();
    let name = name.strip_suffix(".json").or_else(|| name.starts_with("index-").then_some(name));
    name.is_some_and(|name| name.parse::<QuarantineName>().is_ok())
}

/// Files that were moved aside there. None if nobody can tell.
fn damaged_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let is_damaged = |name: OsString| name.to_string_lossy().ends_with(".damaged");
    entries.flatten().filter(|entry| is_damaged(entry.file_name())).count() as u64
}

/// The tenant that the file names. A file that cannot be read belongs to nobody.
fn whose(about: &Path) -> Option<TenantName> {
    let about: About = serde_json::from_slice(&fs::read(about).ok()?).ok()?;
    about.message.map(|message| message.tenant)
}

/// Zero if it cannot be read: it may have been removed a moment ago.
fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_quarantine_is_counted_for_its_tenant_until_it_is_removed() {
        let spool = tempfile::tempdir().unwrap();
        let folder = spool.path().join("quarantine");
        fs::create_dir(&folder).unwrap();
        let put = |id: &str, about: &str, raw: usize| {
            fs::write(folder.join(format!("{id}.json")), about).unwrap();
            fs::write(folder.join(format!("{id}.raw")), vec![b'x'; raw]).unwrap();
        };
        put("1", r#"{"id":"1","message":{"tenant":"contoso","more":[]}}"#, 1000);
        put("2", r#"{"id":"2","message":{"tenant":"fabrikam"}}"#, 500);
        put("3", r#"{"id":"3","message":null}"#, 100);
        put("4", "{", 100);
        let tally = Tally::default();
        let put_aside = PutAside::of(spool.path());
        let of = |name: &str| tally.tenant(&name.parse().unwrap()).put_aside();
        for _ in 0..2 {
            // Names that are no ids count for the share alone.
            assert_eq!(put_aside.measure(&tally).unwrap(), 0);
            assert!((1000..1100).contains(&of("contoso")) && (500..600).contains(&of("fabrikam")));
        }
        put("1M876XD4R0000", r#"{"id":"3","message":null}"#, 100);
        fs::create_dir(folder.join("index-17")).unwrap();
        fs::create_dir_all(spool.path().join("limits/recipients.damaged")).unwrap();
        assert_eq!(put_aside.measure(&tally).unwrap(), 3);
        fs::remove_file(folder.join("1.json")).unwrap();
        fs::remove_file(folder.join("1.raw")).unwrap();
        put_aside.measure(&tally).unwrap();
        assert!(of("contoso") == 0 && of("fabrikam") > 0);
        assert_eq!(tally.tenant(&"fabrikam".parse().unwrap()).occupied(), of("fabrikam"));
    }
}
