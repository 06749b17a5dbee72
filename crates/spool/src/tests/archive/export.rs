//! Exports: what is in them, and the way back.

use super::*;

#[tokio::test]
async fn what_is_exported_and_imported_is_the_same() {
    let old = Scene::new();
    let (spool, waiting) = old.place.start();
    let mut bodies = BTreeMap::new();
    for content in [&b""[..], b"small", &[7; SMALL_BODY], &[8; SMALL_BODY + 1], &[9; 3_000_000]] {
        bodies.insert(accept(&spool, content).await, content.to_vec());
    }
    let mut many = new_message(&spool, b"to many").await;
    let recipients = (0..1000).map(|n| address(&format!("recipient.number.{n}@some.example.net")));
    many.message = Message {
        tenant: "another".parse().unwrap(),
        ingress: Ingress::Bounce,
        envelope: Envelope::new(None, recipients, BodyKind::EightBitMime).unwrap(),
        author: address("postmaster@another.example"),
        bounce_of: Some(many.id),
    };
    let many_id = many.id;
    let many_message = many.message.clone();
    spool.accept(many).await.unwrap().announce();
    bodies.insert(many_id, b"to many".to_vec());
    // One waits for its third attempt, in doubt; another's second attempt is in progress.
    let ids: Vec<_> = bodies.keys().copied().collect();
    let due = clock::now() + Duration::from_millis(1_234_567);
    for _ in 0..2 {
        let lease = spool.claim(ids[0]).await.unwrap().lease;
        spool
            .settle(lease, Settlement::Wait { due, counted: true, doubt: Some(clock::now()), attempt: None })
            .await
            .unwrap();
    }
    let lease = spool.claim(ids[1]).await.unwrap().lease;
    spool.settle(lease, Settlement::Wait { due, counted: true, doubt: None, attempt: None }).await.unwrap();
    spool.claim(ids[1]).await.unwrap();
    old.stop((spool, waiting));

    let exported = old.export();
    assert_eq!((exported.exported, exported.skipped, exported.is_complete()), (6, 0, true));
    let about = old.entry(ids[0]);
    assert_eq!(
        (&about["attempts"], &about["in_doubt"], &about["state"]),
        (&2.into(), &true.into(), &"waiting".into())
    );
    for (id, body) in &bodies {
        assert!(fs::read(old.folder().join(format!("{id}.eml"))).unwrap() == *body);
        assert_eq!(old.entry(*id)["crc32"], format!("{:08x}", crc32fast::hash(body)));
    }
    for path in files(&old.folder()).keys() {
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
    }
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&old.folder().metadata().unwrap()) & 0o777, 0o700);

    let new = Scene::new();
    let imported = new.import(&old.folder());
    assert_eq!((imported.imported, imported.new_spool, imported.is_complete()), (6, true, true));
    assert_eq!(imported.octets, bodies.values().map(|body| body.len() as u64).sum::<u64>());
    assert_eq!(names(&old.folder()), ["imported"]);
    assert_eq!(names(&old.folder().join("imported")).len(), 12);
    assert!(new.check().is_whole());

    let (spool, mut waiting) = new.place.start();
    let mut found = BTreeMap::new();
    while let Some(event) = waiting.try_recv() {
        found.insert(event.id, event.due);
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ids);
    assert_eq!(found[&ids[0]], due);
    let left = found[&ids[1]].since(clock::now());
    assert!((SETTLE_AFTER - Duration::from_secs(60)..=SETTLE_AFTER).contains(&left), "{left:?}");
    for (n, (id, body)) in bodies.iter().enumerate() {
        let claim = spool.claim(*id).await.unwrap();
        assert!(read(&claim).await == *body);
        let expected = if n < 2 { (2, true) } else { (0, false) };
        assert_eq!((claim.attempts, claim.doubt.is_some()), expected, "{n}");
        assert_eq!(*claim.message, if *id == many_id { many_message.clone() } else { message(2) });
    }
    assert_eq!(spool.tally().tenant(&"contoso".parse().unwrap()).messages(), 5);
    // Each pair of tenant and author is stored as one lane.
    assert_eq!(spool.tally().tenants().len(), 2);
    let next = accept(&spool, b"new").await;
    assert!(next > many_id);
    new.stop((spool, waiting));
    assert_eq!(new.place.store().lanes().unwrap().len(), 2);
}

#[tokio::test]
async fn a_held_message_is_exported_and_imported_with_the_reason() {
    let reason = HoldReason::new("as the test wants it");
    let old = Scene::new();
    let (spool, waiting) = old.place.start();
    let explained = accept(&spool, b"explained").await;
    let unexplained = accept(&spool, b"unexplained").await;
    let lease = spool.claim(explained).await.unwrap().lease;
    spool
        .settle(lease, Settlement::Hold { reason: reason.clone(), doubt: None, attempt: None })
        .await
        .unwrap();
    spool.hold(unexplained, None).await.unwrap();
    old.stop((spool, waiting));
    assert!(old.check().is_whole());
    old.export();
    let about = old.entry(explained);
    assert_eq!((&about["state"], &about["held_because"]), (&"held".into(), &reason.as_str().into()));
    assert_eq!(old.entry(unexplained).get("held_because"), None);

    let new = Scene::new();
    new.import(&old.folder());
    assert!(new.check().is_whole());
    let (_spool, mut heard) = new.place.start();
    for (wanted_id, wanted) in [(explained, Some(reason)), (unexplained, None)] {
        let Ok(Event::Held { id, reason, .. }) = heard.0.try_recv() else { panic!("not held") };
        assert_eq!((id, reason), (wanted_id, wanted));
    }
}

#[tokio::test]
async fn an_export_goes_on_where_it_broke_off() {
    let scene = Scene::new();
    let (spool, waiting) = scene.place.start();
    let mut ids = Vec::new();
    // More than one group.
    for n in 0..300_u32 {
        ids.push(accept(&spool, &n.to_be_bytes()).await);
    }
    let leased = ids[6];
    spool.claim(leased).await.unwrap();
    scene.stop((spool, waiting));
    assert_eq!(scene.export().exported, 300);
    let complete = files(&scene.folder());
    let path = |n: usize, ending| scene.folder().join(format!("{}.{ending}", ids[n]));

    fs::remove_file(path(0, "json")).unwrap();
    fs::remove_file(path(1, "eml")).unwrap();
    fs::write(path(2, "eml"), "sho").unwrap();
    fs::write(path(3, "json"), "{").unwrap();
    fs::write(scene.folder().join(format!(".{}.eml.part", ids[4])), "half").unwrap();
    fs::remove_file(path(5, "json")).unwrap();
    fs::write(scene.folder().join(format!(".{}.json.part", ids[5])), "half").unwrap();
    let exported = scene.export();
    assert_eq!((exported.exported, exported.skipped, exported.is_complete()), (5, 295, true));
    assert!(files(&scene.folder()) == complete);

    // The relay ran in between: one has ended, another has been tried.
    let (spool, waiting) = scene.place.start();
    let lease = spool.claim(ids[0]).await.unwrap().lease;
    spool.settle(lease, Settlement::End { bounce: None }).await.unwrap();
    let lease = spool.claim(ids[1]).await.unwrap().lease;
    let wait = Settlement::Wait { due: clock::now(), counted: true, doubt: None, attempt: None };
    spool.settle(lease, wait).await.unwrap();
    scene.stop((spool, waiting));
    let exported = scene.export();
    assert_eq!((exported.strangers.clone(), exported.is_complete()), (vec![ids[0].to_string()], false));
    // The one that was tried, and the one that was leased before.
    assert_eq!((exported.exported, exported.skipped), (2, 297));
    assert_eq!(scene.entry(ids[1])["attempts"], 1);
}

#[tokio::test]
async fn places_that_cannot_be_are_refused() {
    let scene = Scene::new();
    let spool = scene.spool().join("spool");
    let source = Source { spool: spool.clone(), settle_after: SETTLE_AFTER };
    let target = scene.target();
    let nothing = &mut |_: Step| {};
    assert!(matches!(check(&spool, nothing), Err(ArchiveError::NoSpool(_))));
    assert!(matches!(export(&source, &scene.folder(), nothing), Err(ArchiveError::NoSpool(_))));
    assert!(matches!(import_blocking(&target, &scene.folder()), Err(ArchiveError::Io { .. })));
    assert!(!spool.exists() && !scene.folder().exists());

    let open = DiskStore::open(&spool).unwrap();
    let locked = |error| matches!(error, ArchiveError::Open(OpenError::Locked { .. }));
    assert!(locked(check(&spool, nothing).unwrap_err()));
    drop(open);
    std::os::unix::fs::symlink(&spool, scene.out.path().join("link")).unwrap();
    for inside in
        [spool.clone(), spool.join("new/new"), spool.join("body/../new"), scene.out.path().join("link/new")]
    {
        assert!(matches!(export(&source, &inside, nothing), Err(ArchiveError::Inside { .. })), "{inside:?}");
    }
    assert!(!spool.join("new").exists());
    assert!(matches!(import_blocking(&target, &spool.join("body")), Err(ArchiveError::Inside { .. })));
}
