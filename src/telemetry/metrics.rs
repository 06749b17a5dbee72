//! The metric families, one method an event, so that no call site spells a label.
//!
//! A relay has one [`Metrics`]; it is cheap to clone. Nothing here is global: two relays in one process do not mix.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use super::{
    AdminRefused, LimitKind, LoginResult, LostLine, Outcome, Refused, Resolved, Route, TokenResult,
    series::TenantSeries,
};
use crate::clock;
use relay_mail::Ingress;
use relay_mail::TenantName;

#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    of_tenants: Arc<TenantSeries>,
    received: IntCounterVec,
    refused: IntCounterVec,
    deliveries: IntCounterVec,
    delivery_seconds: HistogramVec,
    time_in_queue: HistogramVec,
    in_flight: IntGaugeVec,
    waiting_for_limit: IntGaugeVec,
    throttled: IntCounterVec,
    unknown_outcomes: IntCounterVec,
    token_refreshes: IntCounterVec,
    token_refresh_seconds: Histogram,
    token_expiry: IntGaugeVec,
    credential_expiry: IntGaugeVec,
    bounces: IntCounterVec,
    tenant_blocked: IntGaugeVec,
    commit_seconds: Histogram,
    commit_messages: Histogram,
    quarantined: IntGauge,
    smtp_connections: IntGauge,
    smtp_header_bytes: IntGauge,
    submission_connections: IntGauge,
    smtp_commands: IntCounterVec,
    logins: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    reloads: IntCounterVec,
    admin_connections: IntGauge,
    admin_refused: IntCounterVec,
    log_lines_lost: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Self {
        let build = Build { registry: Registry::new(), of_tenants: Arc::default() };
        let version = build.gauges("build_info", "Always 1; the version is the label.", &["version"]);
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let started = build.gauge("start_timestamp_seconds", "When the process started, in Unix time.");
        started.set(i64::try_from(clock::now().as_millis() / 1000).unwrap_or(i64::MAX));
        Self(Arc::new(Families {
            received: build.counters("received_total", "Messages accepted.", &["tenant", "ingress"]),
            refused: build.counters(
                "refused_total",
                "Messages and connections refused.",
                &["ingress", "reason"],
            ),
            deliveries: build.counters(
                "deliveries_total",
                "Delivery attempts by how they ended.",
                &["tenant", "route", "outcome"],
            ),
            delivery_seconds: build.histograms(
                "delivery_seconds",
                "Duration of one delivery attempt.",
                &["route"],
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0],
            ),
            time_in_queue: build.histograms(
                "time_in_queue_seconds",
                "Time from acceptance to delivery.",
                &["tenant"],
                &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 172800.0],
            ),
            in_flight: build.gauges("in_flight", "Deliveries under way.", &["tenant"]),
            waiting_for_limit: build.gauges(
                "waiting_for_limit",
                "Mailboxes with mail that sleep until a limit allows more.",
                &["tenant", "limit"],
            ),
            throttled: build.counters(
                "throttled_total",
                "Times that a limit put a mailbox to sleep.",
                &["tenant", "limit"],
            ),
            unknown_outcomes: build.counters(
                "unknown_outcomes_total",
                "Attempts that may or may not have been sent, by what was concluded.",
                &["tenant", "resolved"],
            ),
            token_refreshes: build.counters(
                "token_refreshes_total",
                "Access tokens asked for.",
                &["tenant", "audience", "result"],
            ),
            token_refresh_seconds: build.histogram(
                "token_refresh_seconds",
                "Duration of one token request.",
                &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            ),
            token_expiry: build.gauges(
                "token_expiry_timestamp_seconds",
                "When the access token in use ends, in Unix time.",
                &["tenant", "audience"],
            ),
            credential_expiry: build.gauges(
                "credential_expiry_timestamp_seconds",
                "When the certificate ends that the tenant logs in with, in Unix time.",
                &["tenant"],
            ),
            bounces: build.counters(
                "bounces_total",
                "Delivery status notifications queued.",
                &["tenant", "kind"],
            ),
            tenant_blocked: build.gauges(
                "tenant_blocked",
                "1 while the tenant's deliveries wait for an administrator.",
                &["tenant", "reason"],
            ),
            commit_seconds: build.histogram(
                "spool_commit_seconds",
                "Duration of one group commit.",
                &[0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 5.0],
            ),
            commit_messages: build.histogram(
                "spool_commit_messages",
                "Changes made durable by one group commit.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0],
            ),
            // A gauge, since Prometheus wants a counter's name to end in _total.
            quarantined: build.gauge("spool_quarantined", "Damaged entries put aside since the start."),
            smtp_header_bytes: build.gauge("smtp_header_bytes", "Memory of envelopes and headers coming in."),
            smtp_connections: build.gauge("smtp_connections", "SMTP connections open."),
            submission_connections: build.gauge("smtp_submission_connections", "Connections for submission."),
            smtp_commands: build.counters(
                "smtp_commands_total",
                "SMTP commands by reply.",
                &["verb", "code"],
            ),
            logins: build.counters("logins_total", "SMTP logins by how they went.", &["result"]),
            certificate_expiry: build.gauges(
                "certificate_expiry_timestamp_seconds",
                "When the certificate of a listener ends, in Unix time.",
                &["listener"],
            ),
            reloads: build.counters(
                "config_reloads_total",
                "Times that the configuration was read again, by whether it counts now.",
                &["result"],
            ),
            admin_connections: build.gauge("admin_connections", "Connections to the admin port and socket."),
            admin_refused: build.counters(
                "admin_refused_total",
                "Connections and requests for metrics, health and the API that were refused.",
                &["reason"],
            ),
            log_lines_lost: build.counters(
                "log_lines_lost_total",
                "Log lines that were not written.",
                &["reason"],
            ),
            registry: build.registry,
            of_tenants: build.of_tenants,
        }))
    }

    /// Adds further families, for a room that sets its gauges when it is asked for them.
    pub(crate) fn build(&self) -> Build {
        Build { registry: self.0.registry.clone(), of_tenants: self.0.of_tenants.clone() }
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// These tenants have gone, and nothing is left of them: so do their series. Takes as long for many as for one.
    pub fn forget_tenants<'a>(&self, tenants: impl IntoIterator<Item = &'a TenantName>) {
        self.0.of_tenants.forget(&tenants.into_iter().map(TenantName::as_str).collect());
    }

    pub fn received(&self, tenant: &TenantName, ingress: Ingress) {
        self.0.received.with_label_values(&[tenant.as_str(), ingress.as_str()]).inc();
    }

    pub fn refused(&self, ingress: Ingress, reason: Refused) {
        self.0.refused.with_label_values(&[ingress.as_str(), reason.as_str()]).inc();
    }

    pub fn attempt(&self, tenant: &TenantName, route: Route, outcome: Outcome, took: Duration) {
        self.0.deliveries.with_label_values(&[tenant.as_str(), route.as_str(), outcome.as_str()]).inc();
        self.0.delivery_seconds.with_label_values(&[route.as_str()]).observe(took.as_secs_f64());
    }

    pub fn delivered_after(&self, tenant: &TenantName, in_queue: Duration) {
        self.0.time_in_queue.with_label_values(&[tenant.as_str()]).observe(in_queue.as_secs_f64());
    }

    pub fn in_flight(&self, tenant: &TenantName) -> IntGauge {
        self.0.in_flight.with_label_values(&[tenant.as_str()])
    }

    pub fn waiting_for(&self, tenant: &TenantName, limit: LimitKind) -> IntGauge {
        self.0.waiting_for_limit.with_label_values(&[tenant.as_str(), limit.as_str()])
    }

    pub fn throttled(&self, tenant: &TenantName, limit: LimitKind) {
        self.0.throttled.with_label_values(&[tenant.as_str(), limit.as_str()]).inc();
    }

    pub fn unknown_outcome(&self, tenant: &TenantName, resolved: Resolved) {
        self.0.unknown_outcomes.with_label_values(&[tenant.as_str(), resolved.as_str()]).inc();
    }

    pub fn token_refresh(&self, tenant: &TenantName, audience: &str, result: TokenResult, took: Duration) {
        self.0.token_refreshes.with_label_values(&[tenant.as_str(), audience, result.as_str()]).inc();
        self.0.token_refresh_seconds.observe(took.as_secs_f64());
    }

    pub fn token_expires(&self, tenant: &TenantName, audience: &str, at_unix_seconds: u64) {
        let at = i64::try_from(at_unix_seconds).unwrap_or(i64::MAX);
        self.0.token_expiry.with_label_values(&[tenant.as_str(), audience]).set(at);
    }

    pub fn credential_expires(&self, tenant: &TenantName, at_unix_seconds: i64) {
        self.0.credential_expiry.with_label_values(&[tenant.as_str()]).set(at_unix_seconds);
    }

    /// The tenant has no certificate any more.
    pub fn credential_gone(&self, tenant: &TenantName) {
        // There may never have been one that could be read.
        let _ = self.0.credential_expiry.remove_label_values(&[tenant.as_str()]);
    }

    pub fn bounce(&self, tenant: &TenantName, kind: &'static str) {
        self.0.bounces.with_label_values(&[tenant.as_str(), kind]).inc();
    }

    /// Marks the tenant as blocked for `reason`, or with `None` as free again.
    pub fn tenant_blocked(&self, tenant: &TenantName, reason: &'static str, blocked: bool) {
        self.0.tenant_blocked.with_label_values(&[tenant.as_str(), reason]).set(i64::from(blocked));
    }

    pub fn committed(&self, changes: usize, took: Duration) {
        self.0.commit_seconds.observe(took.as_secs_f64());
        self.0.commit_messages.observe(changes as f64);
    }

    pub fn quarantined(&self) {
        self.0.quarantined.inc();
    }

    pub fn smtp_header_bytes(&self) -> &IntGauge {
        &self.0.smtp_header_bytes
    }

    pub fn smtp_connections(&self) -> &IntGauge {
        &self.0.smtp_connections
    }

    pub fn login(&self, result: LoginResult) {
        self.0.logins.with_label_values(&[result.as_str()]).inc();
    }

    /// Those of this relay to the service.
    pub fn submission_connections(&self) -> &IntGauge {
        &self.0.submission_connections
    }

    /// `listener` is the address that it is bound to.
    pub fn certificate_expires(&self, listener: &str, at_unix_seconds: i64) {
        self.0.certificate_expiry.with_label_values(&[listener]).set(at_unix_seconds);
    }

    /// The configuration was read again, and counts or has mistakes.
    pub fn reloaded(&self, ok: bool) {
        self.0.reloads.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    pub fn admin_connections(&self) -> &IntGauge {
        &self.0.admin_connections
    }

    pub fn admin_refused(&self, reason: AdminRefused) {
        self.0.admin_refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// How many log lines were lost for this reason.
    pub(super) fn log_lines_lost(&self, reason: LostLine) -> IntCounter {
        self.0.log_lines_lost.with_label_values(&[reason.as_str()])
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
        self.0.smtp_commands.with_label_values(&[verb, code]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes families and registers each.
pub(crate) struct Build {
    registry: Registry,
    of_tenants: Arc<TenantSeries>,
}

impl Build {
    fn add<C: Collector + Clone + 'static>(&self, family: prometheus::Result<C>) -> C {
        // Names and labels are the literals above: they are valid and differ, or the first test that runs says so.
        let family = family.expect("metric names are valid");
        self.registry.register(Box::new(family.clone())).expect("metric names differ");
        family
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let family = self.add(IntCounterVec::new(Opts::new(name, help).namespace("m365_relay"), labels));
        self.of_tenants.add(&family, labels);
        family
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let family = self.add(IntGaugeVec::new(Opts::new(name, help).namespace("m365_relay"), labels));
        self.of_tenants.add(&family, labels);
        family
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Opts::new(name, help).namespace("m365_relay")))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).namespace("m365_relay").buckets(buckets.to_vec());
        let family = self.add(HistogramVec::new(opts, labels));
        self.of_tenants.add(&family, labels);
        family
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).namespace("m365_relay").buckets(buckets.to_vec()),
        ))
    }
}
