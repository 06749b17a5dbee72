//! `[spool]`

use std::path::PathBuf;

use super::{ByteSize, reader::TableReader};

#[derive(Debug, Clone)]
pub struct SpoolConfig {
    pub path: PathBuf,
    /// With less free disk than this, mail is refused with 452 and pickup pauses. Default 1 GiB.
    pub min_free: ByteSize,
    /// The same for files that may yet be made (inodes), where the file system has a fixed number. Default 1000.
    pub min_free_inodes: u64,
}

impl SpoolConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let path = table.required("path", r#""/var/lib/m365-relay/spool""#, |item| item.path());
        let min_free = table.or_default("min_free", ByteSize::gib(1), |item| item.size(ByteSize(0)));
        let min_free_inodes =
            table.or_default("min_free_inodes", 1000, |item| item.integer(0..=i64::MAX as u64));
        Some(Self { path: path?, min_free, min_free_inodes })
    }
}
