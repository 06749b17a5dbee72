//! Reads `[tenants.NAME]`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    BounceTo, BouncesConfig, Cloud, Confirm, Credential, EnvelopeMismatch, FromRules, Invalid, Limits,
    MailboxRule, MaxQueuedBytes, Problem, RouteRule, SenderRule, Suspension, Tenant, WhileSuspended,
    cloud::Clouds,
    from_rules,
    invalid::Reach,
    reader::{Item, TableReader, nearest},
    users::read_users,
    value::is_domain,
};
use relay_mail::MailboxAddress;
use relay_mail::{ByteSize, InvalidTenantName, TenantName};

/// What the rest of the configuration says about every tenant.
pub(super) struct Surroundings {
    pub(super) clouds: Clouds,
    pub(super) limits: Limits,
    /// Other machines can reach an SMTP listener.
    pub(super) reachable: bool,
    /// SMTP clients can log in.
    pub(super) takes_logins: bool,
    pub(super) pickup: bool,
    /// `smtp.max_message`
    pub(super) max_message: ByteSize,
}

/// All tenants so far.
pub(super) struct Tenants<'i> {
    /// Where each is named: the file, and such as `config.toml:12`.
    places: BTreeMap<String, (Arc<str>, String)>,
    pub(super) valid: BTreeMap<TenantName, Arc<Tenant>>,
    pub(super) files: BTreeMap<TenantName, Arc<str>>,
    pub(super) unreadable: BTreeSet<TenantName>,
    invalid: &'i mut Invalid,
}

impl<'i> Tenants<'i> {
    pub(super) fn new(invalid: &'i mut Invalid) -> Self {
        Self {
            places: BTreeMap::new(),
            valid: BTreeMap::new(),
            files: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            invalid,
        }
    }

    /// Whether no tenant was named, valid or not.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Reads the `[tenants]` of one file. May be called once per file. Returns the names in it.
    pub(super) fn read(&mut self, table: &mut TableReader<'_>, around: &Surroundings) -> Option<Vec<String>> {
        let mut names = Vec::new();
        let mut file: Option<Arc<str>> = None;
        for (name, item) in table.named() {
            let file = file.get_or_insert_with(|| item.file().into());
            let mut reach = Reach::default();
            let let_pass = item.let_pass();
            let (tenant, problems) = item.apart(|| {
                let place = (file.clone(), format!("{file}:{}", item.line()));
                if let Some((_, other)) = self.places.insert(name.to_owned(), place) {
                    item.fail::<()>(format!("this tenant is also in {other}: remove one, or rename it"));
                }
                let valid_name = match name.parse() {
                    Ok(name) => Some(name),
                    Err(error @ InvalidTenantName) => item.fail(error.to_string()),
                };
                item.table(|table| Tenant::read(table, &item, around, valid_name, &mut reach))
            });
            names.push(name.to_owned());
            if !problems.is_empty() {
                self.blame(name, problems, reach);
            } else if let Some(tenant) = tenant {
                if item.let_pass() > let_pass {
                    self.unreadable.insert(tenant.name.clone());
                }
                self.files.insert(tenant.name.clone(), file.clone());
                self.valid.insert(tenant.name.clone(), Arc::new(tenant));
            }
        }
        Some(names)
    }

    /// Notes mistakes in a file of tenants.d that are outside the tables of tenants: whoever is in that file
    /// cannot be sure to be meant as it reads.
    pub(super) fn blame_file(&mut self, file: &str, named: &[String], problems: Vec<Problem>) {
        if problems.is_empty() {
            return;
        }
        for name in named {
            self.blame(name, problems.clone(), Reach::default());
        }
        if named.is_empty() {
            self.invalid.files.insert(file.to_owned(), problems);
        }
    }

    fn blame(&mut self, name: &str, problems: Vec<Problem>, reach: Reach) {
        // Of two tables of the same name, nobody knows which is meant.
        let is_twice = self.valid.remove(name).is_some();
        self.files.remove(name);
        self.invalid.add(name, problems, if is_twice { Reach::default() } else { reach });
    }
}

impl Tenant {
    /// If `name` is `None`, the table is read only for its errors. `reach` is what can be read of it in any
    /// case.
    fn read(
        table: &mut TableReader<'_>,
        whole: &Item<'_>,
        around: &Surroundings,
        name: Option<TenantName>,
        reach: &mut Reach,
    ) -> Option<Self> {
        let cloud = table.or_else(
            "cloud",
            |item| find_cloud(item, around),
            |_| around.clouds.get("global").cloned().flatten(),
        );
        let directory = table.required("directory", r#""contoso.onmicrosoft.com""#, read_directory);
        let credential = Credential::read(table);
        let senders = SenderRule::read_required(table);
        let networks = table.or_else(
            "networks",
            |item| read_networks(item, senders.as_deref().unwrap_or_default(), around),
            |_| Some(Vec::new()),
        );
        (reach.senders, reach.networks) = (senders.clone(), networks.clone());
        let networks = networks.unwrap_or_default();
        let default_sender =
            table.optional("default_sender", |item| from_rules::sender(item, senders.as_deref()));
        let from_rules = FromRules::read(table, senders.as_deref());
        let suspended = table.or_default("suspended", false, Item::boolean);
        let while_suspended = table.or_default("while_suspended", WhileSuspended::Accept, |item| {
            item.choice(&[("accept", WhileSuspended::Accept), ("refuse", WhileSuspended::Refuse)])
        });
        let users = table.table("users", |users| {
            reach.users = Some(users.named().iter().filter_map(|(name, _)| name.parse().ok()).collect());
            Some(read_users(users))
        });
        let users = users.unwrap_or_default();
        let route = table.or_default("route", RouteRule::Graph, |item| read_route(item, cloud.as_ref()));
        let mailbox = table.or_default("mailbox", MailboxRule::From, MailboxRule::read);
        let mailboxes = table
            .table("mailboxes", |table| Some(read_aliases(table, senders.as_deref())))
            .unwrap_or_default();
        let confirm = table.or_default("confirm", Confirm::Auto, |item| {
            item.choice(&[
                ("auto", Confirm::Auto),
                ("off", Confirm::Off),
                ("sent-items", Confirm::SentItems),
                ("draft", Confirm::Draft),
            ])
        });
        let envelope_mismatch = table.or_default("envelope_mismatch", EnvelopeMismatch::Auto, |item| {
            EnvelopeMismatch::read(item, route)
        });
        let max_queued = table.or_default("max_queued", 100_000, |item| item.integer(1..=1_000_000_000));
        let max_queued_bytes = table
            .or_default("max_queued_bytes", MaxQueuedBytes::Auto, |item| MaxQueuedBytes::read(item, around));
        let limits = table.table("limits", |limits| Some(Limits::read(limits, &around.limits)));
        let bounces = table.table("bounces", |bounces| Some(BouncesConfig::read(bounces)));
        warn_if_nothing_can_come(whole, around, !users.is_empty(), !networks.is_empty());
        let (client_id, credential) = credential?;
        Some(Self {
            name: name?,
            cloud: cloud?,
            directory: directory?,
            client_id,
            credential,
            senders: senders?,
            networks,
            default_sender,
            from_rules,
            suspended: suspended.then(Suspension::configured),
            while_suspended,
            suspended_mailboxes: HashMap::new(),
            users,
            route,
            mailbox,
            mailboxes,
            confirm,
            envelope_mismatch,
            max_queued,
            max_queued_bytes,
            limits: limits?,
            bounces: bounces?,
        })
    }
}

const SENDERS: &str = r#"["@contoso.com"]"#;
const NETWORK: &str = r#""10.1.0.0/16" or "10.1.2.3""#;

/// Mail of this tenant has no way in. That may be intended, so it is not an error.
fn warn_if_nothing_can_come(whole: &Item<'_>, around: &Surroundings, has_users: bool, has_networks: bool) {
    if has_users && !around.takes_logins {
        whole.warn(
            "has users, but none can log in: passwords are not accepted unencrypted, so give a \
             [[smtp.listener]] tls or trusted = true, or name smtp.trusted_networks",
        );
    } else if !around.pickup && !has_networks && !has_users {
        whole.warn(
            "has no networks and no users, and there is no [pickup]: nobody can submit mail for this \
             tenant",
        );
    }
}

fn read_route(item: &Item<'_>, cloud: Option<&Cloud>) -> Option<RouteRule> {
    let route =
        item.choice(&[("graph", RouteRule::Graph), ("smtp", RouteRule::Smtp), ("auto", RouteRule::Auto)])?;
    match cloud {
        Some(cloud) if cloud.smtp.is_none() && route != RouteRule::Graph => {
            item.fail(format!("the cloud {} has no smtp: add it to [clouds.{0}]", cloud.name))
        }
        _ => Some(route),
    }
}

fn find_cloud(item: &Item<'_>, around: &Surroundings) -> Option<Cloud> {
    let name = item.text(r#""global""#)?;
    if let Some(cloud) = around.clouds.get(name) {
        return cloud.clone();
    }
    let known: Vec<&str> = around.clouds.keys().map(String::as_str).collect();
    match nearest(name, &known) {
        Some(known) => item.fail(format!("there is no cloud {name:?}; did you mean {known:?}?")),
        None => item.fail(format!(
            "there is no cloud {name:?}: write one of {}, or add a table [clouds.NAME]",
            known.join(", ")
        )),
    }
}

fn read_directory(item: &Item<'_>) -> Option<String> {
    const EXAMPLE: &str = r#""contoso.onmicrosoft.com" or the tenant's GUID"#;
    let text = item.text(EXAMPLE)?;
    if matches!(text, "common" | "organizations" | "consumers") {
        return item.fail(format!(
            "{text:?} is not one tenant, and an application cannot log in there: write {EXAMPLE}"
        ));
    }
    // It becomes part of the login URL.
    if text.is_ascii() && is_domain(text) && !text.starts_with('[') {
        return Some(text.to_owned());
    }
    item.fail(format!("{text:?} is neither a domain nor a GUID: write {EXAMPLE}"))
}

impl SenderRule {
    pub(super) fn read_required(table: &mut TableReader<'_>) -> Option<Vec<Self>> {
        table.required("senders", SENDERS, Self::read_all)
    }

    fn read_all(item: &Item<'_>) -> Option<Vec<Self>> {
        let elements = item.elements(SENDERS)?;
        if elements.is_empty() {
            return item.fail(format!("is empty, so nobody may send: write senders = {SENDERS}"));
        }
        // All elements are read before the first bad one ends it.
        let rules: Vec<_> = elements.iter().map(Self::read).collect();
        rules.into_iter().collect()
    }

    fn read(item: &Item<'_>) -> Option<Self> {
        let text = item.text(r#""@contoso.com""#)?;
        if text == "*" {
            return Some(Self::Any);
        }
        let domain = text.strip_prefix("*@").or(text.strip_prefix('@')).unwrap_or(text);
        if is_domain(domain) {
            return if text.starts_with('@') {
                Some(Self::Domain(domain.to_lowercase()))
            } else {
                item.fail(format!("{text:?} is not an address: write \"@{domain}\" for the domain"))
            };
        }
        match text.parse() {
            Ok(address) => Some(Self::Address(address)),
            Err(error) => item.fail(format!(
                "{text:?} is not an address ({error}): write name@domain, @domain for a whole domain, or * for anybody"
            )),
        }
    }
}

fn read_networks(item: &Item<'_>, senders: &[SenderRule], around: &Surroundings) -> Option<Vec<IpNet>> {
    let read = |element: &Item<'_>| {
        let network = read_network(element)?;
        if network.prefix_len() > 0 || !around.reachable {
            return Some(network);
        }
        if senders.contains(&SenderRule::Any) {
            return element.fail(
                "anybody on the internet could send as anybody (an open relay): name the senders, narrow the \
                 networks, or keep all listeners on loopback",
            );
        }
        element.warn("anybody who can reach the listeners may send as this tenant: narrow the networks");
        Some(network)
    };
    let networks: Vec<_> = item.elements(r#"["10.1.0.0/16"]"#)?.iter().map(read).collect();
    networks.into_iter().collect()
}

pub(super) fn read_network(item: &Item<'_>) -> Option<IpNet> {
    let text = item.text(NETWORK)?;
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(network) = parsed else {
        return item.fail(format!("{text:?} is not an IP network or address: write {NETWORK}"));
    };
    if network.trunc() != network {
        let whole = network.trunc();
        let one = network.addr();
        return item
            .fail(format!("{text:?} names one machine and a whole network: write \"{whole}\" or \"{one}\""));
    }
    if network.addr().to_canonical() != network.addr() {
        return item.fail(format!(
            "{text:?} is an IPv4 network written as IPv6: write it as IPv4, such as {NETWORK}"
        ));
    }
    Some(network)
}

impl MailboxRule {
    fn read(item: &Item<'_>) -> Option<Self> {
        match item.value.as_str() {
            Some("from") => Some(Self::From),
            Some(text) if !text.contains('@') => {
                item.fail(format!("{text:?} is not known here: write \"from\" or the address of a mailbox"))
            }
            _ => item.mailbox().map(Self::Fixed),
        }
    }
}

/// `senders` is `None` if they have errors.
fn read_aliases(
    table: &mut TableReader<'_>,
    senders: Option<&[SenderRule]>,
) -> HashMap<MailboxAddress, MailboxAddress> {
    let mut aliases = HashMap::new();
    for (name, item) in table.named() {
        let alias = match name.parse::<MailboxAddress>() {
            Ok(alias) => Some(alias),
            Err(error) => item.fail(format!(
                "{name:?} is not an address ({error}): write \"alias@domain\" = \"mailbox@domain\", with the quotes"
            )),
        };
        let mailbox = item.mailbox();
        let Some((alias, mailbox)) = alias.zip(mailbox) else { continue };
        if !senders.is_none_or(|rules| rules.iter().any(|rule| rule.allows(&alias))) {
            item.warn(
                "is not among this tenant's senders, so no mail comes from it: add it there, or remove it",
            );
        }
        if aliases.insert(alias, mailbox).is_some() {
            item.fail::<()>("this alias is listed twice (case makes no difference): remove one");
        }
    }
    aliases
}

impl EnvelopeMismatch {
    fn read(item: &Item<'_>, route: RouteRule) -> Option<Self> {
        let choice = item.choice(&[
            ("auto", Self::Auto),
            ("rewrite", Self::Rewrite),
            ("smtp", Self::Smtp),
            ("refuse", Self::Refuse),
        ])?;
        match (choice, route) {
            (Self::Smtp, RouteRule::Graph) => item.fail(
                "all mail of this tenant is sent by Graph, which has no envelope: write route = \"auto\" or \
                 \"smtp\" too, or \
                 \"rewrite\" here, or \"refuse\" if the header must stay as it is",
            ),
            (Self::Rewrite, RouteRule::Smtp) => {
                item.warn("has no effect: by SMTP the envelope decides, and the header stays as it is");
                Some(choice)
            }
            _ => Some(choice),
        }
    }
}

impl MaxQueuedBytes {
    fn read(item: &Item<'_>, around: &Surroundings) -> Option<Self> {
        if item.value.as_str() == Some("auto") {
            return Some(Self::Auto);
        }
        let size = item.size(ByteSize::kib(64))?;
        if size < around.max_message {
            let max_message = around.max_message;
            item.warn(format!(
                "is less than smtp.max_message ({max_message}): larger messages are refused for this tenant"
            ));
        }
        Some(Self::Size(size))
    }
}

impl BouncesConfig {
    fn read(table: &mut TableReader<'_>) -> Self {
        let mailbox = table.optional("mailbox", Item::mailbox);
        let to = table.or_default("to", BounceTo::Mailbox, |item| {
            item.choice(&[("mailbox", BounceTo::Mailbox), ("none", BounceTo::None)])
        });
        Self { mailbox, to }
    }
}
