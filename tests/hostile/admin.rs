//! The admin port: clients that only stay, half requests, and requests that should not be answered.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use relay_sandbox::User;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::{
    harness::{Lab, PATIENCE, message, wait_until},
    held,
};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Files and connections that the relay has open.
fn descriptors(lab: &Lab) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", lab.process_id())).unwrap().count()
}

/// Many connections need many descriptors in this process, too.
fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Writes as far as the relay reads. It may have closed the connection.
fn write(stream: &mut TcpStream, octets: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    let _ = stream.write_all(octets);
}

/// Returns what arrives until the relay closes: an empty answer if it hangs up.
fn answer(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut octets = Vec::new();
    match stream.read_to_end(&mut octets) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it is neither answered nor closed: {error}"),
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// Returns the status of the answer to these octets, 0 without one.
fn ask(address: SocketAddr, octets: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    write(&mut stream, octets);
    answer(&stream).get(9..12).map_or(0, |code| code.parse().unwrap())
}

/// Health, metrics and mail work while others are connected, each within seconds.
fn others_are_served(lab: &Lab, subject: &str) {
    for path in ["/healthz", "/metrics", "/readyz"] {
        let began = Instant::now();
        assert_eq!(lab.page(path).0, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "{path} took {:?}", began.elapsed());
    }
    lab.send(FROM, &[TO], &message(FROM, TO, subject));
}

#[test]
fn silent_clients_take_few_descriptors_and_keep_nobody_out() {
    const CLIENTS: usize = 1500;
    let lab = Lab::start();
    others_are_served(&lab, "before");
    lab.wait_for(1);
    let before = descriptors(&lab);
    let mut clients = connect(lab.admin_address(), CLIENTS);
    others_are_served(&lab, "among silent ones");
    let during = descriptors(&lab);
    println!("{before} descriptors before, {during} with {CLIENTS} silent clients");
    assert!(during <= before + 55, "{before} descriptors before, {during} with {CLIENTS} silent clients");
    // Half a request is no more than none, and neither is a request whose body does not come.
    for (number, client) in clients.iter_mut().enumerate() {
        match number % 3 {
            0 => write(client, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX"),
            1 => write(
                client,
                b"POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n\r\n{",
            ),
            _ => write(client, b"G"),
        }
    }
    others_are_served(&lab, "among halves");
    clients.extend(connect(lab.admin_address(), 200));
    others_are_served(&lab, "among more");
    assert!(descriptors(&lab) <= before + 55);
    assert!(lab.metric("m365_relay_admin_connections", &[]) <= 48.0);
    assert!(lab.metric("m365_relay_admin_refused_total", &[("reason", "crowded")]) >= 1000.0);
    lab.wait_for(4);
    drop(clients);
    wait_until("them to be gone", || descriptors(&lab) <= before + 3);
    held("Silent clients, and halves of requests, at the admin port", CLIENTS + 200);
}

/// An answer that is larger than what the system buffers for a client: metrics of many tenants.
#[test]
fn clients_that_do_not_read_their_answers_keep_nobody_out() {
    const CLIENTS: usize = 200;
    let lab = Lab::start();
    let before = descriptors(&lab);
    let many = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(300);
    let mut clients = connect(lab.admin_address(), CLIENTS);
    for client in &mut clients {
        write(client, &many);
    }
    // A client that has not read for two seconds gives way.
    let began = Instant::now();
    assert_eq!(lab.page("/healthz").0, 200);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(descriptors(&lab) <= before + 55);
    held("Clients of the admin port that do not read their answers", CLIENTS);
}

#[test]
fn a_request_has_its_time_and_its_size() {
    let lab = Lab::start();
    let address = lab.admin_address();
    let head =
        |more: &str| format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}");
    // Too slow: an octet now and then, of the head and of the body, and a connection that is kept open for
    // nothing.
    let slow = [
        head("X-Slow: "),
        head("Content-Length: 1000\r\n\r\n"),
        head("Transfer-Encoding: chunked\r\n\r\n3e8\r\n"),
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(),
    ];
    let began = Instant::now();
    thread::scope(|scope| {
        for (number, start) in slow.iter().enumerate() {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let mut reading = stream.try_clone().unwrap();
                reading.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                stream.write_all(start.as_bytes()).unwrap();
                loop {
                    let mut octets = [0; 1000];
                    match reading.read(&mut octets) {
                        Ok(0) => return,
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                        Ok(_) | Err(_) if number == 3 => {}
                        _ => write(&mut stream, b"x"),
                    }
                    assert!(began.elapsed() < PATIENCE / 3, "{start:?} is not hung up on");
                }
            });
        }
    });
    // A client that has had an answer is not refused.
    assert_eq!(lab.metric("m365_relay_admin_refused_total", &[("reason", "timeout")]), 3.0);

    // Too large.
    let line = "x".repeat(20_000);
    let headers: String = (0..100).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let chunk = format!("10000\r\n{}\r\n10000\r\n{}\r\n0\r\n\r\n", "x".repeat(65536), "x".repeat(65536));
    let large = [
        format!("GET /{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        head(&format!("X: {line}\r\n\r\n")),
        head(&format!("{headers}\r\n")),
        head(&format!("Content-Length: 100000\r\n\r\n{}", "x".repeat(100_000))),
        head("Content-Length: 9999999999999\r\n\r\n"),
        head(&format!("Transfer-Encoding: chunked\r\n\r\n{chunk}")),
        line.repeat(100),
    ];
    for request in &large {
        let code = ask(address, request.as_bytes());
        assert!(matches!(code, 0 | 400 | 408 | 413 | 414 | 431), "{code} to {:.60}", request);
    }
    assert!(lab.metric("m365_relay_admin_refused_total", &[("reason", "too_large")]) >= 3.0);

    // Not HTTP/1.1, or two readings of it.
    let strange: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO x\r\nMAIL FROM:<a@b>\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked, x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET /healthz\0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
    ];
    for request in strange {
        let code = ask(address, request);
        assert!(matches!(code, 0 | 400 | 405 | 505), "{code} to {}", request.escape_ascii());
    }
    others_are_served(&lab, "afterwards");
    let tries = slow.len() + large.len() + strange.len();
    held("Requests at the admin port that are slow, huge or malformed", tries);
}

/// A name that points to this machine ("DNS rebinding"), and other ways to write one.
#[test]
fn strange_hosts_get_nothing() {
    let lab = Lab::start();
    let hosts = [
        "Host: evil.example\r\n",
        "Host: evil.example:8025\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 127.0.0.1.evil.example\r\n",
        "Host: localhost@evil.example\r\n",
        "Host: evil.example@localhost\r\n",
        "Host: localhost.\r\n",
        "Host: 0.0.0.0\r\n",
        "Host: 2130706433\r\n",
        "Host: 0x7f000001\r\n",
        "Host: [::]\r\n",
        "Host: localhost, evil.example\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host: evil.example\r\nHost: localhost\r\n",
        "Host:\r\n",
        "Host: localhost\\evil\r\n",
        "X-Forwarded-Host: localhost\r\n",
        "Host: evil.example\r\nX-Forwarded-Host: localhost\r\n",
        "",
    ];
    let targets =
        ["/metrics", "/healthz", "/readyz", "/api/v1/reload", "/nothing", "http://evil.example/metrics"];
    let mut tries = 0;
    for target in targets {
        for host in hosts
            .into_iter()
            .chain([("Host: localhost\r\n")].into_iter().filter(|_| target.starts_with("http")))
        {
            let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{host}\r\n");
            let code = ask(lab.admin_address(), request.as_bytes());
            assert!(matches!(code, 400 | 421), "{code} to {request:?}");
            tries += 1;
        }
    }
    assert_eq!(ask(lab.admin_address(), b"GET /metrics HTTP/1.0\r\n\r\n"), 400);
    others_are_served(&lab, "afterwards");
    held("Names of other hosts at the admin port (DNS rebinding)", tries + 1);
}

#[test]
fn wrong_tokens_open_nothing_and_fill_no_log() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let lab = Lab::with(|setup| setup.admin = format!("token = '{TOKEN}'"));
    let address = lab.admin_address();
    let reload = |token: &str| {
        let head = format!(
            "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\nAuthorization: Bearer {token}\r\n\r\n{{}}"
        );
        ask(address, head.as_bytes())
    };
    let wrong: Vec<String> = (0..200)
        .map(|n| match n % 4 {
            0 => TOKEN[..n % 32].to_owned(),
            1 => format!("{TOKEN}{n}"),
            2 => format!("{n:032x}"),
            _ => TOKEN.to_uppercase().replace('0', &n.to_string()),
        })
        .collect();
    thread::scope(|scope| {
        let answers: Vec<_> = wrong.iter().map(|token| scope.spawn(|| reload(token))).collect();
        // Meanwhile the right token opens the API, and everything else works.
        others_are_served(&lab, "meanwhile");
        wait_until("the right token", || reload(TOKEN) == 200);
        for answer in answers {
            // 0: its seat was needed.
            let code = answer.join().unwrap();
            assert!(matches!(code, 0 | 401 | 429), "{code}");
        }
    });
    let log = lab.log();
    assert!(log.iter().filter(|line| line.contains("wrong token")).count() <= 9);
    assert!(!log.join("\n").contains(TOKEN) && !lab.page("/metrics").1.contains(TOKEN));
    held("Wrong tokens at the admin port", wrong.len());
}

#[test]
fn ids_cannot_be_walked() {
    let lab = Lab::start();
    lab.inject(relay_sandbox::Fault::status(relay_sandbox::On::SendMail, 503, "serviceNotAvailable"));
    lab.send(FROM, &[TO], &message(FROM, TO, "waits"));
    wait_until("the log of its acceptance", || !lab.logged("message accepted").is_empty());
    let id = lab.logged("message accepted")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(lab.api("GET", &format!("/api/v1/messages/{id}")).0, 200);
    // The id itself, and ways to spell the path that a check might not see.
    let mut tries = 0;
    for path in [
        "/api/v1/messages/ID",
        "/api/v1/messages/ID?x=/metrics",
        "/api/v1/messages/ID/",
        "//api/v1/messages/ID",
        "/%61pi/v1/messages/ID",
        "/API/v1/messages/ID",
        "/metrics/../api/v1/messages/ID",
        "/metrics/%2e%2e/api/v1/messages/ID",
        "/healthz;/api/v1/messages/ID",
        "/healthz%00/api/v1/messages/ID",
        "/./api/v1/messages/ID",
        "/api//v1/messages/ID",
        "http://localhost/api/v1/messages/ID",
        "/api/v1/messages/%30",
    ] {
        for method in ["GET", "HEAD", "POST", "OPTIONS", "PUT", "TRACE"] {
            for more in [
                "",
                "X-Original-URL: /metrics\r\n",
                "X-HTTP-Method-Override: GET\r\n",
                "X-Forwarded-For: 127.0.0.1\r\n",
            ] {
                let path = path.replace("ID", &id);
                let mut stream = TcpStream::connect(lab.admin_address()).unwrap();
                let head =
                    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                let said = answer(&stream);
                assert!(!said.starts_with("HTTP/1.1 200") && !said.contains(FROM), "{head:?}: {said}");
                tries += 1;
            }
        }
    }
    held("Asking for messages without a token, at the admin port", tries);
}

#[test]
fn many_questions_are_told_to_come_again_and_delay_nobody() {
    const QUESTIONS: usize = 400;
    let lab = Lab::start();
    let request = "GET /api/v1/messages/0000000000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let socket = lab.socket();
    let codes: Vec<_> = thread::scope(|scope| {
        let ask = || crate::harness::socket_ask(&socket, request);
        let asked: Vec<_> = (0..QUESTIONS).map(|_| scope.spawn(ask)).collect();
        others_are_served(&lab, "meanwhile");
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|(code, _)| matches!(code, 400 | 404 | 503)), "{codes:?}");
    let busy = codes.iter().find(|(code, _)| *code == 503).expect("none was told to try again");
    assert!(busy.1.contains("try again"), "{busy:?}");
    assert!(lab.metric("m365_relay_admin_refused_total", &[("reason", "busy")]) >= 1.0);
    held("Questions to the API, all at the same time", QUESTIONS);
}

/// Entra ID counts failures, and locks users out.
#[test]
fn a_flood_of_reloads_is_a_few_and_logs_nobody_in_again() {
    const RELOADS: usize = 60;
    let mut lab = Lab::without_relay(|setup| {
        setup.tenants.push(crate::harness::TenantSetup::new("northwind"));
        setup.tenant("fabrikam").credential = "client_secret = { file = 'fabrikam.secret' }".into();
        setup.tenant("northwind").credential =
            "grant = 'password'\nusername = 'relay@northwind.example'\npassword = { file = 'northwind.password' }".into();
        setup.service = Box::new(|options| {
            let directory = options.directories.iter_mut().find(|d| d.name() == "northwind.example").unwrap();
            directory.users = vec![User::new("relay@northwind.example", "the right password")];
            directory.public_client_id = Some(directory.client_id.clone());
        });
    });
    let files = ["fabrikam.secret", "northwind.password"].map(|name| lab.folder().join(name));
    let write = |path: &std::path::Path, text: &str| {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&new, path).unwrap();
    };
    files.iter().for_each(|file| write(file, "wrong"));
    lab.restart();
    for tenant in ["contoso", "fabrikam", "northwind"] {
        // Only its own mailbox lets the user send.
        let from = format!("{}@{tenant}.example", if tenant == "northwind" { "relay" } else { "a" });
        lab.send(&from, &[TO], &message(&from, TO, tenant));
    }
    let logins = |lab: &Lab, tenant: &str| {
        let path = format!("/{tenant}.example/oauth2/v2.0/token");
        lab.service.calls().iter().filter(|call| call.path == path).count()
    };
    wait_until("the first logins", || {
        ["fabrikam", "northwind"].iter().all(|tenant| logins(&lab, tenant) == 1)
    });
    for tenant in ["fabrikam", "northwind"] {
        lab.wait_for_metric("m365_relay_tenant_blocked", &[("tenant", tenant)], 1.0);
    }
    let flood = |lab: &Lab| {
        thread::scope(|scope| {
            let asked: Vec<_> = (0..RELOADS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut answer = lab.api("POST", "/api/v1/reload");
                        while answer.0 == 503 {
                            thread::park_timeout(Duration::from_millis(50));
                            answer = lab.api("POST", "/api/v1/reload");
                        }
                        answer.0
                    })
                })
                .collect();
            for _ in 0..RELOADS {
                lab.hang_up();
                // A change that changes nothing is no reason either.
                files.iter().for_each(|file| write(file, "wrong"));
            }
            others_are_served(lab, "meanwhile");
            assert!(asked.into_iter().all(|answer| answer.join().unwrap() == 200));
        });
    };
    let began = Instant::now();
    flood(&lab);
    let took = began.elapsed().as_secs();
    let reloads = lab.metric("m365_relay_config_reloads_total", &[]);
    println!("{RELOADS} questions and {RELOADS} signals were {reloads} reloads in {took} s");
    assert!(reloads <= (took + 12) as f64, "{reloads} reloads in {took} s");
    // The secret is tried again by itself after a minute, should this take that long; the password is not.
    assert!(logins(&lab, "fabrikam") <= 1 + usize::from(took >= 50));
    assert_eq!((logins(&lab, "northwind"), logins(&lab, "contoso")), (1, 1));

    // A fixed tenant continues at once, by the file alone.
    write(&files[0], &crate::harness::TenantSetup::secret("fabrikam"));
    write(&files[1], "the right password");
    lab.wait_for(4);
    assert_eq!((logins(&lab, "fabrikam"), logins(&lab, "northwind")), (2, 2));
    held("Reloads by the API and by SIGHUP, of tenants whose logins fail", 2 * RELOADS);
}
