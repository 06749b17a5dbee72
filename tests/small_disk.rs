//! A spool on a file system of 64 MiB: what happens at its end, and after.
//!
//! Behind the feature `small-disk`, since mounting needs root, or a system that lets users create namespaces.
#![cfg(feature = "small-disk")]
// Test helpers are no test functions, which alone may unwrap by clippy's rules.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared by several test programs")]
mod harness;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, Write},
    path::PathBuf,
    time::Duration,
};

use relay_sandbox::{Action, Fault, On, StatusFault};

use harness::{Lab, Reply, Smtp, base64_mail, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// A relay whose spool is a tmpfs of its own, visible only through its process.
struct SmallDisk {
    lab: Lab,
    accepted: Vec<String>,
}

impl SmallDisk {
    /// With as much of it as one tenant wants.
    fn with(spool: &str) -> Self {
        Self::shared(spool, "max_queued_bytes = '1TiB'", false)
    }

    fn shared(spool: &str, of_contoso: &str, log_is_there: bool) -> Self {
        let mut lab = Lab::without_relay(|setup| {
            setup.spool = spool.into();
            setup.tenant("contoso").more = of_contoso.into();
        });
        let folder = lab.folder().join("spool");
        std::fs::create_dir(&folder).unwrap();
        let mut mount =
            format!("mount -t tmpfs -o size=64m,mode=0700 tmpfs '{}' && exec \"$@\"", folder.display());
        if log_is_there {
            let log = folder.join("relay.log");
            mount += &format!(" 2>>'{}'", log.display());
            lab.setup.log_file = Some(log);
        }
        let namespace: &[&str] = if rustix::process::getuid().is_root() {
            &["unshare", "--mount"]
        } else {
            &["unshare", "--user", "--map-root-user", "--mount"]
        };
        lab.setup.wrapper =
            namespace.iter().copied().chain(["sh", "-c", &mount, "sh"]).map(str::to_owned).collect();
        lab.restart();
        Self { lab, accepted: Vec::new() }
    }

    /// The spool's path in the relay's own view of the files.
    fn spool(&self) -> PathBuf {
        let seen =
            format!("/proc/{}/root{}", self.lab.process_id(), self.lab.folder().join("spool").display());
        seen.into()
    }

    /// Sends one message, and remembers it if it is accepted.
    fn offer(&mut self, smtp: &mut Smtp, size: usize) -> Reply {
        let subject = format!("number {}", self.accepted.len());
        smtp.command("RSET");
        let mut reply = smtp.mail(FROM);
        if reply.code == 250 {
            smtp.rcpt(TO);
            reply = smtp.data(&base64_mail(FROM, TO, &subject, size));
        }
        if reply.code == 250 {
            self.accepted.push(subject);
        }
        reply
    }

    /// Everything that was accepted was delivered, once.
    fn delivered_once(&self) {
        self.lab.wait_for(self.accepted.len());
        self.lab.wait_until_empty();
        let mut copies = BTreeMap::<String, u32>::new();
        for message in self.lab.service.messages() {
            *copies.entry(message.subject.clone()).or_default() += 1;
        }
        let expected = self.accepted.iter().map(|subject| (subject.clone(), 1)).collect();
        assert_eq!(copies, expected);
    }

    fn is_healthy(&self) -> bool {
        self.lab.metric("m365_relay_spool_healthy", &[]) == 1.0
    }
}

/// With a floor, the store never reaches the end: 452, mail is sent out, and mail is accepted again.
#[test]
fn a_disk_that_fills_up_with_mail_refuses_it_in_time() {
    let mut disk = SmallDisk::with("min_free = '8MiB'\nmin_free_inodes = 10");
    let throttled = StatusFault::new(429, "TooManyRequests").retry_after("1");
    disk.lab.inject(Fault::new(On::SendMail, Action::Status(throttled)));
    let mut smtp = disk.lab.smtp();
    let mut refused = None;
    wait_until("the disk to be full", || {
        let reply = disk.offer(&mut smtp, 100_000);
        match reply.code {
            250 => false,
            // Octets in flight count at once, but only the next look at the disk shows whether they took any
            // space.
            452 => {
                disk.lab.metric("m365_relay_spool_free_bytes", &[]) < f64::from(9 << 20) && {
                    refused = Some(reply);
                    true
                }
            }
            _ => panic!("{reply:?}"),
        }
    });
    assert!(refused.unwrap().text.contains("4.3.1"));
    assert!(disk.accepted.len() > 300, "only {} fit", disk.accepted.len());
    assert!(disk.is_healthy());
    let process = disk.lab.process_id();

    // The spool drains, which makes room.
    disk.lab.service.clear_faults();
    let before = disk.accepted.len();
    wait_until("mail to be accepted again", || disk.offer(&mut smtp, 100_000).code == 250);
    while disk.accepted.len() < before + 100 {
        disk.offer(&mut smtp, 100_000);
    }
    assert_eq!(disk.lab.process_id(), process);
    disk.delivered_once();
    assert!(disk.is_healthy());
    assert!(disk.lab.metric("m365_relay_refused_total", &[("reason", "disk_full")]) >= 1.0);
}

/// One tenant's mail cannot be sent, and it keeps sending: it gets half of the free space, and the other
/// continues as before.
#[test]
fn one_tenant_never_fills_the_disk_for_all() {
    let mut disk = SmallDisk::shared("min_free = '8MiB'\nmin_free_inodes = 10", "", false);
    disk.lab
        .inject(Fault::status(On::Token, 503, "temporarily_unavailable").for_directory("contoso.example"));
    let mut smtp = disk.lab.smtp();
    let mut refused = None;
    wait_until("the tenant to have its share", || {
        let reply = disk.offer(&mut smtp, 100_000);
        let is_full = reply.code == 452;
        assert!(is_full || reply.code == 250, "{reply:?}");
        refused = Some(reply);
        // Octets in flight count until the disk is looked at again.
        is_full && disk.lab.metric("m365_relay_queue_bytes", &[("tenant", "contoso")]) > f64::from(20 << 20)
    });
    let refused = refused.unwrap();
    assert!(refused.text.contains("of this tenant"), "{refused:?}");
    let free = disk.lab.metric("m365_relay_spool_free_bytes", &[]);
    assert!(free > f64::from(30 << 20), "{free} octets are left");
    assert_eq!(smtp.command(&format!("MAIL FROM:<{FROM}> SIZE=20000000")).code, 452);

    let other = "a@fabrikam.example";
    // One after the other: together they would exceed this tenant's share if deliveries are slow.
    for n in 0..10 {
        let mail = base64_mail(other, TO, &format!("other {n}"), 1_000_000);
        smtp.command("RSET");
        smtp.send(other, &[TO], &mail);
        disk.lab.wait_for(n + 1);
        disk.lab.wait_until_settled();
    }
    let refusals = |reason| disk.lab.metric("m365_relay_refused_total", &[("reason", reason)]);
    assert!(refusals("tenant_bytes") >= 1.0 && refusals("disk_full") == 0.0);
    assert!(disk.is_healthy());
}

/// Without a floor, another program takes the last octet: the store fails, says so, and recovers in the same
/// process when there is room again. What was in flight is delivered, once.
#[test]
fn a_disk_that_others_fill_heals_in_the_same_process() {
    let mut disk = SmallDisk::with("min_free = 0\nmin_free_inodes = 0");
    let mut smtp = disk.lab.smtp();
    for _ in 0..20 {
        assert_eq!(disk.offer(&mut smtp, 10_000).code, 250);
    }
    // These are at Microsoft 365 while the disk is full: their outcome cannot be stored, and must not be
    // forgotten.
    disk.lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(2))));
    for _ in 0..10 {
        assert_eq!(disk.offer(&mut smtp, 10_000).code, 250);
    }
    wait_until("deliveries to be under way", || disk.lab.service.peak_concurrency(FROM) >= 5);
    let filler = disk.spool().join("filler");
    fill(&filler);
    let process = disk.lab.process_id();

    wait_until("the store to fail", || {
        let reply = disk.offer(&mut smtp, 100_000);
        assert!([250, 451, 452].contains(&reply.code), "{reply:?}");
        !disk.is_healthy()
    });
    assert_eq!(disk.lab.page("/readyz").0, 503);
    smtp.command("RSET");
    assert_eq!(smtp.mail(FROM).code, 451);

    disk.lab.service.clear_faults();
    std::fs::remove_file(&filler).unwrap();
    wait_until("the spool to heal", || disk.is_healthy());
    assert_eq!(disk.lab.page("/readyz").0, 200);
    for _ in 0..20 {
        assert_eq!(disk.offer(&mut smtp, 100_000).code, 250);
    }
    assert_eq!(disk.lab.process_id(), process);
    disk.delivered_once();
    assert_eq!(disk.lab.metric("m365_relay_unknown_outcomes_total", &[]), 0.0);
}

/// The log is on the same disk: while it is full, neither mail nor a line fits. The reply is 452 or 451
/// meanwhile; afterwards both continue, in the same process, and the lines that were lost are counted and
/// reported.
#[test]
fn a_full_disk_with_the_log_on_it_harms_no_mail() {
    let spool = "min_free = '4MiB'\nmin_free_inodes = 0";
    let mut disk = SmallDisk::shared(spool, "max_queued_bytes = '1TiB'", true);
    let mut smtp = disk.lab.smtp();
    let process = disk.lab.process_id();
    let lost = "m365_relay_log_lines_lost_total";
    for round in 1..=3 {
        for _ in 0..20 {
            assert_eq!(disk.offer(&mut smtp, 50_000).code, 250);
        }
        disk.lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(1))));
        for _ in 0..5 {
            assert_eq!(disk.offer(&mut smtp, 10_000).code, 250);
        }
        wait_until("deliveries to be under way", || disk.lab.service.peak_concurrency(FROM) >= 5);
        let filler = disk.spool().join("filler");
        fill_but(&filler, 2 << 20);
        wait_until("mail to be refused in time", || match disk.offer(&mut smtp, 10_000).code {
            250 => false,
            code => {
                // 451: mail was quicker than the look at the disk, which comes each second.
                assert!([451, 452].contains(&code), "{code}");
                true
            }
        });
        fill(&filler);
        let before = disk.lab.metric(lost, &[("reason", "failed")]);
        let mut refused = 0;
        wait_until("log lines to be lost", || {
            // Files that were removed meanwhile make a little room.
            fill(&filler);
            let code = disk.offer(&mut smtp, 100_000).code;
            assert!([451, 452].contains(&code), "{code}");
            refused += 1;
            refused >= 20 && disk.lab.metric(lost, &[("reason", "failed")]) > before
        });
        disk.lab.service.clear_faults();
        std::fs::remove_file(&filler).unwrap();
        wait_until("mail to be accepted again", || disk.offer(&mut smtp, 10_000).code == 250);
        wait_until("the spool to be well", || disk.is_healthy());
        wait_until("lost lines to be told", || disk.lab.logged("log lines lost").len() >= round);
    }
    assert_eq!(disk.lab.process_id(), process);
    disk.delivered_once();
    let said: u64 = disk.lab.logged("log lines lost").iter().filter_map(|e| e["failed"].as_u64()).sum();
    assert!(said > 0 && disk.lab.metric(lost, &[]) >= said as f64);
    assert!(!disk.lab.log().iter().any(|line| line.contains("panicked")));
    assert_eq!(disk.lab.terminate(), Some(0));
}

/// Writes until no more than this many octets are left.
fn fill_but(path: &std::path::Path, left: u64) {
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    loop {
        let space = rustix::fs::fstatvfs(&file).unwrap();
        if space.f_bavail * space.f_frsize <= left {
            return;
        }
        file.write_all(&[1; 1 << 16]).unwrap();
    }
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        let octets = vec![1; size];
        loop {
            match file.write(&octets) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
