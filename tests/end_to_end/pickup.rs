//! Mail that comes in as files.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use relay_sandbox::{Fault, On};

use crate::harness::{Lab, Mail, base64_mail, fields, message, wait_until};

const TO: &str = "b@example.net";

/// Writes beside the folder, then moves the file in, as a careful program does.
fn drop_in(lab: &Lab, tenant: &str, name: &str, content: &[u8]) -> PathBuf {
    let outside = lab.folder().join(name);
    let inside = lab.pickup(tenant).join(name);
    fs::write(&outside, content).unwrap();
    fs::rename(outside, &inside).unwrap();
    inside
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The file is one that .NET Framework wrote: a line of quoted-printable text begins with two dots.
#[test]
fn dots_that_dotnet_has_doubled() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/end_to_end/real_mail"].iter().collect();
    let content = fs::read(path.join("pickup-dotnet-dot-stuffed.eml")).unwrap();
    for (setting, line) in [("", "..png"), ("keep", "..png"), ("unstuff", ".png"), ("auto", ".png")] {
        let option = if setting.is_empty() { String::new() } else { format!("dots = '{setting}'\n") };
        let lab = Lab::with(|setup| setup.pickup = option.clone());
        drop_in(&lab, "contoso", "dots.eml", &content);
        let delivered = lab.wait_for(1).remove(0);
        let text = String::from_utf8_lossy(delivered.as_sent()).into_owned();
        assert!(text.contains(&format!("a=\r\n{line}\">\r\n")), "{setting}: {text}");
    }
}

#[test]
fn a_plain_file_goes_to_to_cc_and_bcc() {
    let lab = Lab::start();
    let content = "From: \"A\" <a@contoso.example>\nTo: b@example.net\nCc: c@example.net\nBcc: d@example.net\n\
                   Date: Tue, 24 Nov 2026 09:00:00 +0100\nMessage-ID: <f@client.example>\nSubject: by file\n\nHello.\n.\n..\n";
    let file = drop_in(&lab, "contoso", "hello.eml", content.as_bytes());

    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    wait_until("the file to be gone", || !file.exists());
    assert_eq!(delivered.mailbox, "a@contoso.example");
    assert_eq!(delivered.recipients, ["b@example.net", "c@example.net", "d@example.net"]);
    // Lines end in CRLF, Bcc is the relay's own.
    let expected = content.replace("Bcc: d@example.net\n", "").replace('\n', "\r\n");
    let expected = expected.replacen("\r\n\r\n", "\r\nBcc: <d@example.net>\r\n\r\n", 1);
    assert_eq!(String::from_utf8_lossy(delivered.as_sent()), expected);
    assert!(!delivered.bare_lf);
    assert_eq!(lab.metric("m365_relay_received_total", &[("tenant", "contoso"), ("ingress", "pickup")]), 1.0);
    assert!(names(&lab.pickup("contoso")).iter().all(|name| !name.contains("hello")));
}

#[test]
fn lines_before_the_header_are_the_envelope() {
    let lab = Lab::start();
    let header = String::from_utf8(message("a@contoso.example", "b@example.net", "replayed")).unwrap();
    let content = format!(
        "X-Sender: <bounces@contoso.example>\r\nX-Receiver: <b@example.net>\r\nX-Receiver: <x@example.net>\r\n{header}"
    );
    drop_in(&lab, "contoso", "replay.EML", content.as_bytes());

    let delivered = lab.wait_for(1).remove(0);
    lab.wait_until_empty();
    assert_eq!(delivered.mailbox, "a@contoso.example");
    assert_eq!(delivered.recipients, ["b@example.net", "x@example.net"]);
    assert_eq!(fields(&delivered.raw, "X-Sender"), [""; 0]);
    assert_eq!(fields(&delivered.raw, "X-Receiver"), [""; 0]);
    assert_eq!(fields(&delivered.raw, "Bcc"), ["<x@example.net>"]);
}

#[test]
fn the_envelope_sender_gets_the_bounce_of_a_file() {
    let lab = Lab::start();
    lab.inject(Fault::status(On::SendMail, 400, "ErrorInvalidRecipients").times(1));
    let header = String::from_utf8(message("a@contoso.example", TO, "replayed")).unwrap();
    let content = format!("X-Sender: <bounces@contoso.example>\r\nX-Receiver: <{TO}>\r\n{header}");
    drop_in(&lab, "contoso", "replay.eml", content.as_bytes());

    assert_eq!(lab.wait_for(1)[0].recipients, ["bounces@contoso.example"]);
}

#[test]
fn a_file_that_is_being_written_waits_until_it_is_closed() {
    let lab = Lab::start();
    let content = base64_mail("a@contoso.example", TO, "slowly", 200_000);
    // Folders are created and watched one after the other: now this one is watched, and the open file is
    // noticed.
    lab.pickup("fabrikam");
    let path = lab.pickup("contoso").join("slow.eml");
    let mut file = File::create(&path).unwrap();
    let (first, second) = content.split_at(content.len() / 2);
    file.write_all(first).unwrap();
    file.flush().unwrap();
    // A file that came later, and is whole, does not wait for it.
    drop_in(&lab, "contoso", "quick.eml", &message("a@contoso.example", TO, "quickly"));
    assert_eq!(lab.wait_for(1)[0].subject, "quickly");
    assert!(path.exists(), "taken while it was being written");
    file.write_all(second).unwrap();
    drop(file);

    let delivered = lab.wait_for(2).remove(1);
    lab.wait_until_empty();
    assert!(delivered.as_sent() == content, "half a message");
}

#[test]
fn a_bad_file_is_put_aside_with_the_reason() {
    let lab = Lab::start();
    let folder = lab.pickup("contoso");
    for (name, content, reason) in [
        ("no-recipient.eml", "From: a@contoso.example\n\nx\n", "recipient"),
        ("no-sender.eml", "To: b@example.net\n\nx\n", "From"),
        ("forged.eml", "From: a@fabrikam.example\nTo: b@example.net\n\nx\n", "may not send as"),
        ("no-receiver.eml", "X-Sender: <a@contoso.example>\nFrom: a@contoso.example\n\nx\n", "X-Receiver"),
        (
            "forged-author.eml",
            "X-Sender: <a@contoso.example>\nX-Receiver: <b@example.net>\nFrom: a@fabrikam.example\n\nx\n",
            "From",
        ),
    ] {
        let path = drop_in(&lab, "contoso", name, content.as_bytes());
        let bad = folder.join(name.replace(".eml", ".bad"));
        wait_until(&format!("{name} to be bad"), || bad.exists());
        assert_eq!(fs::read_to_string(&bad).unwrap(), content);
        let said = fs::read_to_string(bad.with_extension("bad.txt")).unwrap();
        assert!(said.contains(reason), "{said}");
        assert!(!path.exists());
    }
    // The folder works on.
    drop_in(&lab, "contoso", "good.eml", &message("a@contoso.example", TO, "good"));
    assert_eq!(lab.wait_for(1)[0].subject, "good");
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_refused_total", &[("ingress", "pickup")]), 5.0);
}

#[test]
fn a_folder_is_a_tenants_login() {
    let lab = Lab::with(|setup| {
        // No client may send by SMTP.
        setup.tenant("contoso").networks = "[]".into();
        setup.tenant("fabrikam").networks = "[]".into();
    });
    for tenant in ["contoso", "fabrikam"] {
        let content = message(&format!("a@{tenant}.example"), TO, tenant);
        drop_in(&lab, tenant, "m.eml", &content);
    }
    for message in lab.wait_for(2) {
        assert_eq!(message.directory, format!("{}.example", message.subject));
    }
}

#[test]
fn other_names_are_left_alone() {
    let lab = Lab::start();
    let content = message("a@contoso.example", TO, "named");
    let other = drop_in(&lab, "contoso", "message.tmp", &content);
    drop_in(&lab, "contoso", "message.eml", &content);
    lab.wait_for(1);
    lab.wait_until_empty();
    assert!(other.exists());
    // Once renamed, it is a message.
    fs::rename(&other, other.with_extension("eml")).unwrap();
    lab.wait_for(2);
}

#[test]
fn files_from_before_the_start_are_taken_once() {
    let mut lab = Lab::start();
    lab.pickup("contoso");
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable"));
    drop_in(&lab, "contoso", "first.eml", &message("a@contoso.example", TO, "first"));
    lab.wait_for_metric("m365_relay_received_total", &[("ingress", "pickup")], 1.0);
    wait_until("the folder to be empty", || names(&lab.pickup("contoso")).is_empty());
    lab.kill9();
    drop_in(&lab, "contoso", "second.eml", &message("a@contoso.example", TO, "second"));
    lab.service.clear_faults();
    lab.restart();

    let mut subjects: Vec<String> = lab.wait_for(2).iter().map(|m| m.subject.clone()).collect();
    lab.wait_until_empty();
    subjects.sort();
    assert_eq!(subjects, ["first", "second"]);
}

#[test]
fn a_full_tenant_pauses_its_folder() {
    let mut lab = Lab::with(|setup| setup.tenant("contoso").more = "max_queued = 1".into());
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable").for_directory("contoso.example"));
    drop_in(&lab, "contoso", "1.eml", &message("a@contoso.example", TO, "1"));
    lab.wait_for_metric("m365_relay_queue_messages", &[("tenant", "contoso")], 1.0);
    let second = drop_in(&lab, "contoso", "2.eml", &message("a@contoso.example", TO, "2"));
    // Another tenant's folder is as quick as ever.
    drop_in(&lab, "fabrikam", "m.eml", &message("a@fabrikam.example", TO, "other"));
    lab.wait_for(1);
    lab.wait_until_settled();
    assert!(second.exists() || names(&lab.pickup("contoso")).iter().any(|name| name.contains("2.eml")));
    lab.service.clear_faults();
    lab.kill9();
    lab.restart();

    lab.wait_for(3);
    lab.wait_until_empty();
    assert!(names(&lab.pickup("contoso")).is_empty());
}

/// The file was opened before the relay could watch: nothing reports when it is closed, so it is taken when
/// it is quiet.
#[test]
fn without_a_hint_a_file_that_grows_is_waited_for() {
    let mut lab = Lab::without_relay(|_| {});
    let folder = lab.folder().join("pickup/contoso");
    fs::create_dir_all(&folder).unwrap();
    let content = base64_mail("a@contoso.example", TO, "growing", 50_000);
    let mut parts = content.chunks(content.len() / 20);
    let mut file = File::create(folder.join("growing.eml")).unwrap();
    file.write_all(parts.next().unwrap()).unwrap();
    lab.restart();
    for part in parts {
        thread::park_timeout(Duration::from_millis(100));
        file.write_all(part).unwrap();
    }
    // It is not closed until it has been delivered.
    let delivered = lab.wait_for(1).remove(0);
    assert!(delivered.as_sent() == content, "half a message");
    drop(file);
    lab.wait_until_empty();
    assert!(names(&folder).is_empty());
}

#[test]
fn what_must_not_be_read_is_left_and_said_once() {
    let lab = Lab::start();
    let contoso = lab.pickup("contoso");
    let fabrikam = lab.pickup("fabrikam");
    let secret = lab.folder().join("secret");
    fs::write(&secret, message("a@contoso.example", TO, "secret")).unwrap();
    fs::hard_link(&secret, contoso.join("hard.eml")).unwrap();
    symlink(&secret, contoso.join("soft.eml")).unwrap();
    fs::create_dir(contoso.join("nested")).unwrap();
    fs::set_permissions(&fabrikam, fs::Permissions::from_mode(0o777)).unwrap();
    let said = |what: &str| lab.log().iter().filter(|line| line.contains(what)).count();
    for what in ["a hard link", "a symbolic link", "a folder in a tenant's folder", "chmod o-w"] {
        wait_until(what, || said(what) > 0);
    }
    drop_in(&lab, "fabrikam", "waits.eml", &message("a@fabrikam.example", TO, "waits"));
    fs::set_permissions(&fabrikam, fs::Permissions::from_mode(0o775)).unwrap();
    assert_eq!(lab.wait_for(1)[0].subject, "waits");
    lab.wait_for_log("pickup folder usable again");
    // All folders have been checked at least twice by now.
    for what in ["a hard link", "a symbolic link", "a folder in a tenant's folder", "chmod o-w"] {
        assert_eq!(said(what), 1, "{what}");
    }
}
