//! A thread or a task that panics ends the relay: in order, with exit code 1 and one error in the log. What
//! was acknowledged is delivered after the next start.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    courier::{Courier, all_arrive},
    harness::Lab,
    held,
};

/// The fault's name and time, and its name in the log.
const PARTS: [(&str, &str); 12] = [
    ("spool-commit:25", "the spool's committer"),
    ("spool-bodies:25", "the spool's thread for bodies"),
    ("recipients-ledger:1", "the ledger of the day's recipients"),
    ("log:20", "the log"),
    ("scheduler:10", "the scheduler"),
    ("smtp:10", "the SMTP server"),
    ("pickup:10", "pickup"),
    ("disk-watch:10", "the watch over the disk"),
    ("stall-watch:10", "the watch over the spool"),
    ("credentials-watch:10", "the watch over credentials"),
    ("reload:10", "what reloads the configuration"),
    ("admin:10", "the server for metrics and health"),
];

#[test]
fn whichever_part_panics_the_relay_ends_and_loses_nothing() {
    let (one, other) = PARTS.split_at(PARTS.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| one.iter().for_each(|(fault, part)| ends_in_order(fault, part)));
        other.iter().for_each(|(fault, part)| ends_in_order(fault, part));
    });
    held("Threads that panic", PARTS.len());
}

fn ends_in_order(fault: &str, part: &str) {
    let mut lab = Lab::with(|setup| {
        setup.with_own_address();
        setup.wrapper = vec!["env".into(), format!("M365_RELAY_TEST_PANICS={fault}")];
    });
    let began = Instant::now();
    let couriers = ["one", "other"].map(|name| Courier::start(lab.smtp_address(), name));
    let code = lab.wait_for_end();
    let took = began.elapsed();
    let acknowledged = couriers.map(Courier::end).concat();
    assert_eq!(code, Some(1), "{fault}");
    // Sessions have ten seconds and deliveries thirty, and here none of that is needed.
    assert!(took < Duration::from_secs(25), "{fault}: {took:?}");
    let entries: Vec<serde_json::Value> =
        lab.log().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Without a committer, each delivery in flight says that it could not be stored.
    let is_error = |entry: &&serde_json::Value| {
        entry["level"] == "ERROR" && entry["message"] != "delivery result not stored"
    };
    let errors: Vec<_> = entries.iter().filter(is_error).collect();
    assert_eq!(errors.len(), 1, "{fault}: {errors:?}");
    let said = errors[0]["message"].as_str().unwrap();
    assert!(said.starts_with(&format!("vital part ended: {part}: ")), "{fault}: {said}");
    let panics: Vec<_> = entries.iter().filter(|entry| entry["message"] == "thread panicked").collect();
    assert_eq!(panics.len(), 1, "{fault}: {panics:?}");
    assert!(panics[0]["at"].as_str().unwrap().contains("src/faults.rs:"), "{fault}: {panics:?}");
    assert!(!acknowledged.is_empty(), "{fault}: nothing was sent");

    lab.setup.wrapper.clear();
    lab.restart();
    all_arrive(&lab, &acknowledged);
    assert_eq!(lab.terminate(), Some(0));
}
