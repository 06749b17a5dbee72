//! What programs read in the log.

use relay_sandbox::{Fault, On};

use crate::harness::{Lab, TenantSetup, message};

const TO: &str = "Bob@example.net";
const FROM: &str = "a@contoso.example";

#[test]
fn lists_are_arrays_and_durations_numbers() {
    let mut lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 503, "serviceNotAvailable").times(1));
    lab.send(FROM, &[TO, "carol@example.net"], &message(FROM, TO, "x"));
    lab.wait_for(1);
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients").times(1));
    lab.send(FROM, &["dora@example.net"], &message(FROM, "dora@example.net", "fails"));
    let failed = lab.wait_for_log("message failed");
    let both = serde_json::json!([TO, "carol@example.net"]);
    assert_eq!(lab.wait_for_log("message accepted")["recipients"], both);
    let delivered = lab.wait_for_log("message delivered");
    assert_eq!(delivered["recipients"], both);
    assert!(delivered["took"].is_f64() && delivered["attempt"] == 2, "{delivered}");
    assert!(lab.wait_for_log("delivery deferred")["took"].is_f64());
    assert_eq!(failed["recipients"], serde_json::json!(["dora@example.net"]));
    lab.setup.tenants.push(TenantSetup::new("northwind"));
    lab.write_config();
    lab.hang_up();
    let reloaded = lab.wait_for_log("configuration reloaded");
    assert_eq!(
        (&reloaded["added"], &reloaded["removed"]),
        (&serde_json::json!(["northwind"]), &serde_json::json!([]))
    );
    assert!(reloaded["took"].is_f64() && reloaded["unchanged"] == 2, "{reloaded}");
}

#[test]
fn addresses_can_be_pseudonyms() {
    let lab = Lab::with(|setup| setup.log_filter = "info\"\naddresses = \"hashed".into());
    lab.send(FROM, &[TO], &message(FROM, TO, "x"));
    lab.wait_for(1);
    assert_eq!(lab.smtp().mail("stranger@nowhere.example").code, 550);
    let delivered = lab.wait_for_log("message delivered");
    // printf bob@example.net | sha256sum
    assert_eq!(delivered["recipients"][0], "address:e7b3b708168e");
    assert_eq!(lab.wait_for_log("message accepted")["recipients"], delivered["recipients"]);
    let lines = lab.log();
    let with_address = lines
        .iter()
        .find(|line| line.contains("@example") || line.contains("@contoso") || line.contains("@nowhere"));
    assert_eq!(with_address, None);
}
