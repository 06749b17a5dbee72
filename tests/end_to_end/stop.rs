//! The ordinary stop, other signals, and starts under bad conditions.

use std::time::Duration;

use relay_sandbox::{Action, Fault, On};

use crate::harness::{Lab, Setup, Smtp, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

#[test]
fn sigterm_stops_with_0_and_loses_nothing() {
    let mut lab = Lab::start();
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable"));
    let mut smtp = lab.smtp();
    for n in 0..5 {
        smtp.send(FROM, &[TO], &message(FROM, TO, &format!("{n}")));
    }
    assert_eq!(lab.terminate(), Some(0));
    // The client that was still connected has been told.
    assert_eq!(smtp.reply().code, 421);
    assert_eq!(lab.logged("stopped").len(), 1);

    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(5);
    lab.wait_until_empty();
    lab.wait_for(5);
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &[]), 0.0);
}

#[test]
fn sigterm_waits_for_the_delivery_in_flight() {
    let mut lab = Lab::start();
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(1))).times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "in flight"));
    wait_until("the call to reach the service", || lab.service.peak_concurrency(FROM) == 1);
    assert_eq!(lab.terminate(), Some(0));
    lab.wait_for(1);

    lab.restart();
    lab.wait_until_empty();
    lab.wait_for(1);
}

#[test]
fn a_message_that_is_being_sent_at_sigterm_may_be_finished() {
    let mut lab = Lab::with(Setup::with_own_address);
    let content = message(FROM, TO, "in the middle");
    let (begun, rest) = content.split_at(40);
    let mut smtp = lab.smtp();
    smtp.begin(FROM, &[TO]);
    assert_eq!(smtp.command("DATA").code, 354);
    smtp.write(begun);
    let address = lab.smtp_address();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| lab.terminate());
        // From now on it accepts no new clients.
        wait_until("the relay to stop listening", || std::net::TcpStream::connect(address).is_err());
        smtp.write(&crate::harness::with_end(rest));
        assert_eq!(smtp.reply().code, 250);
        assert_eq!(stopping.join().unwrap(), Some(0));
    });

    lab.restart();
    lab.wait_for(1);
}

#[test]
fn a_second_relay_on_the_same_spool_is_refused() {
    let lab = Lab::start();
    let config = lab.config_file();
    let second = lab.run(&["serve", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another process has this spool open"), "{said}");
    assert!(said.contains(lab.folder().join("spool").to_str().unwrap()), "{said}");

    // The first relay is unharmed.
    lab.send(FROM, &[TO], &message(FROM, TO, "still there"));
    lab.wait_for(1);
}

#[test]
fn an_address_in_use_is_named() {
    let lab = Lab::start();
    let config = std::fs::read_to_string(lab.config_file()).unwrap();
    let address = lab.smtp_address().to_string();
    let other = config.replace("path = \"spool\"", "path = \"other-spool\"").replacen(
        "address = \"127.0.0.1:0\"",
        &format!("address = \"{address}\""),
        1,
    );
    let file = lab.folder().join("other.toml");
    std::fs::write(&file, other).unwrap();
    let second = lab.run(&["serve", "--config", file.to_str().unwrap()]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("smtp.listener") && said.contains(&address), "{said}");
    drop(Smtp::connect(lab.smtp_address()));
}

#[test]
fn too_few_open_files_are_warned_of_and_a_soft_limit_is_raised() {
    // The spool is in use, so these end at once; they have checked the limit before.
    let lab = Lab::start();
    let warned = |ulimit: &str| {
        let config = lab.config_file();
        let command = format!("{ulimit} && exec '{}' serve --config '{}'", BINARY, config.display());
        let second = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(said.contains("another process has this spool open"), "{said}");
        said.lines().find(|line| line.contains("open file limit too low")).map(str::to_owned)
    };
    let line = warned("ulimit -n 500").expect("a warning");
    // Two for each of 2000 connections, 1024 deliveries and 512 files, 64 lists of the spool, 200 for the
    // rest.
    assert!(line.contains("500") && line.contains("7336"), "{line}");

    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if hard.is_none_or(|hard| hard >= 7336) {
        assert_eq!(warned("ulimit -S -n 500"), None);
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_m365-relay");
