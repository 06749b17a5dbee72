//! A log that cannot be written, or that is flooded: mail is not affected.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    harness::{Lab, Reading, Setup, holds_within, message, wait_until},
    held,
};

const TO: &str = "b@example.net";
const LOST: &str = "m365_relay_log_lines_lost_total";

fn send(lab: &Lab, count: usize) {
    let mut smtp = lab.smtp();
    for n in 0..count {
        smtp.send("a@contoso.example", &[TO], &message("a@contoso.example", TO, &format!("number {n}")));
    }
    smtp.quit();
}

/// Makes the relay log as much as possible.
fn talkative(setup: &mut Setup) {
    setup.log_filter = "trace".into();
}

/// Everything is delivered, and a stop takes no longer than it should.
fn is_whole(mut lab: Lab, sent: usize) -> usize {
    lab.wait_for(sent);
    lab.wait_until_empty();
    assert_eq!(lab.page("/readyz").0, 200);
    let asked = Instant::now();
    assert_eq!(lab.terminate(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(20), "the stop took {:?}", asked.elapsed());
    sent
}

/// The reader of standard error has gone, as after a crash of a log shipper: every write fails (EPIPE).
fn nobody_reads() -> usize {
    let lab = Lab::start();
    lab.read_log(Reading::Never);
    send(&lab, 100);
    lab.wait_for_metrics("lost lines to be counted", |metrics| {
        metrics.sum(LOST, &[("reason", "failed")]) >= 50.0
    });
    is_whole(lab, 100)
}

/// The reader no longer reads, and the pipe is full: a write never returns.
fn somebody_stalls() -> usize {
    let lab = Lab::with(talkative);
    lab.read_log(Reading::Paused);
    let mut sent = 0;
    wait_until("the queue of lines to be full", || {
        send(&lab, 50);
        sent += 50;
        lab.metric(LOST, &[("reason", "full")]) > 0.0
    });
    assert_eq!(lab.metric(LOST, &[("reason", "failed")]), 0.0);
    is_whole(lab, sent)
}

/// The same, but it resumes reading: the lost lines are reported.
fn somebody_stalls_for_a_while() -> usize {
    let lab = Lab::with(talkative);
    lab.read_log(Reading::Paused);
    let mut sent = 0;
    wait_until("the queue of lines to be full", || {
        send(&lab, 50);
        sent += 50;
        lab.metric(LOST, &[("reason", "full")]) > 0.0
    });
    lab.wait_for(sent);
    lab.read_log(Reading::Steadily);
    let said = lab.wait_for_log("log lines lost");
    assert!(said["full"].as_u64().unwrap() > 0, "{said}");
    is_whole(lab, sent)
}

/// A pipe that does not block, and is full: nothing is lost as long as there is room to wait.
fn a_pipe_that_does_not_block() -> usize {
    const COUNT: usize = 300;
    let lab = Lab::with(|setup| setup.nonblocking_log = true);
    lab.read_log(Reading::Paused);
    send(&lab, COUNT);
    lab.wait_for(COUNT);
    lab.wait_until_empty();
    lab.read_log(Reading::Steadily);
    wait_until("every line", || lab.logged("message delivered").len() == COUNT);
    assert_eq!(lab.wait_for_logs("message accepted", COUNT).len(), COUNT);
    assert_eq!(lab.metric(LOST, &[]), 0.0);
    is_whole(lab, COUNT)
}

#[test]
fn a_log_that_cannot_be_written_harms_no_mail() {
    let sent =
        nobody_reads() + somebody_stalls() + somebody_stalls_for_a_while() + a_pipe_that_does_not_block();
    held("A log that cannot be written", sent);
}

/// Pipelined commands that are refused, each with a log line.
#[test]
fn a_client_that_floods_the_log_hides_nobody_elses_lines() {
    const FLOOD: usize = 10_000;
    const OTHERS: usize = 50;
    let lab = Lab::with(|setup| setup.smtp = "max_errors = 100000\nmax_commands = 100000".into());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut smtp = lab.smtp();
            for _ in 0..FLOOD / 100 {
                smtp.write("MAIL FROM:<a@nobody.example>\r\n".repeat(100).as_bytes());
                for _ in 0..100 {
                    assert!(smtp.reply().code >= 400);
                }
            }
        });
        send(&lab, OTHERS);
    });
    lab.wait_for(OTHERS);
    let lost = lab.metric(LOST, &[("reason", "share")]);
    assert!(lost > (FLOOD / 2) as f64, "only {lost} lines were left out");
    assert_eq!(lab.metric(LOST, &[]), lost);
    wait_until("everybody else's lines", || lab.logged("message delivered").len() == OTHERS);
    assert_eq!(lab.wait_for_logs("message accepted", OTHERS).len(), OTHERS);
    let said = lab.wait_for_log("log lines lost");
    assert!(said["share"].as_u64().unwrap() > 0, "{said}");
    assert!(holds_within(Duration::from_secs(10), || {
        let said = lab.logged("log lines lost").into_iter();
        said.map(|line| line["share"].as_u64().unwrap()).sum::<u64>() as f64 == lost
    }));
    assert!(!lab.logged("message refused").is_empty());
    held("A client that floods the log", FLOOD);
}
