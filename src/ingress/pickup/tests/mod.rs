//! Files in real folders.

mod crash;
mod places;

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::symlink,
};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::sleep};

use super::*;
use crate::{
    config::Dots,
    ingress::testing::{House, name},
};

const MAIL: &str = "From: a@contoso.example\nTo: b@example.net\nSubject: s\n\nhello\n";

struct Running {
    house: House,
    /// With `contoso` and `fabrikam` in it.
    pickup: PathBuf,
    staging: PathBuf,
    shutdown: CancellationToken,
    ended: JoinHandle<()>,
    _dir: TempDir,
}

fn temp() -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let pickup = dir.path().join("pickup");
    let staging = dir.path().join("staging");
    fs::create_dir_all(pickup.join("contoso")).unwrap();
    fs::create_dir(&staging).unwrap();
    (dir, pickup, staging)
}

/// The marks of the spool beside these folders.
fn marks(pickup: &Path) -> Marks {
    let spool = pickup.with_file_name("spool");
    fs::create_dir_all(&spool).unwrap();
    Marks::of_spool(&spool).unwrap()
}

impl Running {
    async fn start(house: House, (dir, pickup, staging): (TempDir, PathBuf, PathBuf)) -> Self {
        let hostname = "relay.example".into();
        let marks = marks(&pickup);
        let metrics = house.metrics.clone();
        let config = PickupConfig { path: pickup.clone(), dots: Dots::Keep };
        let service = Pickup::new(&config, house.roster(), house.door.clone(), hostname, marks, metrics);
        let shutdown = CancellationToken::new();
        let ended = tokio::spawn(service.run(shutdown.clone()));
        until(|| pickup.join("fabrikam").is_dir()).await;
        Self { house, pickup, staging, shutdown, ended, _dir: dir }
    }

    async fn new() -> Self {
        Self::start(House::new(), temp()).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pickup.join("contoso").join(name)
    }

    /// The safe way to hand over a message.
    fn move_in(&self, name: &str, content: &str) {
        let staged = self.staging.join("next");
        fs::write(&staged, content).unwrap();
        fs::rename(staged, self.path(name)).unwrap();
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(folder))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    async fn until_names(&self, folder: &str, expected: &[&str]) {
        until(|| self.names(folder) == expected).await;
    }
}

/// The unlinking of a file, for example, comes a moment after its message is in the spool.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_file_moved_in_is_sent_and_gone() {
    let mut running = Running::new().await;
    running.move_in("a.EML", MAIL);
    let found = running.house.next().await;
    assert_eq!(found.message.tenant.as_str(), "contoso");
    assert_eq!(found.message.envelope.sender().unwrap().as_str(), "a@contoso.example");
    assert_eq!(found.message.envelope.recipients()[0].as_str(), "b@example.net");
    let content = String::from_utf8(found.content).unwrap();
    assert!(content.starts_with("Received: "), "{content}");
    // Lines that ended in LF have become mail.
    assert!(content.contains("Subject: s\r\n") && content.ends_with("\r\n\r\nhello\r\n"), "{content}");
    assert_eq!(content.matches('\n').count(), content.matches("\r\n").count());
    running.until_names("", &[]).await;
    assert_eq!(running.house.metric("received_total{ingress=\"pickup\",tenant=\"contoso\"}"), 1.0);
    running.shutdown.cancel();
    running.ended.await.unwrap();
}

#[tokio::test]
async fn a_file_outlives_a_tenant_that_goes_while_it_is_taken() {
    let mut running = Running::new().await;
    running.house.take_away("contoso");
    // As a folder that has not heard of it would ask.
    let door = &running.house.door;
    assert!(door.is_open_to(&name("contoso")).is_err());
    let refusal = door.admit_file(&name("contoso"), None, 1).unwrap_err();
    assert!(refusal.is_temporary(), "{refusal}");
    running.move_in("a.eml", MAIL);
    running.shutdown.cancel();
    (&mut running.ended).await.unwrap();
    assert!(running.path("a.eml").exists());
}

#[tokio::test]
async fn lines_at_the_top_are_the_envelope() {
    let mut running = Running::new().await;
    running.move_in(
        "a.eml",
        "x-sender: s@contoso.example\r\nx-receiver: hidden@example.net\r\nFrom: a@contoso.example\r\n\
         To: b@example.net\r\n\r\n..dots are dots\r\n.\r\nno end of line",
    );
    let found = running.house.next().await;
    assert_eq!(found.message.envelope.sender().unwrap().as_str(), "s@contoso.example");
    let recipients: Vec<_> = found.message.envelope.recipients().iter().map(|r| r.as_str()).collect();
    assert_eq!(recipients, ["hidden@example.net"]);
    let content = String::from_utf8(found.content).unwrap();
    assert!(!content.contains("hidden"), "{content}");
    assert!(content.ends_with("\r\n\r\n..dots are dots\r\n.\r\nno end of line"), "{content}");
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    let mut running = Running::new().await;
    let mut writer = File::create(running.path("slow.eml")).unwrap();
    writer.write_all(MAIL.as_bytes()).unwrap();
    // Hints come in order: once this one is through, the folder knows of the first.
    running.move_in("quick.eml", MAIL);
    assert!(running.house.next().await.content.ends_with(b"hello\r\n"));
    for _ in 0..100_000 / 10 {
        writer.write_all(b"and more\n\n").unwrap();
    }
    assert!(running.house.is_empty());
    drop(writer);
    let content = running.house.next().await.content;
    assert_eq!(content.windows(8).filter(|text| text == b"and more").count(), 10_000);
    running.until_names("", &[]).await;
}

#[tokio::test]
async fn a_file_closed_before_its_header_ends_gets_time() {
    let mut running = Running::new().await;
    fs::write(running.path("a.eml"), "From: a@contoso.example\nTo: b@example.net\n").unwrap();
    running.move_in("quick.eml", MAIL);
    running.house.next().await;
    let mut more = OpenOptions::new().append(true).open(running.path("a.eml")).unwrap();
    more.write_all(b"Subject: s\n\nwhole\n").unwrap();
    drop(more);
    assert!(running.house.next().await.content.ends_with(b"whole\r\n"));
    running.until_names("", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_that_never_ends_is_bad() {
    let running = Running::new().await;
    fs::write(running.path("a.eml"), "From: a@contoso.example\n").unwrap();
    File::create(running.path("b.eml")).unwrap();
    running.until_names("", &["a.bad", "a.bad.txt", "b.bad", "b.bad.txt"]).await;
    let reason = |name: &str| fs::read_to_string(running.path(name)).unwrap();
    assert!(reason("a.bad.txt").contains("header does not end"));
    assert!(reason("b.bad.txt").contains("file is empty"));
}

#[tokio::test(start_paused = true)]
async fn files_without_hints_are_found() {
    // They were there before the start.
    let folders = temp();
    fs::write(folders.1.join("contoso/a.eml"), MAIL).unwrap();
    let mut running = Running::start(House::new(), folders).await;
    assert!(running.house.next().await.content.ends_with(b"hello\r\n"));
}

#[tokio::test]
async fn a_bad_file_is_put_aside_with_the_reason() {
    let running = Running::new().await;
    let reason = |name: &str| fs::read_to_string(running.path(name)).unwrap();
    let first = "From: a@contoso.example\nSubject: to nobody\n\nhello\n";
    running.move_in("a.eml", first);
    running.until_names("", &["a.bad", "a.bad.txt"]).await;
    let text = reason("a.bad.txt");
    assert!(text.starts_with("20") && text.contains("no recipient") && text.lines().count() == 1, "{text}");
    assert_eq!(reason("a.bad"), first);
    // Another of that name does not replace it.
    running.move_in("a.EML", &MAIL.replace("contoso.example", "elsewhere.example"));
    running.until_names("", &["a.1.bad", "a.1.bad.txt", "a.bad", "a.bad.txt"]).await;
    assert!(reason("a.1.bad.txt").contains("550 5.7.1"));
    // A reason without its file, as a crash leaves it, or a user's own file, is not replaced either.
    fs::write(running.path("cr.bad.txt"), "other").unwrap();
    fs::write(running.path("cr.1.bad"), "other").unwrap();
    running.move_in("cr.eml", &format!("{MAIL}a\rb\n"));
    until(|| running.path("cr.2.bad").exists()).await;
    assert!(reason("cr.2.bad.txt").contains("carriage return"));
    assert_eq!((reason("cr.bad.txt"), reason("cr.1.bad")), ("other".into(), "other".into()));
    assert!(!running.path("cr.1.bad.txt").exists());
    assert!(running.house.is_empty());
    assert_eq!(running.house.metric("refused_total{ingress=\"pickup\",reason=\"malformed\"}"), 2.0);
    assert_eq!(running.house.metric("refused_total{ingress=\"pickup\",reason=\"sender\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_full_relay_is_waited_for() {
    let mut running = Running::start(House::with_max_queued(1), temp()).await;
    running.move_in("first.eml", MAIL);
    let first = running.house.next().await;
    for number in 0..5 {
        running.move_in(&format!("{number}.eml"), &MAIL.replace("hello", &format!("number {number}")));
    }
    until(|| running.house.metric("refused_total{ingress=\"pickup\",reason=\"tenant_full\"}") > 0.0).await;
    assert!(running.house.is_empty());
    running.house.end(first).await;
    let mut bodies = Vec::new();
    for _ in 0..5 {
        let found = running.house.next().await;
        let content = String::from_utf8(found.content.clone()).unwrap();
        bodies.push(content.lines().last().unwrap().to_owned());
        running.house.end(found).await;
    }
    bodies.sort();
    assert_eq!(bodies, ["number 0", "number 1", "number 2", "number 3", "number 4"]);
    running.until_names("", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_plain_file_is_left_alone() {
    let mut running = Running::new().await;
    fs::write(running.staging.join("secret"), MAIL).unwrap();
    symlink(running.staging.join("secret"), running.path("link.eml")).unwrap();
    fs::create_dir(running.path("folder.eml")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, running.path("pipe.eml"), fifo, 0o600.into(), 0).unwrap();
    fs::write(running.path(".hidden.eml"), MAIL).unwrap();
    fs::write(running.path("other.txt"), MAIL).unwrap();
    running.move_in("a.eml", &MAIL.replace("hello", "plain"));
    assert!(running.house.next().await.content.ends_with(b"plain\r\n"));
    fs::hard_link(running.staging.join("secret"), running.path("hard.eml")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(running.path("socket.eml")).unwrap();
    let long = format!("{}.eml", "x".repeat(251));
    fs::write(running.path(&long), MAIL).unwrap();
    let left =
        [".hidden.eml", "folder.eml", "hard.eml", "link.eml", "other.txt", "pipe.eml", "socket.eml", &long];
    running.until_names("", &left).await;
    // Two more slow scans.
    sleep(SLOW_SCAN * 2).await;
    assert_eq!(running.names(""), left);
    assert!(running.house.is_empty());
    // A file whose other name is removed is like any other: some programs hand files over in this way.
    fs::remove_file(running.staging.join("secret")).unwrap();
    assert!(running.house.next().await.content.ends_with(b"hello\r\n"));
    until(|| !running.path("hard.eml").exists()).await;
}

#[tokio::test]
async fn one_tenants_flood_does_not_stall_another() {
    let mut running = Running::new().await;
    for number in 0..2000 {
        running.move_in(&format!("{number}.eml"), MAIL);
    }
    until(|| !running.house.is_empty()).await;
    let staged = running.staging.join("single");
    fs::write(&staged, MAIL.replace("contoso", "fabrikam")).unwrap();
    fs::rename(staged, running.pickup.join("fabrikam/single.eml")).unwrap();
    let mut before = 0;
    while running.house.next().await.message.tenant.as_str() != "fabrikam" {
        before += 1;
    }
    println!("{before} of 2000 files of the other tenant came before");
    assert!(before < 1000, "{before}");
}

#[tokio::test]
async fn hundreds_at_once() {
    let mut running = Running::new().await;
    for number in 0..500 {
        running.move_in(&format!("{number}.eml"), MAIL);
    }
    for _ in 0..500 {
        assert!(running.house.next().await.content.ends_with(b"hello\r\n"));
    }
    running.until_names("", &[]).await;
    assert!(running.house.is_empty());
}

#[tokio::test]
async fn a_stranger_is_reported_once() {
    let (_dir, path, _) = temp();
    fs::create_dir(path.join("contosso")).unwrap();
    let strangers = Strangers { path, reported: HashSet::new() };
    let strangers = strangers.report(&House::new().roster().now()).await;
    assert!(!strangers.reported.contains(std::ffi::OsStr::new("contoso")));
    assert!(strangers.reported.contains(std::ffi::OsStr::new("contosso")));
}
