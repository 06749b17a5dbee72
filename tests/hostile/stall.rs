//! A disk that hangs: the call never returns. The relay ends by itself, and what was acknowledged arrives
//! after the restart.

use std::thread;

use crate::{
    courier::{Courier, all_arrive},
    faults::{Strace, has_strace},
    harness::{Lab, PATIENCE, holds_within},
    held,
};

/// Hangs for longer than the test.
const HANGS: [&str; 2] = ["fdatasync:delay_enter=600000000:when=3", "pwrite64:delay_enter=600000000:when=4"];

#[test]
fn a_disk_that_hangs_ends_the_relay() {
    if !has_strace() {
        return;
    }
    thread::scope(|scope| {
        for hang in HANGS {
            scope.spawn(move || ends(hang));
        }
    });
    held("A disk that hangs", HANGS.len());
}

fn ends(hang: &str) {
    let mut lab = Lab::with(|setup| {
        setup.with_own_address();
        setup.spool += "\nstalled_after = '2s'";
    });
    let courier = Courier::start(lab.smtp_address(), "one");
    let strace = Strace::attach(lab.process_id(), hang, lab.folder());
    // Deliveries in flight have half a minute.
    let stopped = holds_within(PATIENCE, || !lab.logged("stopped").is_empty());
    // A process is not gone before its last thread is, and strace holds that thread.
    strace.kill();
    assert!(stopped, "{hang}");
    assert_eq!(lab.wait_for_end(), Some(1), "{hang}");
    let acknowledged = courier.end();
    let errors: Vec<_> = lab.log().into_iter().filter(|line| line.contains("vital part ended")).collect();
    assert!(errors.len() == 1 && errors[0].contains("has not returned for 2s"), "{hang}: {errors:?}");
    lab.restart();
    all_arrive(&lab, &acknowledged);
}
