//! `m365-relay sendmail`, as programs call it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use crate::harness::{Lab, Mail, base64_mail, fields, message, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_m365-relay");
const MAIL: &str = "From: \"A\" <a@contoso.example>\nTo: b@example.net\nSubject: hello\n\nHello.\n";

/// The command without any settings from the environment.
fn command(program: impl AsRef<std::ffi::OsStr>, lab: &Lab) -> Command {
    let mut command = Command::new(program);
    for name in ["M365_RELAY_TENANT", "M365_RELAY_PICKUP", "M365_RELAY_FROM"] {
        command.env_remove(name);
    }
    command.env("M365_RELAY_CONFIG", lab.config_file()).current_dir(lab.folder());
    command
}

fn sendmail(lab: &Lab) -> Command {
    let mut command = command(BINARY, lab);
    command.arg("sendmail");
    command
}

/// Runs it with that standard input.
fn feed(command: &mut Command, input: &[u8]) -> Output {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    command.stdin(file).output().unwrap()
}

fn accepted(command: &mut Command, input: &str) {
    let output = feed(command, input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

/// Returns its message when it refuses with that exit code.
fn refused(command: &mut Command, input: &str, code: i32) -> String {
    let output = feed(command, input.as_bytes());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(said.starts_with("sendmail: "), "{said}");
    said
}

/// A lab whose pickup folders exist and whose relay is not running.
fn relay_is_down(change: impl FnOnce(&mut crate::harness::Setup)) -> Lab {
    let lab = Lab::without_relay(change);
    for tenant in &lab.setup.tenants {
        fs::create_dir_all(folder(&lab, &tenant.name)).unwrap();
    }
    lab
}

fn folder(lab: &Lab, tenant: &str) -> PathBuf {
    lab.folder().join("pickup").join(tenant)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The one file that waits for this tenant; it is removed.
fn take(lab: &Lab, tenant: &str) -> String {
    let [file] = files(&folder(lab, tenant)).try_into().unwrap();
    assert_eq!(file.extension().unwrap(), "eml");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(file).unwrap();
    text.replace("\r\n", "\n")
}

fn nothing_waits(lab: &Lab) {
    for tenant in &lab.setup.tenants {
        let left = files(&folder(lab, &tenant.name));
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn mail_is_taken_while_the_relay_is_down_and_delivered_later() {
    let mut lab = relay_is_down(|_| {});
    accepted(sendmail(&lab).args(["-oi", "b@example.net", "c@example.net"]), MAIL);
    let [file] = files(&folder(&lab, "contoso")).try_into().unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    lab.restart();

    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!(delivered.mailbox, "a@contoso.example");
    assert_eq!(delivered.recipients, ["b@example.net", "c@example.net"]);
    assert!(delivered.text().ends_with("\r\n\r\nHello.\r\n") && !delivered.bare_lf);
    for field in ["X-Sender", "X-Receiver", "X-EndOfInjectedXHeaders"] {
        assert_eq!(fields(&delivered.raw, field), [""; 0]);
    }
    wait_until("the file to be gone", || !file.exists());
}

#[test]
fn recipients_of_the_header_get_the_mail_and_bcc_stays_hidden() {
    let lab = Lab::start();
    lab.pickup("contoso");
    let mail = MAIL.replace("Subject", "Cc: c@example.net\nBcc: Hidden <d@example.net>\nSubject");
    // As PHP does.
    accepted(sendmail(&lab).args(["-t", "-i", "e@example.net"]), &mail);

    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    let mut recipients = delivered.recipients.clone();
    recipients.sort();
    assert_eq!(recipients, ["b@example.net", "c@example.net", "d@example.net", "e@example.net"]);
    assert_eq!(delivered.fields("To"), ["b@example.net"]);
    assert_eq!(delivered.fields("Cc"), ["c@example.net"]);
    // Graph must be given these; it takes them out.
    assert_eq!(delivered.fields("Bcc"), ["<e@example.net>, <d@example.net>"]);
    assert!(!delivered.text().contains("Hidden"));
}

#[test]
fn a_dot_ends_the_message_unless_it_is_ignored() {
    let lab = relay_is_down(|_| {});
    let mail = format!("{MAIL}.\n.after\n");
    accepted(sendmail(&lab).arg("b@example.net"), &mail);
    assert!(take(&lab, "contoso").ends_with("\n\nHello.\n"));
    for flag in ["-i", "-oi"] {
        accepted(sendmail(&lab).args([flag, "b@example.net"]), &mail);
        assert!(take(&lab, "contoso").ends_with("\n\nHello.\n.\n.after\n"));
    }
}

#[test]
fn the_file_says_who_sends_and_for_whom() {
    let lab = relay_is_down(|_| {});
    let top = |arguments: &[&str], mail: &str| {
        accepted(sendmail(&lab).args(arguments), mail);
        take(&lab, "contoso")
    };
    let sent = top(&["-f", "s@contoso.example", "-N", "never", "b@example.net"], MAIL);
    let expected = "X-Sender: <s@contoso.example>\nX-Receiver: <b@example.net> NOTIFY=NEVER\n\
                    X-EndOfInjectedXHeaders: 0\nFrom: \"A\"";
    assert!(sent.starts_with(expected), "{sent}");
    for null in ["", "<>"] {
        let sent = top(&["-f", null, "b@example.net"], MAIL);
        assert!(sent.starts_with("X-Sender: <>\nX-Receiver: <b@example.net>\n"), "{sent}");
    }
    let sent = top(&["-fs@contoso.example", "-FMr. S", "b@example.net"], "Subject: s\n\nx\n");
    assert!(sent.contains("\nFrom: \"Mr. S\" <s@contoso.example>\nSubject: s\n\nx\n"), "{sent}");
    // No header at all, and the first line of a mailbox file.
    let sent = top(&["-fs@contoso.example", "b@example.net"], "just text\n");
    assert!(sent.ends_with("\nFrom: <s@contoso.example>\n\njust text\n"), "{sent}");
    let sent = top(&["b@example.net"], &format!("From a@contoso.example Tue Nov 24 09:00:00 2026\n{MAIL}"));
    assert!(sent.ends_with(MAIL), "{sent}");
    // What editors of Windows put in front.
    let sent = top(&["b@example.net"], &format!("\u{feff}{MAIL}"));
    assert!(sent.ends_with(&format!("\n{MAIL}")), "{sent:?}");
}

#[test]
fn cron_needs_a_sender_with_a_domain() {
    let mut lab = relay_is_down(|_| {});
    let mail =
        "From: \"(Cron Daemon)\" <root>\nTo: admin@example.net\nSubject: Cron <root@host> job\n\noutput\n";
    let cron = ["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"];
    let said = refused(sendmail(&lab).args(cron), mail, 64);
    assert!(said.contains("M365_RELAY_FROM"), "{said}");
    let to_root = mail.replace("admin@example.net", "root");
    let said =
        refused(sendmail(&lab).args(cron).env("M365_RELAY_FROM", "cron@contoso.example"), &to_root, 67);
    assert!(said.contains("To: \"root\" has no domain") && said.contains("MAILTO="), "{said}");
    nothing_waits(&lab);
    accepted(sendmail(&lab).args(cron).env("M365_RELAY_FROM", "cron@contoso.example"), mail);
    lab.restart();
    let delivered = lab.wait_for(1).remove(0);
    assert_eq!(delivered.mailbox, "cron@contoso.example");
    assert_eq!(delivered.fields("From"), ["\"CronDaemon\" <cron@contoso.example>"]);
}

#[test]
fn each_mistake_has_its_exit_code() {
    let lab = relay_is_down(|setup| setup.smtp = "max_message = '64KiB'".into());
    let large = format!("{MAIL}{}", "0123456789\n".repeat(6000));
    let to = "b@example.net";
    let rows: [(&[&str], &str, i32, &str); 14] = [
        (&[], MAIL, 64, "No recipient addresses found"),
        (&["-t"], "From: a@contoso.example\nSubject: s\n\nx\n", 64, "No recipient addresses found"),
        (&["-Z", to], MAIL, 64, "-Z"),
        (&[to], "Subject: s\n\nx\n", 64, "-f"),
        (&["-fa@@b", to], MAIL, 64, "-f \"a@@b\""),
        (&[to], "From: a@contoso.example\n\nx\ry\n", 65, "carriage return"),
        (&[to], "From: a@contoso.example\rTo: x@y\n\nx\n", 65, "carriage return"),
        (&[to], &large, 65, "smtp.max_message"),
        (&["b@@c"], MAIL, 65, "b@@c"),
        (&["root"], MAIL, 67, "root"),
        (&["-bp"], "", 69, "the relay does not answer"),
        (&["-fa@elsewhere.example", to], MAIL, 77, "no tenant may send as a@elsewhere.example"),
        (&["--tenant", "fabrikam", to], MAIL, 77, "fabrikam may not send as a@contoso.example"),
        (&["--tenant", "cotoso", to], MAIL, 78, "contoso and fabrikam"),
    ];
    for (arguments, mail, code, part) in rows {
        let said = refused(sendmail(&lab).args(arguments), mail, code);
        assert!(said.contains(part), "{arguments:?}: {said}");
        nothing_waits(&lab);
    }
    let said = refused(sendmail(&lab).env("M365_RELAY_CONFIG", "no-such.toml").arg(to), MAIL, 78);
    assert!(said.contains("no-such.toml") && said.contains("--pickup"), "{said}");
    fs::remove_dir(folder(&lab, "contoso")).unwrap();
    let said = refused(sendmail(&lab).arg(to), MAIL, 75);
    assert!(said.contains("pickup/contoso does not exist"), "{said}");
}

#[test]
fn the_tenant_is_the_one_that_may_send_unless_it_is_named() {
    let lab = relay_is_down(|setup| {
        setup.tenant("fabrikam").senders = "['@fabrikam.example', 'shared@contoso.example']".into();
    });
    let to = "b@example.net";
    let shared = MAIL.replace("a@contoso.example", "shared@contoso.example");
    accepted(sendmail(&lab).arg(to), MAIL);
    take(&lab, "contoso");
    // Both may use the From address, and one of them the envelope sender.
    accepted(sendmail(&lab).args(["-f", "a@fabrikam.example", to]), &shared);
    take(&lab, "fabrikam");
    let said = refused(sendmail(&lab).arg(to), &shared, 78);
    assert!(said.contains("contoso and fabrikam") && said.contains("--tenant"), "{said}");
    accepted(sendmail(&lab).env("M365_RELAY_TENANT", "fabrikam").arg(to), &shared);
    take(&lab, "fabrikam");
    // The option takes precedence.
    accepted(sendmail(&lab).env("M365_RELAY_TENANT", "fabrikam").args(["--tenant=contoso", to]), &shared);
    take(&lab, "contoso");
    nothing_waits(&lab);
}

#[test]
fn neither_secrets_nor_a_configuration_are_needed() {
    let lab = relay_is_down(|setup| {
        for tenant in &mut setup.tenants {
            tenant.credential = "client_secret = { file = '/nowhere/secret' }".into();
        }
    });
    let output = lab.run(&["check-config", "--config", lab.config_file().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    accepted(sendmail(&lab).arg("b@example.net"), MAIL);
    take(&lab, "contoso");

    let mut bare = sendmail(&lab);
    bare.env("M365_RELAY_CONFIG", "no-such.toml").env("M365_RELAY_PICKUP", lab.folder().join("pickup"));
    accepted(bare.args(["--tenant", "contoso", "b@example.net"]), MAIL);
    take(&lab, "contoso");
}

#[test]
fn it_goes_by_its_name() {
    let lab = relay_is_down(|_| {});
    for name in ["sendmail", "mailq", "newaliases"] {
        symlink(BINARY, lab.folder().join(name)).unwrap();
    }
    let by_name = |name: &str| command(lab.folder().join(name), &lab);
    accepted(by_name("sendmail").args(["-t", "-i"]), MAIL);
    take(&lab, "contoso");
    accepted(by_name("newaliases").arg("-v"), "");
    accepted(sendmail(&lab).arg("-bi"), "");
    accepted(sendmail(&lab).arg("-q"), "");
    let said = refused(&mut by_name("mailq"), "", 69);
    assert!(said.contains("the relay does not answer"), "{said}");
    for arguments in [["sendmail", "--help"], ["help", "sendmail"]] {
        let output = lab.run(&arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("sendmail"), "{output:?}");
    }
}

#[test]
fn killed_while_it_reads_it_leaves_nothing_to_pick_up() {
    let mut lab = relay_is_down(|_| {});
    let mut child = sendmail(&lab).args(["-i", "b@example.net"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&base64_mail("a@contoso.example", "b@example.net", "half", 100_000)).unwrap();
    let contoso = folder(&lab, "contoso");
    wait_until("the hidden file", || files(&contoso).len() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let [stray] = files(&contoso).try_into().unwrap();
    let name = stray.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(".sendmail-") && name.ends_with(".tmp"), "{name}");
    lab.restart();
    accepted(sendmail(&lab).arg("b@example.net"), MAIL);
    assert_eq!(lab.wait_for(1)[0].subject, "hello");
    lab.wait_until_empty();
    assert!(stray.exists());
}

#[test]
fn smtp_on_standard_input() {
    let mut lab = relay_is_down(|setup| setup.smtp = "max_message = '64KiB'".into());
    let dialogue = "NOOP\r\nMAIL FROM:<a@contoso.example>\r\nEHLO me\r\nVRFY x\r\nDATA\r\n\
        MAIL FROM:<a@contoso.example> SIZE=65537\r\n\
        MAIL FROM:<s@contoso.example> BODY=8BITMIME SIZE=100\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<root>\r\nDATA\r\n\
        From: a@contoso.example\r\nTo: b@example.net\r\nSubject: first\r\n\r\n..dot\r\n.\r\n\
        MAIL FROM:<a@elsewhere.example>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nFrom: a@contoso.example\r\n\r\nx\r\n.\r\n\
        MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nFrom: a@contoso.example\r\n\r\nx\ny\r\n.\r\n\
        MAIL FROM:<>\r\nRSET\r\nRCPT TO:<b@example.net>\r\nFOO\r\n\
        MAIL FROM:<>\r\nRCPT TO:<c@example.net>\r\nDATA\r\nFrom: a@contoso.example\r\nSubject: second\r\n\r\nx\r\n.\r\nQUIT\r\n";
    let output = feed(sendmail(&lab).arg("-bs"), dialogue.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let codes: Vec<&str> =
        said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    let expected = "220 250 503 250 252 503 552 250 250 501 354 250 250 250 354 550 250 250 354 550 \
                    250 250 503 500 250 250 354 250 221";
    assert_eq!(codes.join(" "), expected, "{said}");
    for line in ["250-SIZE 65536\r\n", "250-8BITMIME\r\n", "250-PIPELINING\r\n"] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(files(&folder(&lab, "contoso")).len(), 2);

    // The connection is closed inside a message.
    let rest = "MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\nFrom: a@contoso.example\r\n\r\nx\r\n";
    let output = feed(sendmail(&lab).arg("-bs"), format!("EHLO me\r\n{rest}").as_bytes());
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert_eq!(files(&folder(&lab, "contoso")).len(), 2);
    lab.restart();
    let mut delivered = lab.wait_for(2);
    delivered.sort_by_key(|message| message.subject.clone());
    assert_eq!(delivered[0].recipients, ["b@example.net"]);
    assert!(delivered[0].text().ends_with("\r\n\r\n.dot\r\n"));
    assert_eq!(delivered[1].recipients, ["c@example.net"]);
}

#[test]
fn smtp_answers_at_once() {
    let lab = relay_is_down(|_| {});
    let mut child = sendmail(&lab).arg("-bs").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = |code: &str| {
        let mut octets = [0; 1000];
        let read = stdout.read(&mut octets).unwrap();
        let text = String::from_utf8_lossy(&octets[..read]);
        assert!(text.starts_with(code) && text.ends_with("\r\n"), "{text}");
    };
    said("220");
    for (line, code) in [
        ("HELO me\r\n", "250"),
        ("MAIL FROM:<a@contoso.example>\r\n", "250"),
        ("RCPT TO:<b@example.net>\r\n", "250"),
        ("DATA\r\n", "354"),
        ("From: a@contoso.example\r\n\r\nx\r\n.\r\n", "250"),
    ] {
        stdin.write_all(line.as_bytes()).unwrap();
        said(code);
    }
    // The 250 was the promise.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(take(&lab, "contoso").ends_with("From: a@contoso.example\n\nx\n"));
}

#[test]
fn a_large_message_is_not_held_in_memory() {
    let lab = relay_is_down(|_| {});
    let path = lab.folder().join("large");
    let mut file = File::create(&path).unwrap();
    file.write_all(MAIL.as_bytes()).unwrap();
    let line = [&[b'x'; 99][..], b"\n"].concat().repeat(1000);
    for _ in 0..600 {
        file.write_all(&line).unwrap();
    }
    // 60 MB, with less than 48 MB of memory available.
    let limited = r#"ulimit -d 49152 && exec "$0" sendmail -i b@example.net < large"#;
    let output = command("sh", &lab).args(["-c", limited, BINARY]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let [sent] = files(&folder(&lab, "contoso")).try_into().unwrap();
    assert!(sent.metadata().unwrap().len() > 60_600_000);
}

#[test]
fn many_at_a_time_lose_none() {
    const AT_A_TIME: usize = 8;
    const EACH: usize = 25;
    let mut lab = relay_is_down(|_| {});
    let send = |lab: &Lab, workers: std::ops::Range<usize>| {
        let one = |worker| {
            for number in 0..EACH {
                let mail = message("a@contoso.example", "b@example.net", &format!("{worker} {number}"));
                let output = feed(sendmail(lab).args(["-i", "-t"]), &mail);
                assert_eq!(output.status.code(), Some(0), "{output:?}");
            }
        };
        thread::scope(|scope| workers.for_each(|worker| drop(scope.spawn(move || one(worker)))));
    };
    // Half of them while the relay is down.
    send(&lab, 0..AT_A_TIME);
    assert_eq!(files(&folder(&lab, "contoso")).len(), AT_A_TIME * EACH);
    lab.restart();
    send(&lab, AT_A_TIME..AT_A_TIME * 2);

    let delivered = lab.wait_for(2 * AT_A_TIME * EACH);
    lab.wait_until_empty();
    let subjects: std::collections::HashSet<_> = delivered.iter().map(|message| &message.subject).collect();
    assert_eq!(subjects.len(), delivered.len());
}
