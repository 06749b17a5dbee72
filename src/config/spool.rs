//! `[spool]`

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ConfigErrors,
    access::Owners,
    files::{self, ConfigFile},
    reader::{Findings, TableReader},
};
use relay_mail::ByteSize;
use relay_spool::Floor;

#[derive(Debug, Clone, PartialEq)]
pub struct SpoolConfig {
    pub path: PathBuf,
    /// With less free disk than this, mail is refused with 452 and pickup pauses. Default 1 GiB.
    pub min_free: ByteSize,
    /// The same for files that can still be made (inodes), where the file system has a fixed number. Default
    /// 1000.
    pub min_free_inodes: u64,
    /// When an operation on the disk has not come back for this long, the relay ends, to be started again.
    /// Default a minute.
    pub stalled_after: Duration,
}

pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(60);

impl SpoolConfig {
    /// Reads nothing but `[spool]` of the file at `path`: a user who needs to reach the mail may not have the
    /// secrets, and mistakes in other tables do not matter then.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = ConfigFile::read(path.to_owned(), Owners::Any)
            .map_err(|problem| ConfigErrors::new(vec![problem]))?;
        let findings = Findings::default();
        let spool = files::read_table(&file, &findings, "spool", Self::read);
        let errors = findings.errors.into_inner();
        match spool {
            Some(spool) if errors.is_empty() => Ok(spool),
            _ => Err(ConfigErrors::new(errors)),
        }
    }

    /// What is kept free on the spool's disk.
    pub fn floor(&self) -> Floor {
        Floor { octets: self.min_free.0, inodes: self.min_free_inodes }
    }

    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let path = table.required("path", r#""/var/lib/m365-relay/spool""#, |item| item.path());
        let min_free = table.or_default("min_free", ByteSize::gib(1), |item| item.size(ByteSize(0)));
        let min_free_inodes =
            table.or_default("min_free_inodes", 1000, |item| item.integer(0..=i64::MAX as u64));
        let stalled_after = table.or_default("stalled_after", STALLED_AFTER, |item| {
            item.duration(Duration::from_secs(1)..=Duration::from_secs(3600))
        });
        Some(Self { path: path?, min_free, min_free_inodes, stalled_after })
    }
}
