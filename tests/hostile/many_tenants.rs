//! As many tenants as one process is meant to carry: the cost of idle ones.
//!
//! A build without optimizations carries 10,000 within the time of a test; docs/security.md has figures for a
//! release build.

use std::{fmt::Write, fs};

use tokio::time::Instant;

use super::{
    harness::{Lab, message},
    held,
};

const TO: &str = "b@example.net";
const TENANTS: usize = 10_000;
/// Tenants that have mail.
const BUSY: usize = 20;

/// Resident memory of the relay, in kilobytes.
fn memory(lab: &Lab) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn idle_tenants_cost_next_to_nothing() {
    let mut lab = Lab::without_relay(|setup| setup.smtp = "max_errors = 1000".into());
    let mut config = fs::read_to_string(lab.config_file()).unwrap();
    // A folder and a watch for each would be another test.
    config = config.replace("[pickup]\npath = \"pickup\"\n", "");
    for n in 0..TENANTS {
        write!(
            config,
            "\n[tenants.t{n}]\ncloud = \"lab\"\ndirectory = \"contoso.example\"\nclient_id = \"contoso-app\"\n\
             client_secret = 'contoso~Very.Secret~0123456789'\nsenders = ['t{n}@contoso.example']\n\
             networks = ['127.0.0.0/8']\nconfirm = \"off\"\n"
        )
        .unwrap();
    }
    // The domain belongs to the many tenants.
    config = config.replace("senders = ['@contoso.example']", "senders = ['nobody@contoso.example']");
    fs::write(lab.config_file(), config).unwrap();
    let began = Instant::now();
    lab.restart();
    let started = began.elapsed();
    let idle = memory(&lab);
    let size = lab.page("/metrics").1.len();
    println!("{TENANTS} tenants: ready in {started:?}, {idle} kB, /metrics has {size} octets");
    assert!(size < 100_000, "/metrics has {size} octets before anybody had mail");
    assert!(idle < 250_000, "{idle} kB");

    let mut smtp = lab.smtp();
    for n in 0..BUSY {
        let from = format!("t{}@contoso.example", n * (TENANTS / BUSY));
        smtp.send(&from, &[TO], &message(&from, TO, &format!("of {n}")));
    }
    lab.wait_for(BUSY);
    lab.wait_until_empty();
    let page = lab.page("/metrics").1;
    let mut named: Vec<_> =
        page.split("tenant=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), BUSY, "{named:?}");

    // Refusals and unknown clients create none.
    let began = Instant::now();
    for n in 0..500 {
        assert_eq!(smtp.mail(&format!("t{n}@unknown.example")).code, 550);
    }
    println!("500 refusals in {:?}", began.elapsed());
    assert_eq!(lab.page("/metrics").1.matches("tenant=\"").count(), page.matches("tenant=\"").count());
    held("Tenants that have no mail", TENANTS);
}
