//! Crashes and cut connections: nothing acknowledged is lost, and mail that may have been sent is not sent
//! again at once.

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use m365_relay::clock;
use relay_sandbox::{Action, Fault, On, StatusFault};

use crate::harness::{Lab, Mail, base64_mail, message, wait_until, with_end};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";
const SETTLE: u64 = 2000;

fn lab() -> Lab {
    Lab::with(|setup| setup.delivery = format!("settle_after = '{SETTLE}ms'"))
}

/// Lasts longer than any test.
fn for_ever(on: On) -> Fault {
    Fault::new(on, Action::Delay(Duration::from_secs(600)))
}

#[test]
fn killed_between_250_and_delivery_it_is_delivered_once_after_the_restart() {
    let mut lab = lab();
    lab.inject(for_ever(On::Token));
    let mut sent = vec![
        message(FROM, TO, "small"),
        base64_mail(FROM, TO, "middle", 30_000),
        base64_mail(FROM, TO, "large", 300_000),
    ];
    let mut smtp = lab.smtp();
    for content in &sent {
        smtp.send(FROM, &[TO], content);
    }
    // Half a message, for which there was no 250.
    smtp.begin(FROM, &[TO]);
    assert_eq!(smtp.command("DATA").code, 354);
    smtp.write(&base64_mail(FROM, TO, "half", 200_000));
    lab.kill9();
    assert_eq!(lab.sends(FROM).len(), 0);
    lab.service.clear_faults();
    lab.restart();

    let mut delivered: Vec<Vec<u8>> = lab.wait_for(3).iter().map(|m| m.as_sent().to_vec()).collect();
    lab.wait_until_empty();
    lab.wait_for(3);
    sent.sort();
    delivered.sort();
    assert!(sent == delivered, "not what was sent");
    // They had not been tried, so nothing was in doubt.
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &[]), 0.0);

    // The spool has forgotten them too.
    lab.kill9();
    lab.restart();
    lab.wait_until_empty();
    lab.wait_for(3);
    let large = lab.folder().join("spool/body/large");
    assert_eq!(large.read_dir().unwrap().count(), 0, "bodies were left behind");
}

#[test]
fn killed_with_a_delivery_in_flight_it_is_sent_again_only_after_it_has_settled() {
    let mut lab = lab();
    lab.inject(for_ever(On::SendMail).times(1));
    let content = message(FROM, TO, "in flight");
    lab.send(FROM, &[TO], &content);
    wait_until("the call to reach the service", || lab.service.peak_concurrency(FROM) == 1);
    let killed_at = clock::now();
    lab.kill9();
    lab.restart();

    let delivered = lab.wait_for(1);
    assert_eq!(delivered[0].as_sent(), content);
    let waited = delivered[0].accepted_at_ms - killed_at.as_millis();
    assert!(waited >= SETTLE, "{waited}");
    lab.wait_until_empty();
    assert_eq!(lab.sends(FROM).len(), 1, "the first call has no answer yet");
    let labels = [("tenant", "contoso"), ("resolved", "resent")];
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &labels), 1.0);
}

/// Delivered twice, because there is no service to ask yet: once it is certain to arrive, and both copies are
/// the same.
fn is_sent_again_the_same(action: Action) {
    let lab = lab();
    lab.inject(Fault::new(On::SendMail, action).times(1));
    let content = base64_mail(FROM, TO, "twice", 100_000);
    lab.send(FROM, &[TO], &content);

    let delivered = lab.wait_for(2);
    lab.wait_until_empty();
    assert!(delivered[0].raw == delivered[1].raw, "the copies differ");
    assert!(delivered[0].as_sent() == content, "not what was sent");
    let calls = lab.sends(FROM);
    assert_eq!(calls.len(), 2);
    let waited = calls[1].received_at_ms - calls[0].received_at_ms;
    assert!(waited >= SETTLE, "{waited}");
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &[("resolved", "resent")]), 1.0);
    assert_eq!(lab.metric("m365_relay_deliveries_total", &[("outcome", "unknown")]), 1.0);
}

#[test]
fn a_connection_cut_after_acceptance_leaves_it_in_doubt() {
    is_sent_again_the_same(Action::CutAfter);
}

#[test]
fn a_gateway_timeout_after_acceptance_leaves_it_in_doubt() {
    is_sent_again_the_same(Action::StatusAfter(StatusFault::new(504, "gatewayTimeout")));
}

#[test]
fn a_connection_cut_before_acceptance_loses_nothing() {
    let lab = lab();
    lab.inject(Fault::new(On::SendMail, Action::CutBefore).times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "cut"));

    lab.wait_for(1);
    lab.wait_until_empty();
    let calls = lab.sends(FROM);
    assert_eq!((calls[0].status, calls[1].status), (None, Some(202)));
    assert!(calls[1].received_at_ms >= calls[0].received_at_ms + SETTLE, "{calls:#?}");
}

#[test]
fn a_crash_in_doubt_stays_in_doubt_over_another_crash() {
    let mut lab = lab();
    lab.inject(for_ever(On::SendMail).times(1));
    lab.send(FROM, &[TO], &message(FROM, TO, "twice unlucky"));
    wait_until("the call to reach the service", || lab.service.peak_concurrency(FROM) == 1);
    lab.kill9();
    let killed_at = clock::now();
    lab.restart();
    // Before the outcome has been settled.
    lab.kill9();
    lab.restart();

    let delivered = lab.wait_for(1);
    assert!(delivered[0].accepted_at_ms >= killed_at.as_millis() + SETTLE);
    lab.wait_until_empty();
    assert_eq!(lab.metric("m365_relay_unknown_outcomes_total", &[("resolved", "resent")]), 1.0);
}

/// Ids, not counts: each message that was acknowledged is delivered. Twice is allowed only for those whose
/// attempt was in flight at a kill, which the spool itself reports (`spool check` between the kill and the
/// start).
#[test]
fn killed_fifty_times_under_load_it_loses_nothing_that_was_acknowledged() {
    const KILLS: usize = 50;
    let mut lab = Lab::with(|setup| {
        setup.with_own_address();
        setup.delivery = "settle_after = '50ms'".into();
    });
    // Deliveries that take a while, so that some are in flight at each kill.
    lab.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_millis(20))));
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut acknowledged = HashMap::<String, String>::new();
    let mut in_flight = HashSet::<String>::new();
    for round in 0..KILLS {
        let address = lab.smtp_address();
        let (said, heard) = mpsc::channel();
        // Ten clients send until the connection breaks, at a random moment: from the first acceptance to some
        // hundreds of messages later.
        thread::scope(|scope| {
            for client in 0..10 {
                let said = said.clone();
                scope.spawn(move || send_until_cut(address, &format!("{round}-{client}"), &said));
            }
            drop(said);
            let first = heard.recv().expect("a message is accepted");
            acknowledged.extend([first]);
            thread::park_timeout(Duration::from_micros(random.next() % 150_000));
            lab.kill9();
        });
        acknowledged.extend(heard);
        let check = lab.run(&["spool", "check", "--json", "--config", "config.toml"]);
        let found: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
        assert!(check.status.success(), "the spool is not whole after kill {round}: {found}");
        let leased = found["leased"].as_array().unwrap();
        in_flight.extend(leased.iter().map(|id| id.as_str().unwrap().to_owned()));
        lab.restart();
    }
    lab.service.clear_faults();
    lab.wait_until_empty();

    // A delivered message shows under which id the relay knew it. That identifies one that was never
    // acknowledged.
    let mut copies = HashMap::<String, usize>::new();
    for message in lab.service.messages() {
        let text = message.text();
        let (_, id) = text.split_once(" id ").expect("a Received field");
        let id: String = id.chars().take_while(char::is_ascii_alphanumeric).collect();
        *copies.entry(id).or_default() += 1;
    }
    let lost: Vec<_> = acknowledged.iter().filter(|(id, _)| !copies.contains_key(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let twice: Vec<_> =
        copies.iter().filter(|(id, copies)| **copies > 1 && !in_flight.contains(*id)).collect();
    assert!(twice.is_empty(), "delivered again though no attempt was in flight: {twice:?}");
    let repeated = copies.values().filter(|copies| **copies > 1).count();
    println!(
        "{KILLS} kills: {} acknowledged, {} delivered, {} in flight at a kill, {repeated} of these delivered twice",
        acknowledged.len(),
        copies.len(),
        in_flight.len(),
    );
    assert!(acknowledged.len() > 10 * KILLS, "too little load: {}", acknowledged.len());
    assert!(!in_flight.is_empty(), "no kill hit a delivery");
}

/// Xorshift: the same moments in each run, as far as the machine allows.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Sends message after message, and reports the queue id and subject of each that is acknowledged, until
/// something fails.
fn send_until_cut(address: SocketAddr, name: &str, said: &mpsc::Sender<(String, String)>) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut replies = BufReader::new(stream.try_clone()?).lines();
    let mut say = |octets: &[u8], count| -> io::Result<String> {
        stream.write_all(octets)?;
        let mut last = String::new();
        for _ in 0..count {
            last = replies.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        }
        Ok(last)
    };
    say(b"HELO client.example\r\n", 2)?;
    for n in 0.. {
        let subject = format!("{name}-{n}");
        say(format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n").as_bytes(), 3)?;
        let reply = say(&with_end(&message(FROM, TO, &subject)), 1)?;
        if !reply.starts_with("250 ") {
            return Err(io::Error::other(reply));
        }
        let id = reply.rsplit(' ').next().unwrap_or_default().to_owned();
        let _ = said.send((id, subject));
    }
    Ok(())
}
