//! `m365-relay tenant check T`: can mail of this tenant be sent, and if not, what must be corrected?
//!
//! Gets the tokens that its route needs, shows what they permit, and tries it on a mailbox, without sending
//! anything. Needs no running relay; but if one runs, and all is well, it is told to try again what was
//! refused to the tenant. `--send` sends a message by the tenant's route, in the way that the relay would.

mod graph;
mod message;
mod report;
mod smtp;

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context;
use tokio::time::Instant;

use crate::{
    cli::{config_path::ConfigPath, console, daemon::Daemon},
    config::{AppLimit, Config, Credential, MailboxRule, RouteRule, SenderRule, Tenant, UserGrant},
    delivery::{
        graph::GraphContext,
        smtp as submission,
        smtp::{DialError, Smtp},
    },
    identity::{AccessToken, Audience, Identity, TokenClaims, claims, credential_folder},
    limits::allowance::Allowances,
    network::Clients,
    telemetry::Metrics,
};
use relay_mail::{MailboxAddress, TenantName};
use report::Report;

/// Check whether a tenant's mail can be sent, and say what to correct
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT", required_unless_present = "all")]
    tenant: Option<String>,
    /// All tenants, one after the other
    #[arg(long, conflicts_with_all = ["tenant", "mailbox", "send"])]
    all: bool,
    #[command(flatten)]
    config: ConfigPath,
    /// The mailbox to try [default: one that the configuration names]
    #[arg(long, value_name = "ADDRESS")]
    mailbox: Option<MailboxAddress>,
    /// Send a test message from that mailbox to this address
    #[arg(long, value_name = "ADDRESS")]
    send: Option<MailboxAddress>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What the check works with.
struct Check<'a> {
    config: &'a Config,
    tenant: &'a Arc<Tenant>,
    identity: Arc<Identity>,
    clients: Clients,
    allowances: Allowances,
    report: Report,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load_valid(&args.config.path())?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let Some(name) = &args.tenant else { return check_all(&config, &runtime, args) };
    let report = match config.invalid.tenants.get(name.as_str()) {
        Some(tenant) => Report::of_mistakes(name, &tenant.problems),
        None => check_one(&config, super::find(&config, name)?, &runtime, args)?,
    };
    if args.json {
        console::say(console::json(&report)?)?;
    } else {
        show(&report)?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_one(
    config: &Config,
    tenant: &Arc<Tenant>,
    runtime: &tokio::runtime::Runtime,
    args: &Args,
) -> anyhow::Result<Report> {
    let mut report = runtime.block_on(check(config, tenant, args))?;
    if report.ok && is_told(&args.config.path(), &tenant.name) {
        report.good("retry", "the running relay tries again what was refused to this tenant");
    }
    Ok(report)
}

/// Each report is shown as soon as it is there. Of tenants that are set up, there is one line.
fn check_all(config: &Config, runtime: &tokio::runtime::Runtime, args: &Args) -> anyhow::Result<ExitCode> {
    let mut failed = 0;
    let mut reports = Vec::new();
    let invalid = config.invalid.tenants.iter().map(|(name, tenant)| (name, &tenant.problems));
    let mistakes = invalid.chain(&config.invalid.files);
    let mistakes = mistakes.map(|(whose, problems)| Ok(Report::of_mistakes(whose, problems)));
    let checked = config.tenants.values().map(|tenant| check_one(config, tenant, runtime, args));
    let all = config.tenants.len() + config.invalid.count();
    for report in mistakes.chain(checked) {
        let report = report?;
        failed += usize::from(!report.ok);
        if args.json {
            reports.push(report);
        } else if report.ok {
            console::say(format_args!("{}: all is well", report.tenant))?;
        } else {
            show(&report)?;
        }
    }
    if args.json {
        console::say(console::json(&reports)?)?;
    } else {
        console::say(format_args!("{all} tenants checked, {failed} in trouble"))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &Report) -> anyhow::Result<()> {
    let mut text = String::new();
    report.show(&mut text)?;
    Ok(console::show(&text, "")?)
}

/// Tells the running relay that what was refused to the tenant may work now. Without one, there is nothing
/// to tell.
fn is_told(config: &Path, tenant: &TenantName) -> bool {
    let told = Daemon::of(config).and_then(|daemon| daemon.post(&format!("/api/v1/tenants/{tenant}/retry")));
    matches!(told, Ok((200, _)))
}

async fn check(config: &Config, tenant: &Arc<Tenant>, args: &Args) -> anyhow::Result<Report> {
    let metrics = Metrics::new();
    let clients = Clients::new(&config.network, [&tenant.cloud].into_iter())?;
    let identity = Identity::new(clients.clone(), metrics.clone(), credential_folder(&config.spool.path));
    let allowances = Allowances::new(AppLimit(None), metrics, None);
    let report = Report {
        tenant: tenant.name.to_string(),
        cloud: tenant.cloud.name.to_string(),
        directory: tenant.directory.clone(),
        client_id: tenant.client_id.clone(),
        route: tenant.route.as_str(),
        ok: true,
        tried: None,
        findings: Vec::new(),
    };
    let mut check = Check { config, tenant, identity: Arc::new(identity), clients, allowances, report };
    check.about_the_configuration();
    let mailbox = args.mailbox.clone().or_else(|| a_mailbox(tenant));
    if mailbox.is_none() {
        check.report.warn(
            "mailbox",
            "the configuration names no mailbox to try",
            "name one: --mailbox ADDRESS",
        );
    }
    check.report.tried = mailbox.as_ref().map(ToString::to_string);
    if tenant.route != RouteRule::Smtp {
        graph::check(&mut check, mailbox.as_ref()).await;
    }
    if tenant.route != RouteRule::Graph {
        smtp::check(&mut check, mailbox.as_ref()).await;
    }
    if let Some(to) = &args.send {
        match mailbox {
            Some(from) => message::send(&mut check, &from, to).await?,
            None => check.report.missing(
                "message",
                "there is no mailbox to send it from",
                "name one: --mailbox ADDRESS",
            ),
        }
    }
    Ok(check.report)
}

/// A mailbox that the tenant's mail is sent from, as far as the configuration tells.
fn a_mailbox(tenant: &Tenant) -> Option<MailboxAddress> {
    let fixed = match &tenant.mailbox {
        MailboxRule::Fixed(mailbox) => Some(mailbox),
        MailboxRule::From => None,
    };
    let sender = tenant.senders.iter().find_map(|rule| match rule {
        SenderRule::Address(address) => Some(tenant.mailbox_for(address)),
        SenderRule::Any | SenderRule::Domain(_) => None,
    });
    let default = tenant.default_sender.as_ref().map(|sender| tenant.mailbox_for(sender));
    fixed
        .or(tenant.bounces.mailbox.as_ref())
        .or(sender)
        .or(default)
        .or(tenant.mailboxes.values().next())
        .cloned()
}

impl Check<'_> {
    fn graph_means(&self) -> GraphContext {
        GraphContext {
            identity: self.identity.clone(),
            clients: self.clients.clone(),
            network: self.config.network.clone(),
            allowances: self.allowances.clone(),
        }
    }

    fn smtp(&self) -> Result<Smtp, DialError> {
        Smtp::new(submission::SmtpContext {
            identity: self.identity.clone(),
            clients: self.clients.clone(),
            network: self.config.network.clone(),
            allowances: self.allowances.clone(),
            hostname: self.config.smtp.hostname.clone(),
            max_recipients: self.config.graph.max_recipients,
            metrics: Metrics::new(),
        })
    }

    fn about_the_configuration(&mut self) {
        if self.tenant.suspended.is_some() {
            self.report.missing(
                "suspended",
                "suspended = true: its mail is not delivered",
                "remove that from the tenant's table, then reload",
            );
        }
        if let Credential::User { grant, .. } = &self.tenant.credential {
            let ends = match grant {
                UserGrant::Password { .. } => {
                    "a user's password: it works only until MFA or a new password is required"
                }
                UserGrant::RefreshToken { .. } => {
                    "a user's sign-in: it ends with a changed password, a new MFA rule, or after 90 days without use"
                }
            };
            self.report.warn(
                "credential",
                ends,
                "use an app with its own certificate or secret (client credentials): it needs no user",
            );
        }
        if let Some(certificate) = self.tenant.credential.certificate() {
            match certificate.read().map(|read| read.warning()) {
                Ok(None) => {
                    self.report.good("certificate", "matches its key, and is valid for more than 30 days")
                }
                Ok(Some(warning)) => {
                    self.report.warn("certificate", warning, "make a new one and add it to the app")
                }
                Err(error) => self.report.failed("certificate", error.to_string()),
            }
        }
    }

    /// Gets a token, and says how that went.
    async fn token(&mut self, audience: Audience) -> Option<(AccessToken, Option<TokenClaims>)> {
        let topic = match audience {
            Audience::Graph => "Graph login",
            Audience::Exchange => "SMTP login",
        };
        let began = Instant::now();
        match self.identity.token(self.tenant, audience).await {
            Ok(token) => {
                let good_for = token.expires().saturating_duration_since(Instant::now()).as_secs();
                let good_for = humantime::format_duration(std::time::Duration::from_secs(good_for));
                let took = began.elapsed().as_millis();
                self.report.good(topic, format!("token received in {took} ms, valid for {good_for}"));
                let claims = claims(&token);
                Some((token, claims))
            }
            Err(error) => {
                self.report.failed(topic, error.why);
                None
            }
        }
    }

    /// What the token says that it permits. It need not be believed: some permissions are not in it.
    fn show_permissions(&mut self, topic: &'static str, claims: Option<&TokenClaims>) {
        match claims {
            None => self.report.good(topic, "the token does not say"),
            Some(claims) if claims.roles.is_empty() && claims.scopes.is_empty() => {
                self.report.warn(
                    topic,
                    "the token lists none",
                    "that is correct only if they are granted in Exchange Online (RBAC for Applications)",
                );
            }
            Some(claims) => {
                let user = claims.user.as_ref().map(|user| format!(", as {user}")).unwrap_or_default();
                let all = [claims.roles.as_slice(), &claims.scopes].concat();
                self.report.good(topic, format!("{}{user}", all.join(", ")));
            }
        }
    }

    /// Whether the token says that it permits this.
    fn says(claims: Option<&TokenClaims>, permission: &str) -> bool {
        let has = |names: &[String]| names.iter().any(|name| name == permission);
        claims.is_some_and(|claims| has(&claims.roles) || has(&claims.scopes))
    }
}
