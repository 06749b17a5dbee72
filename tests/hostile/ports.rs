//! The ports that anybody can reach: memory, handshakes, logins.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::{
    net::{AddressFamily, SocketType, bind, connect, socket},
    process::{Resource, getrlimit, setrlimit},
};
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use crate::{
    harness::{Lab, PATIENCE, Reply, Smtp, Stream, TenantSetup, make_certificate, message, shake},
    held,
};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

fn memory(lab: &Lab) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn more_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// A header of some 250 KB that never ends.
fn unfinished_header() -> Vec<u8> {
    let mut header = format!("From: {FROM}\r\n").into_bytes();
    header.extend(format!("X-Long: {}\r\n", "x".repeat(980)).repeat(250).into_bytes());
    header
}

#[test]
fn six_hundred_unfinished_headers() {
    const CONNECTIONS: usize = 600;
    /// Kilobytes: a third of `header_memory`, and 32 KiB for each to read with.
    const BOUND: u64 = 22_000 + 600 * 40 + 10_000;

    more_files();
    let lab = Lab::with(|setup| setup.smtp = "max_connections_per_address = 0".into());
    lab.send(FROM, &[TO], &message(FROM, TO, "before"));
    let before = memory(&lab);
    let address = lab.smtp_address();
    let begin = move || {
        let mut smtp = Smtp::connect(address);
        assert_eq!(smtp.command("EHLO client.example").code, 250);
        smtp.begin(FROM, &[TO]);
        assert_eq!(smtp.command("DATA").code, 354);
        smtp.write(&unfinished_header());
        smtp
    };
    let beginning: Vec<_> = (0..4)
        .map(|_| thread::spawn(move || (0..CONNECTIONS / 4).map(|_| begin()).collect::<Vec<_>>()))
        .collect();
    let mut clients: Vec<_> = beginning.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let grown = memory(&lab).saturating_sub(before);
    println!("{CONNECTIONS} unfinished headers take {grown} kB");
    assert!(grown < BOUND, "{CONNECTIONS} unfinished headers take {grown} kB");
    assert!(lab.metric("m365_relay_smtp_header_bytes", &[]) < f64::from(22 << 20));
    // A client with modest needs is served, even from the same address.
    lab.send(FROM, &[TO], &message(FROM, TO, "among many"));
    let refused = clients.iter_mut().filter_map(|smtp| {
        smtp.write(b"\r\n.\r\n");
        let reply = smtp.reply();
        (reply.code != 250)
            .then(|| assert!(reply.code == 452 && reply.text.starts_with("4.3.1"), "{reply:?}"))
    });
    let refused = refused.count();
    assert!(refused > CONNECTIONS / 2, "{refused}");
    drop(clients);
    lab.wait_for_metric("m365_relay_smtp_header_bytes", &[], 0.0);
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 2 + CONNECTIONS - refused);
    held("Headers that never end, on many connections", CONNECTIONS);
}

/// An occasional octet keeps the client from being idle, yet neither a chunk nor a login ends by it.
#[test]
fn what_never_comes_to_its_end_ends_with_its_time() {
    let lab = Lab::with(|setup| setup.smtp = "session_timeout = '1m'".into());
    let within: [(&str, &[&str]); 4] = [
        ("a command", &[]),
        ("a transaction", &["MAIL FROM:<a@contoso.example>", "RCPT TO:<b@example.net>"]),
        ("content", &["MAIL FROM:<a@contoso.example>", "RCPT TO:<b@example.net>", "DATA"]),
        ("a chunk", &["MAIL FROM:<a@contoso.example>", "RCPT TO:<b@example.net>", "BDAT 1000000 LAST"]),
    ];
    let drip = |place: &str, commands: &[&str]| {
        let mut smtp = lab.smtp();
        let began = Instant::now();
        for command in commands {
            if command.starts_with("BDAT") {
                smtp.write(format!("{command}\r\n").as_bytes());
            } else {
                assert!(smtp.command(command).code < 400, "{place}: {command}");
            }
        }
        let mut stream = smtp.into_stream();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut said = Vec::new();
        // Until the relay hangs up: a write after that fails, or the end is read.
        loop {
            let mut octets = [0; 512];
            let written = stream.write_all(b"x");
            match stream.read(&mut octets) {
                Ok(0) => break,
                Ok(read) => said.extend_from_slice(&octets[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => written.unwrap(),
                Err(_) => break,
            }
        }
        let took = began.elapsed();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("421 4.7.0 "), "{place}: {said:?} after {took:?}");
        assert!((Duration::from_secs(55)..Duration::from_secs(90)).contains(&took), "{place}: {took:?}");
    };
    thread::scope(|scope| {
        for (place, commands) in within {
            scope.spawn(move || drip(place, commands));
        }
    });
    lab.wait_for_metric("m365_relay_smtp_connections", &[], 0.0);
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 0);
    held("Messages and commands that never come to their end", within.len());
}

fn lab_with_tls() -> (Lab, CertificateDer<'static>) {
    let mut lab = Lab::without_relay(|setup| {
        setup.smtp = "max_connections_per_address = 0".into();
        setup.listener = "tls = 'implicit'\ncertificate = 'relay.pem'\nkey = 'relay.key'".into();
    });
    let root = make_certificate(lab.folder());
    lab.restart();
    (lab, root)
}

/// The first octets of a hello, and of something that is not one.
fn half_hello(n: usize) -> Vec<u8> {
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 200]].concat();
    hello[..n % hello.len()].to_vec()
}

#[test]
fn slow_handshakes_hold_nobody_up() {
    const SLOW: usize = 400;
    more_files();
    let (lab, root) = lab_with_tls();
    let address = lab.smtp_address();
    let mut slow: Vec<TcpStream> = (0..SLOW).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (n, stream) in slow.iter_mut().enumerate() {
        stream.write_all(&half_hello(n)).unwrap();
    }
    lab.wait_for_metric("m365_relay_smtp_connections", &[], SLOW as f64);
    for n in 0..10 {
        let began = Instant::now();
        let mut smtp = encrypted(address, &root);
        smtp.send(FROM, &[TO], &message(FROM, TO, &format!("{n}")));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    drop(slow);
    lab.wait_for(10);
    held("Handshakes that begin and do not go on", SLOW);
}

fn encrypted(address: SocketAddr, root: &CertificateDer<'static>) -> Smtp<impl Stream> {
    let mut smtp = Smtp::over(shake(TcpStream::connect(address).unwrap(), root).unwrap());
    assert_eq!(smtp.reply().code, 220);
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    smtp
}

/// Whole handshakes, one after the other as fast as possible, from many clients: the connected clients are
/// served meanwhile.
#[test]
fn a_flood_of_handshakes_leaves_time_for_others() {
    const EACH: usize = 50;
    const CLIENTS: usize = 8;
    let (lab, root) = lab_with_tls();
    let address = lab.smtp_address();
    let mut smtp = encrypted(address, &root);
    let flood: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let root = root.clone();
            thread::spawn(move || {
                for _ in 0..EACH {
                    drop(shake(TcpStream::connect(address).unwrap(), &root).unwrap());
                }
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    while !flood.iter().all(thread::JoinHandle::is_finished) {
        let began = Instant::now();
        assert_eq!(smtp.command("NOOP").code, 250);
        longest = longest.max(began.elapsed());
    }
    flood.into_iter().for_each(|client| client.join().unwrap());
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    held("A flood of handshakes", EACH * CLIENTS);
}

// === logins ===

fn hash_of(password: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_m365-relay"))
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim_end().to_owned()
}

/// From an address of this machine that no other client has.
fn connect_from(from: [u8; 4], to: SocketAddr) -> Smtp {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::from(from), 0)).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut smtp = Smtp::over(stream);
    assert_eq!(smtp.reply().code, 220);
    assert_eq!(smtp.command("EHLO client.example").code, 250);
    smtp
}

fn guess(smtp: &mut Smtp, name: &str, by_login: bool) -> Vec<Reply> {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    if !by_login {
        return vec![smtp.command(&format!("AUTH PLAIN {}", encode(&format!("\0{name}\0guess"))))];
    }
    let asked = smtp.command("AUTH LOGIN");
    let asked_again = smtp.command(&encode(name));
    vec![asked, asked_again, smtp.command(&encode("guess"))]
}

/// The reply to a stranger, and the minimum delay before it, do not reveal whether there is such a user.
#[test]
fn names_of_users_and_of_nobody_are_answered_alike() {
    const CHEAP: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaA";
    let dear = hash_of("s3cret");
    let lab = || {
        Lab::with(|setup| {
            setup.listener = "trusted = true".into();
            setup.smtp = "lockout = { failures = 4, for = '1h' }\nmax_connections_per_address = 0".into();
            setup.tenants = ["contoso", "fabrikam", "asleep"].map(TenantSetup::new).into();
            for tenant in &mut setup.tenants {
                tenant.networks = "[]".into();
            }
            setup.tenant("contoso").more = format!("users = {{ scanner = '{dear}', copier = '{CHEAP}' }}");
            setup.tenant("asleep").more =
                format!("suspended = true\nwhile_suspended = 'refuse'\nusers = {{ sleeper = '{dear}' }}");
        })
    };
    let names = [
        "scanner",
        "scanner@contoso",
        "copier",
        "copier@contoso",
        "sleeper@asleep",
        "sleeper",
        "nobody",
        "nobody@contoso",
        "nobody@fabrikam",
        "nobody@asleep",
        "nobody@nowhere",
        "SCANNER@fabrikam",
    ];
    let mut tries = 0;
    for by_login in [false, true] {
        let lab = lab();
        let mut heard: Vec<(Vec<Vec<Reply>>, Duration)> = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let mut replies = Vec::new();
            let mut least = Duration::MAX;
            for from in 0..6u8 {
                let from = [127, 1 + u8::from(by_login), u8::try_from(n).unwrap(), from + 1];
                let mut smtp = connect_from(from, lab.smtp_address());
                let began = Instant::now();
                let reply = guess(&mut smtp, name, by_login);
                if reply.last().unwrap().code == 535 {
                    least = least.min(began.elapsed());
                }
                replies.push(reply);
                tries += 1;
            }
            heard.push((replies, least));
        }
        let (usual, _) = &heard[0];
        let codes: Vec<_> = usual.iter().map(|reply| reply.last().unwrap().code).collect();
        assert_eq!(codes, [535, 535, 535, 535, 421, 421]);
        for (name, (replies, _)) in names.iter().zip(&heard) {
            assert_eq!(replies, usual, "{name}");
        }
        let times: Vec<_> = heard.iter().map(|(_, least)| least.as_millis()).collect();
        let low = times.iter().min().unwrap();
        let high = times.iter().max().unwrap();
        println!("{times:?} ms");
        // A quarter of a second applies to everybody; the rest is the work, which another test holds to be
        // the same.
        assert!(high - low < 400, "{times:?}");
    }
    held("Names guessed at the login", tries);
}
