//! An SMTP client that does as it is told.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
};

use tokio::net::TcpSocket;

use super::PATIENCE;

pub struct Smtp<S: Stream = TcpStream>(BufReader<S>);

pub trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// Without the codes at the start of each line, but with the enhanced status code.
    pub text: String,
}

impl Smtp {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> Self {
        let mut smtp = Self::dial(address);
        assert_eq!(smtp.reply().code, 220);
        smtp
    }

    /// Connects from another address of this machine, such as 127.1.2.3, and returns the first reply.
    pub fn from_address(source: IpAddr, address: SocketAddr) -> (Self, Reply) {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            socket.connect(address).await?.into_std()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let stream = runtime.block_on(connect).unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut smtp = Self::over(stream);
        let first = smtp.reply();
        (smtp, first)
    }

    /// Connects.
    pub fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: Stream> Smtp<S> {
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// All that was sent has been read.
    pub fn into_stream(self) -> S {
        assert!(self.0.buffer().is_empty());
        self.0.into_inner()
    }

    /// Returns everything up to the end of the connection, which may be a reset.
    pub fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        rest
    }

    /// Sends a whole transaction; panics if the message is not accepted. Returns the queue id.
    pub fn send(&mut self, from: &str, to: &[&str], content: &[u8]) -> String {
        self.begin(from, to);
        let reply = self.data(content);
        assert_eq!(reply.code, 250, "{reply:?}");
        reply.text.rsplit(' ').next().unwrap().to_owned()
    }

    /// Sends MAIL and RCPT; panics if one of them is refused.
    pub fn begin(&mut self, from: &str, to: &[&str]) {
        let reply = self.mail(from);
        assert_eq!(reply.code, 250, "{reply:?}");
        for recipient in to {
            let reply = self.rcpt(recipient);
            assert_eq!(reply.code, 250, "{reply:?}");
        }
    }

    pub fn mail(&mut self, from: &str) -> Reply {
        self.command(&format!("MAIL FROM:<{from}> BODY=8BITMIME"))
    }

    pub fn rcpt(&mut self, to: &str) -> Reply {
        self.command(&format!("RCPT TO:<{to}>"))
    }

    /// Sends DATA and the content, which ends in CRLF; dots are doubled here. Returns the last reply.
    pub fn data(&mut self, content: &[u8]) -> Reply {
        let reply = self.command("DATA");
        if reply.code != 354 {
            return reply;
        }
        self.write(&with_end(content));
        self.reply()
    }

    pub fn quit(mut self) {
        assert_eq!(self.command("QUIT").code, 221);
    }

    pub fn command(&mut self, line: &str) -> Reply {
        self.write(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends the octets in one write.
    pub fn write(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).unwrap();
    }

    pub fn reply(&mut self) -> Reply {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("not a reply: {line:?}"));
            lines.push(line[4..].to_owned());
            if line.as_bytes()[3] == b' ' {
                return Reply { code: line[..3].parse().unwrap(), text: lines.join("\n") };
            }
        }
    }
}

/// The content as it is sent: dots doubled, and the line that ends it.
pub fn with_end(content: &[u8]) -> Vec<u8> {
    assert!(content.ends_with(b"\r\n"));
    let mut wire = Vec::with_capacity(content.len() + 100);
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
