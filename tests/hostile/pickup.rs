//! What a tenant's own programs can do in its folder, with the rights that they must have there.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use relay_sandbox::{Fault, On};

use crate::{
    harness::{Lab, holds_within, message, wait_until},
    held,
};

const TO: &str = "b@example.net";

/// Writes beside the folder, then moves the file in, as a careful program does.
fn drop_in(lab: &Lab, tenant: &str, name: &str) -> PathBuf {
    let outside = lab.folder().join(name);
    let inside = lab.pickup(tenant).join(format!("{name}.eml"));
    fs::write(&outside, message(&format!("a@{tenant}.example"), TO, name)).unwrap();
    fs::rename(outside, &inside).unwrap();
    inside
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// How often each subject was delivered.
fn delivered(lab: &Lab) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for message in lab.service.messages() {
        *times.entry(message.subject.clone()).or_default() += 1;
    }
    times
}

/// Messages of two tenants wait, by pickup and by SMTP; then one tenant's program plants names of claims with
/// their ids.
#[test]
fn a_planted_claim_takes_no_message_away() {
    let mut lab = Lab::start();
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable"));
    let mail = [("contoso", "own"), ("contoso", "own-two"), ("fabrikam", "other")];
    for (tenant, name) in mail {
        drop_in(&lab, tenant, name);
    }
    for tenant in ["contoso", "fabrikam"] {
        let sender = format!("a@{tenant}.example");
        lab.send(&sender, &[TO], &message(&sender, TO, &format!("smtp-{tenant}")));
    }
    lab.wait_for_metric("m365_relay_received_total", &[("ingress", "pickup"), ("tenant", "contoso")], 2.0);
    lab.wait_for_metric("m365_relay_received_total", &[("ingress", "pickup"), ("tenant", "fabrikam")], 1.0);
    let accepted = lab.wait_for_logs("message accepted", 5);
    lab.kill9();
    let ids: Vec<String> = accepted.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5);

    let folder = lab.folder().join("pickup/contoso");
    let mut planted = 0;
    for (number, id) in ids.iter().enumerate() {
        for (kind, mark) in ["", "-0000000000000000", "-ABCDEFGHJKMNPQRS"].iter().enumerate() {
            // An entry that cannot be unlinked like a file: it used to cost the message.
            fs::create_dir(folder.join(format!(".folder{number}{kind}.eml.{id}{mark}.claimed"))).unwrap();
            symlink("/etc/passwd", folder.join(format!(".link{number}{kind}.eml.{id}{mark}.claimed")))
                .unwrap();
            planted += 2;
            if !mark.is_empty() {
                fs::write(folder.join(format!(".file{number}{kind}.eml.{id}{mark}.claimed")), "x").unwrap();
                planted += 1;
            }
        }
    }
    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(ids.len());
    lab.wait_until_empty();
    let expected = ["own", "own-two", "other", "smtp-contoso", "smtp-fabrikam"];
    assert_eq!(delivered(&lab), expected.map(|subject| (subject.to_owned(), 1)).into());
    // The planted names are where they were.
    wait_until("the folder as it was", || names(&folder).len() == planted);
    held(
        "A file in a tenant's pickup folder that is named as a claimed one, with the id of a message that is not its own",
        planted,
    );
}

/// Files that change under the relay's hands: renamed by their program, before they are claimed and while
/// they are in progress; replaced; and appended to after they were closed.
#[test]
fn files_that_change_while_they_are_claimed_arrive_once() {
    const EACH: usize = 150;
    let lab = Lab::start();
    let folder = lab.pickup("contoso");
    let outside = lab.folder().join("outside");
    // By then this folder is watched.
    lab.pickup("fabrikam");
    fs::create_dir(&outside).unwrap();
    let content = |subject: &str| message("a@contoso.example", TO, subject);
    let is_over = AtomicBool::new(false);
    let (renamed, stolen) = thread::scope(|scope| {
        let renamer = scope.spawn(|| {
            let mut times = 0;
            while !is_over.load(Ordering::Relaxed) {
                for name in names(&folder).iter().filter(|name| name.starts_with("renamed-")) {
                    // Not for ever, or it would never arrive.
                    if times == 10 * EACH {
                        return times;
                    }
                    let new = format!("renamed-{times}-{}", name.rsplit('-').next().unwrap());
                    times += usize::from(fs::rename(folder.join(name), folder.join(new)).is_ok());
                }
            }
            times
        });
        let thief = scope.spawn(|| {
            let mut times = 0;
            while !is_over.load(Ordering::Relaxed) {
                let is_claimed = |name: &&String| name.starts_with(".stolen-") && name.ends_with(".claimed");
                for name in names(&folder).iter().filter(is_claimed) {
                    // Not for ever, or it would never arrive.
                    if times < EACH {
                        let new = folder.join(format!("stolen-again-{times}.eml"));
                        times += usize::from(fs::rename(folder.join(name), new).is_ok());
                    }
                }
            }
            times
        });
        scope.spawn(|| {
            for number in 0..EACH {
                for kind in ["renamed", "stolen"] {
                    let subject = format!("{kind}-{number}");
                    fs::write(outside.join(&subject), content(&subject)).unwrap();
                    fs::rename(outside.join(&subject), folder.join(format!("{subject}.eml"))).unwrap();
                }
                // Closed, and then continued.
                let appended = folder.join(format!("appended-{number}.eml"));
                fs::write(&appended, content(&format!("appended-{number}"))).unwrap();
                thread::park_timeout(Duration::from_micros(50 * (number % 40) as u64));
                if let Ok(mut file) = OpenOptions::new().append(true).open(&appended) {
                    file.write_all(b"and more\r\n").unwrap();
                }
                for version in ["old", "new"] {
                    let subject = format!("{version}-{number}");
                    fs::write(outside.join(&subject), content(&subject)).unwrap();
                    fs::rename(outside.join(&subject), folder.join(format!("replaced-{number}.eml")))
                        .unwrap();
                    thread::park_timeout(Duration::from_micros(50 * (number % 40) as u64));
                }
            }
            let is_done =
                |kind: &str| (0..EACH).all(|n| delivered(&lab).contains_key(&format!("{kind}-{n}")));
            let all = || ["renamed", "stolen", "appended", "new"].iter().all(|kind| is_done(kind));
            let arrived = holds_within(Duration::from_secs(60), all);
            is_over.store(true, Ordering::Relaxed);
            assert!(arrived, "{:?} are left", names(&folder));
        });
        (renamer.join().unwrap(), thief.join().unwrap())
    });
    wait_until("the folder to be empty", || names(&folder).is_empty());
    lab.wait_until_empty();
    let times = delivered(&lab);
    let more: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(more.is_empty(), "more than once: {more:?}");
    let old = times.keys().filter(|subject| subject.starts_with("old-")).count();
    println!(
        "{renamed} renamed, {stolen} renamed while under way, {old} of {EACH} taken before they were replaced"
    );
    assert_eq!(times.len(), 4 * EACH + old);
    assert!(renamed > 0 && stolen > 0, "{renamed} {stolen}");
    held("Files that are renamed, replaced or appended to while the relay claims them", 4 * EACH);
}
