//! Clients that send whatever happens, and remember what was acknowledged.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::harness::{Lab, PATIENCE, base64_mail, holds_within, with_end};

pub(crate) const FROM: &str = "a@contoso.example";
const TO: &str = "b@example.net";

/// Sends one message after the other, small and large, until it is told to end.
pub(crate) struct Courier {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Courier {
    /// Its messages have `name` in their subjects.
    pub(crate) fn start(address: SocketAddr, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let name = name.to_owned();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut acknowledged = Vec::new();
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                // A connection that ends is followed by another.
                let _ = session(address, &name, &mut number, &mut acknowledged, &stopped);
                thread::park_timeout(Duration::from_millis(20));
            }
            acknowledged
        });
        Self { stop, thread }
    }

    /// The subjects that were acknowledged.
    pub(crate) fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn session(
    address: SocketAddr,
    name: &str,
    number: &mut u32,
    acknowledged: &mut Vec<String>,
    stopped: &AtomicBool,
) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    reply(&mut stream)?;
    say(&mut stream, b"EHLO client.example\r\n")?;
    while !stopped.load(Ordering::Relaxed) {
        *number += 1;
        let subject = format!("{name} {number}");
        say(&mut stream, b"RSET\r\n")?;
        if say(&mut stream, format!("MAIL FROM:<{FROM}>\r\n").as_bytes())? != 250
            || say(&mut stream, format!("RCPT TO:<{TO}>\r\n").as_bytes())? != 250
            || say(&mut stream, b"DATA\r\n")? != 354
        {
            thread::park_timeout(Duration::from_millis(20));
            continue;
        }
        let size = if number.is_multiple_of(7) { 100_000 } else { 500 };
        if say(&mut stream, &with_end(&base64_mail(FROM, TO, &subject, size)))? == 250 {
            acknowledged.push(subject);
        }
    }
    Ok(())
}

fn say(stream: &mut BufReader<TcpStream>, octets: &[u8]) -> io::Result<u16> {
    stream.get_mut().write_all(octets)?;
    reply(stream)
}

fn reply(stream: &mut BufReader<TcpStream>) -> io::Result<u16> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.split_at_checked(4) {
            Some((code, _)) if code.ends_with(' ') => {
                return code.trim().parse().map_err(|_| ErrorKind::InvalidData.into());
            }
            Some(_) => {}
            None => return Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// An acknowledged message that has not arrived yet, if there is one.
pub(crate) fn missing(lab: &Lab, acknowledged: &[String]) -> Option<String> {
    let messages = lab.service.messages();
    let delivered: BTreeSet<&str> = messages.iter().map(|message| message.subject.as_str()).collect();
    acknowledged.iter().find(|subject| !delivered.contains(subject.as_str())).cloned()
}

/// Everything that was acknowledged arrives, and nothing is left.
pub(crate) fn all_arrive(lab: &Lab, acknowledged: &[String]) {
    let all = holds_within(PATIENCE, || missing(lab, acknowledged).is_none());
    assert!(all, "{:?} was acknowledged, and is lost", missing(lab, acknowledged));
    lab.wait_until_empty();
}
