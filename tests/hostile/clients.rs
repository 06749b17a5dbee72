//! Clients that are broken, or malicious: the relay continues, and nothing is delivered that was not wholly
//! sent.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use rustix::{
    net::sockopt::set_socket_linger,
    process::{Resource, getrlimit, setrlimit},
};
use tokio::time::Instant;

use crate::{
    harness::{Lab, Mail, PATIENCE, Smtp, message},
    held,
};

const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Another client is served, and no other is connected.
fn is_well(lab: &Lab) {
    lab.wait_for_metric("m365_relay_smtp_connections", &[], 0.0);
    assert_eq!(lab.page("/readyz"), (200, "ready\n".to_owned()));
    let mut smtp = lab.smtp();
    assert_eq!(smtp.command("NOOP").code, 250);
    smtp.quit();
    assert!(!lab.log().iter().any(|line| line.contains("panicked")));
}

/// In kilobytes, from `/proc/PID/status`.
fn memory(lab: &Lab, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

// === size ===

#[test]
fn a_header_of_many_lines() {
    let lab = Lab::start();
    let header = |lines: usize| {
        let more: String = (0..lines).map(|n| format!("X-Line-{n}: {n}\r\n")).collect();
        let mut content = more.into_bytes();
        content.extend(message(FROM, TO, "lines"));
        content
    };
    let mut smtp = lab.smtp();
    let accepted = header(1000);
    smtp.send(FROM, &[TO], &accepted);
    assert_eq!(lab.wait_for(1)[0].as_sent(), accepted);

    smtp.begin(FROM, &[TO]);
    let reply = smtp.data(&header(100_000));
    assert!(reply.code == 552 && reply.text.starts_with("5.3.4 "), "{reply:?}");
    // It was read to its end.
    assert_eq!(smtp.command("NOOP").code, 250);
    smtp.send(FROM, &[TO], &message(FROM, TO, "next"));
    smtp.quit();
    assert_eq!(lab.wait_for(2)[1].subject, "next");
    is_well(&lab);
}

#[test]
fn a_line_of_megabytes_in_the_body() {
    let lab = Lab::start();
    let content = |subject: &str, length: usize| {
        let mut content = message(FROM, TO, subject);
        content.extend(b"abcdefghij".repeat(length / 10));
        content.extend_from_slice(b"\r\n");
        content
    };
    let sent = content("long line", 2_000_000);
    lab.send(FROM, &[TO], &sent);
    // Not assert_eq!, which would print it.
    assert!(lab.wait_for(1)[0].as_sent() == sent);
    // Larger than what Graph takes in one request, but not than what the relay accepts.
    let sent = content("longer line", 10_000_000);
    lab.send(FROM, &[TO], &sent);
    let is_there = || lab.logged("message accepted").iter().any(|entry| entry["size"] == sent.len());
    crate::harness::wait_until("it in the log", is_there);
    is_well(&lab);
}

#[test]
fn a_command_of_10_megabytes_costs_nothing() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    let before = memory(&lab, "VmHWM");
    for _ in 0..100 {
        smtp.write(&[b'x'; 100_000]);
    }
    let reply = smtp.command("");
    assert!(reply.code == 500 && reply.text == "5.5.2 Line too long", "{reply:?}");
    assert_eq!(smtp.command("NOOP").code, 250);
    let grown = memory(&lab, "VmHWM") - before;
    assert!(grown < 2048, "{grown} kB more");
    smtp.quit();
    is_well(&lab);
}

// === octets ===

#[test]
fn commands_of_any_octets_are_refused_and_content_of_any_octets_passes() {
    let lab = Lab::start();
    let mut smtp = lab.smtp();
    for (line, code) in [
        (&b"NOOP\0"[..], 500),
        (b"\0", 500),
        (b"MAIL FROM:<a\0@contoso.example>", 500),
        (b"MAIL FROM:<a@contoso.example>\0", 500),
        (b"MAIL FROM:<\xe9@contoso.example>", 553),
        (b"M\xc1IL FROM:<a@contoso.example>", 500),
        (b"\xff\xfe\xfd", 500),
    ] {
        smtp.write(&[line, b"\r\n"].concat());
        assert_eq!(smtp.reply().code, code, "{}", line.escape_ascii());
    }
    // A name made of any octets still yields a valid Received field.
    smtp.write(b"EHLO \xff(x);\"<>\xc3\xa9\r\n");
    assert_eq!(smtp.reply().code, 250);
    let mut content = message(FROM, TO, "octets");
    content.extend((0..=255).filter(|octet| !matches!(octet, b'\r' | b'\n')));
    content.extend_from_slice(b"\r\n");
    smtp.send(FROM, &[TO], &content);
    smtp.quit();
    assert_eq!(lab.wait_for(1)[0].as_sent(), content);
    is_well(&lab);
}

// === smuggling ===

/// What some servers have taken for the end of a message.
const FALSE_ENDS: [&[u8]; 18] = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\r.\r\n",
    b"\n\n.\n\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\0\r\n.\0\r\n",
    b"\r\n.\r\0\n",
    b"\r\0\n.\r\n",
    b"\r\n. \r\n",
    b"\r\n..\r\n",
    b"\r\n.\x85\r\n",
];

const SMUGGLED: &[u8] = b"MAIL FROM:<evil@contoso.example>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n\
                          From: evil@contoso.example\r\nSubject: smuggled\r\n\r\ninner\r\n";

fn has_bare_newline(octets: &[u8]) -> bool {
    let text = octets.escape_ascii().to_string().replace("\\r\\n", "");
    text.contains("\\r") || text.contains("\\n")
}

/// Sends a message with each false end, and looks at what arrives.
fn smuggle(lab: &Lab, is_accepted: fn(&[u8]) -> bool) {
    let mut smtp = lab.smtp();
    let mut accepted = 0;
    for (number, end) in FALSE_ENDS.into_iter().enumerate() {
        let shown = end.escape_ascii();
        smtp.begin(FROM, &[TO]);
        assert_eq!(smtp.command("DATA").code, 354);
        let subject = format!("{number:02}");
        smtp.write(&[&message(FROM, TO, &subject), &b"outer"[..], end, SMUGGLED, b".\r\n"].concat());
        let reply = smtp.reply();
        if is_accepted(end) {
            assert_eq!(reply.code, 250, "{shown}: {reply:?}");
            accepted += 1;
        } else {
            assert!(reply.code == 550 && reply.text.starts_with("5.6.11 "), "{shown}: {reply:?}");
        }
        // The one reply to all of it.
        assert_eq!(smtp.command("NOOP").text, "2.0.0 Ok", "{shown}");
    }
    smtp.quit();
    let delivered = lab.wait_for(accepted);
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), accepted);
    let subjects: BTreeSet<_> = delivered.iter().map(|message| message.subject.clone()).collect();
    assert_eq!(subjects.len(), accepted);
    for message in delivered {
        assert_eq!(message.mailbox, FROM);
        assert_eq!(message.recipients, [TO]);
        assert!(!has_bare_newline(&message.raw));
        let text = message.as_sent().escape_ascii().to_string();
        assert!(text.contains("outer") && text.ends_with(&SMUGGLED.escape_ascii().to_string()), "{text}");
    }
    is_well(lab);
    held("A second message hidden behind a false end (SMTP smuggling)", FALSE_ENDS.len());
}

#[test]
fn nothing_is_smuggled() {
    smuggle(&Lab::start(), |end| !has_bare_newline(end));
}

#[test]
fn nothing_is_smuggled_where_line_ends_are_mended() {
    smuggle(&Lab::with(|setup| setup.smtp = "bare_newlines = 'fix'".into()), |_| true);
}

// === clients that vanish ===

#[derive(Clone, Copy, Debug)]
enum End {
    /// Stops sending, and reads what comes.
    Fin,
    /// As when a machine dies: nothing more is sent or read.
    Rst,
}

/// One message by DATA and one by BDAT, and the octets at which they are complete.
fn dialogue(subject: &str) -> (Vec<u8>, [usize; 2]) {
    let envelope = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\n");
    let content = |number: usize| format!("From: {FROM}\r\nSubject: {subject}-{number}\r\n\r\n.x\r\n");
    let first = format!("EHLO x\r\n{envelope}DATA\r\n{}.\r\n", content(1).replace("\r\n.x", "\r\n..x"));
    let chunks = content(2);
    let (part, rest) = chunks.split_at(20);
    let second = format!("{envelope}BDAT {}\r\n{part}BDAT {} LAST\r\n{rest}", part.len(), rest.len());
    let ends = [first.len(), first.len() + second.len()];
    (format!("{first}{second}QUIT\r\n").into_bytes(), ends)
}

fn vanish(address: SocketAddr, octets: &[u8], end: End) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(octets).unwrap();
    match end {
        End::Fin => {
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
        End::Rst => set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(),
    }
}

#[test]
fn a_client_that_vanishes_at_any_octet_leaves_whole_messages_only() {
    let lab = Lab::start();
    let address = lab.smtp_address();
    let length = dialogue("F0000").0.len();
    let mut certain = BTreeSet::new();
    let mut possible = BTreeSet::new();
    for cut in 0..=length {
        for (end, letter) in [(End::Fin, 'F'), (End::Rst, 'R')] {
            let subject = format!("{letter}{cut:04}");
            let (octets, complete) = dialogue(&subject);
            vanish(address, &octets[..cut], end);
            let expected = match end {
                End::Fin => &mut certain,
                End::Rst => &mut possible,
            };
            expected.extend(
                (1..)
                    .zip(complete)
                    .filter(|(_, at)| cut >= *at)
                    .map(|(number, _)| format!("{subject}-{number}")),
            );
        }
    }
    is_well(&lab);
    lab.wait_until_empty();
    let messages = lab.service.messages();
    let delivered: BTreeSet<_> = messages.iter().map(|message| message.subject.clone()).collect();
    assert_eq!(delivered.len(), messages.len(), "a message was delivered twice");
    assert!(certain.is_subset(&delivered), "{:?}", certain.difference(&delivered));
    let more: BTreeSet<_> = delivered.difference(&certain).cloned().collect();
    assert!(more.is_subset(&possible), "{:?}", more.difference(&possible));
    assert!(messages.iter().all(|message| message.raw.ends_with(b"\r\n\r\n.x\r\n")));
    held("Clients that vanish at any octet", 2 * (length + 1));
}

// === clients that take their time ===

#[test]
fn slow_clients_delay_nobody() {
    let lab = Lab::with(|setup| setup.smtp = "max_connections_per_address = 0".into());
    let mut slow: Vec<_> = (0..200).map(|_| TcpStream::connect(lab.smtp_address()).unwrap()).collect();
    lab.wait_for_metric("m365_relay_smtp_connections", &[], 200.0);
    // Half of them stay in a command, half of them in content.
    let whole =
        [b"EHLO x\r\n".to_vec(), format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n").into()].concat();
    slow.iter_mut().skip(100).for_each(|stream| stream.write_all(&whole).unwrap());
    let mut smtp = lab.smtp();
    for (number, octet) in b"NOOP and so on, never".iter().enumerate() {
        slow.iter_mut().for_each(|stream| stream.write_all(&[*octet]).unwrap());
        let began = Instant::now();
        smtp.send(FROM, &[TO], &message(FROM, TO, &format!("{number}")));
        assert!(began.elapsed() < PATIENCE / 3, "{:?}", began.elapsed());
    }
    smtp.quit();
    lab.wait_for(21);
    drop(slow);
    is_well(&lab);
    lab.wait_until_empty();
    assert_eq!(lab.service.messages().len(), 21);
}

#[test]
fn commands_by_the_thousand_are_answered_one_by_one() {
    let lab = Lab::with(|setup| setup.smtp = "max_commands = 1000".into());
    let mut smtp = lab.smtp();
    assert_eq!(smtp.mail(FROM).code, 250);
    smtp.write(format!("RCPT TO:<{TO}>\r\n").repeat(1500).as_bytes());
    let codes: Vec<_> = (0..1500).map(|_| smtp.reply().code).collect();
    assert!(codes[..1000].iter().all(|code| *code == 250) && codes[1000..].iter().all(|code| *code == 452));
    let reply = smtp.data(&message(FROM, TO, "once"));
    assert_eq!(reply.code, 250, "{reply:?}");

    // A client that only talks is disconnected.
    smtp.write("NOOP\r\n".repeat(2000).as_bytes());
    for _ in 0..1000 {
        assert_eq!(smtp.reply().code, 250);
    }
    assert_eq!(smtp.reply().code, 421);
    assert_eq!(lab.wait_for(1)[0].recipients, [TO]);
    is_well(&lab);
}

#[test]
fn a_client_that_does_not_read_costs_little() {
    let lab = Lab::start();
    let mut stream = TcpStream::connect(lab.smtp_address()).unwrap();
    lab.wait_for_metric("m365_relay_smtp_connections", &[], 1.0);
    let before = memory(&lab, "VmHWM");
    // Content without a message: each chunk gets a reply, and none counts as a command.
    let batch = format!("EHLO x\r\nMAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\n{}", "BDAT 0\r\n".repeat(50_000));
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Until the system's buffers are full in both directions, or enough has gone through.
    let written = (0..40).take_while(|_| stream.write_all(batch.as_bytes()).is_ok()).count();
    let grown = memory(&lab, "VmHWM") - before;
    assert!(grown < 4096, "{grown} kB more after {written} batches");
    lab.send(FROM, &[TO], &message(FROM, TO, "another"));
    drop(stream);
    is_well(&lab);
}

// === clients that only stay ===

#[test]
fn two_thousand_idle_connections() {
    const CONNECTIONS: usize = 2000;
    /// Kilobytes for all of them. The release build has a bound for the whole process:
    /// `scripts/idle-connections`.
    /// `scripts/idle-connections`.
    const BOUND: u64 = 40_000;

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let lab =
        Lab::with(|setup| setup.smtp = "max_connections = 2260\nmax_connections_per_address = 0".into());
    let before = memory(&lab, "VmRSS");
    let address = lab.smtp_address();
    let connect = move || {
        let mut smtp = Smtp::connect(address);
        assert_eq!(smtp.command("EHLO client.example").code, 250);
        smtp
    };
    let connecting: Vec<_> = (0..4)
        .map(|_| thread::spawn(move || (0..CONNECTIONS / 4).map(|_| connect()).collect::<Vec<_>>()))
        .collect();
    let idle: Vec<_> = connecting.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    lab.wait_for_metric("m365_relay_smtp_connections", &[], CONNECTIONS as f64);
    let grown = memory(&lab, "VmRSS").saturating_sub(before);
    assert!(grown < BOUND, "{CONNECTIONS} idle connections take {grown} kB");
    // There is room for one more client, which is served.
    lab.send(FROM, &[TO], &message(FROM, TO, "among many"));
    drop(idle);
    is_well(&lab);
}
