//! What the simulated service consists of: organisations, their mailboxes, and the limits it enforces.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use uuid::Uuid;

use super::{
    identities::{FederatedIdentity, LoginRules, ManagedIdentity, RegisteredCertificate, User},
    ids::uuid_of,
    smtp::rules::SubmissionRules,
};

/// How to start a [`Service`](super::Service). The default has no organisations, listens on a free loopback
/// port and enforces Microsoft's published limits.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0: any free port, see [`Service::address`](super::Service::address).
    pub address: SocketAddr,
    /// The address that accepts SMTP submission; port 0: any free port, see
    /// [`Service::smtp_address`](super::Service::smtp_address). `None`: no SMTP.
    pub smtp: Option<SocketAddr>,
    /// How SMTP submission behaves where Microsoft leaves it open.
    pub submission: SubmissionRules,
    pub directories: Vec<Directory>,
    pub limits: Limits,
    /// A recipient for which Graph refuses every message.
    pub unresolvable: Option<Unresolvable>,
    /// How 429 answers state the time to wait.
    pub retry_after: RetryAfter,
    /// `expires_in` of tokens. Zero: every token is expired when it arrives. Microsoft: 60 to 90 minutes.
    pub token_lifetime: Duration,
    /// How long every token request takes before it is answered.
    pub login_latency: Duration,
    /// How logins behave where Microsoft leaves it open.
    pub logins: LoginRules,
    /// How long an upload URL works, counted from its creation and not lengthened by chunks.
    pub upload_lifetime: Duration,
    /// How long a sent message takes to appear in Sent Items. Microsoft publishes no figure; minutes happen.
    pub sent_items_after: Duration,
    /// How long every Graph and upload call takes before it is answered. It keeps its place among the
    /// mailbox's concurrent calls meanwhile. In SMTP: the wait before replies are sent, once for all replies
    /// to one pipelined batch.
    pub latency: Duration,
    /// Delivered messages to keep, the last ones; all are counted.
    pub keep_messages: usize,
    /// Octets of delivered messages to keep, the last ones. At least one message is always kept.
    pub keep_bytes: usize,
    /// Calls to keep in the log, the last ones; all are counted. As many lines of SMTP are kept.
    pub keep_calls: usize,
}

/// A recipient that Graph cannot resolve.
#[derive(Debug, Clone)]
pub struct Unresolvable {
    pub address: String,
    /// Whether the answer names it. Both have been seen.
    pub is_named: bool,
}

/// One organisation, with the one application that may log in to it, and everything else that can log in.
#[derive(Clone)]
pub struct Directory {
    /// The names it has in login URLs: its domains, its GUID. The first is its name here. If there is no
    /// GUID, one is made up, and is a name too.
    pub names: Vec<String>,
    pub client_id: String,
    pub client_secret: String,
    /// Secrets that also work, as while one is being replaced.
    pub more_secrets: Vec<String>,
    /// Secrets that used to work: 7000222 instead of 7000215.
    pub expired_secrets: Vec<String>,
    pub certificates: Vec<RegisteredCertificate>,
    pub federated: Vec<FederatedIdentity>,
    /// The application as a public client, for logins of users without a secret. It may be `client_id`
    /// itself.
    pub public_client_id: Option<String>,
    /// URLs that a browser may be sent to. Empty: any `https` URL, and this machine.
    pub redirect_uris: Vec<String>,
    /// Whether an administrator has agreed to the application. If not, it is unknown (700016) or may not do
    /// anything for users (65001), until somebody opens `/{directory}/v2.0/adminconsent`.
    pub consented: bool,
    pub managed_identities: Vec<ManagedIdentity>,
    pub users: Vec<User>,
    /// Application permissions, such as `Mail.Send` and `Mail.ReadWrite`. A token has those of its audience:
    /// `SMTP.SendAsApp` belongs to Exchange, and is in tokens for Exchange only.
    pub roles: Vec<String>,
    /// Delegated permissions: what the application may do for a user who is logged in.
    pub scopes: Vec<String>,
    pub mailboxes: MailboxPolicy,
    /// Pairs (mailbox, From address) that may be used for sending although they differ.
    pub send_as: Vec<(String, String)>,
    /// `SmtpClientAuthenticationDisabled` of the organisation: nobody may log in to SMTP, token or not. On in
    /// organisations made since 2020; off here.
    pub smtp_auth_disabled: bool,
}

/// Which mailboxes an organisation has.
#[derive(Debug, Clone)]
pub enum MailboxPolicy {
    /// Every address at these domains.
    AnyAt(Vec<String>),
    /// These addresses.
    Listed(Vec<String>),
}

/// What one application may do with one mailbox, and how large things may be. `None`: no limit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Messages in a rolling minute. Exchange Online: 30. The real service may slow surplus mail down instead
    /// of refusing it; a client must be ready for refusals.
    pub messages_per_minute: Option<u32>,
    /// Calls at a time. Outlook service limit: 4.
    pub concurrency: Option<u32>,
    /// Outlook service limit: 10,000. Refused calls count too.
    pub requests_per_10_minutes: Option<u64>,
    /// Octets of POST, PATCH and PUT bodies. Outlook service limit: 150 MB.
    pub upload_per_5_minutes: Option<u64>,
    /// Octets of a request's body; a larger one gets 413. Graph: 4 MiB.
    pub request_bytes: usize,
    /// Octets of a MIME message after base64 is decoded. Above 2240 KiB, the service has been seen to answer
    /// 200 and to send nothing (microsoft-graph-docs#13979).
    pub mime_bytes: Option<usize>,
    /// Octets of a message as MIME, its attachments in base64 included. Exchange Online's default: 35 MB.
    pub message_bytes: Option<usize>,
    /// Recipients of one message. Exchange Online's default: 500.
    pub recipients: Option<usize>,
    /// Recipients in a rolling day, in SMTP only. Exchange Online: 10,000.
    pub recipients_per_day: Option<u32>,
    /// SMTP connections of one mailbox that are logged in at the same time. Exchange Online: 3.
    pub smtp_connections: Option<u32>,
}

/// The form of the `Retry-After` header on 429.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryAfter {
    /// `2.128`, as in Microsoft's own example, though RFC 9110 section 10.2.3 allows whole seconds only.
    Fractional,
    /// Rounded up.
    Whole,
    /// This text, whatever the wait.
    Fixed(String),
    /// No header.
    Absent,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            smtp: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            submission: SubmissionRules::default(),
            directories: Vec::new(),
            limits: Limits::default(),
            retry_after: RetryAfter::Fractional,
            token_lifetime: Duration::from_secs(3599),
            login_latency: Duration::ZERO,
            logins: LoginRules::default(),
            upload_lifetime: Duration::from_secs(3600),
            sent_items_after: Duration::ZERO,
            latency: Duration::ZERO,
            keep_messages: 1000,
            keep_bytes: 256 << 20,
            keep_calls: 10_000,
            unresolvable: None,
        }
    }
}

impl Directory {
    /// An organisation named `domain` with every mailbox at that domain, whose application may send and edit
    /// mail. It has no users.
    pub fn new(
        domain: impl Into<String>,
        client_id: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> Self {
        let domain = domain.into();
        Self {
            names: vec![domain.clone()],
            client_id: client_id.into(),
            client_secret: client_secret.into(),
            more_secrets: Vec::new(),
            expired_secrets: Vec::new(),
            certificates: Vec::new(),
            federated: Vec::new(),
            public_client_id: None,
            redirect_uris: Vec::new(),
            consented: true,
            managed_identities: Vec::new(),
            users: Vec::new(),
            scopes: ["Mail.Send", "Mail.ReadWrite", "SMTP.Send"].map(Into::into).to_vec(),
            roles: vec!["Mail.Send".into(), "Mail.ReadWrite".into()],
            mailboxes: MailboxPolicy::AnyAt(vec![domain]),
            send_as: Vec::new(),
            smtp_auth_disabled: false,
        }
    }

    /// Its first name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The GUID among its names, or one derived from the first.
    pub fn id(&self) -> Uuid {
        self.names.iter().find_map(|name| Uuid::try_parse(name).ok()).unwrap_or_else(|| uuid_of(self.name()))
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
            || Uuid::try_parse(name).is_ok_and(|id| id == self.id())
    }

    pub(super) fn takes_secret(&self, secret: &str) -> bool {
        secret == self.client_secret || self.more_secrets.iter().any(|other| other == secret)
    }

    /// Whether this is its application, as a confidential or as a public client.
    pub(super) fn is_application(&self, client_id: &str) -> bool {
        client_id.eq_ignore_ascii_case(&self.client_id)
            || self.public_client_id.as_ref().is_some_and(|public| client_id.eq_ignore_ascii_case(public))
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("names", &self.names)
            .field("client_id", &self.client_id)
            .field("client_secret", &"(secret)")
            .field("more_secrets", &self.more_secrets.len())
            .field("expired_secrets", &self.expired_secrets.len())
            .field("certificates", &self.certificates.len())
            .field("federated", &self.federated)
            .field("public_client_id", &self.public_client_id)
            .field("redirect_uris", &self.redirect_uris)
            .field("consented", &self.consented)
            .field("managed_identities", &self.managed_identities)
            .field("users", &self.users)
            .field("roles", &self.roles)
            .field("scopes", &self.scopes)
            .field("mailboxes", &self.mailboxes)
            .field("send_as", &self.send_as)
            .field("smtp_auth_disabled", &self.smtp_auth_disabled)
            .finish()
    }
}

impl MailboxPolicy {
    pub(super) fn has(&self, address: &str) -> bool {
        match self {
            Self::AnyAt(domains) => address
                .rsplit_once('@')
                .is_some_and(|(_, domain)| domains.iter().any(|d| d.eq_ignore_ascii_case(domain))),
            Self::Listed(addresses) => addresses.iter().any(|a| a.eq_ignore_ascii_case(address)),
        }
    }
}

impl Limits {
    /// No throttling, for benchmarks. Sizes remain limited.
    pub fn unthrottled() -> Self {
        Self {
            messages_per_minute: None,
            concurrency: None,
            requests_per_10_minutes: None,
            upload_per_5_minutes: None,
            recipients_per_day: None,
            smtp_connections: None,
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_minute: Some(30),
            concurrency: Some(4),
            requests_per_10_minutes: Some(10_000),
            upload_per_5_minutes: Some(150_000_000),
            request_bytes: 4 << 20,
            mime_bytes: Some(2240 << 10),
            message_bytes: Some(35 << 20),
            recipients: Some(500),
            recipients_per_day: Some(10_000),
            smtp_connections: Some(3),
        }
    }
}

impl RetryAfter {
    pub(super) fn header(&self, wait: Duration) -> Option<String> {
        match self {
            Self::Fractional => Some(format!("{:.3}", wait.as_secs_f64().max(0.001))),
            Self::Whole => Some(format!("{}", wait.as_secs_f64().ceil().max(1.0))),
            Self::Fixed(text) => Some(text.clone()),
            Self::Absent => None,
        }
    }
}
