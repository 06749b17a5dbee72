//! One message on a connection: MAIL, RCPT, content.
//!
//! The content is sent only if every recipient was taken. So nothing of a message is sent if its recipients
//! are treated differently, and the outcome of each can be stored before anything is sent.
//!
//! With CHUNKING the content is sent as it is in chunks (RFC 3030), else after DATA with its dots doubled
//! (RFC 5321 section 4.5.2). It is read from the spool a piece at a time. A connection that breaks before the
//! last octet was written has sent nothing: neither a chunk without LAST nor content without its final dot is
//! a message. From then on nobody knows, until the reply comes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Broken,
    connection::{Connection, Talk},
    parameters::Lines,
    reply::{Class, Reply, Step},
};
use crate::{config::NetworkConfig, delivery::letter::Mime, network};
use relay_spool::OpenBody;

/// RCPT commands that wait for their replies at a time. The replies must fit into the buffers between the two
/// sides, as neither may wait for the other to read.
const WINDOW: usize = 100;
/// Chunks that wait for their replies.
const CHUNKS: usize = 4;
/// Below this a message is sent in one write, which fits into one record of TLS.
const ONE_WRITE: u64 = 15 * 1024;
/// The time for the reply to the end of the content (RFC 5321 section 4.5.3.2.6).
const END: Duration = Duration::from_secs(600);

/// How a transaction ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: TransactionOutcome,
    /// The connection can be used for another one.
    pub(super) is_reusable: bool,
}

#[derive(Debug)]
pub(super) enum TransactionOutcome {
    Taken(Reply),
    /// The whole message was refused, in reply to that step.
    Refused(Step, Reply),
    /// Not all recipients were taken: the replies, in the order of the envelope. Nothing was sent.
    Recipients(Vec<Reply>),
    Broken(Broken, Stage),
}

/// How far the transaction had come when the connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No reply for this message had come on it.
    First,
    /// The message was not complete.
    Before,
    /// It may have been complete.
    After,
}

impl Ended {
    fn broken(broken: Broken, stage: Stage) -> Self {
        Self { outcome: TransactionOutcome::Broken(broken, stage), is_reusable: false }
    }

    /// Whether a connection that was kept for a while turned out to be useless: closed, or its login
    /// forgotten.
    pub(super) fn is_stale(&self) -> bool {
        match &self.outcome {
            TransactionOutcome::Broken(_, stage) => *stage == Stage::First,
            TransactionOutcome::Refused(Step::Mail, reply) => reply.is_closing() || reply.code == 530,
            _ => false,
        }
    }

    /// Whether the server may not know a parameter of MAIL (RFC 5321 section 4.1.1.11).
    pub(super) fn is_parameter_unknown(&self) -> bool {
        matches!(&self.outcome, TransactionOutcome::Refused(Step::Mail, reply) if matches!(reply.code, 501 | 502 | 504 | 555))
    }
}

/// Sends the message.
pub(super) async fn run(
    connection: &mut Connection,
    lines: &Lines,
    mime: &Mime,
    network: &NetworkConfig,
) -> Ended {
    let Connection { talk, extensions, .. } = connection;
    let window = if extensions.pipelining { WINDOW } else { 1 };
    match envelope(talk, lines, window).await {
        Ok(replies) if replies.iter().all(Reply::is_good) => {}
        Ok(replies) => {
            let is_reusable = reset(talk).await;
            return Ended { outcome: TransactionOutcome::Recipients(replies), is_reusable };
        }
        Err(NotBegun { outcome, is_in_step }) => {
            let is_reusable = is_in_step && reset(talk).await;
            return Ended { outcome, is_reusable };
        }
    }
    let mut content = Transfer {
        end: network.answer_timeout.max(END),
        deadline: Instant::now() + network::time_limit(network, mime.len()),
        talk,
    };
    let sent = if extensions.chunking {
        content.chunks(mime.clone(), if extensions.pipelining { CHUNKS } else { 1 }).await
    } else {
        content.data(mime.clone()).await
    };
    match sent {
        Ok(reply) if reply.is_good() => {
            Ended { outcome: TransactionOutcome::Taken(reply), is_reusable: true }
        }
        Ok(reply) if reply.is_refusal() => {
            // With all of the content sent, or none of it, both sides are at the beginning again.
            let is_reusable = !reply.is_closing() && reset(talk).await;
            Ended { outcome: TransactionOutcome::Refused(Step::Content, reply), is_reusable }
        }
        Ok(reply) => Ended::broken(
            Broken::because(format!("an unexpected reply to the content: {reply}")),
            Stage::After,
        ),
        Err(NotSent::Broken(broken, stage)) => Ended::broken(broken, stage),
        Err(NotSent::Refused(reply)) => {
            Ended { outcome: TransactionOutcome::Refused(Step::Content, reply), is_reusable: false }
        }
    }
}

async fn reset(talk: &mut Talk) -> bool {
    talk.command("RSET").await.is_ok_and(|reply| reply.is_good())
}

/// The outcome of something that concerns the whole message.
struct NotBegun {
    outcome: TransactionOutcome,
    /// Every command has had its reply, and the server listens: the next reply belongs to the next command.
    is_in_step: bool,
}

impl From<TransactionOutcome> for NotBegun {
    fn from(outcome: TransactionOutcome) -> Self {
        Self { outcome, is_in_step: false }
    }
}

/// The replies to RCPT.
async fn envelope(talk: &mut Talk, lines: &Lines, window: usize) -> Result<Vec<Reply>, NotBegun> {
    let mut stage = Stage::First;
    let mut replies = Vec::with_capacity(lines.rcpt.len());
    // The first group begins with MAIL; alone, if the server takes one command at a time.
    let first = if window > 1 { window.min(lines.rcpt.len()) } else { 0 };
    let (with_mail, others) = lines.rcpt.split_at(first);
    let groups =
        std::iter::once((Some(&lines.mail), with_mail)).chain(others.chunks(window).map(|rcpt| (None, rcpt)));
    for (mail, rcpt) in groups {
        let mut said = String::new();
        for line in mail.into_iter().chain(rcpt) {
            said.push_str(line);
            said.push_str("\r\n");
        }
        talk.ask(said.as_bytes()).await.map_err(|broken| TransactionOutcome::Broken(broken, stage))?;
        let steps = mail.map(|_| Step::Mail).into_iter().chain(rcpt.iter().map(|_| Step::Rcpt));
        let mut outstanding = steps.clone().count();
        for step in steps {
            let reply = talk.reply().await.map_err(|broken| TransactionOutcome::Broken(broken, stage))?;
            (stage, outstanding) = (Stage::Before, outstanding - 1);
            if concerns_all(step, &reply) {
                let is_in_step = !reply.is_closing() && skip(talk, outstanding).await;
                return Err(NotBegun { outcome: TransactionOutcome::Refused(step, reply), is_in_step });
            }
            if !reply.is_good() && !reply.is_refusal() {
                return Err(odd(&reply).into());
            }
            if step == Step::Rcpt {
                replies.push(reply);
            }
        }
    }
    Ok(replies)
}

/// Whether it refuses the whole message.
fn concerns_all(step: Step, reply: &Reply) -> bool {
    let is_of_one = step == Step::Rcpt && matches!(reply.class(step), Class::Again | Class::Refused);
    reply.is_refusal() && (reply.is_closing() || !is_of_one)
}

/// Reads the replies to what was sent already. Whatever they are, they change nothing; but if they were left
/// unread, they would be taken for the replies to the commands of the next message.
async fn skip(talk: &mut Talk, replies: usize) -> bool {
    for _ in 0..replies {
        if !talk.reply().await.is_ok_and(|reply| !reply.is_closing()) {
            return false;
        }
    }
    true
}

fn odd(reply: &Reply) -> TransactionOutcome {
    TransactionOutcome::Broken(Broken::because(format!("an unexpected reply: {reply}")), Stage::Before)
}

enum NotSent {
    Broken(Broken, Stage),
    /// Before the end, on a connection that is of no more use.
    Refused(Reply),
}

/// The content on its way.
struct Transfer<'a> {
    talk: &'a mut Talk,
    deadline: Instant,
    /// The time for the last reply.
    end: Duration,
}

impl Transfer<'_> {
    /// `Ok`: the reply to DATA if it refuses, else the reply to the content.
    async fn data(&mut self, mime: Mime) -> Result<Reply, NotSent> {
        let answer =
            self.talk.command("DATA").await.map_err(|broken| NotSent::Broken(broken, Stage::Before))?;
        match answer.code {
            354 => {}
            _ if answer.is_refusal() => return Ok(answer),
            _ => {
                let broken = Broken::because(format!("an unexpected reply to DATA: {answer}"));
                return Err(NotSent::Broken(broken, Stage::Before));
            }
        }
        let is_small = mime.len() <= ONE_WRITE;
        let mut dots = Dots::default();
        let mut held = Vec::new();
        let Mime { header, begun, mut rest } = mime;
        let mut next = Some(header);
        let mut begun = Some(begun);
        while let Some(piece) = next {
            let piece = dots.doubled(piece);
            if is_small {
                held.extend_from_slice(&piece);
            } else {
                self.write(&piece).await?;
            }
            next = match begun.take() {
                Some(begun) => Some(begun),
                None => read(&mut rest).await?,
            };
        }
        held.extend_from_slice(dots.end());
        self.finish(&held).await
    }

    /// `Ok`: the reply to the last chunk, or the first refusal when no more chunks were in flight.
    async fn chunks(&mut self, mime: Mime, most: usize) -> Result<Reply, NotSent> {
        let Mime { header, begun, mut rest } = mime;
        let mut pieces = vec![header, begun];
        let mut waiting = 0;
        loop {
            let len: usize = pieces.iter().map(Bytes::len).sum();
            if rest.remaining() == 0 {
                // The replies to earlier chunks must come before the last chunk is sent.
                while waiting > 0 {
                    self.taken().await?;
                    waiting -= 1;
                }
                return self.last_chunk(pieces, len).await;
            }
            if waiting == 0 {
                self.expect_quiet()?;
            }
            self.write(format!("BDAT {len}\r\n").as_bytes()).await?;
            for piece in &pieces {
                self.write(piece).await?;
            }
            waiting += 1;
            if waiting >= most {
                self.taken().await?;
                waiting -= 1;
            }
            pieces.clear();
            match read(&mut rest).await? {
                Some(piece) => pieces.push(piece),
                None => return Err(cannot_read("it has become shorter")),
            }
        }
    }

    async fn last_chunk(&mut self, pieces: Vec<Bytes>, len: usize) -> Result<Reply, NotSent> {
        let mut held = format!("BDAT {len} LAST\r\n").into_bytes();
        if len as u64 <= ONE_WRITE {
            pieces.iter().for_each(|piece| held.extend_from_slice(piece));
            return self.finish(&held).await;
        }
        self.write(&held).await?;
        let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).peekable();
        while let Some(mut piece) = pieces.next() {
            // The last octet is sent alone: until then, the chunk is not complete.
            let last = pieces.peek().is_none().then(|| piece.split_off(piece.len() - 1));
            self.write(&piece).await?;
            if let Some(last) = last {
                return self.finish(&last).await;
            }
        }
        Err(cannot_read("it is empty"))
    }

    /// The reply to a chunk that is not the last.
    async fn taken(&mut self) -> Result<(), NotSent> {
        let reply = self.talk.reply().await.map_err(|broken| NotSent::Broken(broken, Stage::Before))?;
        if reply.is_good() {
            Ok(())
        } else if reply.is_refusal() {
            Err(NotSent::Refused(reply))
        } else {
            Err(NotSent::Broken(Broken::because(format!("an unexpected reply: {reply}")), Stage::Before))
        }
    }

    /// Everything that was asked has been answered. A refusal that came early counts. Anything else is a
    /// reply to nothing, and must not be taken for the reply to what comes next, above all to the end of the
    /// content.
    fn expect_quiet(&mut self) -> Result<(), NotSent> {
        self.talk.expect_quiet().map_err(|broken| match self.talk.heard() {
            Some(reply) if reply.is_refusal() => NotSent::Refused(reply),
            _ => NotSent::Broken(broken, Stage::Before),
        })
    }

    async fn write(&mut self, octets: &[u8]) -> Result<(), NotSent> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.talk.write_within(octets, left).await {
            Ok(()) => Ok(()),
            Err(broken) => match self.talk.last_words().await {
                Some(reply) => Err(NotSent::Refused(reply)),
                None => Err(NotSent::Broken(broken, Stage::Before)),
            },
        }
    }

    /// Sends the end of the content.
    async fn finish(&mut self, octets: &[u8]) -> Result<Reply, NotSent> {
        self.expect_quiet()?;
        let after = |broken| NotSent::Broken(broken, Stage::After);
        let left = self.deadline.saturating_duration_since(Instant::now());
        if let Err(broken) = self.talk.write_within(octets, left).await {
            return self.talk.last_words().await.ok_or_else(|| after(broken));
        }
        self.talk.reply_within(self.end).await.map_err(after)
    }
}

async fn read(rest: &mut OpenBody) -> Result<Option<Bytes>, NotSent> {
    rest.next().await.map_err(|e| cannot_read(&e.to_string()))
}

fn cannot_read(why: &str) -> NotSent {
    NotSent::Broken(Broken::because(format!("cannot read the message: {why}")), Stage::Before)
}

/// Doubles the dots at the beginnings of lines.
struct Dots {
    at_line_start: bool,
}

impl Default for Dots {
    fn default() -> Self {
        Self { at_line_start: true }
    }
}

impl Dots {
    /// Lines end in CR LF, so that LF ends a line.
    fn doubled(&mut self, piece: Bytes) -> Bytes {
        let was_at_start = self.at_line_start;
        self.at_line_start = piece.last().map_or(was_at_start, |octet| *octet == b'\n');
        let is_leading = |at: &usize| if *at == 0 { was_at_start } else { piece[*at - 1] == b'\n' };
        let mut leading = memchr::memchr_iter(b'.', &piece).filter(is_leading).peekable();
        if leading.peek().is_none() {
            return piece.clone();
        }
        let mut out = Vec::with_capacity(piece.len() + 64);
        let mut from = 0;
        for at in leading {
            out.extend_from_slice(&piece[from..at]);
            out.push(b'.');
            from = at;
        }
        out.extend_from_slice(&piece[from..]);
        out.into()
    }

    fn end(&self) -> &'static [u8] {
        if self.at_line_start { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(pieces: &[&str]) -> String {
        let mut dots = Dots::default();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&dots.doubled(Bytes::copy_from_slice(piece.as_bytes())));
        }
        out.extend_from_slice(dots.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dots() {
        for (pieces, expected) in [
            (&[""][..], ".\r\n"),
            (&["a"], "a\r\n.\r\n"),
            (&["a\r\n"], "a\r\n.\r\n"),
            (&[".\r\n", ".", ".\r\n..b\r\n"], "..\r\n...\r\n...b\r\n.\r\n"),
            (&["a\r", "\n.b.c"], "a\r\n..b.c\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(pieces), expected, "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn a_server_takes_the_dots_out_again(lines: Vec<String>, cut: usize) {
            let whole: String = lines.iter().map(|line| format!("{}\r\n", line.replace(['\r', '\n'], "."))).collect();
            let cut = (0..=cut % (whole.len() + 1)).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
            let sent = stuffed(&[&whole[..cut], &whole[cut..]]);
            let content = sent.strip_suffix(".\r\n").unwrap();
            let lines = content.split_inclusive("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line));
            prop_assert_eq!(lines.collect::<String>(), whole);
            prop_assert!(!content.split("\r\n").any(|line| line == "."));
        }
    }
}
