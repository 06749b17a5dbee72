use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: Hour = 495_000;

fn key(mailbox: &str) -> Key {
    Key::of(&"contoso".parse().unwrap(), &mailbox.parse().unwrap())
}

fn a() -> Key {
    key("a@contoso.example")
}

fn reopened(folder: &Path, now: Hour) -> Remembered {
    Ledger::open(folder, now, &Vital::unwatched(), &|| {}).unwrap().1
}

fn sum(remembered: &Remembered, key: Key) -> u64 {
    remembered.get(&key).map_or(0, |hours| hours.values().sum())
}

#[test]
fn what_was_noted_is_remembered_by_mailbox_and_hour() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, remembered) =
        Ledger::open(&folder.path().join("limits/recipients"), NOW, &Vital::unwatched(), &|| {}).unwrap();
    assert!(remembered.is_empty());
    ledger.note(a(), NOW, 5, NOW);
    ledger.note(key("b@contoso.example"), NOW, 7, NOW);
    ledger.note(a(), NOW + 1, 500, NOW + 1);
    ledger.note(a(), NOW, -2, NOW + 1);
    ledger.note(key("b@contoso.example"), NOW, -7, NOW + 1);

    // The ledger that wrote is still alive, and has synced nothing: as after kill -9.
    let folder = folder.path().join("limits/recipients");
    let remembered = reopened(&folder, NOW + 1);
    assert_eq!(remembered.len(), 1);
    assert_eq!(remembered[&a()], BTreeMap::from([(NOW, 3), (NOW + 1, 500)]));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_is_over_a_day_old_is_forgotten_and_its_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| {}).unwrap();
    for hour in NOW..NOW + 100 {
        ledger.note(a(), hour, 1, hour);
    }
    drop(ledger);
    let last = NOW + 99;
    let remembered = reopened(folder.path(), last);
    assert_eq!(remembered[&a()].keys().copied().collect::<Vec<_>>(), (last - DAY..=last).collect::<Vec<_>>());
    let mut files: Vec<_> = files_in(folder.path()).unwrap().into_iter().map(|(from, _)| from).collect();
    files.sort();
    assert!(files.len() <= 6 && files.iter().all(|from| !is_past(*from, last)), "{files:?}");
    assert!(reopened(folder.path(), last + 2 * DAY).is_empty());
}

#[test]
fn a_thread_removes_old_files_while_the_relay_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| {}).unwrap();
    for hour in NOW..NOW + 100 {
        ledger.note(a(), hour, 1, hour);
    }
    let (unsynced, from) = {
        let current = ledger.files.current();
        (current.unsynced.clone(), current.from)
    };
    ledger.files.sync(&unsynced, from).unwrap();
    assert!(files_in(folder.path()).unwrap().len() <= 6);
}

#[test]
fn a_record_that_was_cut_off_spoils_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| {}).unwrap();
    for _ in 0..3 {
        ledger.note(a(), NOW, 1, NOW);
    }
    let path = files_in(folder.path()).unwrap()[0].1.clone();
    let octets = fs::read(&path).unwrap();
    for cut in 0..octets.len() {
        fs::write(&path, &octets[..cut]).unwrap();
        let (ledger, remembered) = Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| {}).unwrap();
        let kept = (cut / Record::LEN) as u64;
        assert_eq!(sum(&remembered, a()), kept, "cut off at {cut}");
        ledger.note(a(), NOW, 100, NOW);
        assert_eq!(sum(&reopened(folder.path(), NOW), a()), kept + 100, "cut off at {cut}");
    }
}

#[test]
fn a_damaged_record_spoils_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| {}).unwrap();
    for _ in 0..3 {
        ledger.note(a(), NOW, 1, NOW);
    }
    let path = files_in(folder.path()).unwrap()[0].1.clone();
    let mut octets = fs::read(&path).unwrap();
    octets[Record::LEN..Record::LEN * 2].fill(0);
    fs::write(&path, &octets).unwrap();
    assert_eq!(sum(&reopened(folder.path(), NOW), a()), 2);
}

#[test]
fn hours_of_a_clock_that_ran_ahead_count_from_now() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), NOW + 1000, &Vital::unwatched(), &|| {}).unwrap();
    ledger.note(a(), NOW + 1000, 9, NOW + 1000);
    assert_eq!(reopened(folder.path(), NOW)[&a()], BTreeMap::from([(NOW, 9)]));
    // And no longer than that.
    assert_eq!(sum(&reopened(folder.path(), NOW + DAY - HOURS), a()), 9);
    assert!(reopened(folder.path(), NOW + DAY + 1).is_empty());
}

/// No fault in a file or in the folder prevents a start.
#[test]
fn a_file_that_cannot_be_read_is_put_aside_and_the_others_count() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| {}).unwrap();
    ledger.note(a(), NOW, 5, NOW);
    drop(ledger);
    // Folders where files should be: one that counts, one that is past, one of the future.
    let names =
        [NOW - HOURS, NOW - 100 * HOURS, NOW + 100 * HOURS].map(|hour| (hour - hour % HOURS).to_string());
    for name in &names {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let damaged = std::cell::Cell::new(0);
    let open =
        || Ledger::open(folder.path(), NOW, &Vital::unwatched(), &|| damaged.set(damaged.get() + 1)).unwrap();
    let (ledger, remembered) = open();
    assert_eq!((sum(&remembered, a()), damaged.get()), (5, 3));
    assert!(names.iter().all(|name| folder.path().join(format!("{name}.damaged")).is_dir()));
    ledger.note(a(), NOW, 7, NOW);
    drop(ledger);
    assert_eq!((sum(&open().1, a()), damaged.get()), (12, 3));
}

#[test]
fn a_folder_that_is_none_is_put_aside() {
    let spool = tempfile::tempdir().unwrap();
    let folder = spool.path().join("recipients");
    fs::write(&folder, "not a folder").unwrap();
    let (ledger, remembered) = Ledger::open(&folder, NOW, &Vital::unwatched(), &|| {}).unwrap();
    assert!(remembered.is_empty());
    ledger.note(a(), NOW, 5, NOW);
    assert_eq!(sum(&reopened(&folder, NOW), a()), 5);
    assert!(spool.path().join("recipients.damaged").is_file());
}
