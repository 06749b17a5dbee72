//! The metric families, one method per event, so that no call site spells a label.
//!
//! A relay has one [`Metrics`]; it is cheap to clone. Nothing here is global: two relays in one process do
//! not mix.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::{IntCounter, IntGauge, Registry, TextEncoder};

use super::{
    AdminRefused, ErrorClass, LimitKind, LoginResult, LostLine, Outcome, RecipientMismatch, Refused,
    Resolved, Route, TokenResult,
    build::Build,
    families::{Delivery, Identity, Incoming, Process, Spooled},
    series::TenantSeries,
};
use crate::clock;
use relay_mail::{Ingress, TenantName};

#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    of_tenants: Arc<TenantSeries>,
    incoming: Incoming,
    delivery: Delivery,
    identity: Identity,
    spool: Spooled,
    process: Process,
    /// Messages accepted and delivered, of all tenants.
    passed: [AtomicU64; 2],
}

impl Metrics {
    pub fn new() -> Self {
        let build = Build { registry: Registry::new(), of_tenants: Arc::default() };
        let version = build.gauges("build_info", "Always 1; the version is the label.", &["version"]);
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let started = build.gauge("start_timestamp_seconds", "When the process started, in Unix time.");
        started.set(i64::try_from(clock::now().as_millis() / 1000).unwrap_or(i64::MAX));
        Self(Arc::new(Families {
            incoming: Incoming::new(&build),
            delivery: Delivery::new(&build),
            identity: Identity::new(&build),
            spool: Spooled::new(&build),
            process: Process::new(&build),
            registry: build.registry,
            of_tenants: build.of_tenants,
            passed: Default::default(),
        }))
    }

    /// Adds further families, for a room that sets its gauges when they are asked for.
    pub(crate) fn build(&self) -> Build {
        Build { registry: self.0.registry.clone(), of_tenants: self.0.of_tenants.clone() }
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// Removes the series of these tenants, which have gone and have left nothing behind. Takes as long for
    /// many as for one.
    pub fn forget_tenants<'a>(&self, tenants: impl IntoIterator<Item = &'a TenantName>) {
        self.0.of_tenants.forget(&tenants.into_iter().map(TenantName::as_str).collect());
    }

    /// Messages accepted and delivered since the start, of all tenants.
    pub fn passed(&self) -> [u64; 2] {
        [&self.0.passed[0], &self.0.passed[1]].map(|passed| passed.load(Ordering::Relaxed))
    }

    pub fn received(&self, tenant: &TenantName, ingress: Ingress) {
        self.0.passed[0].fetch_add(1, Ordering::Relaxed);
        self.0.incoming.received.with_label_values(&[tenant.as_str(), ingress.as_str()]).inc();
    }

    pub fn refused(&self, ingress: Ingress, reason: Refused) {
        self.0.incoming.refused.with_label_values(&[ingress.as_str(), reason.as_str()]).inc();
    }

    /// `error`: what it failed for.
    pub fn attempt(
        &self,
        tenant: &TenantName,
        route: Route,
        (outcome, error): (Outcome, Option<ErrorClass>),
        took: Duration,
    ) {
        if let Some(error) = error {
            self.0.delivery.errors.with_label_values(&[tenant.as_str(), error.as_str()]).inc();
        }
        self.0
            .delivery
            .deliveries
            .with_label_values(&[tenant.as_str(), route.as_str(), outcome.as_str()])
            .inc();
        self.0.delivery.delivery_seconds.with_label_values(&[route.as_str()]).observe(took.as_secs_f64());
    }

    pub fn delivered_after(&self, tenant: &TenantName, in_queue: Duration) {
        self.0.passed[1].fetch_add(1, Ordering::Relaxed);
        self.0.delivery.time_in_queue.with_label_values(&[tenant.as_str()]).observe(in_queue.as_secs_f64());
    }

    pub fn in_flight(&self, tenant: &TenantName) -> IntGauge {
        self.0.delivery.in_flight.with_label_values(&[tenant.as_str()])
    }

    pub fn waiting_for(&self, tenant: &TenantName, limit: LimitKind) -> IntGauge {
        self.0.delivery.waiting_for_limit.with_label_values(&[tenant.as_str(), limit.as_str()])
    }

    pub fn throttled(&self, tenant: &TenantName, limit: LimitKind) {
        self.0.delivery.throttled.with_label_values(&[tenant.as_str(), limit.as_str()]).inc();
    }

    pub fn unknown_outcome(&self, tenant: &TenantName, resolved: Resolved) {
        self.0.delivery.unknown_outcomes.with_label_values(&[tenant.as_str(), resolved.as_str()]).inc();
    }

    pub fn recipient_mismatch(&self, tenant: &TenantName, mismatch: RecipientMismatch) {
        self.0.delivery.recipient_mismatches.with_label_values(&[tenant.as_str(), mismatch.as_str()]).inc();
    }

    pub fn token_refresh(&self, tenant: &TenantName, audience: &str, result: TokenResult, took: Duration) {
        self.0
            .identity
            .token_refreshes
            .with_label_values(&[tenant.as_str(), audience, result.as_str()])
            .inc();
        self.0.identity.token_refresh_seconds.observe(took.as_secs_f64());
    }

    pub fn token_expires(&self, tenant: &TenantName, audience: &str, at_unix_seconds: u64) {
        let at = i64::try_from(at_unix_seconds).unwrap_or(i64::MAX);
        self.0.identity.token_expiry.with_label_values(&[tenant.as_str(), audience]).set(at);
    }

    pub fn credential_expires(&self, tenant: &TenantName, at_unix_seconds: i64) {
        self.0.identity.credential_expiry.with_label_values(&[tenant.as_str()]).set(at_unix_seconds);
    }

    /// The tenant no longer has a certificate.
    pub fn credential_gone(&self, tenant: &TenantName) {
        // There may never have been one that could be read.
        let _ = self.0.identity.credential_expiry.remove_label_values(&[tenant.as_str()]);
    }

    pub fn bounce(&self, tenant: &TenantName, kind: &'static str) {
        self.0.delivery.bounces.with_label_values(&[tenant.as_str(), kind]).inc();
    }

    /// Marks the tenant as blocked for `reason`, or with `None` as free again.
    pub fn tenant_blocked(&self, tenant: &TenantName, reason: &'static str, blocked: bool) {
        self.0.identity.tenant_blocked.with_label_values(&[tenant.as_str(), reason]).set(i64::from(blocked));
    }

    pub fn committed(&self, changes: usize, took: Duration) {
        self.0.spool.commit_seconds.observe(took.as_secs_f64());
        self.0.spool.commit_messages.observe(changes as f64);
    }

    /// So many entries are in the quarantine.
    pub fn in_quarantine(&self, entries: u64) {
        self.0.spool.quarantined.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// How many entries are there.
    pub fn quarantine(&self) -> u64 {
        u64::try_from(self.0.spool.quarantined.get()).unwrap_or(0)
    }

    /// One more has been put there.
    pub fn quarantined(&self) {
        self.0.spool.quarantined.inc();
    }

    pub fn smtp_header_bytes(&self) -> &IntGauge {
        &self.0.incoming.smtp_header_bytes
    }

    pub fn smtp_connections(&self) -> &IntGauge {
        &self.0.incoming.smtp_connections
    }

    pub fn login(&self, result: LoginResult) {
        self.0.incoming.logins.with_label_values(&[result.as_str()]).inc();
    }

    /// The relay's connections to the service.
    pub fn submission_connections(&self) -> &IntGauge {
        &self.0.delivery.submission_connections
    }

    /// `listener` is the address that it is bound to.
    pub fn certificate_expires(&self, listener: &str, at_unix_seconds: i64) {
        self.0.incoming.certificate_expiry.with_label_values(&[listener]).set(at_unix_seconds);
    }

    /// The configuration was read again, and is in effect or has mistakes.
    pub fn reloaded(&self, ok: bool) {
        self.0.process.reloads.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    /// The configuration of so many tenants has mistakes.
    pub fn invalid_tenants(&self, tenants: usize) {
        self.0.process.tenants_invalid.set(i64::try_from(tenants).unwrap_or(i64::MAX));
    }

    pub fn admin_connections(&self) -> &IntGauge {
        &self.0.process.admin_connections
    }

    pub fn admin_refused(&self, reason: AdminRefused) {
        self.0.process.admin_refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// How many log lines were lost for this reason.
    pub(super) fn log_lines_lost(&self, reason: LostLine) -> IntCounter {
        self.0.process.log_lines_lost.with_label_values(&[reason.as_str()])
    }

    /// `verb` is one of the commands that the server knows, or `"other"`.
    pub fn smtp_command(&self, verb: &'static str, code: u16) {
        let mut digits = [b'0'; 3];
        let mut rest = code;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let code = std::str::from_utf8(&digits).unwrap_or("000");
        self.0.incoming.smtp_commands.with_label_values(&[verb, code]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
