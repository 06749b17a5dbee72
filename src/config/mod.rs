//! The configuration file: parsed once, whole, into values that are valid by construction.
//!
//! One file per table. Nothing outside this room sees TOML, and nothing inside the relay checks a value
//! again. [`Config::load`] returns either a configuration without mistakes or every mistake at once, each
//! with file, line and key. A relay that runs takes more: a mistake that is one tenant's stops that tenant
//! alone, and only what belongs to everybody stops the relay ([`Config::load_to_run`]). Secrets that are kept
//! in files or in the environment are read once while loading, to find out whether they can be, and again at
//! each use.

mod access;
mod admin;
mod aliases;
mod certificate;
mod changes;
mod client_certificate;
mod client_network;
mod cloud;
mod credential;
mod delivery;
mod files;
mod from_rules;
mod graph;
mod invalid;
mod limits;
mod local_submission;
mod lockout;
mod loopback;
mod managed_identity;
mod network;
mod password;
mod problem;
mod reader;
mod roster;
mod secret;
mod smtp;
mod spool;
mod tenant;
mod tenant_table;
mod upload_hosts;
mod users;
mod value;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use relay_mail::{ByteSize, TenantName};
use tracing_subscriber::EnvFilter;

#[cfg(test)]
pub(crate) use access::umask_for_tests;

pub use admin::{AdminConfig, AdminSocket, SHORTEST_TOKEN};
pub use aliases::Aliases;
pub use certificate::{Certificate, CertificateError, LoadedCertificate};
pub use changes::Changes;
pub use client_certificate::{
    AssertionAlgorithm, ClientCertificate, ClientCertificateError, EXPIRES_SOON, SigningCertificate,
};
pub use client_network::ClientPrefix;
pub use cloud::{Cloud, CloudName, InvalidCloudName, InvalidSmtpAddress, SmtpAddress};
pub use credential::{ClientProof, Credential, UserGrant};
pub use delivery::{DeliveryConfig, LONGEST_RETRY_AFTER, RetryConfig};
pub use from_rules::FromRules;
pub use graph::GraphConfig;
pub use invalid::{Invalid, InvalidTenant};
pub use limits::{AppLimit, Limits};
pub use local_submission::{LocalSenders, LocalSubmission};
pub use lockout::LockoutConfig;
pub use loopback::is_this_machine;
pub use managed_identity::{ManagedIdentity, TokenSource, UserAssigned};
pub use network::{NetworkConfig, Proxy, ProxyLogin};
pub use password::{InvalidHash, PasswordHash};
pub use problem::{ConfigErrors, Problem};
pub use roster::{LiveRoster, Roster, RosterKeeper, User};
pub use secret::{Secret, SecretError, SecretSource};
pub use smtp::{BareNewlines, Listener, ListenerTls, SessionLimits, SmtpConfig};
pub(crate) use spool::STALLED_AFTER;
pub use spool::SpoolConfig;
pub use tenant::{
    BounceTo, BouncesConfig, Confirm, EnvelopeMismatch, MailboxRule, MaxQueuedBytes, RouteRule, SenderRule,
    Suspension, Tenant, WhileSuspended,
};
pub use upload_hosts::HostRule;
pub use users::{InvalidUserName, UserName, Users};

use files::Files;
use reader::{Findings, Item, TableReader};
use tenant_table::Surroundings;

/// Everything in the file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main file, as it was named.
    pub file: PathBuf,
    pub spool: SpoolConfig,
    pub smtp: SmtpConfig,
    /// `None`: no pickup folders.
    pub pickup: Option<PickupConfig>,
    pub admin: AdminConfig,
    pub delivery: DeliveryConfig,
    pub graph: GraphConfig,
    pub network: NetworkConfig,
    /// `[limits] app_requests_per_10_seconds`
    pub app_limit: AppLimit,
    pub log: LogConfig,
    pub aliases: Arc<Aliases>,
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
    /// Where the table of each is, as in [`Problem::file`].
    pub files: BTreeMap<TenantName, Arc<str>>,
    /// Tenants in whose configuration there are mistakes. Empty, if mistakes are errors.
    pub invalid: Arc<Invalid>,
    /// Tenants that run, and whose mail waits: a part of their credential cannot be read.
    pub unreadable: BTreeSet<TenantName>,
    /// What works but was probably not meant, for the administrator to read.
    pub warnings: Vec<Problem>,
}

/// `[pickup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickupConfig {
    /// Holds one folder per tenant.
    pub path: PathBuf,
    pub dots: Dots,
}

/// `pickup.dots`: what is done with two dots at the beginning of a line of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dots {
    #[default]
    Keep,
    /// One of them is taken off.
    Unstuff,
    /// The same in files with X-Sender lines in which no line begins with a single dot.
    Auto,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub addresses: LogAddresses,
    /// A `tracing` filter such as `info` or `m365_relay=debug`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// `log.addresses`: how addresses appear in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogAddresses {
    #[default]
    Full,
    /// As pseudonyms.
    Hashed,
}

impl Config {
    /// Reads `path`, and `tenants.d/*.toml` beside it. Any mistake is an error.
    ///
    /// Relative paths in any of these files start at the folder of `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_valid(path)?.without_mistakes()
    }

    /// As [`load`](Self::load), for a command about one tenant: mistakes in the configuration of tenants are
    /// in [`invalid`](Self::invalid).
    pub fn load_valid(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(&Files::read(path), Findings::default())
    }

    /// As [`load_valid`](Self::load_valid), for a relay that will run with it: a part of a tenant's
    /// credential that cannot be read now is a warning, and mail of that tenant waits.
    pub fn load_to_run(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(&Files::read(path), Findings::to_run())
    }

    /// Reads a configuration out of `text`. `file` is the name in errors, and relative paths start at its
    /// folder; it is not opened, and neither is tenants.d.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigErrors> {
        let files = Files::of_text(text, file);
        Self::read(&files, Findings::default())?.without_mistakes()
    }

    /// Mistakes that belong to everybody are an error, which names those of the tenants, too.
    fn read(files: &Files, findings: Findings) -> Result<Self, ConfigErrors> {
        let mut invalid = Invalid::default();
        let config = files::read_config(files, &findings, &mut invalid);
        let errors = findings.errors.into_inner();
        match config {
            Some(config) if errors.is_empty() => Ok(Self { invalid: Arc::new(invalid), ..config }),
            _ => Err(ConfigErrors::new(errors.into_iter().chain(invalid.problems().cloned()).collect())),
        }
    }

    fn without_mistakes(self) -> Result<Self, ConfigErrors> {
        if self.invalid.is_empty() {
            return Ok(self);
        }
        Err(ConfigErrors::new(self.invalid.problems().cloned().collect()))
    }

    /// Everything but the tenants, and what the tenants need to know of it.
    fn read_all_but_tenants(root: &mut TableReader<'_>) -> (Option<Self>, Surroundings) {
        let has_pickup = root.has("pickup");
        let spool = root.table("spool", SpoolConfig::read);
        let smtp = root.table("smtp", |table| {
            if !has_pickup && !table.has("listener") {
                table.fail_at::<()>("listener", "no mail can come in: add [[smtp.listener]] or [pickup]");
            }
            SmtpConfig::read(table)
        });
        let pickup = root.optional("pickup", |item| item.table(PickupConfig::read));
        let admin = root.table("admin", |table| AdminConfig::read(table, spool.as_ref(), admin::read_token));
        let hostname = smtp.as_ref().map(|smtp| smtp.hostname.as_str());
        let aliases = root.table("aliases", |table| Some(Aliases::read(table, hostname))).unwrap_or_default();
        let log = root.table("log", |table| Some(LogConfig::read(table))).unwrap_or_default();
        let delivery = root.table("delivery", |table| Some(DeliveryConfig::read(table))).unwrap_or_default();
        let graph = root.table("graph", |table| Some(GraphConfig::read(table))).unwrap_or_default();
        let limits = root
            .table("limits", |table| Some((Limits::read(table, &Limits::default()), AppLimit::read(table))));
        let (limits, app_limit) = limits.unwrap_or_default();
        let clouds = root.table("clouds", |table| Some(Cloud::read_all(table))).unwrap_or_default();
        let network =
            root.table("network", |table| Some(NetworkConfig::read(table, &clouds))).unwrap_or_default();

        let around = Surroundings {
            clouds,
            limits,
            reachable: smtp.as_ref().is_some_and(SmtpConfig::is_reachable),
            takes_logins: smtp.as_ref().is_some_and(SmtpConfig::takes_logins),
            pickup: has_pickup,
            max_message: smtp.as_ref().map_or(ByteSize(0), |smtp| smtp.max_message),
        };
        let config = spool.zip(smtp).zip(admin).map(|((spool, smtp), admin)| Self {
            file: PathBuf::new(),
            spool,
            smtp,
            pickup,
            admin,
            delivery,
            graph,
            network,
            app_limit,
            log,
            aliases: Arc::new(aliases),
            tenants: BTreeMap::new(),
            files: BTreeMap::new(),
            invalid: Arc::default(),
            unreadable: BTreeSet::new(),
            warnings: Vec::new(),
        });
        (config, around)
    }
}

/// Every key that reading `text` asked for, such as `smtp.listener.address` or `tenants.NAME.client_id`: all
/// there are, if the text has each kind of table. For a test that compares them with the documented ones.
pub fn known_keys(text: &str, file: &Path) -> BTreeSet<String> {
    let findings = Findings::default();
    let files = Files::of_text(text, file);
    files::read_config(&files, &findings, &mut Invalid::default());
    findings.known_keys.into_inner().into_iter().collect()
}

impl PickupConfig {
    fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let path = table.required("path", r#""/var/spool/m365-relay/pickup""#, |item| item.path());
        let dots = table.or_default("dots", Dots::Keep, |item| {
            item.choice(&[("keep", Dots::Keep), ("unstuff", Dots::Unstuff), ("auto", Dots::Auto)])
        });
        Some(Self { path: path?, dots })
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, addresses: LogAddresses::Full, filter: "info".to_owned() }
    }
}

impl LogConfig {
    fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        Self {
            format: table.or_default("format", default.format, |item| {
                item.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])
            }),
            addresses: table.or_default("addresses", default.addresses, |item| {
                item.choice(&[("full", LogAddresses::Full), ("hashed", LogAddresses::Hashed)])
            }),
            filter: table.or_default("filter", default.filter, read_filter),
        }
    }
}

fn read_filter(item: &Item<'_>) -> Option<String> {
    const EXAMPLE: &str = r#""info" or "info,m365_relay=debug""#;
    let text = item.text(EXAMPLE)?;
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Some(text.to_owned()),
        _ => item.fail(format!("{text:?} is not a log filter: write one such as {EXAMPLE}")),
    }
}
