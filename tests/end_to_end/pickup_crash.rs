//! Files, and a relay that is killed again and again: each file becomes one message.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use relay_sandbox::{Action, Fault, On};

use crate::harness::{Lab, Mail, PATIENCE, base64_mail, holds_within, message};

const KILLS: usize = 60;
const MOST_A_ROUND: usize = 300;
const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Some small, some that take several reads; some moved in, some written in place by a writer that pauses.
fn drop_in(outside: &Path, inside: &Path, number: usize) {
    let subject = format!("file-{number}");
    let content = match number % 10 {
        0 => base64_mail(FROM, TO, &subject, 150_000),
        _ => message(FROM, TO, &subject),
    };
    let outside = outside.join("next");
    let inside = inside.join(format!("{number}.eml"));
    if number.is_multiple_of(3) {
        let mut file = File::create(inside).unwrap();
        let (first, second) = content.split_at(content.len() / 2);
        file.write_all(first).unwrap();
        thread::park_timeout(Duration::from_millis(1));
        file.write_all(second).unwrap();
    } else {
        fs::write(&outside, content).unwrap();
        fs::rename(outside, inside).unwrap();
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

/// By ids: the relay gives each message one when it takes the file, and states it in Received. A message that
/// is delivered twice under one id was in flight at a kill, which is the window of delivery. A file with two
/// ids was taken twice.
#[test]
fn killed_sixty_times_each_file_is_one_message() {
    let mut lab = Lab::with(|setup| setup.delivery = "settle_after = '50ms'".into());
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_millis(10))));
    let folder = lab.pickup("contoso");
    let outside = lab.folder().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut written = 0;
    let mut claimed = 0;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..KILLS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Files that are there at the start must be quiet for a second before they are taken.
        let quiet = if round % 6 == 0 { Duration::from_millis(950) } else { Duration::ZERO };
        let is_over = AtomicBool::new(false);
        written += thread::scope(|scope| {
            let writer = scope.spawn(|| {
                thread::park_timeout(quiet);
                let numbers = (written..).take_while(|_| !is_over.load(Ordering::Relaxed)).take(MOST_A_ROUND);
                numbers.inspect(|number| drop_in(&outside, &folder, *number)).count()
            });
            thread::park_timeout(quiet + Duration::from_micros(random % 150_000));
            lab.kill9();
            is_over.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        claimed += names(&folder).iter().filter(|name| name.to_string_lossy().ends_with(".claimed")).count();
        lab.restart();
    }
    lab.service.clear_faults();
    let is_empty = || names(&folder).is_empty() && lab.metric("m365_relay_queue_messages", &[]) == 0.0;
    assert!(holds_within(Duration::from_secs(120), is_empty), "{} files are left", names(&folder).len());

    let mut ids = HashMap::<String, BTreeSet<String>>::new();
    let delivered = lab.service.messages();
    for message in &delivered {
        let text = message.text();
        let (_, id) = text.split_once(" id ").expect("a Received field");
        let id = id.chars().take_while(char::is_ascii_alphanumeric).collect();
        ids.entry(message.subject.clone()).or_default().insert(id);
    }
    let lost: Vec<_> = (0..written).filter(|n| !ids.contains_key(&format!("file-{n}"))).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let doubled: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(doubled.is_empty(), "taken more than once: {doubled:?}");
    assert_eq!(ids.len(), written);

    let sums = || {
        let settled = lab.logged("interrupted pickup settled: files already in the spool removed");
        let sum = |field: &str| settled.iter().map(|entry| entry[field].as_u64().unwrap()).sum::<u64>();
        (sum("removed"), sum("given_back"))
    };
    holds_within(PATIENCE, || sums().0 + sums().1 >= claimed as u64);
    let (removed, given_back) = sums();
    println!(
        "{KILLS} kills: {written} files, {} messages, {} deliveries; {claimed} files claimed at a kill: {removed} were in the \
         spool and {given_back} were not",
        ids.len(),
        delivered.len(),
    );
    assert_eq!(removed + given_back, claimed as u64);
    assert!(written > 20 * KILLS, "too little load: {written}");
    // The kills have hit both sides of the acceptance.
    assert!(removed > 0 && given_back > 0, "{removed} {given_back}");
}
