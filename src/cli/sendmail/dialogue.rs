//! `-bs`: SMTP on standard input and output, for programs that have no other way to submit mail.
//!
//! Commands and content are read by the server's own parsers, so a command that is invalid there is invalid
//! here, and nothing but CR LF `.` CR LF ends a message. The client is the user that runs this, so there is
//! no login, no TLS and no timeout.

use std::io::{self, Read, Write};

use super::{
    exit::{Exit, Failure},
    letter::{Sender, Wishes},
    posting::Posting,
    site::Site,
};
use crate::ingress::{
    newlines::{Lenience, Newlines},
    smtp::{
        command::{Command, Meant, Misunderstood, Then},
        data::{DataReader, Piece},
        path::{self, Mail},
        reply::Reply,
    },
};
use relay_mail::{BodyKind, MailParameters, MailboxAddress, Recipient, RecipientWish};

/// Octets of a command line, its end included.
const MAX_LINE: usize = 2048;
const CHUNK: usize = 32 * 1024;
/// Recipients of one message: as many as Microsoft 365 takes.
const MAX_RECIPIENTS: usize = 1000;

/// Talks until the client says QUIT or hangs up. An end inside a message is an error.
pub(super) fn hold(
    input: impl Read,
    output: impl Write,
    site: &Site,
    wishes: &Wishes,
) -> Result<(), Failure> {
    let wire = Wire { input, output, buffer: Vec::new(), unsent: Vec::new(), skip: 0 };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut dialogue = Dialogue { wire, site, wishes, hostname, greeted: false, transaction: None };
    dialogue.run().map_err(|broken| match broken.kind() {
        io::ErrorKind::UnexpectedEof => {
            Exit::Data.because("the client disconnected inside a message, which was not sent")
        }
        _ => Exit::Io.because(format!("standard input or output broke: {broken}")),
    })
}

struct Dialogue<'a, R, W> {
    wire: Wire<R, W>,
    site: &'a Site,
    /// What the command line says about every message.
    wishes: &'a Wishes,
    hostname: String,
    greeted: bool,
    transaction: Option<Transaction>,
}

struct Transaction {
    sender: Option<MailboxAddress>,
    body: BodyKind,
    recipients: Vec<MailboxAddress>,
}

impl<R: Read, W: Write> Dialogue<'_, R, W> {
    fn run(&mut self) -> io::Result<()> {
        self.wire.reply(&Reply::plain(220, format!("{} ESMTP m365-relay", self.hostname)));
        while let Some(heard) = self.wire.command()? {
            let command = match &heard {
                Some(line) => Command::parse(line),
                None => Err(Misunderstood::new(Reply::new(500, "5.5.2", "Line too long"), Then::GoOn)),
            };
            let reply = match command {
                Ok(Command::Quit) => {
                    self.wire.reply(&Reply::new(221, "2.0.0", "Bye"));
                    break;
                }
                Ok(Command::Data) => self.data()?,
                // Not offered. Its chunk comes all the same, and contains no commands.
                Ok(Command::Bdat { octets, .. }) => {
                    self.wire.skip = octets;
                    Reply::new(502, "5.5.1", "Command not implemented")
                }
                Ok(command) => self.carry_out(command),
                Err(Misunderstood { reply, then: Then::Close, .. }) => {
                    self.wire.reply(&reply);
                    break;
                }
                Err(Misunderstood { reply, meant, .. }) => match meant.as_deref() {
                    Some(Meant::Recipient(written, wish)) => match self.site.aliases().find(written) {
                        Some(addresses) => self.rcpt(addresses, wish),
                        None => reply,
                    },
                    Some(Meant::Sender(_)) | None => reply,
                },
            };
            self.wire.reply(&reply);
        }
        self.wire.flush()
    }

    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Hello(hello) => {
                (self.greeted, self.transaction) = (true, None);
                let size = self.site.max_message().map(|max| format!(" {}", max.0)).unwrap_or_default();
                Reply::plain(
                    250,
                    if hello.extended {
                        format!("{}\nPIPELINING\nSIZE{size}\n8BITMIME\nENHANCEDSTATUSCODES", self.hostname)
                    } else {
                        self.hostname.clone()
                    },
                )
            }
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(Recipient { address, wish }) => match self.site.aliases().find(address.as_str()) {
                Some(addresses) => self.rcpt(addresses, &wish),
                None => self.rcpt(&[address], &wish),
            },
            Command::Rset => {
                self.transaction = None;
                Reply::new(250, "2.0.0", "Ok")
            }
            Command::Noop => Reply::new(250, "2.0.0", "Ok"),
            Command::Vrfy => Reply::new(252, "2.5.2", "Cannot verify, send the message to try the address"),
            Command::Help => Reply::new(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT"),
            _ => Reply::new(502, "5.5.1", "Command not implemented"),
        }
    }

    fn rcpt(&mut self, addresses: &[MailboxAddress], wish: &RecipientWish) -> Reply {
        if *wish != RecipientWish::default() {
            return path::not_offered();
        }
        match &mut self.transaction {
            None => Reply::new(503, "5.5.1", "MAIL first"),
            Some(begun) if begun.recipients.len() + addresses.len() > MAX_RECIPIENTS => {
                Reply::new(452, "4.5.3", "Too many recipients")
            }
            Some(begun) => {
                begun.recipients.extend_from_slice(addresses);
                Reply::new(250, "2.1.5", "Recipient ok")
            }
        }
    }

    fn mail(&mut self, mail: Mail) -> Reply {
        let Mail { sender, size, parameters, auth } = mail;
        let body = parameters.body;
        // SMTPUTF8, RET and ENVID are not offered, nor is AUTH.
        if auth || parameters != (MailParameters { body, ..MailParameters::default() }) {
            return path::not_offered();
        }
        if !self.greeted {
            return Reply::new(503, "5.5.1", "Say EHLO or HELO first");
        }
        if self.transaction.is_some() {
            return Reply::new(503, "5.5.1", "A message has already begun");
        }
        if let Some(max) = self.site.max_message().filter(|max| size.is_some_and(|size| size > max.0)) {
            return Reply::new(552, "5.3.4", format!("Message is larger than the limit of {max}"));
        }
        self.transaction = Some(Transaction { sender, body, recipients: Vec::new() });
        Reply::new(250, "2.1.0", "Sender ok")
    }

    /// From DATA to the reply that gives the outcome. The message is read to its end in any case: a reply
    /// before that would let the rest of it pass for commands.
    fn data(&mut self) -> io::Result<Reply> {
        let Some(begun) = self.transaction.take_if(|begun| !begun.recipients.is_empty()) else {
            return Ok(Reply::new(503, "5.5.1", "MAIL and RCPT first"));
        };
        self.wire.reply(&Reply::plain(354, "End data with <CR><LF>.<CR><LF>"));
        let mut posting = Ok(Posting::new(self.site, self.wishes_of(begun)));
        let mut reader = DataReader::new();
        let mut newlines = Newlines::new(Lenience::None);
        loop {
            let input = self.wire.content()?;
            let mut rest = input;
            let mut ended = false;
            while let Some(piece) = reader.next(&mut rest) {
                let Piece::Content(content) = piece else {
                    ended = true;
                    break;
                };
                let Ok(message) = &mut posting else { continue };
                let taken = match newlines.mend(content) {
                    Err(bare) => Err(Exit::Data.because(bare.to_string())),
                    Ok(content) => message.write(&content),
                };
                if let Err(failure) = taken {
                    posting = Err(failure);
                }
            }
            let used = input.len() - rest.len();
            self.wire.consume(used);
            if ended {
                break;
            }
        }
        Ok(match posting.and_then(Posting::finish) {
            Ok(()) => Reply::new(250, "2.0.0", "Ok: in the pickup folder"),
            Err(failure) => refusal(&failure),
        })
    }

    fn wishes_of(&self, begun: Transaction) -> Wishes {
        let Transaction { sender, body, recipients } = begun;
        Wishes {
            sender: sender.map_or(Sender::Null, Sender::Address),
            recipients,
            from_header: false,
            body: Some(body),
            ..self.wishes.clone()
        }
    }
}

fn refusal(failure: &Failure) -> Reply {
    let (code, enhanced) = match failure.exit {
        Exit::Usage | Exit::Data | Exit::NoUser => (550, "5.6.0"),
        Exit::NoPerm => (550, "5.7.1"),
        Exit::Config => (451, "4.3.5"),
        Exit::Unavailable | Exit::Software | Exit::Io | Exit::TempFail => (451, "4.3.0"),
    };
    Reply::new(code, enhanced, failure.text.clone())
}

/// Lines and content in, replies out. Replies gather until a read must wait.
struct Wire<R, W> {
    input: R,
    output: W,
    buffer: Vec<u8>,
    unsent: Vec<u8>,
    /// Octets still to be discarded.
    skip: u64,
}

impl<R: Read, W: Write> Wire<R, W> {
    /// The next line; the inner `None` stands for a line that is too long. `None`: the client has hung up,
    /// with nothing left to say.
    fn command(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        let mut scanned = 0;
        let mut too_long = false;
        loop {
            let skipped = self.buffer.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.consume(skipped);
            self.skip -= skipped as u64;
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[scanned..]) {
                let line: Vec<u8> = self.buffer.drain(..=scanned + found).collect();
                return Ok(Some(Some(line).filter(|line| !too_long && line.len() <= MAX_LINE)));
            }
            if self.buffer.len() > MAX_LINE {
                too_long = true;
                self.buffer.clear();
            }
            scanned = self.buffer.len();
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Some of the content, never empty. The end of the input is an error of kind `UnexpectedEof`.
    fn content(&mut self) -> io::Result<&[u8]> {
        if self.buffer.is_empty() && self.fill()? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(&self.buffer)
    }

    fn consume(&mut self, octets: usize) {
        self.buffer.drain(..octets);
    }

    fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.unsent);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.write_all(&self.unsent)?;
        self.unsent.clear();
        self.output.flush()
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.flush()?;
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
        read
    }
}
