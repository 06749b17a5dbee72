//! The families that every relay has, by topic. [`Metrics`](super::metrics::Metrics) counts in them.

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::build::Build;

/// What comes in.
pub(super) struct Incoming {
    pub(super) received: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) smtp_header_bytes: IntGauge,
    pub(super) smtp_connections: IntGauge,
    pub(super) smtp_commands: IntCounterVec,
    pub(super) logins: IntCounterVec,
    pub(super) certificate_expiry: IntGaugeVec,
}

impl Incoming {
    pub(super) fn new(build: &Build) -> Self {
        Self {
            received: build.counters("received_total", "Messages accepted.", &["tenant", "ingress"]),
            refused: build.counters(
                "refused_total",
                "Messages and connections refused.",
                &["ingress", "reason"],
            ),
            smtp_header_bytes: build.gauge("smtp_header_bytes", "Octets of incoming envelopes and headers."),
            smtp_connections: build.gauge("smtp_connections", "SMTP connections open."),
            smtp_commands: build.counters(
                "smtp_commands_total",
                "SMTP commands by reply code.",
                &["verb", "code"],
            ),
            logins: build.counters("logins_total", "SMTP logins by result.", &["result"]),
            certificate_expiry: build.gauges(
                "certificate_expiry_timestamp_seconds",
                "Expiry of a listener's certificate, in Unix time.",
                &["listener"],
            ),
        }
    }
}

/// What goes out.
pub(super) struct Delivery {
    pub(super) deliveries: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) delivery_seconds: HistogramVec,
    pub(super) time_in_queue: HistogramVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) waiting_for_limit: IntGaugeVec,
    pub(super) throttled: IntCounterVec,
    pub(super) unknown_outcomes: IntCounterVec,
    pub(super) recipient_mismatches: IntCounterVec,
    pub(super) bounces: IntCounterVec,
    pub(super) submission_connections: IntGauge,
}

impl Delivery {
    pub(super) fn new(build: &Build) -> Self {
        Self {
            deliveries: build.counters(
                "deliveries_total",
                "Delivery attempts by outcome.",
                &["tenant", "route", "outcome"],
            ),
            errors: build.counters(
                "delivery_errors_total",
                "Delivery attempts that failed, by what they failed for.",
                &["tenant", "error"],
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
            in_flight: build.gauges("in_flight", "Deliveries in progress.", &["tenant"]),
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
                "Attempts with an unknown outcome, by what was concluded.",
                &["tenant", "resolved"],
            ),
            recipient_mismatches: build.counters(
                "recipient_mismatches_total",
                "Drafts whose recipients were not those of the envelope, by what became of the message.",
                &["tenant", "result"],
            ),
            bounces: build.counters(
                "bounces_total",
                "Delivery status notifications queued.",
                &["tenant", "kind"],
            ),
            submission_connections: build.gauge("smtp_submission_connections", "Connections for submission."),
        }
    }
}

/// How tenants log in at the service.
pub(super) struct Identity {
    pub(super) token_refreshes: IntCounterVec,
    pub(super) token_refresh_seconds: Histogram,
    pub(super) token_expiry: IntGaugeVec,
    pub(super) credential_expiry: IntGaugeVec,
    pub(super) tenant_blocked: IntGaugeVec,
}

impl Identity {
    pub(super) fn new(build: &Build) -> Self {
        Self {
            token_refreshes: build.counters(
                "token_refreshes_total",
                "Access token requests.",
                &["tenant", "audience", "result"],
            ),
            token_refresh_seconds: build.histogram(
                "token_refresh_seconds",
                "Duration of one token request.",
                &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            ),
            token_expiry: build.gauges(
                "token_expiry_timestamp_seconds",
                "Expiry of the access token in use, in Unix time.",
                &["tenant", "audience"],
            ),
            credential_expiry: build.gauges(
                "credential_expiry_timestamp_seconds",
                "Expiry of the certificate that the tenant logs in with, in Unix time.",
                &["tenant"],
            ),
            tenant_blocked: build.gauges(
                "tenant_blocked",
                "1 while the tenant's deliveries wait for an administrator.",
                &["tenant", "reason"],
            ),
        }
    }
}

/// What the spool does.
pub(super) struct Spooled {
    pub(super) commit_seconds: Histogram,
    pub(super) commit_messages: Histogram,
    pub(super) quarantined: IntGauge,
}

impl Spooled {
    pub(super) fn new(build: &Build) -> Self {
        Self {
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
            quarantined: build.gauge("spool_quarantined", "Damaged entries in the quarantine."),
        }
    }
}

/// The process and those who operate it.
pub(super) struct Process {
    pub(super) reloads: IntCounterVec,
    pub(super) tenants_invalid: IntGauge,
    pub(super) admin_connections: IntGauge,
    pub(super) admin_refused: IntCounterVec,
    pub(super) log_lines_lost: IntCounterVec,
}

impl Process {
    pub(super) fn new(build: &Build) -> Self {
        Self {
            reloads: build.counters("config_reloads_total", "Configuration reloads by result.", &["result"]),
            tenants_invalid: build.gauge(
                "config_tenants_invalid",
                "Tenants whose configuration has mistakes, and files of tenants.d that cannot be read.",
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
        }
    }
}
