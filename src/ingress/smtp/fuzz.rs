//! What must hold for any octets from a client: see [`crate::fuzzing`].
//!
//! What a parser finds is compared with what the plainest possible one finds, or with what the same parser
//! makes of its own result.

mod session;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Runtime,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    command::{Command, Misunderstood},
    data::{DataReader, Piece},
    path::Mail,
    reply::Reply,
    wire::{Heard, MAX_LINE, Wire},
};
use crate::ingress::newlines::{Lenience, Newlines};
use relay_mail::{BodyKind, MailParameters, Recipient};

pub(crate) use session::session;

/// A connection whose client sends known octets, some at a time, and then is gone.
struct Tape {
    input: Vec<u8>,
    at: usize,
    chunk: usize,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Tape {
    fn new(input: &[u8], chunk: usize) -> Self {
        Self { input: input.to_vec(), at: 0, chunk, output: Arc::default() }
    }
}

impl AsyncRead for Tape {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tape = self.get_mut();
        let len = tape.chunk.min(buffer.remaining()).min(tape.input.len() - tape.at);
        buffer.put_slice(&tape.input[tape.at..tape.at + len]);
        tape.at += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tape {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.output.lock().unwrap().extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

// === command lines ===

pub(crate) fn line(octets: &[u8]) {
    // Whole lines, `None` for those that are too long.
    let plain: Vec<Option<&[u8]>> = octets
        .split_inclusive(|&octet| octet == b'\n')
        .filter(|line| line.ends_with(b"\n"))
        .map(|line| Some(line).filter(|line| line.len() <= MAX_LINE))
        .collect();
    let runtime = runtime();
    for chunk in [1, 3, 500, MAX_LINE, usize::MAX] {
        let heard = runtime.block_on(heard(octets, chunk));
        assert!(heard.iter().map(Option::as_deref).eq(plain.iter().copied()), "in reads of {chunk}");
    }
    plain.into_iter().flatten().for_each(parse);
}

async fn heard(octets: &[u8], chunk: usize) -> Vec<Option<Vec<u8>>> {
    let mut wire = Wire::new(Tape::new(octets, chunk));
    let mut lines = Vec::new();
    // Not reached: the client is gone before that.
    let deadline = Instant::now() + std::time::Duration::from_secs(3600);
    loop {
        match wire.command(deadline, &CancellationToken::new()).await {
            Ok(Heard::Line(len)) => {
                lines.push(Some(wire.line(len).to_vec()));
                wire.consume(len);
            }
            Ok(Heard::TooLong) => lines.push(None),
            Ok(heard) => panic!("{heard:?}"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                return lines;
            }
        }
    }
}

fn parse(line: &[u8]) {
    let _ = super::command::verb(line);
    let command = match Command::parse(line) {
        Ok(command) => command,
        Err(Misunderstood { reply, .. }) => return check_refusal(&reply),
    };
    let text = line.trim_ascii_end();
    assert!(!text.iter().any(u8::is_ascii_control), "{command:?}");
    let holds = |part: &str| assert!(memchr::memmem::find(text, part.as_bytes()).is_some(), "{command:?}");
    // Written out plainly, it is the same command.
    let plain = match &command {
        Command::Mail(mail) => {
            let sender = mail.sender.as_ref().map_or("", |sender| sender.as_str());
            holds(sender);
            plain_mail(mail, sender)
        }
        Command::Rcpt(recipient) => {
            holds(recipient.address.as_str());
            plain_rcpt(recipient)
        }
        Command::Bdat { octets, is_last } => {
            format!("BDAT {octets}{}", if *is_last { " LAST" } else { "" })
        }
        Command::Hello(hello) => {
            assert!(!hello.name.chars().any(|c| c.is_ascii_control()));
            return;
        }
        Command::Data => "DATA".into(),
        Command::Rset => "RSET".into(),
        _ => return,
    };
    assert_eq!(Command::parse(format!("{plain}\r\n").as_bytes()), Ok(command), "{plain}");
}

fn plain_mail(mail: &Mail, sender: &str) -> String {
    let Mail { size, parameters: MailParameters { body, utf8, ret, envid }, .. } = mail;
    let body = match body {
        BodyKind::SevenBit => "7BIT",
        BodyKind::EightBitMime => "8BITMIME",
    };
    let mut plain = format!("MAIL FROM:<{sender}> BODY={body}");
    plain.extend(size.map(|size| format!(" SIZE={size}")));
    plain.extend(utf8.then_some(" SMTPUTF8"));
    plain.extend(ret.map(|ret| format!(" RET={ret}")));
    plain.extend(envid.as_ref().map(|envid| format!(" ENVID={envid}")));
    plain
}

fn plain_rcpt(recipient: &Recipient) -> String {
    let Recipient { address, wish } = recipient;
    let mut plain = format!("RCPT TO:<{address}>");
    plain.extend(wish.notify.map(|notify| format!(" NOTIFY={notify}")));
    plain.extend(wish.original.as_ref().map(|original| format!(" ORCPT={original}")));
    plain
}

/// Says no, on one line.
fn check_refusal(reply: &Reply) {
    let mut written = Vec::new();
    reply.write_to(&mut written);
    assert!((400..600).contains(&reply.code) && written.len() <= 512, "{reply}");
    let text = written.strip_suffix(b"\r\n").unwrap();
    assert!(text.iter().all(|octet| matches!(octet, b' '..=b'~')), "{reply}");
}

// === content ===

pub(crate) fn data(octets: &[u8]) {
    let plain = PlainContent::of(octets);
    for chunk in [1, 2, 3, 5, octets.len().max(1)] {
        let (content, rest) = read(octets, chunk);
        match &plain {
            Some(PlainContent { content: expected, rest: behind }) => {
                assert_eq!((&content, rest), (expected, Some(behind.len())), "in reads of {chunk}");
            }
            None => {
                assert_eq!(rest, None, "in reads of {chunk}");
                // What may still turn out to be the end is held back.
                let all = unstuffed(octets);
                assert!(all.starts_with(&content) && all.len() - content.len() <= 1, "in reads of {chunk}");
            }
        }
    }
    let content = plain.map_or_else(|| octets.to_vec(), |plain| plain.content);
    for lenience in [Lenience::None, Lenience::LineFeed, Lenience::Both] {
        let expected = plainly_mended(&content, lenience);
        for chunk in [1, 2, 3, content.len().max(1)] {
            assert_eq!(mended(&content, lenience, chunk), expected, "{lenience:?} in reads of {chunk}");
        }
    }
}

/// The content after DATA as the RFC defines it, found in all that a client sends. `None` if its end is not
/// there.
struct PlainContent<'a> {
    content: Vec<u8>,
    rest: &'a [u8],
}

impl<'a> PlainContent<'a> {
    fn of(octets: &'a [u8]) -> Option<Self> {
        // RFC 5321 section 4.1.1.4: the CR LF that ended DATA counts.
        let whole = [b"\r\n", octets].concat();
        let end = memchr::memmem::find(&whole, b"\r\n.\r\n")?;
        Some(Self { content: unstuffed(&octets[..end]), rest: &octets[end + 3..] })
    }
}

/// RFC 5321 section 4.5.2.
fn unstuffed(octets: &[u8]) -> Vec<u8> {
    let is_stuffing = |at: usize| octets[at] == b'.' && (at == 0 || octets[..at].ends_with(b"\r\n"));
    (0..octets.len()).filter(|&at| !is_stuffing(at)).map(|at| octets[at]).collect()
}

/// What the reader makes of it, and how much it left after the end.
fn read(octets: &[u8], chunk: usize) -> (Vec<u8>, Option<usize>) {
    let mut reader = DataReader::new();
    let mut content = Vec::new();
    let mut left = octets.len();
    for part in octets.chunks(chunk) {
        let mut input = part;
        left -= part.len();
        while let Some(piece) = reader.next(&mut input) {
            match piece {
                Piece::Content(piece) => content.extend_from_slice(piece),
                Piece::End => return (content, Some(left + input.len())),
            }
        }
        assert!(input.is_empty());
    }
    (content, None)
}

fn mended(content: &[u8], lenience: Lenience, chunk: usize) -> Option<Vec<u8>> {
    let mut newlines = Newlines::new(lenience);
    let mut out = Vec::new();
    for part in content.chunks(chunk) {
        out.extend_from_slice(&newlines.mend(part).ok()?);
    }
    out.extend_from_slice(newlines.finish().ok()?);
    Some(out)
}

fn plainly_mended(content: &[u8], lenience: Lenience) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = content;
    while let Some(&octet) = rest.first() {
        let carriage_returns = rest.iter().take_while(|&&octet| octet == b'\r').count();
        let line_feed = usize::from(rest.get(carriage_returns) == Some(&b'\n'));
        match (carriage_returns, line_feed, lenience) {
            (0, 0, _) => out.push(octet),
            (1, 1, _) | (0, 1, Lenience::LineFeed) | (_, _, Lenience::Both) => out.extend_from_slice(b"\r\n"),
            _ => return None,
        }
        rest = &rest[(carriage_returns + line_feed).max(1)..];
    }
    Some(out)
}
