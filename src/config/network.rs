//! `[clouds.NAME]`: where login and Graph are. Built in: `global`, `us-gov-high`, `us-gov-dod`, `china`.

use std::{fmt, path::PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudName(String);

/// The end points of one Microsoft cloud. Base URLs have no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    pub name: CloudName,
    /// Such as `https://login.microsoftonline.com`.
    pub login: String,
    /// Such as `https://graph.microsoft.com`; also the resource that tokens are asked for.
    pub graph: String,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Display for CloudName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Cloud {
    /// Login and Graph on one loopback address, as the sandbox has them.
    pub fn loopback(url: &str) -> Self {
        Self { name: CloudName("sandbox".into()), login: url.into(), graph: url.into(), ca_file: None }
    }
}
