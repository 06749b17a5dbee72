//! A clock that jumps, by libfaketime: nothing is lost, nothing expires early, and nothing loops.
//!
//! The jumps are those of the wall clock, as by an administrator or a time server that steps it. The kernel's
//! monotonic clock does not jump on any machine.

use std::{fs, path::Path, thread, time::Duration};

use relay_sandbox::{Action, Fault, On};
use tokio::time::Instant;

use crate::{
    courier::{Courier, FROM, all_arrive},
    harness::{Lab, Setup, message, wait_until},
    held,
};

/// From one jump to the next, relative to true time.
const JUMPS: [&str; 8] = ["+1h", "-1h", "+1d", "-1d", "+30d", "-30d", "+0", "-10y"];

fn library() -> Option<String> {
    let folders =
        ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
    let found = folders.iter().map(|folder| format!("{folder}/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|library| Path::new(library).exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "libfaketime is missing: scripts/test installs it");
        println!("NOT RUN: libfaketime is missing");
    }
    found
}

/// A relay whose clock is read from a file.
fn under_a_clock(library: &str, clock: &Path, setup: &mut Setup) {
    setup.with_own_address();
    setup.wrapper = vec![
        "env".into(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".into(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
    ];
}

fn set(clock: &Path, to: &str) {
    // In one step, since it may be read at any moment.
    let next = clock.with_extension("next");
    fs::write(&next, to).unwrap();
    fs::rename(next, clock).unwrap();
}

/// Processor time that the relay has used.
fn processor_time(lab: &Lab) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", lab.process_id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A hundred ticks a second, on every Linux.
    Duration::from_millis(ticks * 10)
}

/// While mail comes in, and while some of it cannot go out and waits for its retry.
#[test]
fn a_clock_that_jumps_while_it_runs_loses_nothing_and_expires_nothing() {
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    set(&clock, "+0");
    let mut lab = Lab::with(|setup| under_a_clock(&library, &clock, setup));
    let mut acknowledged = Vec::new();
    for jump in JUMPS {
        // Some of it waits for another try when the clock jumps.
        lab.inject(Fault::status(On::SendMail, 503, "ServiceUnavailable").times(5));
        let courier = Courier::start(lab.smtp_address(), jump);
        thread::park_timeout(Duration::from_millis(300));
        set(&clock, jump);
        thread::park_timeout(Duration::from_millis(300));
        acknowledged.extend(courier.end());
        lab.service.clear_faults();
        all_arrive(&lab, &acknowledged);
        is_idle(&lab, jump);
    }
    assert!(acknowledged.len() > 2 * JUMPS.len(), "{}", acknowledged.len());
    // The log's times are those of the wall clock: the last jump has gone back ten years.
    let year = |message: &str| {
        let line = lab.logged(message).pop().unwrap();
        line["timestamp"].as_str().unwrap()[..4].parse::<u32>().unwrap()
    };
    wait_until("a line with the time that the clock has jumped to", || {
        year("message accepted") <= year("ready") - 9
    });
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 0.0);
    assert_eq!(lab.terminate(), Some(0));
    held("Steps of the clock", JUMPS.len());
}

/// Text that others read follows the clock as it is: the date in `Received`, and the ids, which never go
/// back.
#[test]
fn what_is_written_follows_a_clock_that_jumps() {
    let Some(library) = library() else { return };
    // Relative to true time, and by how many days.
    const STEPS: [(&str, i64); 4] = [("+0", 0), ("+40d", 40), ("-400d", -400), ("+1d", 1)];
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    set(&clock, STEPS[0].0);
    let lab = Lab::with(|setup| under_a_clock(&library, &clock, setup));
    let mut ids: Vec<String> = Vec::new();
    for (n, (to, days)) in STEPS.into_iter().enumerate() {
        set(&clock, to);
        lab.send(FROM, &["b@example.net"], &message(FROM, "b@example.net", to));
        let delivered = lab.wait_for(n + 1).remove(n);
        let parsed = mail_parser::MessageParser::default().parse(&*delivered.raw).unwrap();
        let received = parsed.received().unwrap();
        let off =
            received.date().unwrap().to_timestamp() - relay_mail::Timestamp::wall().as_millis() as i64 / 1000;
        assert!((off - days * 86_400).abs() < 3600, "{to}: {off} s off");
        ids.push(received.id().unwrap().to_owned());
    }
    assert!(ids.is_sorted(), "{ids:?}");
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 0.0);
    let oldest = lab.metric("m365_relay_queue_oldest_seconds", &[]);
    assert_eq!(oldest, 0.0);
}

/// While the relay is off, with mail that waits in the spool: it is sent after the start, and does not
/// bounce. The jump goes back, or forward by less than the time that mail is tried for.
#[test]
fn a_clock_that_jumps_between_two_starts_loses_nothing_and_expires_nothing() {
    let Some(library) = library() else { return };
    const STARTS: [&str; 5] = ["+1d", "-1d", "+20h", "-1y", "+0"];
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    set(&clock, "+0");
    let mut lab = Lab::with(|setup| under_a_clock(&library, &clock, setup));
    for jump in STARTS {
        // A relay without a token tries nothing, so that nothing is in doubt after the kill.
        assert_eq!(lab.terminate(), Some(0));
        lab.inject(Fault::new(On::Token, Action::Delay(Duration::from_secs(600))));
        lab.restart();
        let courier = Courier::start(lab.smtp_address(), &format!("start {jump}"));
        thread::park_timeout(Duration::from_millis(300));
        let acknowledged = courier.end();
        assert!(!acknowledged.is_empty());
        lab.kill9();
        set(&clock, jump);
        lab.service.clear_faults();
        lab.restart();
        all_arrive(&lab, &acknowledged);
        is_idle(&lab, jump);
    }
    assert_eq!(lab.metric("m365_relay_bounces_total", &[]), 0.0);
    assert_eq!(lab.terminate(), Some(0));
    held("Steps of the clock between two starts", STARTS.len());
}

/// With nothing to do, the relay does next to nothing.
fn is_idle(lab: &Lab, jump: &str) {
    let before = processor_time(lab);
    let began = Instant::now();
    thread::park_timeout(Duration::from_millis(500));
    let used = processor_time(lab) - before;
    let took = began.elapsed();
    assert!(used < took / 4, "{jump}: it used {used:?} of {took:?} with nothing to do");
}
