//! What a check finds.

use super::*;

#[tokio::test]
async fn a_whole_spool_is_found_whole_and_left_alone() {
    let scene = Scene::new();
    let (spool, waiting) = scene.place.start();
    let ended = accept(&spool, b"ended").await;
    let damaged = accept(&spool, b"strange").await;
    let leased = accept(&spool, b"leased").await;
    accept(&spool, &[1; 200_000]).await;
    for (id, end) in [
        (ended, Settlement::End { bounce: None }),
        (damaged, Settlement::Quarantine { reason: "looks odd".into() }),
    ] {
        let lease = spool.claim(id).await.unwrap().lease;
        spool.settle(lease, end).await.unwrap();
    }
    spool.claim(leased).await.unwrap();
    scene.stop((spool, waiting));
    fs::write(scene.spool().join("body/large/0000000000000"), "nobody's").unwrap();
    // A tail that a power failure left.
    let segment = scene.spool().join("body/00000001.seg");
    let torn = [fs::read(&segment).unwrap(), vec![0; 5000]].concat();
    fs::write(&segment, torn).unwrap();

    let before = ["body", "quarantine"].map(|part| files(&scene.spool().join(part)));
    for _ in 0..2 {
        let checked = scene.check();
        assert!(checked.is_whole(), "{checked:?}");
        assert_eq!((checked.messages, checked.waiting, checked.octets), (2, 1, 200_006));
        assert_eq!(checked.leased, [leased.to_string()]);
        assert_eq!((checked.unowned, checked.quarantined), (Unowned { large_bodies: 1, records: 2 }, 1));
    }
    scene.export();
    assert!(before == ["body", "quarantine"].map(|part| files(&scene.spool().join(part))));
}

#[tokio::test]
async fn each_damage_is_named() {
    let scene = Scene::new();
    let (spool, waiting) = scene.place.start();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(accept(&spool, &vec![n; 600_000 + usize::from(n)]).await);
    }
    let [flipped, short, missing, stateless, meta] = ids[..] else { unreachable!() };
    let whole = accept(&spool, b"whole").await;
    let small = accept(&spool, b"small").await;
    let header = accept(&spool, b"header").await;
    scene.stop((spool, waiting));
    damage_state(&scene, &[stateless]);
    let large = |id: MessageId| scene.spool().join(format!("body/large/{id}"));
    flip(&large(flipped), 5000);
    fs::File::options().write(true).open(large(short)).unwrap().set_len(50_000).unwrap();
    fs::remove_file(large(missing)).unwrap();
    flip(&large(meta), 40 + 600_004);
    let segment = scene.spool().join("body/00000001.seg");
    let at = |text: &[u8]| fs::read(&segment).unwrap().windows(text.len()).position(|w| w == text).unwrap();
    flip(&segment, at(b"small"));
    flip(&segment, at(b"header") - 20);

    let checked = scene.check();
    let exported = scene.export();
    let found: Vec<_> =
        checked.damaged.iter().map(|d| (d.id.as_str(), d.reason.as_str(), &*d.file)).collect();
    let expected = [
        (flipped, "its checksum differs", large(flipped)),
        (short, "its body ends too soon", large(short)),
        (missing, "its body is missing", large(missing)),
        (stateless, "its state is unreadable", scene.spool().join("index")),
        (meta, "the checksum of the envelope beside its body differs", large(meta)),
        (small, "its checksum differs", segment.clone()),
        (header, "no record begins where its body should be", segment.clone()),
    ];
    let expected: Vec<_> = expected.iter().map(|(id, why, file)| (id.to_string(), *why, file)).collect();
    assert_eq!(found, expected.iter().map(|(id, why, file)| (&**id, *why, &***file)).collect::<Vec<_>>());
    assert!(!checked.is_whole());
    assert_eq!((checked.messages, checked.waiting), (8, 7));
    // An export leaves them out and takes the rest.
    assert_eq!(exported.damaged, checked.damaged);
    assert_eq!((exported.exported, exported.is_complete()), (1, false));
    assert_eq!(names(&scene.folder()), [format!("{whole}.eml"), format!("{whole}.json")]);
}

/// What the index says, against what the bodies say.
#[tokio::test]
async fn an_index_that_contradicts_the_bodies_is_damage() {
    let scene = Scene::new();
    let (spool, waiting) = scene.place.start();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(accept(&spool, b"x").await);
    }
    scene.stop((spool, waiting));
    let db = sled::Config::new().path(scene.spool().join("index")).open().unwrap();
    let tree = db.open_tree("spool").unwrap();
    let key = |kind: &[u8], id: MessageId| [kind, &id.to_bytes()].concat();
    tree.remove(key(b"s", ids[2])).unwrap();
    let place = State::decode(&tree.get(key(b"s", ids[3])).unwrap().unwrap()[..44]).unwrap();
    tree.insert(key(b"s", ids[3]), State { lane: LaneId(77), ..place }.encode().to_vec()).unwrap();
    tree.insert([&b"l"[..], &[0, 0, 0, 9]].concat(), &b""[..]).unwrap();
    tree.insert(b"?", b"?").unwrap();
    db.flush().unwrap();
    drop((tree, db));

    let checked = scene.check();
    let reasons: Vec<_> = checked.damaged.iter().map(|damaged| &*damaged.reason).collect();
    assert_eq!(reasons, ["its lane is unknown"]);
    // One is missing, which only the sum shows.
    assert!(checked.index.as_ref().is_some_and(|why| why.contains("records")), "{:?}", checked.index);
    assert_eq!((checked.unreadable_lanes, checked.unknown_records), (1, 1));
    assert_eq!(scene.export().damaged, checked.damaged);
}
