//! A process that dies between two steps of one file.

use rustix::fs::{FlockOperation, flock};

use super::{
    super::{
        candidates::Ready,
        intake::{Begun, StoredFile},
    },
    *,
};
use crate::config::Dots;
use crate::ingress::{Origin, Submission};
use relay_mail::{BodyKind, Envelope, MailboxAddress, MessageId};
use relay_spool::{Fault, Spool};

/// The last step that the process took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Nothing,
    Claimed,
    Accepted,
    Unlinked,
    Announced,
}

const STEPS: [Step; 5] = [Step::Nothing, Step::Claimed, Step::Accepted, Step::Unlinked, Step::Announced];

fn intake(house: &House, pickup: &Path) -> Intake {
    let door = house.door.clone();
    let metrics = house.metrics.clone();
    let marks = marks(pickup);
    let slots = Semaphore::new(1).into();
    let looks = Semaphore::new(1).into();
    Intake { door, hostname: "relay.example".into(), dots: Dots::Keep, metrics, marks, slots, looks }
}

async fn claim(intake: &Intake, folder: &Path, file: &str) -> Begun {
    let ready = Ready { name: file.into(), last_chance: false };
    let (_, claimed) = intake.claim(&name("contoso"), folder.into(), vec![ready]).await.pop().unwrap();
    claimed.unwrap()
}

async fn store(intake: &Intake, begun: Begun) -> StoredFile {
    intake.store(&name("contoso"), begun).await.ok().unwrap()
}

/// Takes the file as far as `last`. Then everything that a process has is dropped.
async fn go(intake: &Intake, folder: &Path, last: Step) {
    if last == Step::Nothing {
        return;
    }
    let begun = claim(intake, folder, "a.eml").await;
    if last == Step::Claimed {
        return;
    }
    let stored = store(intake, begun).await;
    if last == Step::Accepted {
        return;
    }
    assert_eq!(stored.claim.remove().unwrap(), None);
    if last == Step::Announced {
        stored.message.accepted.announce();
    }
}

async fn settle(pickup: &Path, spool: &Spool) {
    settle_leftovers(pickup, [name("contoso"), name("fabrikam")], spool, &marks(pickup)).await;
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A process dies after each step, and so does the next, at each step of the same file. The one after that
/// goes on.
#[tokio::test(start_paused = true)]
async fn whatever_step_a_process_dies_after_the_file_is_one_message() {
    for first in STEPS {
        for second in STEPS {
            let folders = temp();
            let contoso = folders.1.join("contoso");
            fs::write(contoso.join("a.eml"), MAIL).unwrap();
            let house = House::new();
            let store = house.store.clone();
            go(&intake(&house, &folders.1), &contoso, first).await;
            drop(house);

            let house = House::on_store(store.clone());
            settle(&folders.1, house.door.spool()).await;
            let is_taken = first >= Step::Accepted;
            assert_eq!(names(&contoso).len(), usize::from(!is_taken), "{first:?}");
            if !is_taken {
                assert_eq!(names(&contoso), ["a.eml"], "{first:?}");
                go(&intake(&house, &folders.1), &contoso, second).await;
            }
            drop(house);

            let house = House::on_store(store);
            settle(&folders.1, house.door.spool()).await;
            let mut running = Running::start(house, folders).await;
            assert!(running.house.next().await.content.ends_with(b"hello\r\n"));
            // A file taken in after it shows that nothing came in between.
            running.move_in("b.eml", &MAIL.replace("hello", "next"));
            let next = running.house.next().await.content;
            assert!(next.ends_with(b"next\r\n"), "twice after {first:?}, {second:?}");
            running.until_names("", &[]).await;
            running.shutdown.cancel();
            running.ended.await.unwrap();
        }
    }
}

/// The file has been unlinked, and then comes back after a power failure: its message is still there.
#[tokio::test]
async fn a_claimed_file_that_comes_back_while_its_message_waits_is_removed() {
    let (_dir, pickup, staging) = temp();
    let contoso = pickup.join("contoso");
    fs::write(contoso.join("a.eml"), MAIL).unwrap();
    let house = House::new();
    let store = house.store.clone();
    let intake = intake(&house, &pickup);
    let begun = claim(&intake, &contoso, "a.eml").await;
    let path = begun.claim.claimed_path();
    // The very same file.
    fs::hard_link(&path, staging.join("kept")).unwrap();
    let stored = self::store(&intake, begun).await;
    intake.finish(&name("contoso"), vec![("a.eml".into(), stored)]).await;
    drop((house, intake));
    fs::rename(staging.join("kept"), path).unwrap();

    let mut house = House::on_store(store);
    settle(&pickup, house.door.spool()).await;
    assert!(names(&contoso).is_empty());
    house.next().await;
    assert!(house.is_empty());
}

#[tokio::test]
async fn a_file_that_cannot_be_given_its_name_gets_another() {
    let (_dir, pickup, _) = temp();
    let contoso = pickup.join("contoso");
    fs::write(contoso.join("a.eml"), MAIL).unwrap();
    let house = House::new();
    drop(claim(&intake(&house, &pickup), &contoso, "a.eml").await);
    fs::write(contoso.join("a.eml"), "another").unwrap();
    settle(&pickup, house.door.spool()).await;
    assert_eq!(fs::read_to_string(contoso.join("a.eml")).unwrap(), "another");
    assert_eq!(fs::read_to_string(contoso.join("a.1.eml")).unwrap(), MAIL);
}

/// The file is written to after its message has been stored: what the spool has is half a message.
#[tokio::test]
async fn a_message_whose_file_goes_on_is_unwound() {
    let mut running = Running::new().await;
    let intake = intake(&running.house, &running.pickup);
    let contoso = running.pickup.join("contoso");
    // The service does not see it under this name.
    fs::write(running.staging.join("half.eml"), MAIL).unwrap();
    let begun = claim(&intake, &running.staging, "half.eml").await;
    let path = begun.claim.claimed_path();
    let stored = store(&intake, begun).await;
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"and more\n").unwrap();
    let outcomes = intake.finish(&name("contoso"), vec![("half.eml".into(), stored)]).await;
    assert!(
        matches!(outcomes[0].1, intake::FileOutcome::Unfinished { found: Some(_), released: true }),
        "{outcomes:?}"
    );
    assert_eq!(running.house.store.count(), (0, 0));
    assert!(running.house.is_empty());
    fs::rename(running.staging.join("half.eml"), contoso.join("half.eml")).unwrap();
    assert!(running.house.next().await.content.ends_with(b"and more\r\n"));
}

/// Its program renamed the file while it was in progress, and put something else in its place: the message
/// does not stay while its file does, and what is in its place is not removed.
#[tokio::test]
async fn a_message_whose_file_is_elsewhere_by_now_is_unwound() {
    let house = House::new();
    let (_dir, pickup, staging) = temp();
    let intake = intake(&house, &pickup);
    fs::write(staging.join("a.eml"), MAIL).unwrap();
    let begun = claim(&intake, &staging, "a.eml").await;
    let path = begun.claim.claimed_path();
    let stored = store(&intake, begun).await;
    fs::rename(&path, staging.join("elsewhere")).unwrap();
    fs::write(&path, "another").unwrap();
    let outcomes = intake.finish(&name("contoso"), vec![("a.eml".into(), stored)]).await;
    assert!(matches!(outcomes[0].1, intake::FileOutcome::Unfinished { .. }), "{outcomes:?}");
    assert_eq!(fs::read_to_string(staging.join("a.eml")).unwrap(), "another");
    assert_eq!(fs::read_to_string(staging.join("elsewhere")).unwrap(), MAIL);
    assert_eq!(house.store.count(), (0, 0));
    assert!(house.is_empty());
}

/// The disk fails, but has stored the message all the same: the file is taken when the disk works again, and
/// is one message.
#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_doubles_nothing() {
    for fault in [Fault::Lost, Fault::Stored] {
        let mut running = Running::new().await;
        running.house.store.break_down(fault);
        running.move_in("a.eml", MAIL);
        until(|| running.house.metric("refused_total{ingress=\"pickup\",reason=\"unhealthy\"}") > 0.0).await;
        running.house.store.mend();
        running.house.next().await;
        running.until_names("", &[]).await;
        running.move_in("b.eml", &MAIL.replace("hello", "next"));
        assert!(running.house.next().await.content.ends_with(b"next\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_relay_has_claimed_is_its_own() {
    let folders = temp();
    let contoso = folders.1.join("contoso");
    let claimed = ".alive.eml.0000000000001.claimed";
    fs::write(contoso.join(claimed), MAIL).unwrap();
    let elsewhere = File::open(contoso.join(claimed)).unwrap();
    flock(&elsewhere, FlockOperation::NonBlockingLockExclusive).unwrap();
    let house = House::new();
    settle(&folders.1, house.door.spool()).await;
    let mut running = Running::start(house, folders).await;
    running.move_in("a.eml", MAIL);
    running.house.next().await;
    running.until_names("", &[claimed]).await;
    // Only its own spool knows what became of it.
    drop(elsewhere);
    sleep(SLOW_SCAN * 3).await;
    assert_eq!(running.names(""), [claimed]);
    assert!(running.house.is_empty());
}

#[tokio::test]
async fn every_tenants_folder_is_looked_into() {
    let (_dir, pickup, _) = temp();
    let tenants: Vec<_> = (0..200).map(|number| name(&format!("t{number}"))).collect();
    for tenant in &tenants {
        fs::create_dir(pickup.join(tenant.as_str())).unwrap();
    }
    for tenant in tenants.iter().step_by(10) {
        fs::write(pickup.join(tenant.as_str()).join(".a.eml.0000000000001.claimed"), MAIL).unwrap();
    }
    let house = House::new();
    settle_leftovers(&pickup, tenants.clone(), house.door.spool(), &marks(&pickup)).await;
    for tenant in tenants.iter().step_by(10) {
        assert!(pickup.join(tenant.as_str()).join("a.eml").exists());
    }
}

/// A message of contoso's own, and its id.
async fn accept_by_smtp(house: &House) -> MessageId {
    let sender: MailboxAddress = "a@contoso.example".parse().unwrap();
    let envelope =
        Envelope::new(Some(sender), ["b@example.net".parse().unwrap()], BodyKind::SevenBit).unwrap();
    let grant = house.door.admit_client([127, 0, 0, 1].into(), envelope.sender(), None).unwrap();
    let origin = Origin { client: None, by: "relay.example".into() };
    let mut submission = Submission::begin(&house.door, grant, envelope, origin);
    submission.write(MAIL.replace('\n', "\r\n").as_bytes()).await.unwrap();
    submission.finish().await.unwrap().id()
}

/// What a tenant's program can plant: names of claims, with the ids of messages that are in the spool.
#[tokio::test]
async fn a_planted_leftover_removes_no_message() {
    let (_dir, pickup, staging) = temp();
    let contoso = pickup.join("contoso");
    fs::create_dir(pickup.join("fabrikam")).unwrap();
    let mut house = House::new();
    let intake = intake(&house, &pickup);
    // Four messages: another tenant's, two of its own by pickup, and one of its own by SMTP.
    let mut ids = Vec::new();
    for (tenant, file) in [("fabrikam", "f.eml"), ("contoso", "a.eml"), ("contoso", "b.eml")] {
        let folder = pickup.join(tenant);
        fs::write(folder.join(file), MAIL.replace("contoso", tenant)).unwrap();
        let ready = vec![Ready { name: file.into(), last_chance: false }];
        let begun = intake.claim(&name(tenant), folder.into(), ready).await.pop().unwrap().1.unwrap();
        let path = begun.claim.claimed_path();
        // Otherwise its inode might be used again, perhaps by what is planted.
        fs::hard_link(&path, staging.join(file)).unwrap();
        ids.push((begun.claim.id(), path.file_name().unwrap().to_owned()));
        let stored = intake.store(&name(tenant), begun).await.ok().unwrap();
        intake.finish(&name(tenant), vec![(file.into(), stored)]).await;
    }
    let by_smtp = accept_by_smtp(&house).await;
    let marks = marks(&pickup);
    let own = ids[1].1.to_str().unwrap().to_owned();
    let mark_of_other = ids[2].1.to_str().unwrap().rsplit_once('-').unwrap().1.to_owned();
    let planted = [
        format!(".x1.eml.{}.claimed", ids[0].0),
        format!(".x2.eml.{}-0000000000000000.claimed", ids[0].0),
        format!(".x3.eml.{by_smtp}.claimed"),
        format!(".x4.eml.{by_smtp}-0000000000000000.claimed"),
        format!(".x5.eml.{}-{mark_of_other}", ids[1].0),
        // The right name on another file.
        own.clone(),
    ];
    for file in &planted {
        fs::write(contoso.join(file), "planted").unwrap();
    }
    // Names of claims that cannot be unlinked: for these, the message used to be taken out of the spool.
    for id in [ids[0].0, by_smtp, ids[1].0] {
        fs::create_dir(contoso.join(format!(".folder-{id}.eml.{id}.claimed"))).unwrap();
        fs::create_dir(contoso.join(format!(".folder-{id}.eml.{id}-0000000000000000.claimed"))).unwrap();
    }
    let before = names(&contoso).len();
    settle_leftovers(&pickup, [name("contoso"), name("fabrikam")], house.door.spool(), &marks).await;
    assert_eq!(names(&contoso).len(), before, "{:?}", names(&contoso));
    for _ in 0..4 {
        house.next().await;
    }

    // A claim of an earlier version, whose message is in the spool: it has been taken. One whose message is
    // not in the spool: it has not been taken.
    let begun_before = format!(".old.eml.{}.claimed", ids[1].0);
    fs::write(contoso.join(&begun_before), MAIL).unwrap();
    fs::write(contoso.join(".older.eml.0000000000001.claimed"), MAIL).unwrap();
    fs::write(contoso.join(".garbage.eml.0000000000001-ZZZZZZZZZZZZZZZZ.claimed"), MAIL).unwrap();
    settle_leftovers(&pickup, [name("contoso")], house.door.spool(), &marks).await;
    assert!(!contoso.join(begun_before).exists() && contoso.join("older.eml").exists());
    assert!(contoso.join("garbage.eml").exists());
    assert_eq!(house.store.count().0, 4);
}
