//! What is in the quarantine can be read and removed.

use std::io::Read;

use super::*;

async fn quarantined(spool: &Spool, content: &[u8]) -> MessageId {
    let id = accept(spool, content).await;
    let lease = spool.claim(id).await.unwrap().lease;
    spool.settle(lease, Settlement::Quarantine { reason: "looks odd".into() }).await.unwrap();
    id
}

#[tokio::test]
async fn entries_are_listed_read_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _waiting) = Spool::start(DiskStore::open(folder.path()).unwrap(), ()).unwrap();
    let quarantine = Quarantine::of(folder.path());
    assert_eq!(quarantine.list().unwrap(), []);
    let large = vec![b'x'; SEGMENT_BODY + 10];
    let mut ids = Vec::new();
    for content in [&b"small"[..], &large] {
        ids.push(quarantined(&spool, content).await);
    }
    std::fs::create_dir_all(folder.path().join("quarantine/index-17/blobs")).unwrap();
    std::fs::write(folder.path().join("quarantine/index-17/db"), b"12345").unwrap();
    // Not an entry.
    std::fs::write(folder.path().join("quarantine/notes.txt"), b"mine").unwrap();

    let list = quarantine.list().unwrap();
    let names: Vec<_> = list.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, [ids[0].to_string(), ids[1].to_string(), "index-17".into()]);
    let octets: Vec<_> = list.iter().map(|entry| entry.octets).collect();
    assert_eq!(octets, [Some(5), Some(large.len() as u64), Some(5)]);
    assert_eq!((&*list[0].reason, list[0].time.ends_with('Z')), ("looks odd", true));
    assert_eq!(list[0].message, Some(message(2)));
    assert_eq!(list[2].message, None);
    for (entry, content) in list.iter().zip([&b"small"[..], &large]) {
        let mut read = Vec::new();
        quarantine.body(&entry.name).unwrap().unwrap().0.read_to_end(&mut read).unwrap();
        assert!(read == content);
    }
    for entry in &list {
        assert!(quarantine.remove(&entry.name).unwrap());
        assert!(!quarantine.remove(&entry.name).unwrap());
        assert_eq!(quarantine.get(&entry.name).unwrap(), None);
    }
    assert_eq!(quarantine.list().unwrap(), []);
    assert!(folder.path().join("quarantine/notes.txt").exists());
}

#[test]
fn only_names_of_entries_are_names() {
    for name in ["../LOCK", "index-", "index-1/../..", "1M876XD4R000", "index-x", ""] {
        assert!(name.parse::<QuarantineName>().is_err(), "{name}");
    }
    for name in ["index-17", "1M876XD4R0000"] {
        assert_eq!(name.parse::<QuarantineName>().unwrap().to_string(), name);
    }
}

/// An entry that somebody has changed is there all the same.
#[test]
fn what_cannot_be_read_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("quarantine")).unwrap();
    std::fs::write(folder.path().join("quarantine/1M876XD4R0000.json"), b"{").unwrap();
    let list = Quarantine::of(folder.path()).list().unwrap();
    assert!(list[0].reason.starts_with("its description cannot be read"), "{list:?}");
    assert_eq!((list.len(), list[0].octets, &list[0].message), (1, None, &None));
}
