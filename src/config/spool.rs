//! `[spool]`

use std::path::PathBuf;

use super::ByteSize;

#[derive(Debug, Clone)]
pub struct SpoolConfig {
    pub path: PathBuf,
    /// With less free disk than this, mail is refused with 452 and pickup pauses. Default 1 GiB.
    pub min_free: ByteSize,
}
