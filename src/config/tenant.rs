//! `[tenants.NAME]`: one organisation.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{Cloud, Credential, FromRules, Limits, Users};
use relay_mail::MailboxAddress;
use relay_mail::{ByteSize, TenantName, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub name: TenantName,
    pub cloud: Cloud,
    /// Tenant GUID or one of its domains, as in the login URL.
    pub directory: String,
    /// The application's; for a managed identity the user-assigned one, or empty.
    pub client_id: String,
    pub credential: Credential,
    /// Who may send as this tenant. Never empty.
    pub senders: Vec<SenderRule>,
    /// Clients that need no login.
    pub networks: Vec<IpNet>,
    /// The From of messages that have neither a From field nor an envelope sender. One of `senders`.
    pub default_sender: Option<MailboxAddress>,
    /// Mail that goes out from another address than it came with.
    pub from_rules: FromRules,
    /// Its mail is kept back.
    pub suspended: Option<Suspension>,
    /// Whether more of it is taken meanwhile.
    pub while_suspended: WhileSuspended,
    /// Mailboxes whose mail is kept back. The configuration names none.
    pub suspended_mailboxes: HashMap<MailboxAddress, Suspension>,
    /// SMTP logins. None by default.
    pub users: Users,
    pub route: RouteRule,
    pub mailbox: MailboxRule,
    /// Aliases, and the mailbox that each is sent from. Takes precedence over `mailbox`. Empty by default.
    pub mailboxes: HashMap<MailboxAddress, MailboxAddress>,
    pub confirm: Confirm,
    pub envelope_mismatch: EnvelopeMismatch,
    /// Messages waiting at a time. Default 100,000.
    pub max_queued: u64,
    /// Octets of its messages on the disk at a time. Default [`MaxQueuedBytes::Auto`].
    pub max_queued_bytes: MaxQueuedBytes,
    pub limits: Limits,
    pub bounces: BouncesConfig,
}

/// Why mail is kept back, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    pub why: String,
    /// By the wall clock, and so is `until`. `None`: since the configuration says so.
    pub since: Option<Timestamp>,
    /// `None`: until somebody ends it.
    pub until: Option<Timestamp>,
}

impl Suspension {
    pub(crate) fn configured() -> Self {
        Self { why: "suspended in the configuration".to_owned(), since: None, until: None }
    }
}

/// One entry of `senders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderRule {
    /// `"*"`
    Any,
    /// `"@contoso.com"`: that domain, not its subdomains. Lower case.
    Domain(String),
    Address(MailboxAddress),
}

/// `while_suspended`: what the door does with mail for a suspended tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileSuspended {
    /// It is taken, and waits.
    Accept,
    /// Clients are told to try again later.
    Refuse,
}

/// `route`: how its mail is handed to Microsoft 365.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteRule {
    /// By Microsoft Graph.
    #[default]
    Graph,
    /// By SMTP submission with XOAUTH2.
    Smtp,
    /// By Graph; by SMTP what only SMTP carries as it is.
    Auto,
}

/// `mailbox`: whose `sendMail` is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailboxRule {
    /// The author's own: the header From; for a bounce, the mailbox that bounces are sent from.
    From,
    Fixed(MailboxAddress),
}

/// `max_queued_bytes`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxQueuedBytes {
    /// A share of what the disk has free beyond `spool.min_free`: the more others take, the smaller it gets.
    #[default]
    Auto,
    Size(ByteSize),
}

/// `confirm`: how to find out whether a message was sent when the answer to its call did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confirm {
    /// The best of the others that the tenant's permissions allow.
    #[default]
    Auto,
    /// Not at all: the message is sent again.
    Off,
    /// It is looked for in Sent Items.
    SentItems,
    /// A draft is made of it before it is sent, and the service is asked about the draft.
    Draft,
}

/// `envelope_mismatch`: what happens to a message whose header names other recipients than its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EnvelopeMismatch {
    /// What is best for the recipients: as [`Smtp`](Self::Smtp) if the tenant's [`RouteRule`] lets it be sent
    /// that way, else as [`Rewrite`](Self::Rewrite).
    #[default]
    Auto,
    /// The header is made to name the envelope's recipients.
    Rewrite,
    /// It is sent by SMTP, where the envelope counts and the header stays.
    Smtp,
    /// It is not sent, and bounces.
    Refuse,
}

/// `[tenants.NAME.bounces]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BouncesConfig {
    /// The mailbox that bounces are sent from. Default: the mailbox that sent the message.
    pub mailbox: Option<MailboxAddress>,
    pub to: BounceTo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BounceTo {
    /// The envelope sender's mailbox.
    Mailbox,
    /// Nobody.
    None,
}

impl RouteRule {
    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::Smtp => "smtp",
            Self::Auto => "auto",
        }
    }
}

impl Tenant {
    /// Whether `address` may be the envelope sender or the header From of mail that this tenant sends.
    pub fn may_send_as(&self, address: &MailboxAddress) -> bool {
        self.senders.iter().any(|rule| rule.allows(address))
    }

    /// Whether mail from `address` is taken for this tenant: because it may be sent as it is, or because it
    /// goes out from another address.
    pub fn takes_from(&self, address: &MailboxAddress) -> bool {
        self.may_send_as(address) || self.from_rules.instead_of(address).is_some()
    }

    /// Whether a client at `address` may send as this tenant without login.
    pub fn trusts(&self, address: IpAddr) -> bool {
        // A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The mailbox that posts mail whose author is `from`. The mailbox for bounces posts its own, even if
    /// another one posts everybody else's; then `mailboxes` counts, then `mailbox`.
    pub fn mailbox_for<'a>(&'a self, from: &'a MailboxAddress) -> &'a MailboxAddress {
        if self.bounces.mailbox.as_ref() == Some(from) {
            return from;
        }
        if let Some(mailbox) = self.mailboxes.get(from) {
            return mailbox;
        }
        match &self.mailbox {
            MailboxRule::From => from,
            MailboxRule::Fixed(mailbox) => mailbox,
        }
    }
}

impl Default for BouncesConfig {
    fn default() -> Self {
        Self { mailbox: None, to: BounceTo::Mailbox }
    }
}

impl SenderRule {
    pub fn allows(&self, address: &MailboxAddress) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(domain) => domain.eq_ignore_ascii_case(address.domain()),
            Self::Address(allowed) => allowed == address,
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Tenant {
    /// A tenant that lets anybody send, without limits: each test changes what it is about.
    pub(crate) fn sample(name: &str, cloud: Cloud) -> Self {
        Self {
            name: name.parse().expect("a tenant's name"),
            cloud,
            directory: format!("{name}.example"),
            client_id: "app".into(),
            credential: Credential::of_secret("secret"),
            senders: vec![SenderRule::Any],
            networks: Vec::new(),
            default_sender: None,
            from_rules: FromRules::default(),
            suspended: None,
            while_suspended: WhileSuspended::Accept,
            suspended_mailboxes: HashMap::new(),
            users: Users::new(),
            route: RouteRule::Graph,
            mailbox: MailboxRule::From,
            mailboxes: HashMap::new(),
            confirm: Confirm::Off,
            envelope_mismatch: EnvelopeMismatch::Auto,
            max_queued: 1000,
            max_queued_bytes: MaxQueuedBytes::Auto,
            limits: Limits::NONE,
            bounces: BouncesConfig::default(),
        }
    }
}
