//! A proxy that is broken, or malicious. It is between the relay and the service; mail waits, and nothing
//! else suffers.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    harness::{Lab, Proxy, ProxySetup, TlsFront, message, wait_until},
    held,
};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// What it does once it has received a request's head.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Silent,
    /// Sends this, and nothing more.
    Says(&'static [u8]),
    SaysAndCloses(&'static [u8]),
    /// Sends the first, and then the second for as long as it is accepted.
    Endless(&'static [u8], &'static [u8]),
    /// Sends an octet now and then.
    Drips(&'static [u8]),
    /// Sends nothing, and closes.
    ClosesAtOnce,
}

/// Unencrypted, this looks like Graph's answer, and stops the mailbox for minutes.
const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\n\r\n";

const MANNERS: [Manner; 19] = [
    Manner::ClosesAtOnce,
    Manner::Silent,
    Manner::SaysAndCloses(b""),
    Manner::SaysAndCloses(b"HTTP/1.1 200"),
    Manner::SaysAndCloses(b"HTTP/1.1 200 OK\r\n\r\n"),
    Manner::SaysAndCloses(FORBIDDEN),
    Manner::SaysAndCloses(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n"),
    Manner::SaysAndCloses(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    ),
    Manner::SaysAndCloses(b"\x16\x03\x01\x02\x00\x01\x00"),
    Manner::Says(b"220 smtp.example ESMTP\r\n"),
    Manner::Says(b"HTTP/1.1 200 OK\r\n\r\ngarbage behind the answer, which is no TLS"),
    Manner::Says(b"HTTP/1.1 200 OK\r\n\r\n\x15\x03\x03\x00\x02\x02\x28"),
    Manner::Says(b"HTTP/1.1 999 \xff\xfe\r\n\r\n"),
    Manner::Endless(
        b"HTTP/1.1 200 OK\r\n",
        b"X-More: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
    ),
    Manner::Endless(b"HTTP/1.1 200 ", b"OKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOK"),
    Manner::Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    Manner::Endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000000\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ),
    Manner::Endless(b"HTTP/1.1 200 OK\r\n\r\n", b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    Manner::Drips(
        b"HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    ),
];

#[allow(clippy::disallowed_methods, reason = "to be slow is what it is about")]
fn act(manner: Manner, mut client: TcpStream) -> std::io::Result<()> {
    match manner {
        Manner::ClosesAtOnce => {}
        Manner::SaysAndCloses(octets) => {
            client.write_all(octets)?;
            client.shutdown(Shutdown::Write)?;
        }
        Manner::Says(octets) => client.write_all(octets)?,
        Manner::Endless(first, more) => {
            client.write_all(first)?;
            // Enough to fill a machine's memory, if it were kept.
            let more = more.repeat(1000);
            for _ in 0..100_000 {
                client.write_all(&more)?;
            }
        }
        Manner::Drips(octets) => {
            for octet in octets {
                client.write_all(&[*octet])?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        Manner::Silent => {}
    }
    // Until the relay has had enough.
    client.set_read_timeout(None)?;
    std::io::copy(&mut client, &mut std::io::sink()).map(drop)
}

fn meet(
    mut client: TcpStream,
    count: &AtomicUsize,
    manners: &[Manner],
    honest: SocketAddr,
) -> std::io::Result<()> {
    let mut head = vec![0; 64 * 1024];
    let length = client.read(&mut head)?;
    let text = String::from_utf8_lossy(&head[..length]);
    // A failed login is put off for longer and longer: this test is about calls to Graph.
    let is_login = text.contains("/oauth2/") || text.starts_with("CONNECT login.");
    if !is_login && let Some(manner) = manners.get(count.fetch_add(1, Ordering::SeqCst)) {
        return act(*manner, client);
    }
    let mut server = TcpStream::connect(honest)?;
    server.write_all(&head[..length])?;
    let mut from_client = client.try_clone()?;
    let mut to_server = server.try_clone()?;
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    client.shutdown(Shutdown::Write)
}

/// Behaves well once the manners are used up. Returns how many calls to Graph it had.
fn start(leads_to: Option<SocketAddr>, manners: Vec<Manner>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let met = Arc::<AtomicUsize>::default();
    let count = met.clone();
    let honest = Proxy::start(ProxySetup { authorization: None, leads_to });
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            let manners = manners.clone();
            let address = honest.address;
            thread::spawn(move || meet(client, &count, &manners, address));
        }
    });
    (url, met)
}

fn memory(lab: &Lab) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Mail is accepted all the time, memory does not grow, and once the proxy behaves, all of it arrives, once.
#[allow(clippy::disallowed_methods, reason = "a pace for what is sent while the condition is waited for")]
fn survives(lab: &Lab, met: &AtomicUsize, manners: usize) {
    let before = memory(lab);
    let mut sent = 0;
    let all = Instant::now();
    while met.load(Ordering::SeqCst) <= manners {
        let began = Instant::now();
        if sent < 200 {
            lab.send(FROM, &[TO], &message(FROM, TO, &format!("{sent}")));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            sent += 1;
        }
        assert_eq!(lab.page("/readyz").0, 200);
        assert!(all.elapsed() < Duration::from_secs(120), "{} calls", met.load(Ordering::SeqCst));
        thread::sleep(Duration::from_millis(50));
    }
    let grown = memory(lab).saturating_sub(before);
    println!("{grown} kB more");
    assert!(grown < 40_000, "{grown} kB more");
    wait_until("all of it", || lab.service.messages().len() >= sent);
    lab.wait_until_empty();
    let messages = lab.service.messages();
    let subjects: HashSet<_> = messages.iter().map(|message| &message.subject).collect();
    assert_eq!(subjects.len(), sent, "some never came");
    // On a busy machine an honest answer can take longer than allowed: the relay then says that it sends
    // again.
    let resent = lab.metric("m365_relay_unknown_outcomes_total", &[("resolved", "resent")]);
    assert!((messages.len() - sent) as f64 <= resent, "{} of {sent}, {resent} resent", messages.len());
    assert!(!lab.log().iter().any(|line| line.contains("panicked")));
}

/// Attempts are cut short, so that all of them are over in seconds.
const NETWORK: &str = "connect_timeout = '1s'\nanswer_timeout = '1s'";

#[test]
fn behind_a_mean_proxy_in_clear() {
    let mut manners = MANNERS.to_vec();
    manners.retain(|manner| !matches!(manner, Manner::SaysAndCloses(FORBIDDEN)));
    let tries = manners.len();
    let (url, met) = start(None, manners);
    let lab = Lab::with(|setup| {
        setup.network = format!("proxy = '{url}'\n{NETWORK}");
    });
    survives(&lab, &met, tries);
    held("Proxies that are broken or mean, for calls in clear", tries);
}

#[test]
fn behind_a_mean_proxy_that_opens_ways() {
    let mut lab = Lab::without_relay(|_| {});
    let service = lab.service.url().trim_start_matches("http://").parse().unwrap();
    let front = TlsFront::start(&["login.microsoftonline.com", "graph.microsoft.com"], service);
    let (url, met) = start(Some(front.address), MANNERS.to_vec());
    lab.setup.network = format!("proxy = '{url}'\n{NETWORK}");
    lab.setup.login = Some("https://login.microsoftonline.com".into());
    lab.setup.graph = Some("https://graph.microsoft.com".into());
    lab.setup.cloud = "ca_file = 'ca.pem'".into();
    std::fs::write(lab.folder().join("ca.pem"), &front.ca).unwrap();
    lab.write_config();
    lab.restart();
    survives(&lab, &met, MANNERS.len());
    held("Proxies that are broken or mean, for CONNECT", MANNERS.len());
}
