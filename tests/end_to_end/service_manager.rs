//! What systemd is told.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use crate::harness::{Lab, message};

/// The socket that a service manager listens at.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(socket)
    }

    /// The next datagram. `None`: none within this time.
    fn heard(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).unwrap();
        let mut octets = [0; 4096];
        let len = self.0.recv(&mut octets).ok()?;
        Some(String::from_utf8(octets[..len].to_vec()).unwrap())
    }

    fn wait_for(&self, what: &str) -> String {
        loop {
            let heard = self.heard(Duration::from_secs(30)).unwrap_or_else(|| panic!("no {what}"));
            if heard.contains(what) {
                return heard;
            }
        }
    }
}

fn lab(more: &[&str]) -> (Lab, Manager) {
    let mut lab = Lab::without_relay(|_| {});
    let path = lab.folder().join("notify");
    let manager = Manager::at(&path);
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    let words = [&["env", &socket, "WATCHDOG_USEC=600000"], more].concat();
    lab.setup.wrapper = words.into_iter().map(ToOwned::to_owned).collect();
    (lab, manager)
}

#[test]
fn ready_alive_and_stopping() {
    let (mut lab, manager) = lab(&[]);
    lab.restart();
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=2 tenants"), "{ready}");
    // From now on it takes mail.
    lab.send("a@contoso.example", &["b@example.net"], &message("a@contoso.example", "b@example.net", "x"));
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    assert_eq!(lab.terminate(), Some(0));
    manager.wait_for("STOPPING=1");
}

/// The rest of the process goes on.
#[test]
fn a_scheduler_that_no_longer_turns_feeds_no_watchdog() {
    let (mut lab, manager) = lab(&["M365_RELAY_TEST_HANGS=scheduler:20"]);
    lab.restart();
    manager.wait_for("WATCHDOG=1");
    let ended = (0..100).any(|_| manager.heard(Duration::from_secs(3)).is_none());
    assert!(ended, "fed while the scheduler hangs");
    assert_eq!(lab.page("/healthz").0, 200);
    lab.kill9();
}

#[test]
fn why_it_did_not_start() {
    let (lab, manager) = lab(&[]);
    std::fs::write(lab.config_file(), "[spool]\npath = 7\n[pickup]\npath = 'p'\n").unwrap();
    let config = lab.config_file();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_m365-relay"));
    command.args(["serve", "--config"]).arg(&config).env("NOTIFY_SOCKET", lab.folder().join("notify"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let status = manager.wait_for("STATUS=");
    assert!(status.contains("spool.path: is a number"), "{status}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("spool.path: is a number").count(), 1, "{said}");
}
