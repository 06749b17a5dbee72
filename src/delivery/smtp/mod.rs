//! The SMTP route: submission to Exchange with a login by token (XOAUTH2).
//!
//! # Contract
//!
//! * The envelope is the message's own, and the header is sent as it came.
//! * No token and no mail is sent over a connection without TLS, or to a server without a valid certificate.
//! * An attempt is one transaction. The content is sent only if all recipients were taken; if the server
//!   treats them differently, the message is [divided](Disposition::Divided) first, and nothing was sent.
//! * What a reply means is decided in [`reply`]. If a connection breaks before the end of the content was
//!   written, nothing was sent; afterwards the outcome is unknown.
//! * A login that is refused is tried once more with a new token. If that is refused, too, the mailbox is
//!   closed to the app: the same token works for others.
//! * With `route = "auto"` no problem with SMTP stops a mailbox or a tenant, whose other mail is sent by
//!   Graph: the message waits and is tried again.
//! * Only the day's recipients are charged to the mailbox's allowance. Calls and their octets are limits of
//!   Graph.
//!
//! On a crash: nothing is remembered here. The message is in doubt, and [`route`](super::route) has it looked
//! for.

mod connection;
mod dial;
mod parameters;
mod pool;
mod probe;
mod reply;
#[cfg(test)]
mod tests;
mod transaction;

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Attempted, Disposition, Division, Reason, Receipt, Trouble,
    letter::{Letter, Mime},
    put_off,
};
use crate::limits::allowance::Allowances;
use crate::{
    bounce::EnhancedStatus,
    config::{NetworkConfig, RouteRule, Tenant},
    identity::{AccessToken, Audience, Identity},
    network::Clients,
    schedule::Blocked,
    telemetry::{ErrorClass, LimitKind, Metrics},
};
use connection::{Connection, Destination, NotOpen, Open};
pub use dial::DialError;
use dial::Dialer;
use parameters::{Lines, Needs};
use pool::{Berth, Pool};
use relay_mail::MailboxAddress;
use relay_spool::Claim;
use reply::{Class, Reply, Step};
use transaction::{Ended, Stage, TransactionOutcome};

/// How often to check whether a mailbox has been fixed.
const MAILBOX_PROBE: Duration = Duration::from_secs(300);
/// A recipient limit covers a day: after some hours there is room again.
const QUOTA_PROBE: Duration = Duration::from_secs(3600);
const TENANT_PROBE: Duration = Duration::from_secs(300);

/// What mail is submitted with.
pub struct SmtpContext {
    pub identity: Arc<Identity>,
    pub clients: Clients,
    pub network: NetworkConfig,
    pub allowances: Allowances,
    /// This relay's name, for EHLO.
    pub hostname: String,
    /// The most recipients of one message.
    pub max_recipients: u32,
    pub metrics: Metrics,
}

pub struct Smtp {
    means: SmtpContext,
    dialer: Dialer,
    pool: Pool,
}

/// A connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Broken {
    why: String,
    timed_out: bool,
}

impl Broken {
    fn new(what: impl std::fmt::Display, error: &io::Error) -> Self {
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        Self {
            why: if timed_out { format!("{what}: timed out") } else { format!("{what}: {error}") },
            timed_out,
        }
    }

    fn because(why: String) -> Self {
        Self { why, timed_out: false }
    }
}

/// One message on its way.
struct Passage<'a> {
    smtp: &'a Smtp,
    tenant: &'a Arc<Tenant>,
    mailbox: &'a MailboxAddress,
    claim: &'a Claim,
    /// When the service can be asked about the outcome of an interrupted attempt.
    look_after: Option<Duration>,
    timed_out: bool,
}

impl Smtp {
    /// Blocks while the password of the proxy is read.
    pub fn new(means: SmtpContext) -> Result<Self, DialError> {
        let dialer = Dialer::new(&means.network, means.clients.clone())?;
        Ok(Self { means, dialer, pool: Pool::default() })
    }

    /// Sends the message from `mailbox`. No earlier attempt of it was sent.
    pub(super) async fn deliver(
        &self,
        tenant: &Arc<Tenant>,
        mailbox: &MailboxAddress,
        claim: &Claim,
        letter: &Letter,
        look_after: Option<Duration>,
    ) -> Attempted {
        let mut passage = Passage { smtp: self, tenant, mailbox, claim, look_after, timed_out: false };
        let most = self.means.max_recipients as usize;
        let disposition = if claim.message.envelope.recipients().len() > most {
            Disposition::Split { most }
        } else {
            passage.send_within_the_day(letter.as_it_is()).await
        };
        Attempted { disposition, doubt: None, timed_out: passage.timed_out, is_unsuited: false }
    }
}

impl Passage<'_> {
    /// Sends it if the day has recipients left. The recipients of a message that was not sent are given back.
    async fn send_within_the_day(&mut self, mime: Mime) -> Disposition {
        let allowance = self.smtp.means.allowances.of(self.tenant, self.mailbox);
        let count = self.claim.message.envelope.recipients().len();
        let taken = match allowance.take_recipients(u32::try_from(count).unwrap_or(u32::MAX)) {
            Ok(taken) => taken,
            Err(exhausted) => return put_off(exhausted, self.mailbox),
        };
        let disposition = self.send(mime).await.unwrap_or_else(|disposition| disposition);
        if !matches!(disposition, Disposition::Delivered(_) | Disposition::Unknown { .. }) {
            taken.give_back();
        }
        disposition
    }

    async fn send(&mut self, mime: Mime) -> Result<Disposition, Disposition> {
        let mut needs =
            Needs::of(&mime).await.map_err(|e| again(here(format!("cannot read the message: {e}"))))?;
        let cloud = &self.tenant.cloud.name;
        let place = Destination::of(self.tenant)
            .ok_or_else(|| again(here(format!("the cloud {cloud} has no smtp"))))?;
        let berth = self.smtp.pool.berth(&self.tenant.name, self.mailbox).await;
        let mut kept = berth.take(&place);
        loop {
            let is_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect(&place, &berth).await?,
            };
            let lines =
                match Lines::new(&self.claim.message.envelope, self.mailbox, needs, &connection.extensions) {
                    Ok(lines) => lines,
                    Err(reason) => {
                        berth.keep(connection);
                        return Ok(Disposition::Failed(reason));
                    }
                };
            let ended = transaction::run(&mut connection, &lines, &mime, &self.smtp.means.network).await;
            if is_kept && ended.is_stale() {
                debug!(mailbox = %self.mailbox, outcome = ?ended.outcome, "pooled connection closed by the server; opening another");
                berth.clear();
                continue;
            }
            if lines.could_spare_utf8 && ended.is_parameter_unknown() {
                needs = needs.without_utf8();
                kept = ended.is_reusable.then_some(connection);
                continue;
            }
            let Ended { outcome, is_reusable } = ended;
            let disposition = self.disposition(outcome, &lines, &berth);
            if is_reusable {
                berth.keep(connection);
            }
            return Ok(disposition);
        }
    }

    /// A new connection, logged in.
    async fn connect(&mut self, place: &Destination, berth: &Berth) -> Result<Connection, Disposition> {
        let SmtpContext { identity, network, hostname, metrics, .. } = &self.smtp.means;
        let tenant = self.tenant;
        let mailbox = self.mailbox;
        // A refused login, and the reply to it.
        let mut refused: Option<(AccessToken, Reply)> = None;
        loop {
            let token = identity.token(tenant, Audience::Exchange).await;
            let token = token.map_err(|error| self.softened(Disposition::no_token(error)))?;
            if let Some((_, reply)) = refused.as_ref().filter(|(same, _)| same.expose() == token.expose()) {
                // The token was renewed a moment ago.
                identity.denied(tenant, Audience::Exchange, &token);
                return Err(self.refused(Step::Auth, reply, berth));
            }
            let open = Open::new(metrics.submission_connections());
            let opened = Connection::open(
                &self.smtp.dialer,
                place,
                hostname,
                (mailbox, &token),
                network.answer_timeout,
                open,
            );
            match opened.await {
                Ok(connection) => {
                    // So the token was at fault. If not, other connections are logged in with it and may stay
                    // so.
                    if let Some((refused, _)) = &refused {
                        self.smtp.pool.forget(&tenant.name, refused);
                    }
                    return Ok(connection);
                }
                Err(NotOpen::Broken(broken)) => {
                    return Err(again(Trouble::new(ErrorClass::Connection, broken.why)));
                }
                Err(NotOpen::Refused(reply)) => return Err(self.refused(Step::Hello, &reply, berth)),
                Err(NotOpen::Login(reply))
                    if reply.class(Step::Auth) == Class::Login && refused.is_none() =>
                {
                    info!(tenant = %tenant.name, %mailbox, %reply, "login rejected by the SMTP server; requesting a new token");
                    identity.reject(tenant, Audience::Exchange, &token);
                    refused = Some((token, reply));
                }
                Err(NotOpen::Login(reply)) => {
                    identity.denied(tenant, Audience::Exchange, &token);
                    return Err(self.refused(Step::Auth, &reply, berth));
                }
            }
        }
    }

    fn disposition(&mut self, outcome: TransactionOutcome, lines: &Lines, berth: &Berth) -> Disposition {
        match outcome {
            TransactionOutcome::Taken(reply) => {
                berth.went_well();
                Disposition::Delivered(Receipt {
                    status: reply.code,
                    request_id: reply.text,
                    client_request_id: String::new(),
                    is_earlier: false,
                    reports_success: lines.reports_success,
                })
            }
            TransactionOutcome::Refused(step, reply) => self.refused(step, &reply, berth),
            TransactionOutcome::Recipients(replies) => self.divided(replies),
            TransactionOutcome::Broken(Broken { why, timed_out }, Stage::After) => {
                self.timed_out |= timed_out;
                let why = Trouble::new(ErrorClass::Interrupted, why);
                Disposition::Unknown { look_after: self.look_after, after: None, why }
            }
            TransactionOutcome::Broken(Broken { why, .. }, Stage::First | Stage::Before) => {
                again(Trouble::new(ErrorClass::Interrupted, why))
            }
        }
    }

    /// Not all recipients were taken.
    fn divided(&self, replies: Vec<Reply>) -> Disposition {
        let mut division = Division::default();
        let mut why = None;
        for (recipient, reply) in self.claim.message.envelope.recipients().iter().zip(replies) {
            let recipient = recipient.clone();
            if reply.is_good() {
                division.taken.push(recipient);
            } else if reply.class(Step::Rcpt) == Class::Again {
                why.get_or_insert_with(|| {
                    reply.trouble(Step::Rcpt).explained(|said| format!("{recipient}: {said}"))
                });
                division.later.push(recipient);
            } else {
                let reason = Reason { status: reply.report_status(), why: reply.trouble(Step::Rcpt) };
                division.failed.push((recipient, reason));
            }
        }
        match why {
            Some(why) if division.taken.is_empty() && division.failed.is_empty() => again(why),
            _ => Disposition::Divided(division),
        }
    }

    /// The service refused the whole message.
    fn refused(&self, step: Step, reply: &Reply, berth: &Berth) -> Disposition {
        let Self { mailbox, tenant, .. } = *self;
        let asleep =
            |long, limit, why| Disposition::MailboxBlocked { until: Instant::now() + long, limit, why };
        let class = reply.class(step);
        let said = reply.trouble(step);
        let disposition = match class {
            Class::Again => again(said),
            Class::Busy => {
                let why = said.explained(|said| format!("mailbox {mailbox}: {said}"));
                asleep(berth.busy(), LimitKind::Service, why)
            }
            Class::Login => {
                let why = said.explained(|said| advice_on_login(mailbox, said));
                asleep(MAILBOX_PROBE, LimitKind::Mailbox, why)
            }
            Class::Mailbox => {
                let why = said.explained(|said| format!("mailbox {mailbox} cannot send: {said}"));
                asleep(MAILBOX_PROBE, LimitKind::Mailbox, why)
            }
            Class::Quota => {
                let why = said.explained(|said| format!("mailbox {mailbox} has used up its quota: {said}"));
                return asleep(QUOTA_PROBE, LimitKind::Service, why);
            }
            Class::Tenant => Disposition::TenantBlocked {
                reason: Blocked::PERMISSION,
                why: said.explained(|said| format!("SMTP submission is disabled for the tenant: {said}")),
                retry_after: TENANT_PROBE,
            },
            Class::SendAs => {
                let usual = || EnhancedStatus::new(5, 7, 60).unwrap_or(EnhancedStatus::UNDEFINED);
                let status = reply.status.filter(|status| status.subject() == 7).unwrap_or_else(usual);
                let why = said.explained(|said| {
                    format!(
                        "mailbox {mailbox} needs the Send As permission for the sender and the From address of this \
                         message; {said}"
                    )
                });
                return Disposition::Failed(Reason { status, why });
            }
            Class::Refused => {
                let reason = Reason { status: reply.report_status(), why: said };
                return Disposition::Failed(reason);
            }
        };
        debug!(tenant = %tenant.name, %mailbox, ?step, %reply, ?class, "command rejected by the SMTP server");
        self.softened(disposition)
    }

    /// If other mail of the mailbox is sent by Graph, only this message waits.
    fn softened(&self, disposition: Disposition) -> Disposition {
        if self.tenant.route != RouteRule::Auto {
            return disposition;
        }
        match disposition {
            Disposition::TenantBlocked { why, retry_after, .. } => {
                Disposition::Refused { after: retry_after, why }
            }
            Disposition::MailboxBlocked { until, limit, why } => {
                let after = until.saturating_duration_since(Instant::now());
                match limit {
                    LimitKind::Mailbox => Disposition::Refused { after, why },
                    _ => Disposition::Retry { after: Some(after), why },
                }
            }
            other => other,
        }
    }
}

fn again(why: Trouble) -> Disposition {
    Disposition::Retry { after: None, why }
}

fn here(why: String) -> Trouble {
    Trouble::new(ErrorClass::Relay, why)
}

/// Exchange gives the same reply to a login whatever is missing.
fn advice_on_login(mailbox: &MailboxAddress, reply: &str) -> String {
    format!(
        "the app may not use SMTP for mailbox {mailbox}, even with a new token: {reply}; the app needs \
         SMTP.SendAsApp and a \
         service principal in Exchange (New-ServicePrincipal with the object id of the enterprise application) that has \
         FullAccess to the mailbox (Add-MailboxPermission), and SMTP AUTH must be enabled for it (Set-CASMailbox \
         -SmtpClientAuthenticationDisabled $false)"
    )
}
