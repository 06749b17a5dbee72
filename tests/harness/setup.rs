//! The differences that a test wants, as a configuration file and as options of the simulated service.

use std::{
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use relay_sandbox::{Directory, Limits, Options, Service, SubmissionRules};

/// Fields named after a table hold lines of that table.
pub struct Setup {
    pub spool: String,
    pub smtp: String,
    /// Further lines of `[pickup]`.
    pub pickup: String,
    /// The address of the first listener, if not 127.0.0.1.
    pub listener_address: String,
    pub listener: String,
    /// Whole tables.
    pub more_listeners: String,
    pub limits: String,
    pub delivery: String,
    /// `delivery.check_logins_every`
    pub check_logins_every: String,
    pub retry: String,
    pub log_filter: String,
    /// A command, with its arguments, to which the relay's command line is appended.
    pub wrapper: Vec<String>,
    /// Its standard error is a pipe that does not wait for its reader.
    pub nonblocking_log: bool,
    /// The file that the wrapper writes its standard error to, if it does.
    pub log_file: Option<PathBuf>,
    /// The login service's URL, if not the service itself.
    pub login: Option<String>,
    /// Graph's URL, if not the service itself.
    pub graph: Option<String>,
    /// Further lines of the cloud.
    pub cloud: String,
    pub network: String,
    pub admin: String,
    pub tenants: Vec<TenantSetup>,
    pub service_limits: Limits,
    /// The lifetime of access tokens, if not Microsoft's.
    pub token_lifetime: Option<Duration>,
    /// How the service takes mail by SMTP.
    pub submission: SubmissionRules,
    /// The address of SMTP submission, if not the service itself.
    pub submission_at: Option<String>,
    /// What else is different at the service.
    pub service: Box<dyn Fn(&mut Options) + Send + Sync>,
}

/// A tenant whose directory in Microsoft 365 is `NAME.example`, and has every mailbox there.
#[derive(Clone)]
pub struct TenantSetup {
    pub name: String,
    pub senders: String,
    pub networks: String,
    /// Lines that say how it logs in; by default, with the secret that the service knows. `URL` stands for
    /// the service's URL.
    pub credential: String,
    /// `graph`, `smtp` or `auto`.
    pub route: String,
    /// How unknown outcomes are confirmed.
    pub confirm: String,
    /// What its application may do.
    pub roles: Vec<String>,
    /// Pairs (mailbox, From address) that may be used for sending although they differ.
    pub send_as: Vec<(String, String)>,
    /// Further lines of its table, and tables of its own.
    pub more: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            spool: "min_free = 0".into(),
            smtp: String::new(),
            pickup: String::new(),
            listener_address: "127.0.0.1:0".into(),
            listener: String::new(),
            more_listeners: String::new(),
            limits: "messages_per_minute = 0\nconcurrent_requests = 0\nrecipients_per_day = 0\nrequests_per_10_minutes = 0\n\
                     upload_per_5_minutes = 0\napp_requests_per_10_seconds = 0"
                .into(),
            delivery: "settle_after = '1s'".into(),
            check_logins_every: "off".into(),
            retry: "first = '200ms'\nfactor = 1.0\njitter = 0.0".into(),
            log_filter: "info".into(),
            wrapper: Vec::new(),
            nonblocking_log: false,
            log_file: None,
            login: None,
            graph: None,
            cloud: String::new(),
            network: String::new(),
            admin: String::new(),
            tenants: vec![TenantSetup::new("contoso"), TenantSetup::new("fabrikam")],
            service_limits: Limits::unthrottled(),
            token_lifetime: None,
            submission: SubmissionRules::default(),
            submission_at: None,
            service: Box::new(|_| {}),
        }
    }
}

impl TenantSetup {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            senders: format!("['@{name}.example']"),
            networks: "['127.0.0.0/8']".into(),
            credential: format!("client_secret = '{}'", Self::secret(name)),
            route: "graph".into(),
            confirm: "off".into(),
            roles: vec!["Mail.Send".into(), "Mail.ReadWrite".into(), "SMTP.SendAsApp".into()],
            send_as: Vec::new(),
            more: String::new(),
        }
    }

    /// The secret that the service knows.
    pub fn secret(name: &str) -> String {
        format!("{name}~Very.Secret~0123456789")
    }

    /// Its directory at the service.
    pub fn directory(&self) -> Directory {
        let Self { name, roles, send_as, .. } = self;
        Directory {
            roles: roles.clone(),
            send_as: send_as.clone(),
            ..Directory::new(format!("{name}.example"), format!("{name}-app"), Self::secret(name))
        }
    }

    /// Its table in the configuration, for the service at `url`.
    pub fn table(&self, url: &str) -> String {
        let Self { name, senders, networks, credential, route, confirm, more, .. } = self;
        let credential = credential.replace("URL", url);
        let client_id = if credential.contains("managed_identity") {
            String::new()
        } else {
            format!("client_id = \"{name}-app\"")
        };
        format!(
            r#"
[tenants.{name}]
cloud = "lab"
directory = "{name}.example"
{client_id}
{credential}
senders = {senders}
networks = {networks}
route = "{route}"
confirm = "{confirm}"
{more}
"#
        )
    }
}

impl Setup {
    /// Lets it listen where no other test's relay does. A client that connects again and again, whether its
    /// relay is there or not, might meet another at the same port of 127.0.0.1, and be acknowledged by that.
    pub fn with_own_address(&mut self) {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let [.., high, low] = process::id().to_be_bytes();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Never 127.0.0.x.
        self.listener_address = format!("127.{}.{low}.{count}:0", high | 128);
    }

    pub fn tenant(&mut self, name: &str) -> &mut TenantSetup {
        self.tenants.iter_mut().find(|tenant| tenant.name == name).expect("a tenant of the setup")
    }

    pub(super) fn options(&self) -> Options {
        let usual = Options::default();
        let mut options = Options {
            token_lifetime: self.token_lifetime.unwrap_or(usual.token_lifetime),
            directories: self.tenants.iter().map(TenantSetup::directory).collect(),
            limits: self.service_limits.clone(),
            keep_messages: 100_000,
            submission: self.submission.clone(),
            ..usual
        };
        (self.service)(&mut options);
        options
    }

    /// The configuration file for `service`, whose certificate is in `ca_file`.
    pub(super) fn config(&self, service: &Service, ca_file: &Path) -> String {
        let url = &service.url();
        let Self {
            spool,
            smtp,
            pickup,
            listener_address,
            listener,
            more_listeners,
            limits,
            delivery,
            check_logins_every,
            retry,
            log_filter,
            login,
            graph,
            cloud,
            network,
            admin,
            tenants,
            ..
        } = self;
        let submission = match (&self.submission_at, service.smtp_address()) {
            _ if self.tenants.iter().all(|tenant| tenant.route == "graph") => String::new(),
            (Some(address), _) => format!("smtp = \"{address}\"\nca_file = {ca_file:?}"),
            (None, Some(address)) => format!("smtp = \"{address}\"\nca_file = {ca_file:?}"),
            (None, None) => String::new(),
        };
        let login = login.as_deref().unwrap_or(url);
        let graph = graph.as_deref().unwrap_or(url);
        let mut text = format!(
            r#"[spool]
path = "spool"
{spool}

[smtp]
hostname = "relay.example"
{smtp}

[[smtp.listener]]
address = "{listener_address}"
{listener}

{more_listeners}

[pickup]
path = "pickup"
{pickup}

[admin]
address = "127.0.0.1:0"
{admin}

[log]
format = "json"
filter = "{log_filter}"

[limits]
{limits}

[delivery]
check_logins_every = "{check_logins_every}"
{delivery}

[delivery.retry]
{retry}

[network]
{network}

[clouds.lab]
login = "{login}"
graph = "{graph}"
{submission}
{cloud}
"#
        );
        for tenant in tenants {
            text += &tenant.table(url);
        }
        text
    }
}
