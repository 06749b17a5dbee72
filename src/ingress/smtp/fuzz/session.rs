//! A whole session, checked by a judge that sees both directions of the wire and knows nothing of the
//! server's internals.
//!
//! The judge goes through what the client sent, line by line, and takes the server's replies as they come: a
//! `354` to DATA or a chunk's size says where content begins, the plainest search where it ends. That shows
//! which messages were accepted, with which recipients and which octets; exactly those must be in the spool.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, atomic::AtomicU64},
};

use tokio_util::sync::CancellationToken;

use super::{Lenience, PlainContent, Tape, plainly_mended, runtime};
use crate::{
    config::{BareNewlines, ClientPrefix, LockoutConfig, SessionLimits},
    ingress::{
        smtp::{
            command::Command,
            conversation::{Peer, Service},
            memory::Memory,
            outdated::Outdated,
            path::Mail,
            session::Session,
            tls::Handshakes,
            wire::MAX_LINE,
        },
        testing::{Found, House},
    },
};
use relay_mail as message;
use relay_mail::{
    ByteSize, Field, HeaderBlock, HeaderScanner, MAX_STORED_HEADER, MailboxAddress, SplitMessage,
};

pub(crate) fn session(octets: &[u8]) {
    let runtime = runtime();
    // Reads of some size, a different one for each input.
    let chunk = 1 + crc32fast::hash(octets) as usize % 100;
    for (bare_newlines, lenience, chunk) in
        [(BareNewlines::Refuse, Lenience::None, chunk), (BareNewlines::Fix, Lenience::Both, usize::MAX)]
    {
        runtime.block_on(async {
            let mut house = House::new();
            let limits = SessionLimits { bare_newlines, ..SessionLimits::default() };
            let replies = talk(octets, chunk, &house, limits).await;
            let mut judge = Judge { input: octets, replies: replies.into(), accepted: Vec::new() };
            judge.read();
            // The spool counts before it answers; events come later.
            let tally = house.door.spool().tally();
            let stored: u64 = tally.tenants().iter().map(|(_, tenant)| tenant.messages()).sum();
            assert_eq!(stored, judge.accepted.len() as u64, "not what was acknowledged");
            for expected in judge.accepted {
                expected.check(&house.next().await, lenience);
            }
        });
    }
}

/// All that the server says.
async fn talk(octets: &[u8], chunk: usize, house: &House, limits: SessionLimits) -> Vec<Said> {
    let service = Service {
        hostname: "relay.example".into(),
        max_recipients: 25,
        limits,
        memory: Memory::new(
            ByteSize::mib(64),
            ClientPrefix::default(),
            house.metrics.smtp_header_bytes().clone(),
        ),
        handshakes: Handshakes::default(),
        outdated: Outdated::default(),
        door: house.door.clone(),
        logins: house.logins(LockoutConfig::default()),
        metrics: house.metrics.clone(),
        shutdown: CancellationToken::new(),
        sessions: AtomicU64::new(0),
    };
    let tape = Tape::new(octets, chunk);
    let output = tape.output.clone();
    let peer = Peer::new(Ipv4Addr::LOCALHOST.into(), false);
    // An error says only that the client is gone.
    let _ = Session::new(tape, peer, Arc::new(service)).run().await;
    let output = std::mem::take(&mut *output.lock().unwrap());
    replies(&output)
}

struct Said {
    code: u16,
    /// Of its last line.
    text: String,
}

/// RFC 5321 section 4.2: every line has a code, ASCII and an end; the lines of one reply have the same code.
fn replies(output: &[u8]) -> Vec<Said> {
    let mut replies = Vec::new();
    let mut open = None;
    for line in output.split_inclusive(|&octet| octet == b'\n') {
        let text = str::from_utf8(line).unwrap().strip_suffix("\r\n").unwrap();
        assert!(line.len() <= 512 && text.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{text}");
        let code: u16 = text[..3].parse().unwrap();
        assert!((200..600).contains(&code) && open.is_none_or(|open| open == code), "{text}");
        match text.as_bytes()[3] {
            b'-' => open = Some(code),
            b' ' => {
                open = None;
                replies.push(Said { code, text: text[4..].to_owned() });
            }
            other => panic!("{other} in {text}"),
        }
    }
    assert!(open.is_none());
    replies
}

struct Judge<'a> {
    input: &'a [u8],
    replies: VecDeque<Said>,
    accepted: Vec<Expected>,
}

/// A transaction as the wire shows it.
#[derive(Default)]
struct Transaction {
    sender: Option<MailboxAddress>,
    recipients: Vec<MailboxAddress>,
    /// Of the chunks so far.
    content: Vec<u8>,
}

/// A message that was acknowledged.
struct Expected {
    id: String,
    transaction: Transaction,
}

impl<'a> Judge<'a> {
    fn read(&mut self) {
        assert_eq!(self.replies.pop_front().unwrap().code, 220);
        while self.exchange_all() {}
        // At most one more reply: why it hangs up.
        assert!(self.replies.len() <= 1 && self.replies.iter().all(|said| said.code == 421));
    }

    /// Goes on to the end of a transaction, or to that of the session: `false`.
    fn exchange_all(&mut self) -> bool {
        let mut transaction = None::<Transaction>;
        loop {
            let Some(line) = self.line() else { return false };
            let word = line.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
            let verb = String::from_utf8_lossy(word).to_ascii_uppercase();
            let is_too_long = line.len() > MAX_LINE;
            let chunk = chunk(line).filter(|_| !is_too_long);
            // No reply comes before the whole chunk is there.
            let content = match chunk {
                Some((octets, _)) => self.octets(octets),
                None => Some(&b""[..]),
            };
            let Some(content) = content else { return false };
            let Some(said) = self.replies.pop_front() else { panic!("no reply to {verb}") };
            if is_bad_chunk(line) {
                assert!(self.replies.is_empty(), "it goes on after a chunk of unknown size");
                return false;
            }
            if let Some((_, is_last)) = chunk {
                match &mut transaction {
                    _ if said.code == 421 => {}
                    Some(begun) if said.code == 250 => {
                        begun.content.extend_from_slice(content);
                        if is_last {
                            return self.settle(said, transaction.unwrap_or_default());
                        }
                        continue;
                    }
                    // Refused, which ends the transaction.
                    Some(begun) if !begun.recipients.is_empty() => return true,
                    _ => assert_ne!(said.code, 250, "a chunk without a transaction"),
                }
            }
            match (verb.as_str(), said.code) {
                (_, 421) => {
                    assert!(self.replies.is_empty(), "it goes on after 421");
                    return false;
                }
                (_, 500..) => {}
                _ if is_too_long => panic!("a line that is too long was taken for {verb}"),
                ("QUIT", 221) => {
                    assert!(self.replies.is_empty(), "it goes on after QUIT");
                    return false;
                }
                ("EHLO" | "HELO" | "RSET", 250) => return true,
                ("MAIL", 250) => {
                    assert!(transaction.is_none(), "MAIL inside of a transaction");
                    let Ok(Command::Mail(Mail { sender, .. })) = Command::parse(line) else { panic!() };
                    transaction = Some(Transaction { sender, ..Transaction::default() });
                }
                ("RCPT", 250) => {
                    let Ok(Command::Rcpt(recipient)) = Command::parse(line) else { panic!() };
                    transaction.as_mut().unwrap().recipients.push(recipient.address);
                }
                ("DATA", 354) => {
                    let Some(PlainContent { content, rest }) = PlainContent::of(self.input) else {
                        self.input = b"";
                        return false;
                    };
                    self.input = &self.input[self.input.len() - rest.len()..];
                    let mut transaction = transaction.unwrap();
                    transaction.content = content;
                    let said = self.replies.pop_front().unwrap();
                    return self.settle(said, transaction);
                }
                (_, 354) => panic!("{verb} began content"),
                // A conversation of several lines, such as AUTH: the next line is not a command.
                (_, 334) => panic!("not offered here"),
                _ => {}
            }
        }
    }

    /// The content has ended.
    fn settle(&mut self, said: Said, transaction: Transaction) -> bool {
        if said.code == 250 {
            let id = said.text.strip_prefix("2.0.0 Ok: queued as ").unwrap().to_owned();
            self.accepted.push(Expected { id, transaction });
        }
        true
    }

    /// The next whole line.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.input)? + 1;
        self.octets(end as u64)
    }

    fn octets(&mut self, octets: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.input.split_at_checked(usize::try_from(octets).ok()?)?;
        self.input = rest;
        Some(taken)
    }
}

/// RFC 3030 section 2: how many octets follow this line, and whether they are the last.
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let text = str::from_utf8(line).ok()?.trim_end_matches([' ', '\t', '\r', '\n']).to_ascii_uppercase();
    let (octets, is_last) = match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["BDAT", octets] => (octets, false),
        ["BDAT", octets, "LAST"] => (octets, true),
        _ => return None,
    };
    let is_number =
        octets.bytes().all(|octet| octet.is_ascii_digit()) && !text.contains(|c: char| c.is_ascii_control());
    Some((octets.parse().ok().filter(|_| is_number)?, is_last))
}

/// It is not known how much follows: no command may be read after it.
fn is_bad_chunk(line: &[u8]) -> bool {
    let word = line.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    word.eq_ignore_ascii_case(b"BDAT") && line.len() <= MAX_LINE && chunk(line).is_none()
}

impl Expected {
    fn check(&self, found: &Found, lenience: Lenience) {
        let Transaction { sender, recipients, content } = &self.transaction;
        let Found { id, message, content: stored, .. } = found;
        assert_eq!((&self.id, sender.as_ref()), (id, message.envelope.sender()));
        let mut once: Vec<&MailboxAddress> = Vec::new();
        for recipient in recipients {
            if !once.contains(&recipient) {
                once.push(recipient);
            }
        }
        assert!(message.envelope.recipients().iter().eq(once), "{:?}", message.envelope);

        let content = plainly_mended(content, lenience).expect("a bare CR or LF got through");
        let SplitMessage { header, body } = HeaderScanner::split_message(&content).unwrap();
        let (stored, stored_body) = split_stored(stored);
        assert_eq!(body, stored_body);
        // Received is on top; otherwise only what was missing is new.
        let mut fields = stored.fields();
        assert!(fields.next().unwrap().is("Received"));
        let rest: Vec<_> = fields.filter(is_untouched).map(|field| field.raw()).collect();
        let sent: Vec<_> = header.fields().filter(is_untouched).map(|field| field.raw()).collect();
        assert_eq!(rest, sent);
        for name in ["From", "Date", "Message-ID"] {
            assert!(stored.named(name).next().is_some(), "{name}");
        }
        // No client sends as another sender.
        let author = message::author(&stored).unwrap();
        assert_eq!(author.mailbox(), &message.author);
        let domain = format!("{}.example", message.tenant);
        for mailbox in author.from().iter().chain([&message.author]).chain(sender) {
            assert!(mailbox.domain().eq_ignore_ascii_case(&domain), "{mailbox} by {}", message.tenant);
        }
    }
}

fn split_stored(stored: &[u8]) -> (HeaderBlock, Vec<u8>) {
    let mut scanner = HeaderScanner::with_limit(MAX_STORED_HEADER);
    let split = scanner.push(stored).unwrap().expect("an empty line ends the header");
    (split.header, split.body)
}

fn is_untouched(field: &Field<'_>) -> bool {
    !["From", "Date", "Message-ID", "Bcc", "Resent-Bcc", "Return-Path"].into_iter().any(|name| field.is(name))
}
