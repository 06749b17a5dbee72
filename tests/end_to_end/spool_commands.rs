//! `m365-relay spool`: checks, exports and imports with the relay stopped, and how a relay continues
//! afterwards.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use relay_sandbox::{Action, Fault, On};
use serde_json::Value;

use crate::harness::{Lab, Mail, base64_mail, message, wait_until};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Nothing is delivered until the faults are cleared.
fn holding_lab() -> Lab {
    let lab = Lab::start();
    lab.inject(Fault::new(On::Token, Action::Delay(Duration::from_secs(600))));
    lab
}

/// Runs `m365-relay spool …` with the laboratory's configuration; returns exit code, standard output and
/// standard error.
fn spool(lab: &Lab, arguments: &[&str]) -> (i32, String, String) {
    let config = lab.config_file();
    said(lab.run(&[&["spool"], arguments, &["--config", config.to_str().unwrap()]].concat()))
}

fn said(Output { status, stdout, stderr }: Output) -> (i32, String, String) {
    let text = |octets| String::from_utf8(octets).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The same with `--json`.
fn spool_json(lab: &Lab, arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = spool(lab, &[arguments, &["--json"]].concat());
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e} in {out} {err}"));
    assert_eq!(answer["ok"], Value::from(code == 0), "{answer}");
    (code, answer)
}

fn names(folder: &Path) -> BTreeSet<String> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The only file in a folder of the spool.
fn only_file(lab: &Lab, folder: &str) -> PathBuf {
    let files: Vec<_> = lab.folder().join(folder).read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    let files: Vec<_> = files.into_iter().filter(|path| path.is_file()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    file.clone()
}

fn flip(path: &Path, at: usize) {
    let mut octets = fs::read(path).unwrap();
    octets[at] ^= 1;
    fs::write(path, octets).unwrap();
}

#[test]
fn check_tells_how_much_there_is() {
    let mut lab = Lab::start();
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(600))));
    lab.send(FROM, &[TO], &message(FROM, TO, "under way"));
    wait_until("the call to reach the service", || lab.service.peak_concurrency(FROM) == 1);
    let held = "held@fabrikam.example";
    lab.inject(Fault::new(On::Token, Action::Delay(Duration::from_secs(600))));
    lab.send(held, &[TO], &base64_mail(held, TO, "held", 300_000));
    lab.kill9();

    let (code, out, err) = spool(&lab, &["check"]);
    assert_eq!((code, &*err), (0, ""), "{out}");
    let path = lab.folder().join("spool");
    let first = format!(
        "{}: 2 messages (1 waiting, 0 held, 1 leased to a worker when the relay ended), ",
        path.display()
    );
    assert!(out.starts_with(&first), "{out}");
    assert!(out.ends_with("\nevery message is as it was stored\n"), "{out}");

    let (_, answer) = spool_json(&lab, &["check"]);
    assert_eq!(answer["messages"], 2);
    assert_eq!(answer["waiting"], 1);
    assert_eq!(answer["leased"].as_array().unwrap().len(), 1);
    assert_eq!(answer["damaged"], Value::Array(Vec::new()));
    assert!(answer["octets"].as_u64().unwrap() > 400_000);

    // Without the configuration, for a spool that was copied here.
    let arguments = ["spool", "check", "--spool", path.to_str().unwrap()];
    assert_eq!(said(lab.run(&arguments)), (0, out, String::new()));
}

#[test]
fn check_names_what_is_damaged() {
    let mut lab = holding_lab();
    lab.send(FROM, &[TO], &message(FROM, TO, "small"));
    lab.send(FROM, &[TO], &base64_mail(FROM, TO, "large", 500_000));
    lab.kill9();
    let small = only_file(&lab, "spool/body");
    let large = only_file(&lab, "spool/body/large");
    let whole = [&small, &large].map(|path| fs::read(path).unwrap());
    let large_id = large.file_name().unwrap().to_str().unwrap().to_owned();
    let cut = |path: &Path, len| fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();

    let damages: [(&dyn Fn(), &str, &Path); 6] = [
        (&|| flip(&small, 100), "its checksum differs", &small),
        (&|| cut(&small, 60), "its body ends too soon", &small),
        (&|| fs::remove_file(&small).unwrap(), "its body is missing", &small),
        (&|| flip(&large, 200_000), "its checksum differs", &large),
        (&|| cut(&large, 200_000), "its body ends too soon", &large),
        (&|| fs::remove_file(&large).unwrap(), "its body is missing", &large),
    ];
    for (damage, reason, file) in damages {
        damage();
        let (code, answer) = spool_json(&lab, &["check"]);
        assert_eq!(code, 1);
        let [damaged] = &answer["damaged"].as_array().unwrap()[..] else { panic!("{answer}") };
        assert_eq!(damaged["reason"], reason);
        assert_eq!(damaged["file"], file.to_str().unwrap());
        let id = damaged["id"].as_str().unwrap();
        assert_eq!(id == large_id, file == large);
        let (code, out, _) = spool(&lab, &["check"]);
        assert_eq!(code, 1);
        assert!(out.contains(&format!("\ndamaged: {id}: {reason} ({})\n", file.display())), "{out}");
        assert!(out.ends_with("\n1 of 2 messages damaged\n"), "{out}");
        // Nothing was quarantined or swept.
        for (path, content) in [&small, &large].iter().zip(&whole) {
            fs::write(path, content).unwrap();
        }
        assert_eq!(spool(&lab, &["check"]).0, 0);
    }

    let db = sled::open(lab.folder().join("spool/index")).unwrap();
    let tree = db.open_tree("spool").unwrap();
    let (key, mut state) = tree.scan_prefix("s").next().unwrap().map(|(k, v)| (k, v.to_vec())).unwrap();
    state[20] ^= 1;
    tree.insert(key, state).unwrap();
    db.flush().unwrap();
    drop((tree, db));
    let (code, answer) = spool_json(&lab, &["check"]);
    assert_eq!(code, 1);
    assert_eq!(answer["damaged"][0]["reason"], "its state is unreadable");
    assert_ne!(answer["damaged"][0]["id"], large_id);
}

#[test]
fn exported_and_imported_mail_is_delivered_once_to_those_it_was_for() {
    let mut lab = holding_lab();
    let mut sent = BTreeSet::new();
    let many: Vec<String> = (0..400).map(|n| format!("recipient.{n}@example.net")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    lab.send(FROM, &many, &message(FROM, TO, "to many"));
    for n in 0..20 {
        let content = match n {
            0 => base64_mail(FROM, TO, "large", 1_500_000),
            n => message(FROM, TO, &format!("number {n}")),
        };
        lab.send(FROM, &[TO], &content);
        sent.insert(content);
    }
    let other = "x@fabrikam.example";
    lab.send(other, &[TO], &message(other, TO, "of the other tenant"));
    lab.kill9();

    let out = lab.folder().join("out");
    let (code, answer) = spool_json(&lab, &["export", "out"]);
    assert_eq!((code, &answer["exported"]), (0, &22.into()));
    assert_eq!(names(&out).len(), 44);
    // Interrupted: two are incomplete.
    let mut some = names(&out).into_iter();
    for name in [some.next().unwrap(), some.nth(20).unwrap()] {
        fs::remove_file(out.join(name)).unwrap();
    }
    let (code, said, err) = spool(&lab, &["export", "out"]);
    assert_eq!((code, &*err), (0, ""));
    assert!(said.starts_with("out: 2 messages exported (") && said.ends_with("20 already there\n"), "{said}");

    // Another machine, whose configuration names another folder, and does not have all tenants yet.
    fs::rename(lab.folder().join("spool"), lab.folder().join("old")).unwrap();
    let fabrikam = lab.setup.tenants.pop().unwrap();
    lab.write_config();
    let (code, said, err) = spool(&lab, &["import", "out"]);
    assert_eq!((code, &*err), (0, ""));
    assert!(
        said.contains("/spool: 22 messages imported (") && said.ends_with("; this spool is new\n"),
        "{said}"
    );
    assert_eq!(names(&out), BTreeSet::from(["imported".to_owned()]));
    let (_, answer) = spool_json(&lab, &["import", "out"]);
    assert_eq!((&answer["imported"], &answer["already_there"]), (&0.into(), &0.into()));
    // As if the import had been interrupted before it moved its files away.
    fs::rename(out.join("imported"), lab.folder().join("again")).unwrap();
    let (code, answer) = spool_json(&lab, &["import", "again"]);
    assert_eq!((code, &answer["imported"], &answer["already_there"]), (0, &0.into(), &22.into()));
    assert_eq!(spool(&lab, &["check"]).0, 0);

    lab.setup.tenants.push(fabrikam);
    lab.write_config();
    lab.service.clear_faults();
    lab.restart();
    let delivered = lab.wait_for(22);
    lab.wait_until_empty();
    lab.wait_for(22);
    let to_one: BTreeSet<_> = delivered
        .iter()
        .filter(|mail| mail.subject == "large" || mail.subject.starts_with("number"))
        .map(|mail| {
            assert_eq!(mail.recipients, [TO]);
            mail.as_sent().to_vec()
        })
        .collect();
    assert!(to_one == sent, "not what was sent");
    let to_many = delivered.iter().find(|mail| mail.subject == "to many").unwrap();
    let recipients: BTreeSet<_> = to_many.recipients.iter().map(String::as_str).collect();
    assert_eq!(recipients, many.iter().copied().collect());
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &[]), 0.0);

    // All of it is delivered, and the files that remain are no longer mail to import.
    lab.terminate();
    let (code, answer) = spool_json(&lab, &["import", "again"]);
    assert_eq!((code, &answer["imported"]), (0, &0.into()));
}

#[test]
fn what_was_under_way_is_in_doubt_after_the_move() {
    let mut lab = Lab::start();
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(600))).times(1));
    let content = message(FROM, TO, "under way");
    lab.send(FROM, &[TO], &content);
    wait_until("the call to reach the service", || lab.service.peak_concurrency(FROM) == 1);
    lab.kill9();
    assert_eq!(spool(&lab, &["export", "out"]).0, 0);
    let out = lab.folder().join("out");
    let json = names(&out).into_iter().find(|name| name.ends_with(".json")).unwrap();
    let mut entry: Value = serde_json::from_slice(&fs::read(out.join(&json)).unwrap()).unwrap();
    assert_eq!((&entry["in_doubt"], &entry["attempts"]), (&true.into(), &1.into()));
    // Avoids a wait of five minutes.
    entry["due"] = Value::Null;
    fs::write(out.join(&json), entry.to_string()).unwrap();
    fs::remove_dir_all(lab.folder().join("spool")).unwrap();
    assert_eq!(spool(&lab, &["import", "out"]).0, 0);

    lab.restart();
    assert_eq!(lab.wait_for(1)[0].as_sent(), content);
    lab.wait_until_empty();
    let labels = [("tenant", "contoso"), ("resolved", "resent")];
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &labels), 1.0);
}

#[test]
fn wrong_files_are_named_and_the_rest_is_imported() {
    let mut lab = holding_lab();
    for n in 0..4 {
        lab.send(FROM, &[TO], &message(FROM, TO, &format!("number {n}")));
    }
    lab.kill9();
    assert_eq!(spool(&lab, &["export", "out"]).0, 0);
    let out = lab.folder().join("out");
    let json: Vec<_> = names(&out).into_iter().filter(|name| name.ends_with(".json")).collect();
    let edit = |name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(out.join(name)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(out.join(name), text.replace(from, to)).unwrap();
    };
    edit(&json[0], "\"attempts\": 0", "\"attempts\": \"none\"");
    edit(&json[1], TO, "nobody");
    let eml = json[2].replace(".json", ".eml");
    flip(&out.join(&eml), 50);

    fs::remove_dir_all(lab.folder().join("spool")).unwrap();
    let (code, said, err) = spool(&lab, &["import", "out"]);
    assert_eq!(code, 1, "{said}");
    let lines: Vec<_> = err.lines().collect();
    let expected = [
        format!("out/{}: attempts: invalid type: string \"none\", expected u16 at line ", json[0]),
        format!("out/{}: envelope.recipients[0]: \"nobody\": no @ between local part and domain", json[1]),
    ];
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    assert!(lines[2].starts_with(&format!("out/{eml}: has the CRC-32 ")), "{err}");
    assert!(said.contains(": 1 message imported ("), "{said}");
    assert!(said.ends_with(", 3 skipped because of the errors above; this spool is new\n"), "{said}");
    let (code, answer) = spool_json(&lab, &["import", "out"]);
    assert_eq!(code, 1);
    let problems = answer["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 3);
    assert_eq!(problems[2]["file"], format!("out/{eml}"));

    // Fixed.
    edit(&json[0], "\"none\"", "0");
    edit(&json[1], "nobody", TO);
    flip(&out.join(&eml), 50);
    let (_, answer) = spool_json(&lab, &["import", "out"]);
    assert_eq!((&answer["imported"], &answer["already_there"]), (&3.into(), &0.into()));
    assert_eq!(spool_json(&lab, &["check"]).1["messages"], 4);
}

#[test]
fn a_relay_that_runs_has_to_be_stopped_first() {
    let mut lab = Lab::start();
    fs::create_dir(lab.folder().join("in")).unwrap();
    for arguments in [&["check"][..], &["export", "out"], &["import", "in"]] {
        let (code, out, err) = spool(&lab, arguments);
        assert_eq!((code, &*out), (1, ""));
        let lock = lab.folder().join("spool/LOCK");
        let expected =
            format!("m365-relay: {}: another process has this spool open: stop the", lock.display());
        assert!(err.starts_with(&expected), "{err}");
        let (_, answer) = spool_json(&lab, arguments);
        assert!(answer["error"].as_str().unwrap().contains("stop the relay first"), "{answer}");
    }
    assert!(!lab.folder().join("out").exists());
    lab.terminate();
    assert_eq!(spool(&lab, &["check"]).0, 0);
}

#[test]
fn wrong_use_and_wrong_places_are_named() {
    let mut lab = Lab::start();
    lab.terminate();
    for arguments in
        [&["spool"][..], &["spool", "chekc"], &["spool", "export"], &["spool", "import", "a", "b"]]
    {
        assert_eq!(lab.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let (code, _, _) = spool(&lab, &["check", "--spool", "spool"]);
    assert_eq!(code, 2, "two answers to one question");

    let failed = |arguments: &[&str]| {
        let (code, out, err) = spool(&lab, arguments);
        assert_eq!((code, &*out), (1, ""));
        err
    };
    let err = failed(&["export", "spool/out"]);
    assert!(err.contains("spool/out is inside the spool "), "{err}");
    assert!(!lab.folder().join("spool/out").exists());
    let err = failed(&["import", "nowhere"]);
    assert_eq!(err, "m365-relay: nowhere: No such file or directory (os error 2)\n");
    let (code, _, err) = said(lab.run(&["spool", "check", "--spool", "nowhere"]));
    assert_eq!((code, &*err), (1, "m365-relay: nowhere: there is no spool\n"));
    assert!(!lab.folder().join("nowhere").exists());

    // Nothing in the configuration but [spool] matters.
    fs::write(lab.config_file(), "[spool]\npath = 'spool'\n[tenants.x]\nclient_secret = 7\n").unwrap();
    assert_eq!(spool(&lab, &["check"]).0, 0);
    for (text, error) in [
        ("[spool]\npaht = 'spool'\n", ":2: spool.paht: unknown key; did you mean path?"),
        ("[smtp]\n", ": spool.path: missing"),
        ("[spool\n", ":1: not TOML"),
    ] {
        fs::write(lab.config_file(), text).unwrap();
        let err = spool(&lab, &["check"]).2;
        assert!(err.contains(&format!("{}{error}", lab.config_file().display())), "{err}");
    }
}
