//! Folders that are not as they should be.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};

use rustix::process::geteuid;

use super::{
    super::{
        place::OpenFolder,
        way::{self, Barrier, Walker},
    },
    *,
};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_everybody_can_write_to_is_not_read_until_that_is_mended() {
    let folders = temp();
    let contoso = folders.1.join("contoso");
    chmod(&contoso, 0o777);
    fs::write(contoso.join("a.eml"), MAIL).unwrap();
    let mut running = Running::start(House::new(), folders).await;
    // Moved in, for which there is a hint.
    sleep(SLOW_SCAN).await;
    running.move_in("b.eml", MAIL);
    sleep(SLOW_SCAN * 3).await;
    assert_eq!(running.names(""), ["a.eml", "b.eml"]);
    assert!(running.house.is_empty());
    assert!(running.house.metric("refused_total{ingress=\"pickup\",reason=\"folder\"}") >= 2.0);

    chmod(&contoso, 0o775);
    running.house.next().await;
    running.house.next().await;
    running.until_names("", &[]).await;
}

/// The folder was fine at the last look, but is not when a file is about to be claimed.
#[tokio::test]
async fn each_file_is_claimed_in_a_folder_that_was_checked_just_then() {
    let mut running = Running::new().await;
    running.move_in("a.eml", MAIL);
    running.house.next().await;
    running.until_names("", &[]).await;
    chmod(&running.path(""), 0o777);
    running.move_in("b.eml", MAIL);
    until(|| running.house.metric("refused_total{ingress=\"pickup\",reason=\"folder\"}") > 0.0).await;
    assert_eq!(running.names(""), ["b.eml"]);
    assert!(running.house.is_empty());
}

#[test]
fn what_makes_a_folder_unusable() {
    let (_dir, pickup, staging) = temp();
    let contoso = pickup.join("contoso");
    assert!(OpenFolder::open(&contoso).is_ok());
    chmod(&contoso, 0o1777);
    let why = OpenFolder::open(&contoso).unwrap_err().to_string();
    assert!(why.contains(&format!("chmod o-w {}", contoso.display())), "{why}");
    chmod(&contoso, 0o2770);
    // Others could put another folder in its place, or make it before the relay does.
    for (rights, command) in [
        (0o777, "chmod go-w"),
        (0o1777, "chmod go-w"),
        (0o775, "chmod g-w"),
        (0o757, "chmod o-w"),
        (0o2770, "chmod g-w"),
    ] {
        chmod(&pickup, rights);
        let why = OpenFolder::open(&contoso).unwrap_err();
        assert!(matches!(&why, Barrier::Writable { path, .. } if *path == pickup), "{rights:o}: {why}");
        assert!(why.to_string().ends_with(&format!("{command} {}", pickup.display())), "{why}");
        // A command that makes nothing reports the same.
        for walker in [Walker::Check, Walker::Sender] {
            assert_eq!(way::open(&contoso, walker).unwrap_err().to_string(), why.to_string());
        }
    }
    chmod(&pickup, 0o711);

    fs::write(pickup.join("file"), "").unwrap();
    assert!(matches!(OpenFolder::open(&pickup.join("file")), Err(Barrier::NoFolder(_))));

    symlink(&staging, pickup.join("linked")).unwrap();
    assert!(OpenFolder::open(&pickup.join("linked")).is_ok());
    chmod(&staging, 0o777);
    assert!(matches!(OpenFolder::open(&pickup.join("linked")), Err(Barrier::Open(_))));
    chmod(&staging, 0o755);
    // Perhaps a disk that is not mounted.
    symlink(staging.join("nowhere"), pickup.join("dangling")).unwrap();
    assert!(OpenFolder::open(&pickup.join("dangling")).unwrap_err().is_missing());
    assert!(!staging.join("nowhere").exists());
    symlink("loop", pickup.join("loop")).unwrap();
    assert!(matches!(OpenFolder::open(&pickup.join("loop")), Err(Barrier::Io { .. })));
    // A link on the way, and names that go up.
    symlink("../pickup/../pickup", staging.join("round")).unwrap();
    assert!(OpenFolder::open(&staging.join("round/contoso")).is_ok());
    // Missing folders are made, even past a link.
    assert!(OpenFolder::open(&staging.join("round/behind")).is_ok() && pickup.join("behind").is_dir());
    assert!(OpenFolder::open(&pickup.join("new")).is_ok() && pickup.join("new").is_dir());

    if !geteuid().is_root() {
        chmod(&contoso, 0o500);
        assert!(matches!(OpenFolder::open(&contoso), Err(Barrier::Denied { .. })));
        chmod(&contoso, 0o700);
    }
}

/// Root can give a folder away, and so can test all of it.
#[test]
fn a_stranger_owns_nothing_on_the_way() {
    const STRANGER: u32 = 12_345;
    if !geteuid().is_root() {
        return;
    }
    let (dir, pickup, staging) = temp();
    let contoso = pickup.join("contoso");
    for path in [dir.path(), &pickup, &contoso] {
        chown(path, Some(STRANGER), None).unwrap();
        let why = OpenFolder::open(&contoso).unwrap_err();
        assert!(matches!(why, Barrier::Stranger { user: STRANGER, to: 0, .. }), "{why}");
        assert!(why.to_string().ends_with(&format!("chown 0 {}", path.display())), "{why}");
        chown(path, Some(0), None).unwrap();
    }
    symlink(&staging, pickup.join("linked")).unwrap();
    lchown(pickup.join("linked"), Some(STRANGER), None).unwrap();
    let linked = OpenFolder::open(&pickup.join("linked"));
    assert!(matches!(linked, Err(Barrier::StrangersLink { user: STRANGER, .. })));
    // In a folder such as /tmp, a stranger's folder is the stranger's, and root's is root's.
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    chmod(dir.path(), 0o755);
    chmod(&shared, 0o1777);
    for name in ["strangers", "roots"] {
        fs::create_dir_all(shared.join(name).join("pickup/contoso")).unwrap();
    }
    chown(shared.join("strangers"), Some(STRANGER), None).unwrap();
    for walker in [Walker::Relay { makes: true }, Walker::Check, Walker::Sender] {
        let strangers = way::open(&shared.join("strangers/pickup/contoso"), walker);
        assert!(matches!(strangers, Err(Barrier::Stranger { user: STRANGER, .. })), "{walker:?}");
        assert!(way::open(&shared.join("roots/pickup/contoso"), walker).is_ok(), "{walker:?}");
    }
    // A sender learns who the relay's user is from what root has given away.
    chown(&pickup, Some(STRANGER), None).unwrap();
    chown(&contoso, Some(STRANGER), None).unwrap();
    assert!(way::open(&contoso, Walker::Sender).is_ok());
    chown(&contoso, Some(STRANGER + 1), None).unwrap();
    let why = way::open(&contoso, Walker::Sender).unwrap_err();
    assert!(why.to_string().ends_with(&format!("chown {STRANGER} {}", contoso.display())), "{why}");
}

#[test]
fn folders_that_are_made_on_the_way_can_be_passed_and_not_read() {
    let (dir, ..) = temp();
    let contoso = dir.path().join("a/b/contoso");
    OpenFolder::open(&contoso).unwrap();
    assert_eq!([mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))], [0o711, 0o711]);
    assert_eq!(mode(&contoso) & 0o007, 0);
}

#[tokio::test]
async fn a_folder_that_is_a_link_is_read() {
    let (dir, pickup, staging) = temp();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, pickup.join("fabrikam")).unwrap();
    let mut running = Running::start(House::new(), (dir, pickup, staging)).await;
    let staged = running.staging.join("next");
    fs::write(&staged, MAIL.replace("contoso", "fabrikam")).unwrap();
    fs::rename(staged, elsewhere.join("a.eml")).unwrap();
    assert_eq!(running.house.next().await.message.tenant.as_str(), "fabrikam");
    until(|| fs::read_dir(&elsewhere).unwrap().count() == 0).await;
}

/// What is done with an open place is done there, whatever is at its path by then.
#[test]
fn a_swap_after_the_check_does_not_matter() {
    let (_dir, pickup, _) = temp();
    let contoso = pickup.join("contoso");
    let aside = pickup.join("aside");
    fs::write(contoso.join("a.eml"), MAIL).unwrap();
    let place = OpenFolder::open(&contoso).unwrap();
    fs::rename(&contoso, &aside).unwrap();
    fs::create_dir(&contoso).unwrap();
    fs::write(contoso.join("a.eml"), "another").unwrap();
    place.rename_new("a.eml".as_ref(), "b.eml".as_ref()).unwrap();
    assert_eq!(fs::read_to_string(aside.join("b.eml")).unwrap(), MAIL);
    assert_eq!(place.list().unwrap().files.len(), 1);
    assert!(contoso.join("a.eml").exists());
}
