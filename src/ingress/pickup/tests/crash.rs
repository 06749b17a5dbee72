//! A process that dies between two steps of one file.

use rustix::fs::{FlockOperation, flock};

use super::{
    super::{
        candidates::Ready,
        intake::{Begun, Stored},
    },
    *,
};
use crate::spool::{Fault, Spool};

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

fn intake(house: &House) -> Intake {
    let (door, metrics) = (house.door.clone(), house.metrics.clone());
    let (slots, looks) = (Semaphore::new(1).into(), Semaphore::new(1).into());
    Intake { door, hostname: "relay.example".into(), metrics, slots, looks }
}

async fn claim(intake: &Intake, folder: &Path, name: &str) -> Begun {
    let ready = Ready { name: name.into(), last_chance: false };
    let (_, claimed) = intake.claim(folder.into(), vec![ready]).await.pop().unwrap();
    claimed.unwrap()
}

async fn store(intake: &Intake, begun: Begun) -> Stored {
    intake.store(&name("contoso"), begun).await.ok().unwrap()
}

/// Takes the file as far as `last`. Everything that a process has is dropped then.
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
    settle_leftovers(pickup, [name("contoso"), name("fabrikam")], spool).await;
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A process dies after each step, and so does the next, at each step of the same file. The one after that goes on.
#[tokio::test(start_paused = true)]
async fn whatever_step_a_process_dies_after_the_file_is_one_message() {
    for first in STEPS {
        for second in STEPS {
            let folders = temp();
            let contoso = folders.1.join("contoso");
            fs::write(contoso.join("a.eml"), MAIL).unwrap();
            let house = House::new();
            let store = house.store.clone();
            go(&intake(&house), &contoso, first).await;
            drop(house);

            let house = House::on_store(store.clone());
            settle(&folders.1, house.door.spool()).await;
            let is_taken = first >= Step::Accepted;
            assert_eq!(names(&contoso).len(), usize::from(!is_taken), "{first:?}");
            if !is_taken {
                assert_eq!(names(&contoso), ["a.eml"], "{first:?}");
                go(&intake(&house), &contoso, second).await;
            }
            drop(house);

            let house = House::on_store(store);
            settle(&folders.1, house.door.spool()).await;
            let mut running = Running::start(house, folders).await;
            assert!(running.house.next().await.content.ends_with(b"hello\r\n"));
            // Whatever is taken in after it shows that nothing came in between.
            running.move_in("b.eml", &MAIL.replace("hello", "next"));
            let next = running.house.next().await.content;
            assert!(next.ends_with(b"next\r\n"), "twice after {first:?}, {second:?}");
            running.until_names("", &[]).await;
            running.shutdown.cancel();
            running.ended.await.unwrap();
        }
    }
}

/// The file has been unlinked, and then comes back by a failure of power: its message is still there.
#[tokio::test]
async fn a_claimed_file_that_comes_back_while_its_message_waits_is_removed() {
    let (_dir, pickup, _) = temp();
    let contoso = pickup.join("contoso");
    fs::write(contoso.join("a.eml"), MAIL).unwrap();
    let house = House::new();
    let store = house.store.clone();
    let intake = intake(&house);
    let begun = claim(&intake, &contoso, "a.eml").await;
    let path = begun.claim.claimed_path();
    let stored = self::store(&intake, begun).await;
    intake.finish(&name("contoso"), vec![("a.eml".into(), stored)]).await;
    drop((house, intake));
    fs::write(path, MAIL).unwrap();

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
    drop(claim(&intake(&house), &contoso, "a.eml").await);
    fs::write(contoso.join("a.eml"), "another").unwrap();
    settle(&pickup, house.door.spool()).await;
    assert_eq!(fs::read_to_string(contoso.join("a.eml")).unwrap(), "another");
    assert_eq!(fs::read_to_string(contoso.join("a.1.eml")).unwrap(), MAIL);
}

/// The file is written to after its message has been stored: what the spool has is half a message.
#[tokio::test]
async fn a_message_whose_file_goes_on_is_unwound() {
    let mut running = Running::new().await;
    let intake = intake(&running.house);
    let contoso = running.pickup.join("contoso");
    // The service does not see it under this name.
    fs::write(running.staging.join("half.eml"), MAIL).unwrap();
    let begun = claim(&intake, &running.staging, "half.eml").await;
    let path = begun.claim.claimed_path();
    let stored = store(&intake, begun).await;
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"and more\n").unwrap();
    let outcomes = intake.finish(&name("contoso"), vec![("half.eml".into(), stored)]).await;
    assert!(
        matches!(outcomes[0].1, intake::Outcome::Unfinished { found: Some(_), released: true }),
        "{outcomes:?}"
    );
    assert_eq!(running.house.store.count(), (0, 0));
    assert!(running.house.is_empty());
    fs::rename(running.staging.join("half.eml"), contoso.join("half.eml")).unwrap();
    assert!(running.house.next().await.content.ends_with(b"and more\r\n"));
}

/// Unlinking fails, as in a folder whose permissions were changed: the message does not stay while its file does.
#[tokio::test]
async fn a_message_whose_file_cannot_be_unlinked_is_unwound() {
    let house = House::new();
    let intake = intake(&house);
    let (_dir, _, staging) = temp();
    fs::write(staging.join("a.eml"), MAIL).unwrap();
    let begun = claim(&intake, &staging, "a.eml").await;
    let path = begun.claim.claimed_path();
    let stored = store(&intake, begun).await;
    // A folder of that name cannot be unlinked as a file can, whoever tries.
    fs::rename(&path, staging.join("elsewhere")).unwrap();
    fs::create_dir(&path).unwrap();
    let outcomes = intake.finish(&name("contoso"), vec![("a.eml".into(), stored)]).await;
    assert!(matches!(outcomes[0].1, intake::Outcome::Unreadable(_)), "{outcomes:?}");
    assert_eq!(house.store.count(), (0, 0));
    assert!(house.is_empty());
}

/// The disk fails, and has stored the message all the same: the file is taken when it works again, and is one message.
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
    settle_leftovers(&pickup, tenants.clone(), house.door.spool()).await;
    for tenant in tenants.iter().step_by(10) {
        assert!(pickup.join(tenant.as_str()).join("a.eml").exists());
    }
}
