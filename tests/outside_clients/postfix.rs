//! Postfix as a client: the relay is its relayhost.
//!
//! Each test has a Postfix of its own, which knows nothing about the machine's: a folder, no port, one
//! process of each kind that matters. Its daemons change users, so it needs root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Output,
};

use crate::{
    FROM, TO, assert_success, eight_bit_message,
    harness::{Lab, Mail, Setup, message, run, run_with_input, wait_until},
    installed,
    login::{PASSWORD, USER, authority, lab_with_login_in_clear, lab_with_tls, with_user},
};

struct Postfix {
    folder: tempfile::TempDir,
}

impl Postfix {
    /// Hands its mail to the relay. `more` are lines of main.cf.
    fn start(lab: &Lab, more: &str) -> Self {
        let postfix = Self { folder: tempfile::tempdir().unwrap() };
        // Its daemons are not root any more.
        fs::set_permissions(postfix.path(""), Permissions::from_mode(0o755)).unwrap();
        for folder in ["config", "queue", "data"] {
            fs::create_dir(postfix.path(folder)).unwrap();
        }
        let owner = run(installed("id", "coreutils").args(["-u", "postfix"]));
        assert_success(&owner);
        let owner = String::from_utf8(owner.stdout).unwrap().trim().parse().unwrap();
        chown(postfix.path("data"), Some(owner), None).expect("only root starts Postfix");
        let folder = postfix.path("").display().to_string();
        let folder = folder.trim_end_matches('/');
        let main = format!("{MAIN}{more}\nrelayhost = {}\n", relayhost(lab)).replace("FOLDER", folder);
        fs::write(postfix.path("config/main.cf"), main).unwrap();
        fs::write(postfix.path("config/master.cf"), MASTER).unwrap();
        let config = postfix.path("config");
        // It stays in the background and would keep a pipe open, but not a file.
        let output = run(installed("postfix", "postfix").arg("-c").arg(&config).arg("start"));
        assert!(output.status.success(), "{}{}", crate::shown(&output), postfix.log());
        wait_until("Postfix to listen", || postfix.path("queue/public/submission").exists());
        postfix
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Submits a message with lines ending in LF, as programs on the same machine do.
    fn sendmail(&self, arguments: &[&str], content: &[u8]) {
        let mut sendmail = installed("sendmail", "postfix");
        let output =
            run_with_input(sendmail.arg("-C").arg(self.path("config")).arg("-i").args(arguments), content);
        assert_success(&output);
    }

    fn smtp_source(&self, arguments: &[&str]) -> Output {
        let server = format!("unix:{}", self.path("queue/public/submission").display());
        run(installed("smtp-source", "postfix").args(arguments).arg(server))
    }

    fn wait_for_log(&self, part: &str) {
        wait_until(&format!("{part:?} in Postfix' log"), || self.log().contains(part));
    }

    /// Nothing is left in its queue: everything was delivered, or bounced.
    fn wait_until_empty(&self) {
        wait_until("Postfix' queue to be empty", || {
            let folders = ["maildrop", "incoming", "active", "deferred"];
            folders.iter().all(|folder| is_empty(&self.path("queue").join(folder)))
        });
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("=== Postfix' log ===\n{}=== end of log ===", self.log());
        }
        run(installed("postfix", "postfix").arg("-c").arg(self.path("config")).arg("stop"));
    }
}

/// The deferred queue has a level of folders.
fn is_empty(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return true };
    entries
        .flatten()
        .all(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_empty(&entry.path()))
}

/// The relay's address, without a search for MX.
fn relayhost(lab: &Lab) -> String {
    format!("[127.0.0.1]:{}", lab.smtp_address().port())
}

const MAIN: &str = "\
compatibility_level = 3.6
queue_directory = FOLDER/queue
data_directory = FOLDER/data
maillog_file = FOLDER/log
maillog_file_prefixes = FOLDER
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.example
myorigin = contoso.example
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_tls_security_level = none
in_flow_delay = 0
";

/// Mail by SMTP comes over a socket in the file system.
const MASTER: &str = "\
submission unix n - n - - smtpd
pickup  unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr    unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce  unix - - n - 0 bounce
defer   unix - - n - 0 bounce
trace   unix - - n - 0 bounce
verify  unix - - n - 1 verify
flush   unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp    unix - - n - 1 smtp
relay   unix - - n - 1 smtp
error   unix - - n - - error
retry   unix - - n - - error
discard unix - - n - - discard
local   unix - n n - - local
anvil   unix - - n - 1 anvil
scache  unix - - n - 1 scache
tlsmgr  unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
";

/// The null sender, with which Postfix sends its reports, belongs to nobody if there are two tenants.
fn with_one_tenant(setup: &mut Setup) {
    setup.tenants.retain(|tenant| tenant.name == "contoso");
}

fn unix(content: &[u8]) -> Vec<u8> {
    String::from_utf8(content.to_vec()).unwrap().replace("\r\n", "\n").into_bytes()
}

#[test]
fn postfix_hands_over_what_it_was_given() {
    let lab = Lab::start();
    let postfix = Postfix::start(&lab, "");
    let content = eight_bit_message();
    postfix.sendmail(&["-f", FROM, TO, "c@example.net"], &unix(&content));

    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [TO, "c@example.net"]);
    // Below Postfix's own trace.
    let text = delivered.text();
    let sent =
        String::from_utf8(content).unwrap().replacen("\r\n\r\n", "\r\nBcc: <c@example.net>\r\n\r\n", 1);
    assert!(
        text.ends_with(&sent) && delivered.as_sent().starts_with(b"Received: by postfix.example "),
        "{text}"
    );
    postfix.wait_until_empty();
}

#[test]
fn postfix_passes_on_what_the_sender_wants_to_be_told() {
    let lab = Lab::start();
    let postfix = Postfix::start(&lab, "");
    let wishes = ["-N", "success,failure", "-R", "hdrs", "-V", "QQ+1"];
    postfix.sendmail(&[&wishes[..], &["-f", FROM, TO]].concat(), &unix(&message(FROM, TO, "wishes")));

    let delivered = lab.wait_for(2);
    let report = delivered.iter().find(|message| message.recipients == [FROM]).unwrap().text();
    for part in [
        "Original-Envelope-Id: QQ+1\r\n",
        "Original-Recipient: rfc822; b@example.net\r\n",
        "Action: relayed\r\n",
    ] {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
    // Postfix leaves the report to the relay.
    postfix.wait_until_empty();
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 2);
}

#[test]
fn postfix_reads_the_limit_of_a_message_off_the_greeting() {
    let lab = Lab::with(|setup| {
        with_one_tenant(setup);
        setup.smtp = "max_message = '100KB'".into();
    });
    let postfix = Postfix::start(&lab, "");
    let mut content = unix(&message(FROM, TO, "large"));
    content.extend(b"Another line of text that says nothing.\n".repeat(5000));
    postfix.sendmail(&["-f", FROM, TO], &content);

    // The bounce comes from Postfix, and is the first that the relay hears of the message.
    let bounce = lab.wait_for(1).remove(0);
    assert_eq!(bounce.recipients, [FROM]);
    assert!(bounce.text().contains("exceeds size limit 100000 of server"), "{}", bounce.text());
    postfix.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_refused_total", &[]), 0.0);
    assert_eq!(lab.metric("m365_relay_smtp_commands_total", &[("verb", "mail")]), 1.0);
}

#[test]
fn postfix_uses_a_connection_again() {
    let lab = Lab::start();
    let cached = format!("smtp_connection_cache_destinations = {}", relayhost(&lab));
    let postfix = Postfix::start(&lab, &cached);
    let arguments = ["-m", "60", "-s", "6", "-l", "2000", "-f", FROM, "-t", TO, "-S", "load"];
    assert_success(&postfix.smtp_source(&arguments));

    lab.wait_for(60);
    postfix.wait_until_empty();
    let connections = lab.metric("m365_relay_smtp_commands_total", &[("verb", "ehlo")]);
    assert!((1.0..20.0).contains(&connections), "{connections} connections");
}

#[test]
fn postfix_goes_on_when_a_connection_has_had_enough_messages() {
    let lab = Lab::with(|setup| setup.smtp = "max_messages = 10".into());
    let cached = format!("smtp_connection_cache_destinations = {}", relayhost(&lab));
    let postfix = Postfix::start(&lab, &cached);
    let arguments = ["-m", "60", "-s", "6", "-l", "2000", "-f", FROM, "-t", TO, "-S", "load"];
    assert_success(&postfix.smtp_source(&arguments));

    lab.wait_for(60);
    postfix.wait_until_empty();
    assert!(!postfix.log().contains("status=deferred"));
}

#[test]
fn postfix_sends_to_addresses_that_are_not_ascii() {
    let lab = Lab::start();
    let postfix = Postfix::start(&lab, "smtputf8_enable = yes");
    let to = "b\u{fc}ro@example.net";
    let content = message(FROM, to, "gr\u{fc}n");
    postfix.sendmail(&["-f", FROM, to], &unix(&content));
    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, [to]);
    assert!(delivered.text().ends_with(std::str::from_utf8(&content).unwrap()), "{}", delivered.text());
}

#[test]
fn postfix_bounces_what_the_relay_refuses_for_good() {
    let lab = Lab::with(with_one_tenant);
    let postfix = Postfix::start(&lab, "");
    let content = message("boss@elsewhere.example", TO, "foreign");
    postfix.sendmail(&["-f", FROM, TO], &unix(&content));
    let bounce = lab.wait_for(1).remove(0);
    assert_eq!(bounce.recipients, [FROM]);
    assert!(bounce.text().contains("Status: 5.7.1\r\n"), "{}", bounce.text());
    postfix.wait_until_empty();
}

#[test]
fn postfix_logs_in() {
    logs_in(&lab_with_login_in_clear(), "ESMTPA", "");
}

#[test]
fn postfix_encrypts_and_logs_in() {
    for (tls, wrapper) in [("starttls", "no"), ("implicit", "yes")] {
        let lab = lab_with_tls(tls, with_user);
        let more = format!(
            "smtp_tls_security_level = secure\nsmtp_tls_secure_cert_match = localhost\nsmtp_tls_CAfile = {}\n\
             smtp_tls_wrappermode = {wrapper}\n",
            authority(&lab).display(),
        );
        logs_in(&lab, "ESMTPSA", &more);
    }
}

fn logs_in(lab: &Lab, protocol: &str, encryption: &str) {
    let passwords = lab.folder().join("passwords");
    fs::write(&passwords, format!("{} {USER}:{PASSWORD}\n", relayhost(lab))).unwrap();
    let more = format!(
        "{encryption}smtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n\
         smtp_sasl_password_maps = texthash:{}",
        passwords.display(),
    );
    let postfix = Postfix::start(lab, &more);
    let content = message(FROM, TO, "login");
    postfix.sendmail(&["-f", FROM, TO], &unix(&content));
    postfix.wait_for_log("status=");
    postfix.wait_until_empty();
    let delivered = lab.wait_for(1).remove(0);
    let received = delivered.fields("Received").remove(0);
    assert!(received.contains(&format!(" with {protocol} id ")), "{received}");
    assert!(delivered.text().ends_with(std::str::from_utf8(&content).unwrap()), "{}", delivered.text());
}
