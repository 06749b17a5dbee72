//! The configuration file: parsed once, whole, into values that are valid by construction.
//!
//! One file a table. Nothing outside this room sees TOML, and nothing inside the relay checks a value again.

mod delivery;
mod limits;
mod network;
mod secret;
mod size;
mod smtp;
mod spool;
mod tenant;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

pub use delivery::{DeliveryConfig, RetryConfig};
pub use limits::Limits;
pub use network::{Cloud, CloudName};
pub use secret::{Secret, SecretSource};
pub use size::ByteSize;
pub use smtp::{Listener, SmtpConfig};
pub use spool::SpoolConfig;
pub use tenant::{BounceTo, BouncesConfig, MailboxRule, SenderRule, Tenant, TenantName};

/// Everything in the file.
#[derive(Debug, Clone)]
pub struct Config {
    pub spool: SpoolConfig,
    pub smtp: SmtpConfig,
    /// `None`: no pickup folders.
    pub pickup: Option<PickupConfig>,
    pub admin: AdminConfig,
    pub delivery: DeliveryConfig,
    pub log: LogConfig,
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
}

/// `[pickup]`
#[derive(Debug, Clone)]
pub struct PickupConfig {
    /// Holds one folder a tenant.
    pub path: PathBuf,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Loopback only, for now: there is no login yet.
    pub address: SocketAddr,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `m365_relay=debug`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
