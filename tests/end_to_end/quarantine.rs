//! `m365-relay quarantine`: what was damaged and put aside, and what becomes of it.

use std::{fs, os::unix::fs::PermissionsExt, process::Output};

use relay_sandbox::{Fault, On};
use serde_json::Value;

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

fn run(lab: &Lab, command: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = lab.config_file();
    let all = [&[command], arguments, &["--config", file.to_str().unwrap()]].concat();
    let Output { status, stdout, stderr } = lab.run(&all);
    let text = |octets| String::from_utf8(octets).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn entries(lab: &Lab) -> Vec<Value> {
    let (code, out, err) = run(lab, "quarantine", &["list", "--json"]);
    assert_eq!((code, &*err), (Some(0), ""));
    serde_json::from_str(&out).unwrap()
}

/// Two messages wait, and somebody has changed their bodies on the disk.
fn lab() -> (Lab, Vec<String>) {
    let mut lab = Lab::with(|setup| setup.retry = "first = '1h'\njitter = 0.0".into());
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable"));
    for subject in ["damaged-one", "damaged-two"] {
        lab.send(FROM, &[TO], &message(FROM, TO, subject));
    }
    let accepted = lab.wait_for_logs("message accepted", 2);
    let ids: Vec<_> = accepted.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    lab.wait_for_metric("m365_relay_queue_messages", &[("state", "scheduled")], 2.0);
    lab.kill9();
    let folder = lab.folder().join("spool/body");
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "seg") {
            let mut octets = fs::read(&file).unwrap();
            let places: Vec<_> = octets
                .windows(8)
                .enumerate()
                .filter(|(_, found)| *found == b"damaged-")
                .map(|(at, _)| at)
                .collect();
            places.into_iter().for_each(|at| octets[at] = b'D');
            fs::write(&file, octets).unwrap();
        }
    }
    lab.service.clear_faults();
    lab.restart();
    wait_until("the start", || run(&lab, "queue", &["retry", "--yes", &ids[0], &ids[1]]).0 == Some(0));
    wait_until("both to be put aside", || entries(&lab).len() == 2);
    (lab, ids)
}

#[test]
fn what_was_damaged_is_shown_sent_after_all_or_removed() {
    let (lab, ids) = lab();
    let [one, two] = [&ids[0], &ids[1]];
    // Their sender has been told.
    lab.wait_for(2);
    lab.wait_for_metric("m365_relay_spool_quarantined", &[], 2.0);
    let entry = entries(&lab)[0].clone();
    assert_eq!((&entry["id"], &entry["tenant"]), (&one.clone().into(), &"contoso".into()));
    assert_eq!((&entry["from"], &entry["to"][0]), (&FROM.into(), &TO.into()));
    assert!(entry["reason"].as_str().unwrap().contains("checksum"), "{entry:#}");
    let (code, out, _) = run(&lab, "quarantine", &["show", one]);
    assert_eq!(code, Some(0));
    assert!(out.contains(&format!("from       {FROM}\nto         {TO}\nsize       ")), "{out}");
    let (_, out, _) = run(&lab, "quarantine", &["list"]);
    assert!(out.lines().count() == 2 && out.contains(&format!("{two}  ")), "{out}");

    let folder = lab.folder().join("exported");
    let (code, _, err) = run(&lab, "quarantine", &["export", one, "--to", folder.to_str().unwrap()]);
    assert_eq!((code, &*err), (Some(0), ""));
    let eml = folder.join(format!("{one}.eml"));
    assert!(String::from_utf8_lossy(&fs::read(&eml).unwrap()).contains("Subject: Damaged-one"));
    assert_eq!(fs::metadata(&eml).unwrap().permissions().mode() & 0o077, 0);
    assert!(folder.join(format!("{one}.json")).is_file());

    let (code, out, _) = run(&lab, "quarantine", &["release", one]);
    assert_eq!((code, out.starts_with(&format!("{one} released: it is "))), (Some(0), true), "{out}");
    assert_eq!(lab.wait_for(3)[2].subject, "Damaged-one");
    let (code, out, _) = run(&lab, "quarantine", &["delete", "--json", two]);
    assert_eq!((code, out.contains("\"deleted\"")), (Some(0), true), "{out}");
    assert_eq!(entries(&lab), Vec::<Value>::new());
    lab.wait_for_metric("m365_relay_spool_quarantined", &[], 0.0);
    let (code, out, _) = run(&lab, "quarantine", &["list"]);
    assert_eq!((code, &*out), (Some(0), "nothing is in the quarantine\n"));
    let line = lab.wait_for_log("message released from quarantine by an operator");
    assert!(line["by"].as_str().unwrap().starts_with("user "), "{line}");
}

#[test]
fn what_is_not_there_is_refused() {
    let lab = Lab::start();
    fs::create_dir(lab.folder().join("spool/quarantine/index-17")).unwrap();
    fs::write(lab.folder().join("spool/quarantine/notes.txt"), "mine").unwrap();
    for id in ["1M876XD4R0000", "nonsense", "../LOCK", "notes.txt"] {
        for command in ["show", "release", "delete"] {
            let (code, _, err) = run(&lab, "quarantine", &[command, id]);
            assert_eq!((code, err.contains("in the quarantine")), (Some(1), true), "{command} {id}: {err}");
        }
    }
    let (code, _, err) = run(&lab, "quarantine", &["release", "index-17"]);
    assert_eq!((code, err.contains("export it instead")), (Some(1), true), "{err}");
    assert_eq!(run(&lab, "quarantine", &["delete", "index-17"]).0, Some(0));
    assert!(!lab.folder().join("spool/quarantine/index-17").exists());
}
