//! The two directions of one connection: lines and content in, replies out.
//!
//! Replies gather until the next read has to wait, so that a pipelined batch is answered with one write (RFC
//! 2920 section 3.1). No read and no write waits without a limit. The buffers of a connection that waits for
//! a command are small: an idle client costs a few kilobytes.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize;

use super::reply::Reply;

/// Octets of a command line, its end included. RFC 5321 section 4.5.3.1.4 asks for 512, and each extension
/// for more.
pub(super) const MAX_LINE: usize = 2048;
/// Octets of a line of an AUTH exchange, and of an AUTH command: RFC 4954 section 4.
pub(super) const MAX_AUTH_LINE: usize = 12288;
/// RFC 5321 section 4.5.3.2.5: between two parts of the content.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(3 * 60);
/// For content that is read and thrown away.
const SKIP_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// For a client that does not read its replies.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client that is hung up on may take to notice.
const LINGER: Duration = Duration::from_secs(2);

const COMMAND_BUFFER: usize = 2 * 1024;
const CONTENT_BUFFER: usize = 32 * 1024;
/// Until a client has shown that it sends more at a time.
const FIRST_CONTENT_BUFFER: usize = 8 * 1024;
/// Replies waiting to be written, for a client that sends commands without end.
const MAX_UNSENT: usize = 16 * 1024;

pub(super) struct Wire<S> {
    stream: S,
    input: BytesMut,
    /// Octets at the front of `input` that are known to hold no LF.
    scanned: usize,
    output: Vec<u8>,
    /// The capacity that `input` was given.
    room: usize,
    /// Content fills the buffer faster than it is read.
    flows: bool,
}

/// What a client that was asked for a command did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It sent a line of this many octets: see [`Wire::line`].
    Line(usize),
    /// It sent a line that is too long, which was thrown away up to its end.
    TooLong,
    /// It said nothing for too long.
    Nothing,
    /// It was not listened to: the relay shuts down.
    Shutdown,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            scanned: 0,
            output: Vec::new(),
            room: COMMAND_BUFFER,
            flows: false,
        }
    }

    /// Waits for the next command line, until `deadline`. The connection's end is an error of kind
    /// `UnexpectedEof`.
    pub(super) async fn command(
        &mut self,
        deadline: Instant,
        shutdown: &CancellationToken,
    ) -> io::Result<Heard> {
        self.hear(deadline, shutdown, MAX_LINE).await
    }

    /// Waits for the client's next line of an AUTH exchange, as [`Wire::command`] does.
    pub(super) async fn response(
        &mut self,
        deadline: Instant,
        shutdown: &CancellationToken,
    ) -> io::Result<Heard> {
        self.hear(deadline, shutdown, MAX_AUTH_LINE).await
    }

    async fn hear(
        &mut self,
        deadline: Instant,
        shutdown: &CancellationToken,
        max_line: usize,
    ) -> io::Result<Heard> {
        let mut too_long = false;
        loop {
            if shutdown.is_cancelled() {
                return Ok(Heard::Shutdown);
            }
            let max_line = if begins_with_auth(&self.input) { MAX_AUTH_LINE } else { max_line };
            match memchr::memchr(b'\n', &self.input[self.scanned..]) {
                Some(found) => {
                    let line = self.scanned + found + 1;
                    if !too_long && line <= max_line {
                        return Ok(Heard::Line(line));
                    }
                    self.consume(line);
                    return Ok(Heard::TooLong);
                }
                None if too_long || self.input.len() >= max_line => {
                    too_long = true;
                    self.consume(self.input.len());
                }
                None => self.scanned = self.input.len(),
            }
            self.flush().await?;
            self.flows = false;
            self.make_room(COMMAND_BUFFER);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(Heard::Shutdown),
                read = timeout_at(deadline, self.stream.read_buf(&mut self.input)) => match read {
                    Err(_) => return Ok(Heard::Nothing),
                    Ok(read) => if read? == 0 { return Err(io::ErrorKind::UnexpectedEof.into()) },
                },
            }
        }
    }

    /// The line that was heard.
    pub(super) fn line(&self, len: usize) -> &[u8] {
        &self.input[..len]
    }

    /// Drops octets from the front of the input.
    pub(super) fn consume(&mut self, octets: usize) {
        self.input.advance(octets);
        self.scanned = 0;
    }

    /// As [`Wire::consume`], for a line that may hold a password.
    pub(super) fn wipe(&mut self, octets: usize) {
        self.input[..octets].zeroize();
        self.consume(octets);
    }

    /// Throws away the next octets, which are not commands. `false`: the client stalls, or `deadline` has
    /// passed.
    pub(super) async fn skip(&mut self, mut octets: u64, deadline: Instant) -> io::Result<bool> {
        let deadline = deadline.min(Instant::now() + SKIP_TIMEOUT);
        while octets > 0 {
            let Some(input) = self.content(deadline).await? else { return Ok(false) };
            let skipped = input.len().min(usize::try_from(octets).unwrap_or(usize::MAX));
            self.consume(skipped);
            octets -= skipped as u64;
        }
        Ok(true)
    }

    /// Some of the content: what is in the buffer, or what comes next; never empty. `None`: the client
    /// stalls, or `deadline` has passed. The connection's end is an error of kind `UnexpectedEof`.
    pub(super) async fn content(&mut self, deadline: Instant) -> io::Result<Option<&[u8]>> {
        // Here too, since a client that always has more to send is never waited for.
        if Instant::now() >= deadline {
            return Ok(None);
        }
        if self.input.is_empty() {
            self.flush().await?;
            self.make_room(if self.flows { CONTENT_BUFFER } else { FIRST_CONTENT_BUFFER });
            let until = deadline.min(Instant::now() + CONTENT_TIMEOUT);
            match timeout_at(until, self.stream.read_buf(&mut self.input)).await {
                Err(_) => return Ok(None),
                Ok(read) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.flows |= self.input.len() == self.input.capacity();
                }
            }
        }
        Ok(Some(&self.input))
    }

    /// Adds a reply to those that wait to be sent.
    pub(super) async fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        reply.write_to(&mut self.output);
        if self.output.len() > MAX_UNSENT { self.flush().await } else { Ok(()) }
    }

    /// Sends what waits, and hangs up so that the client can read it: with unread input, closing at once
    /// would make the client's system throw the last replies away.
    pub(super) async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await?;
        let drain = async {
            while self.stream.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            io::Result::Ok(())
        };
        // However it ends, everything was sent. Many clients end TLS by just closing.
        let _ = timeout(LINGER, drain).await;
        Ok(())
    }

    /// As [`close`](Self::close), for a client that has said QUIT, after which nothing comes (RFC 5321
    /// section 4.1.1.10): it is not waited for.
    pub(super) async fn part(mut self) -> io::Result<()> {
        if self.has_input() {
            return self.close().await;
        }
        self.flush().await?;
        self.stream.shutdown().await
    }

    /// Whether there are octets that have not been looked at.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Sends what waits, and gives the stream back. What was read but not consumed is lost.
    pub(super) async fn into_stream(mut self) -> io::Result<S> {
        self.flush().await?;
        Ok(self.stream)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.output).await?;
            // For a TCP stream this does nothing; one with TLS has records of its own to send.
            self.stream.flush().await
        };
        timeout(WRITE_TIMEOUT, write).await??;
        self.output.clear();
        Ok(())
    }

    /// Makes room for the next read, and gives back what content, or a login, made the buffer grow to.
    fn make_room(&mut self, wanted: usize) {
        let is_large = self.input.capacity() > 2 * wanted;
        if self.input.is_empty() && (self.room != wanted || is_large) {
            self.input = BytesMut::with_capacity(wanted);
            self.room = wanted;
        }
        // What was consumed leaves room at the front, which `reserve` takes back without asking for memory.
        if self.input.capacity() - self.input.len() < wanted / 4 {
            self.input.reserve(wanted);
        }
    }
}

fn begins_with_auth(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AUTH "))
}
