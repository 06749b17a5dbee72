//! The two directions of one connection: lines and octets in, replies out.
//!
//! Replies are collected until a read has to wait, so a pipelined batch is answered at once. A client that no
//! longer reads is still read to its end: everything that it has sent whole counts.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Octets of a command, its end included: RFC 5321 section 4.5.3.1.4 allows 512, and each extension adds
/// some.
const MAX_LINE: usize = 2048;
/// RFC 4954 section 4.
const MAX_AUTH_LINE: usize = 12_288;
/// For a client that does not read, and for one whose connection is being closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const LINGER: Duration = Duration::from_secs(2);
const READ: usize = 64 << 10;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    output: Vec<u8>,
    /// Nothing can be written any more.
    deaf: bool,
    latency: Duration,
    idle_timeout: Duration,
}

pub(super) enum Heard {
    /// Without its CRLF.
    Line(Vec<u8>),
    /// It was discarded up to its end.
    TooLong,
    /// The client was silent for too long.
    Silence,
    /// The client is gone.
    End,
}

/// Why nothing was read.
pub(super) enum Nothing {
    Silence,
    End,
}

impl Wire {
    pub(super) fn new(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        latency: Duration,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            stream: Box::new(stream),
            input: BytesMut::new(),
            output: Vec::new(),
            deaf: false,
            latency,
            idle_timeout,
        }
    }

    /// The next command.
    pub(super) async fn command(&mut self) -> Heard {
        self.line(false).await
    }

    /// The next line of an AUTH exchange.
    pub(super) async fn response(&mut self) -> Heard {
        self.line(true).await
    }

    async fn line(&mut self, in_auth: bool) -> Heard {
        let mut too_long = false;
        loop {
            let found = memchr::memmem::find(&self.input, b"\r\n");
            let most = if in_auth || begins_with_auth(&self.input) { MAX_AUTH_LINE } else { MAX_LINE };
            match found {
                Some(end) => {
                    let line = self.input.split_to(end + 2);
                    if too_long || line.len() > most {
                        return Heard::TooLong;
                    }
                    return Heard::Line(line[..end].to_vec());
                }
                None if too_long || self.input.len() >= most => {
                    too_long = true;
                    // A CR may be the first half of a line end.
                    let keep = usize::from(self.input.ends_with(b"\r"));
                    self.input.advance(self.input.len() - keep);
                }
                None => {}
            }
            match self.fill().await {
                Ok(()) => {}
                Err(Nothing::Silence) => return Heard::Silence,
                Err(Nothing::End) => return Heard::End,
            }
        }
    }

    /// The content received so far: at least one octet. The caller removes the octets that it has used.
    pub(super) async fn content(&mut self) -> Result<&mut BytesMut, Nothing> {
        if self.input.is_empty() {
            self.fill().await?;
        }
        Ok(&mut self.input)
    }

    async fn fill(&mut self) -> Result<(), Nothing> {
        self.flush().await;
        self.input.reserve(READ);
        match timeout(self.idle_timeout, self.stream.read_buf(&mut self.input)).await {
            Err(_) => Err(Nothing::Silence),
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0) | Err(_)) => Err(Nothing::End),
        }
    }

    /// Adds to the replies that wait to be sent.
    pub(super) fn say(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
    }

    pub(super) async fn flush(&mut self) {
        if self.output.is_empty() {
            return;
        }
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        if !self.deaf {
            let write = async {
                self.stream.write_all(&self.output).await?;
                self.stream.flush().await
            };
            self.deaf = !matches!(timeout(WRITE_TIMEOUT, write).await, Ok(Ok(())));
        }
        self.output.clear();
    }

    /// Sends the waiting replies and shakes hands. Unencrypted input after STARTTLS is discarded (RFC 3207
    /// section 4.2).
    pub(super) async fn encrypt(&mut self, acceptor: &TlsAcceptor) -> io::Result<()> {
        self.flush().await;
        self.input.clear();
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = Box::new(timeout(self.idle_timeout, acceptor.accept(plain)).await??);
        Ok(())
    }

    /// Sends the waiting replies, and closes so that the client can still read them.
    pub(super) async fn close(mut self) {
        self.flush().await;
        let _ = self.stream.shutdown().await;
        let drain = async {
            while matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                self.input.clear();
            }
        };
        // However it ends, everything was sent.
        let _ = timeout(LINGER, drain).await;
    }

    /// Sends the waiting replies, and drops the connection.
    pub(super) async fn cut(mut self) {
        self.flush().await;
    }
}

fn begins_with_auth(input: &[u8]) -> bool {
    input.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AUTH "))
}
