//! smtp-source, Postfix's load generator.

use crate::{
    FROM, TO, assert_success,
    harness::{Lab, run},
    installed,
};

#[test]
fn smtp_source_sends_a_hundred_messages_in_ten_sessions() {
    let lab = Lab::start();
    let server = format!("inet:{}", lab.smtp_address());
    let arguments =
        ["-m", "100", "-s", "10", "-l", "10240", "-r", "2", "-f", FROM, "-t", TO, "-S", "load", &server];
    let output = run(installed("smtp-source", "postfix").args(arguments));
    assert_success(&output);

    let delivered = lab.wait_for(100);
    lab.wait_until_empty();
    for message in &delivered {
        assert_eq!(message.recipients.len(), 2);
        assert!(message.raw.len() > 10_000);
    }
    assert_eq!(lab.metric("m365_relay_received_total", &[("tenant", "contoso")]), 100.0);
}
