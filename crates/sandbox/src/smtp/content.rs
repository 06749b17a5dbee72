//! DATA and BDAT: the octets of a message.
//!
//! After DATA only CR LF `.` CR LF ends it, and a dot that begins a line (after CR LF, that is) is removed.
//! In chunks nothing has a special meaning. Octets over [`MAX_SIZE`] are counted and not kept.

use bytes::Buf;

use super::{
    parameters::decimal,
    replies::{self, MAX_SIZE, Reply},
    session::{Fate, Go, Session},
    transaction::Transaction,
    wire::Nothing,
};
use crate::faults::On;

impl Session {
    pub(super) async fn data(&mut self, argument: &str) -> Go {
        let start = Reply::from("354 Start mail input; end with <CRLF>.<CRLF>");
        let (said, cut) = match self.fate(On::SmtpData).await {
            Fate::Refuse(reply) => return self.say(&reply),
            Fate::Cut => return Go::Cut,
            Fate::Do => (start, false),
            Fate::DoThenSay(reply) => (reply, false),
            Fate::DoThenCut => (start, true),
        };
        if let Err(refusal) = self.may_begin_content(argument) {
            return self.say(&refusal);
        }
        let go = self.say(&said);
        if cut {
            // Once the client has started sending.
            let _ = self.wire.content().await;
            return Go::Cut;
        }
        if said.code() != 354 {
            return go;
        }
        let Some(mut transaction) = self.transaction.take() else { return Go::On };
        if let Err(nothing) = self.unstuffed(&mut transaction).await {
            return self.nothing(nothing);
        }
        self.heard(format!("({} octets of content)", transaction.size));
        self.finish(transaction, None).await
    }

    fn may_begin_content(&self, argument: &str) -> Result<(), Reply> {
        let transaction = self.transaction_with_recipients()?;
        if transaction.chunking || transaction.parameters.binary {
            // RFC 3030 sections 2 and 3.
            return Err(replies::BAD_SEQUENCE.into());
        }
        if argument.is_empty() { Ok(()) } else { Err(replies::ARGUMENTS.into()) }
    }

    fn transaction_with_recipients(&self) -> Result<&Transaction, Reply> {
        if self.greeted.is_none() {
            return Err(replies::SEND_HELLO.into());
        }
        if self.login.is_none() {
            return Err(replies::not_authenticated(self.session_id));
        }
        let transaction = self.transaction.as_ref().ok_or(replies::NEED_MAIL)?;
        if transaction.recipients.is_empty() { Err(replies::NEED_RCPT.into()) } else { Ok(transaction) }
    }

    async fn unstuffed(&mut self, transaction: &mut Transaction) -> Result<(), Nothing> {
        let mut unstuffer = Unstuffer::default();
        let mut plain = Vec::new();
        loop {
            let input = self.wire.content().await?;
            let (used, ended) = unstuffer.feed(input, &mut plain);
            input.advance(used);
            transaction.keep(&plain);
            plain.clear();
            if ended {
                return Ok(());
            }
        }
    }

    pub(super) async fn bdat(&mut self, argument: &str) -> Go {
        let Some((octets, is_last)) = chunk(argument) else {
            // The number of octets that follow and are not commands is unknown.
            self.say(&replies::ARGUMENTS.into());
            return Go::Close;
        };
        // RFC 3030 section 2: the octets of a refused chunk are sent all the same.
        let allowed = self.transaction_with_recipients().map(drop);
        let transaction = self.transaction.take().filter(|_| allowed.is_ok());
        let is_first = transaction.as_ref().is_none_or(|transaction| !transaction.chunking);
        let mut chunk = transaction;
        if let Err(nothing) = self.take_chunk(octets, chunk.as_mut()).await {
            return self.nothing(nothing);
        }
        self.heard(format!("({octets} octets of content)"));
        let fate = if is_first { self.fate(On::SmtpData).await } else { Fate::Do };
        let (said, cut) = match fate {
            Fate::Refuse(reply) => return self.say(&reply),
            Fate::Cut => return Go::Cut,
            Fate::Do => (None, false),
            Fate::DoThenSay(reply) => (Some(reply), false),
            Fate::DoThenCut => (None, true),
        };
        let transaction = match (chunk, allowed) {
            (Some(transaction), Ok(())) => transaction,
            (_, Err(refusal)) => return self.say(&refusal),
            (None, Ok(())) => return self.say(&replies::NEED_MAIL.into()),
        };
        let go = if is_last {
            self.finish(transaction, said).await
        } else {
            self.transaction = Some(transaction);
            self.say(
                &said.unwrap_or_else(|| Reply::new(format!("250 2.6.0 CHUNK received OK, {octets} octets"))),
            )
        };
        if cut { Go::Cut } else { go }
    }

    async fn take_chunk(&mut self, octets: u64, mut into: Option<&mut Transaction>) -> Result<(), Nothing> {
        if let Some(transaction) = &mut into {
            transaction.chunking = true;
        }
        let mut left = octets;
        while left > 0 {
            let input = self.wire.content().await?;
            let used = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if let Some(transaction) = &mut into {
                transaction.keep(&input[..used]);
            }
            input.advance(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// The message has arrived whole. `said` is the reply to send instead of the judgement.
    async fn finish(&mut self, transaction: Transaction, said: Option<Reply>) -> Go {
        match self.fate(On::SmtpContent).await {
            Fate::Refuse(reply) => self.say(&reply),
            Fate::Cut => Go::Cut,
            Fate::Do => {
                let reply = self.submit(transaction).await;
                self.say(&said.unwrap_or(reply))
            }
            Fate::DoThenSay(reply) => {
                self.submit(transaction).await;
                self.say(&reply)
            }
            Fate::DoThenCut => {
                self.submit(transaction).await;
                Go::Cut
            }
        }
    }
}

impl Transaction {
    fn keep(&mut self, octets: &[u8]) {
        self.size += octets.len() as u64;
        if self.size <= MAX_SIZE {
            self.content.extend_from_slice(octets);
        } else {
            self.content = Vec::new();
        }
    }
}

/// `octets [LAST]`.
fn chunk(argument: &str) -> Option<(u64, bool)> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let octets = decimal(words.next()?)?;
    let is_last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some((octets, is_last))
}

/// What has been seen of the content of DATA, as far as the next octet depends on it.
#[derive(Default)]
enum Unstuffer {
    /// After CR LF, or at the very beginning.
    #[default]
    LineStart,
    Dot,
    DotCr,
    Cr,
    Text,
}

impl Unstuffer {
    /// Returns how many octets of `input` were used, and whether the content has ended after them.
    fn feed(&mut self, input: &[u8], plain: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            let octet = input[at];
            match self {
                Self::LineStart if octet == b'.' => {
                    *self = Self::Dot;
                    at += 1;
                }
                Self::Dot if octet == b'\r' => {
                    *self = Self::DotCr;
                    at += 1;
                }
                Self::DotCr if octet == b'\n' => return (at + 1, true),
                Self::DotCr => {
                    plain.push(b'\r');
                    *self = Self::Cr;
                }
                Self::Cr if octet == b'\n' => {
                    plain.push(octet);
                    *self = Self::LineStart;
                    at += 1;
                }
                _ => {
                    let rest = &input[at..];
                    match memchr::memchr(b'\r', rest) {
                        Some(cr) => {
                            plain.extend_from_slice(&rest[..=cr]);
                            *self = Self::Cr;
                            at += cr + 1;
                        }
                        None => {
                            plain.extend_from_slice(rest);
                            *self = Self::Text;
                            at = input.len();
                        }
                    }
                }
            }
        }
        (at, false)
    }
}
