//! Imports: interrupted, into a spool with mail, from files that are wrong.

use super::*;

#[tokio::test]
async fn an_import_goes_on_where_it_broke_off() {
    let old = Scene::new();
    let (spool, waiting) = old.place.start();
    let mut ids = Vec::new();
    for n in 0..300_u32 {
        ids.push(accept(&spool, &n.to_be_bytes()).await);
    }
    let large = accept(&spool, &[1; 600_000]).await;
    old.stop((spool, waiting));
    old.export();
    // Interrupted after a group was durable, and before all its files were moved away.
    let again = old.out.path().join("again");
    copy_all(&old.folder(), &again);
    let new = Scene::new();
    assert_eq!(new.import(&old.folder()).imported, 301);
    fs::create_dir(again.join("imported")).unwrap();
    for ending in ["eml", "json"] {
        let name = format!("{}.{ending}", ids[0]);
        fs::rename(again.join(&name), again.join("imported").join(&name)).unwrap();
    }
    let name = format!("{}.json", ids[1]);
    fs::rename(again.join(&name), again.join("imported").join(&name)).unwrap();
    // A large body that the index never knew.
    fs::write(new.spool().join(format!("body/large/{}", large.next())), "half").unwrap();

    let imported = new.import(&again);
    assert_eq!((imported.imported, imported.already_there, imported.is_complete()), (0, 299, true));
    assert!(!imported.new_spool);
    assert_eq!(names(&again), ["imported"]);
    assert_eq!(names(&again.join("imported")).len(), 602);
    let checked = new.check();
    assert!(checked.is_whole() && checked.messages == 301 && checked.unowned == Unowned::default());

    // And with everything delivered in between, there is nothing to import.
    let imported = new.import(&again);
    assert_eq!((imported.imported, imported.already_there, imported.is_complete()), (0, 0, true));
}

/// Opening without loading would take the last segment for an unused one.
#[tokio::test]
async fn an_import_leaves_the_mail_that_is_there() {
    let one = Scene::new();
    let two = Scene::new();
    for scene in [&one, &two] {
        let (spool, waiting) = scene.place.start();
        accept(&spool, b"small").await;
        accept(&spool, &[1; 600_000]).await;
        let leased = accept(&spool, b"leased").await;
        spool.claim(leased).await.unwrap();
        scene.stop((spool, waiting));
    }
    one.export();
    let imported = two.import(&one.folder());
    assert_eq!((imported.imported, imported.is_complete()), (3, true));
    let checked = two.check();
    assert!(checked.is_whole(), "{checked:?}");
    assert_eq!((checked.messages, checked.leased.len(), checked.waiting), (6, 1, 5));
}

#[tokio::test]
async fn wrong_files_are_named_and_left_and_the_rest_is_imported() {
    let old = Scene::new();
    let (spool, waiting) = old.place.start();
    let mut ids = Vec::new();
    for n in 0..9_u8 {
        let size = if n == 1 { 600_000 } else { 100 };
        ids.push(accept(&spool, &vec![n; size]).await);
    }
    old.stop((spool, waiting));
    old.export();
    let path = |n: usize, ending: &str| old.folder().join(format!("{}.{ending}", ids[n]));
    let edit = |n: usize, key: &str, value: Value| {
        let mut entry = old.entry(ids[n]);
        entry[key] = value;
        fs::write(path(n, "json"), entry.to_string()).unwrap();
    };
    flip(&path(0, "eml"), 10);
    flip(&path(1, "eml"), 99_000);
    fs::write(path(2, "eml"), "short").unwrap();
    fs::remove_file(path(3, "eml")).unwrap();
    edit(4, "tries", json!(1));
    edit(5, "id", json!(ids[6].to_string()));
    fs::rename(path(6, "json"), old.folder().join("note.json")).unwrap();
    let whole = old.out.path().join("whole");
    copy_all(&old.folder(), &whole);
    // A permitted edit.
    edit(7, "attempts", json!(0));
    edit(7, "due", Value::Null);
    fs::write(old.folder().join("README"), "is let pass").unwrap();

    let new = Scene::new();
    let imported = new.import(&old.folder());
    let problems: Vec<_> = imported
        .problems
        .iter()
        .map(|problem| (problem.file.file_name().unwrap().to_str().unwrap(), &*problem.reason))
        .collect();
    let name = |n: usize, ending: &str| format!("{}.{ending}", ids[n]);
    let hash = |n: usize| format!("{:08x}", crc32fast::hash(&fs::read(path(n, "eml")).unwrap()));
    let crc = |n: usize| old.entry(ids[n])["crc32"].as_str().unwrap().to_owned();
    let expected = [
        (name(0, "eml"), format!("has the CRC-32 {}, and its JSON file says {}", hash(0), crc(0))),
        (name(1, "eml"), format!("has the CRC-32 {}, and its JSON file says {}", hash(1), crc(1))),
        (name(2, "eml"), format!("is 5 octets long, and {} says 100", name(2, "json"))),
        (name(3, "eml"), "No such file or directory (os error 2)".into()),
        (name(4, "json"), "tries: unknown field `tries`, expected one of `format`".into()),
        (name(5, "json"), format!("id: is \"{}\", and the file's name says \"{}\"", ids[6], ids[5])),
        ("note.json".into(), format!("id: is \"{}\", and the file's name says \"note\"", ids[6])),
        (name(6, "eml"), format!("there is no {} beside it: its export is not complete", name(6, "json"))),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for ((file, reason), (expected_file, expected_reason)) in problems.iter().zip(&expected) {
        assert_eq!(file, expected_file);
        assert!(reason.starts_with(expected_reason), "{reason}");
    }
    assert_eq!((imported.imported, imported.is_complete()), (2, false));
    assert_eq!(names(&old.folder().join("imported")).len(), 4);
    let checked = new.check();
    assert!(
        checked.is_whole() && checked.messages == 2 && checked.unowned == Unowned::default(),
        "{checked:?}"
    );

    // Corrected, they are imported too.
    fs::rename(old.folder().join("note.json"), path(6, "json")).unwrap();
    flip(&path(0, "eml"), 10);
    flip(&path(1, "eml"), 99_000);
    let imported = new.import(&old.folder());
    assert_eq!((imported.imported, imported.problems.len()), (3, 4));
}

#[tokio::test]
async fn another_message_of_the_same_id_is_not_lost() {
    let old = Scene::new();
    let (spool, waiting) = old.place.start();
    let id = accept(&spool, b"of the one relay").await;
    old.stop((spool, waiting));
    old.export();
    let new = Scene::new();
    let (spool, waiting) = new.place.start();
    let mut other = new_message(&spool, b"of the other one").await;
    other.id = id;
    spool.accept(other).await.unwrap().announce();
    new.stop((spool, waiting));

    let imported = new.import(&old.folder());
    assert_eq!((imported.imported, imported.already_there), (0, 0));
    assert!(imported.problems[0].reason.starts_with("the spool has another message of this id"));
    // Done as the error says.
    let free = id.next();
    let mut entry = old.entry(id);
    entry["id"] = free.to_string().into();
    fs::write(old.folder().join(format!("{free}.json")), entry.to_string()).unwrap();
    fs::remove_file(old.folder().join(format!("{id}.json"))).unwrap();
    fs::rename(old.folder().join(format!("{id}.eml")), old.folder().join(format!("{free}.eml"))).unwrap();
    assert_eq!(new.import(&old.folder()).imported, 1);
    assert_eq!(new.check().messages, 2);
}

/// The export is the better copy, so its files stay.
#[tokio::test]
async fn what_is_damaged_in_the_spool_is_not_already_there() {
    let scene = Scene::new();
    let (spool, waiting) = scene.place.start();
    let gone = accept(&spool, &[2; 600_000]).await;
    let large = accept(&spool, &[1; 600_000]).await;
    scene.stop((spool, waiting));
    scene.export();
    flip(&scene.spool().join(format!("body/large/{large}")), 5000);
    fs::remove_file(scene.spool().join(format!("body/large/{gone}"))).unwrap();

    let imported = scene.import(&scene.folder());
    assert_eq!((imported.imported, imported.put_aside, imported.is_complete()), (1, 1, false));
    assert_eq!(imported.problems[0].reason, "the spool has it, but its checksum differs");
    assert_eq!(names(&scene.folder()), [format!("{large}.eml"), format!("{large}.json"), "imported".into()]);
}

#[tokio::test]
async fn a_full_disk_stops_an_import_before_the_index_sees_it() {
    let old = Scene::new();
    let (spool, waiting) = old.place.start();
    accept(&spool, b"small").await;
    old.stop((spool, waiting));
    old.export();
    let new = Scene::new();
    let mut target = new.target();
    target.floor.octets = u64::MAX;
    assert!(matches!(import_blocking(&target, &old.folder()), Err(ArchiveError::Full { .. })));
    assert_eq!(new.import(&old.folder()).imported, 1);
}
