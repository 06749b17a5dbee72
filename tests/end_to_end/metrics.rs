//! The page of metrics, after all kinds of things have happened.

use relay_sandbox::{Action, Fault, On, StatusFault};

use crate::harness::{Lab, message};

const TO: &str = "b@example.net";

#[test]
fn the_page_is_valid_and_no_label_holds_an_address() {
    let lab = Lab::start();
    // The harness reads each page strictly, this empty one too.
    lab.metrics();
    let throttle = StatusFault::new(429, "TooManyRequests").retry_after("0.2");
    lab.inject(Fault::new(On::SendMail, Action::Status(throttle)).times(1));
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients").times(1));
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable").for_directory("fabrikam.example"));
    let mut smtp = lab.smtp();
    for from in ["a@contoso.example", "b@contoso.example", "a@fabrikam.example"] {
        smtp.send(from, &[TO], &message(from, TO, "counted"));
    }
    assert_eq!(smtp.mail("a@elsewhere.example").code, 550);
    assert_eq!(smtp.command("VRFY someone@example.net").code, 252);
    assert_eq!(smtp.command("SOMETHING a@example.net").code, 500);
    // The bounce and the other message have been delivered.
    lab.wait_for(2);
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "contoso")], 0.0);
    lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", "fabrikam")], 1.0);

    let metrics = lab.metrics();
    assert!(metrics.samples.len() > 100, "{metrics:#?}");
    for sample in &metrics.samples {
        assert!(sample.name.starts_with("m365_relay_"), "{sample:?}");
        for value in sample.labels.values() {
            assert!(!value.contains('@') && !value.contains(".example"), "{sample:?}");
        }
    }
    for (name, labels, value) in [
        ("received_total", &[("tenant", "contoso"), ("ingress", "smtp")][..], 2.0),
        ("refused_total", &[("ingress", "smtp"), ("reason", "no_tenant")], 1.0),
        ("deliveries_total", &[("tenant", "contoso"), ("route", "graph"), ("outcome", "delivered")], 2.0),
        ("deliveries_total", &[("tenant", "contoso"), ("route", "graph"), ("outcome", "failed")], 1.0),
        ("deliveries_total", &[("outcome", "mailbox_blocked")], 1.0),
        ("throttled_total", &[("tenant", "contoso"), ("limit", "service")], 1.0),
        ("bounces_total", &[("tenant", "contoso"), ("kind", "failed")], 1.0),
        ("token_refreshes_total", &[("tenant", "contoso"), ("audience", "graph"), ("result", "ok")], 1.0),
        ("tenant_blocked", &[("tenant", "fabrikam"), ("reason", "login")], 1.0),
        ("delivery_seconds_count", &[("route", "graph")], 4.0),
        ("smtp_connections", &[], 1.0),
        ("smtp_commands_total", &[("verb", "mail"), ("code", "250")], 3.0),
        ("smtp_commands_total", &[("verb", "other"), ("code", "500")], 1.0),
        ("spool_healthy", &[], 1.0),
        ("spool_quarantined", &[], 0.0),
        ("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        assert_eq!(metrics.sum(&format!("m365_relay_{name}"), labels), value, "{name} {labels:?}");
    }
    assert!(metrics.sum("m365_relay_spool_free_bytes", &[]) > 0.0);
    assert!(metrics.sum("m365_relay_spool_commit_seconds_count", &[]) > 0.0);
    assert!(metrics.sum("m365_relay_token_expiry_timestamp_seconds", &[("tenant", "contoso")]) > 1.7e9);
    assert!(metrics.sum("m365_relay_queue_bytes", &[("tenant", "fabrikam")]) > 100.0);
}
