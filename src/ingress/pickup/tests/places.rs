//! Folders that are not as they should be.

use std::os::unix::fs::{PermissionsExt, lchown};

use rustix::process::geteuid;

use super::{
    super::place::{self, Unusable},
    *,
};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
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

    chmod(&contoso, 0o775);
    running.house.next().await;
    running.house.next().await;
    running.until_names("", &[]).await;
}

#[test]
fn what_makes_a_folder_unusable() {
    let (_dir, pickup, staging) = temp();
    let contoso = pickup.join("contoso");
    assert!(place::list(&contoso).is_ok());
    chmod(&contoso, 0o1777);
    let why = place::list(&contoso).unwrap_err().to_string();
    assert!(why.contains(&format!("chmod o-w {}", contoso.display())), "{why}");
    chmod(&contoso, 0o770);
    // Everybody could put another folder in its place.
    chmod(&pickup, 0o777);
    assert!(matches!(place::list(&contoso), Err(Unusable::Open(path)) if path == pickup));
    chmod(&pickup, 0o755);

    fs::write(pickup.join("file"), "").unwrap();
    assert!(matches!(place::list(&pickup.join("file")), Err(Unusable::NoFolder(_))));

    symlink(&staging, pickup.join("linked")).unwrap();
    assert!(place::list(&pickup.join("linked")).is_ok());
    chmod(&staging, 0o777);
    assert!(matches!(place::list(&pickup.join("linked")), Err(Unusable::Open(_))));
    chmod(&staging, 0o755);
    symlink(staging.join("nowhere"), pickup.join("dangling")).unwrap();
    assert!(place::list(&pickup.join("dangling")).is_err());
    // Missing folders are made.
    assert!(place::list(&pickup.join("new")).is_ok() && pickup.join("new").is_dir());

    if geteuid().is_root() {
        lchown(pickup.join("linked"), Some(12345), None).unwrap();
        let linked = place::list(&pickup.join("linked"));
        assert!(matches!(linked, Err(Unusable::StrangersLink { user: 12345, .. })));
    } else {
        chmod(&contoso, 0o500);
        assert!(matches!(place::list(&contoso), Err(Unusable::Denied { .. })));
        chmod(&contoso, 0o700);
    }
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
