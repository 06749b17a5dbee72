//! One client's conversation.
//!
//! A session is one small task. What it holds between commands is a greeting and, inside a transaction, an envelope
//! without content; [`content`] takes over for the time of DATA.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    command::{self, Command, Hello, Misunderstood, Then},
    content,
    reply::Reply,
    wire::{Heard, Wire},
};
use crate::{
    ingress::{Client, Door, Grant, Origin, Refusal},
    message::{BodyKind, Envelope, MailboxAddress},
    telemetry::{Ingress, Metrics, Refused},
};

/// Replies that refuse for good, after which a client is hung up on. A message that is accepted starts the count anew.
const MAX_ERRORS: u32 = 20;

/// What all sessions share.
pub(super) struct Service {
    pub(super) hostname: String,
    pub(super) max_recipients: usize,
    /// How long a client is expected to wait for the reply to its message.
    pub(super) reply_within: Duration,
    pub(super) door: Door,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
    /// Sessions so far: each is known by its number in the logs.
    pub(super) sessions: AtomicU64,
}

pub(super) struct Session<S> {
    pub(super) wire: Wire<S>,
    pub(super) service: Arc<Service>,
    pub(super) peer: IpAddr,
    greeted: Option<Greeted>,
    errors: u32,
}

struct Greeted {
    hello: Hello,
    transaction: Option<Transaction>,
}

/// Between MAIL and the end of DATA.
struct Transaction {
    grant: Grant,
    sender: Option<MailboxAddress>,
    body: BodyKind,
    recipients: Vec<MailboxAddress>,
    /// A RCPT was refused, so a DATA that follows it in one batch is to be expected.
    refused_recipient: bool,
}

/// Everything that DATA needs.
pub(super) struct Accepted {
    pub(super) grant: Grant,
    pub(super) envelope: Envelope,
    pub(super) origin: Origin,
}

/// What follows a reply.
enum Next {
    Listen,
    Close,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) fn new(stream: S, peer: IpAddr, service: Arc<Service>) -> Self {
        Self { wire: Wire::new(stream), service, peer, greeted: None, errors: 0 }
    }

    /// Talks until one side has enough. An error says how the connection broke.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let greeting = format!("{} ESMTP m365-relay", self.service.hostname);
        self.wire.reply(&Reply::plain(220, greeting)).await?;
        let shutdown = self.service.shutdown.clone();
        loop {
            let (verb, command) = match self.wire.command(&shutdown).await? {
                Heard::Line(len) => {
                    let line = self.wire.line(len);
                    let heard = (command::verb(line), Command::parse(line));
                    self.wire.consume(len);
                    heard
                }
                Heard::TooLong => ("other", Err(Reply::new(500, "5.5.2", "Line too long").into())),
                Heard::Nothing => return self.hang_up(timed_out()).await,
                Heard::Shutdown => {
                    return self.hang_up(Reply::new(421, "4.3.2", "Shutting down, closing")).await;
                }
            };
            if let Next::Close = self.answer(verb, command).await? {
                return self.wire.close().await;
            }
        }
    }

    async fn answer(
        &mut self,
        verb: &'static str,
        command: Result<Command, Misunderstood>,
    ) -> io::Result<Next> {
        let (reply, next) = match command {
            Ok(Command::Data) => match self.begin_content() {
                Ok(accepted) => {
                    self.reply(verb, &Reply::plain(354, "End data with <CR><LF>.<CR><LF>")).await?;
                    // Boxed, so that a session without content does not hold room for one.
                    match Box::pin(content::receive(self, accepted)).await? {
                        Some(reply) => (reply, Next::Listen),
                        None => (timed_out(), Next::Close),
                    }
                }
                Err(reply) => (reply, Next::Listen),
            },
            Ok(Command::Quit) => (Reply::new(221, "2.0.0", "Bye"), Next::Close),
            Ok(command) => (self.carry_out(command), Next::Listen),
            Err(Misunderstood { reply, then: Then::GoOn }) => {
                if let Some(transaction) = self.transaction().filter(|_| verb == "rcpt") {
                    transaction.refused_recipient = true;
                }
                (reply, Next::Listen)
            }
            Err(Misunderstood { reply, then: Then::Close }) => (reply, Next::Close),
            Err(Misunderstood { reply, then: Then::Skip(octets) }) => {
                self.wire.skip(octets);
                (reply, Next::Listen)
            }
        };
        self.reply(verb, &reply).await?;
        if reply.is_permanent_error() {
            debug!(%verb, %reply, "refused a command");
            self.errors += 1;
            if self.errors >= MAX_ERRORS {
                info!("too many errors, hanging up");
                self.reply("other", &Reply::new(421, "4.7.0", "Too many errors, closing")).await?;
                return Ok(Next::Close);
            }
        }
        Ok(next)
    }

    /// Any command but DATA and QUIT.
    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Hello(hello) => self.hello(hello),
            Command::Mail { sender, size, body } => self.mail(sender, size, body),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Rset => {
                self.forget_transaction();
                Reply::new(250, "2.0.0", "Ok")
            }
            Command::Noop => Reply::new(250, "2.0.0", "Ok"),
            Command::Vrfy => Reply::new(252, "2.5.2", "Cannot verify, send some mail"),
            Command::Help => Reply::new(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT"),
            Command::Data | Command::Quit => out_of_order("Not now"),
        }
    }

    fn hello(&mut self, hello: Hello) -> Reply {
        let Service { hostname, door, .. } = &*self.service;
        let reply = if hello.extended {
            let size = door.max_message().0;
            format!("{hostname}\nPIPELINING\nSIZE {size}\n8BITMIME\nENHANCEDSTATUSCODES")
        } else {
            hostname.clone()
        };
        // RFC 5321 section 4.1.4: EHLO clears what was begun, as RSET does.
        self.greeted = Some(Greeted { hello, transaction: None });
        Reply::plain(250, reply)
    }

    fn mail(&mut self, sender: Option<MailboxAddress>, size: Option<u64>, body: BodyKind) -> Reply {
        let Some(greeted) = &mut self.greeted else { return out_of_order("Say EHLO or HELO first") };
        if greeted.transaction.is_some() {
            return out_of_order("A message has begun already");
        }
        match self.service.door.admit_client(self.peer, sender.as_ref(), size) {
            Ok(grant) => {
                let recipients = Vec::new();
                greeted.transaction =
                    Some(Transaction { grant, sender, body, recipients, refused_recipient: false });
                Reply::new(250, "2.1.0", "Sender ok")
            }
            Err(refusal) => self.refuse("MAIL", &refusal),
        }
    }

    fn rcpt(&mut self, recipient: MailboxAddress) -> Reply {
        let max_recipients = self.service.max_recipients;
        let Some(transaction) = self.transaction() else { return out_of_order("MAIL first") };
        if transaction.recipients.len() >= max_recipients {
            // RFC 5321 section 4.5.3.1.10: the client sends the message to the others in another transaction.
            let refusal = Refusal::new(452, "4.5.3", "Too many recipients", Refused::TooLarge);
            return self.refuse("RCPT", &refusal);
        }
        transaction.recipients.push(recipient);
        Reply::new(250, "2.1.5", "Recipient ok")
    }

    /// Ends the transaction's envelope.
    fn begin_content(&mut self) -> Result<Accepted, Reply> {
        let by = self.service.hostname.clone();
        let address = self.peer;
        let Some(Greeted { hello, transaction }) = &mut self.greeted else {
            return Err(out_of_order("Say EHLO or HELO first"));
        };
        match transaction {
            None => return Err(out_of_order("MAIL first")),
            // In a batch: MAIL, RCPT that was refused, DATA.
            Some(begun) if begun.recipients.is_empty() && begun.refused_recipient => {
                return Err(Reply::new(554, "5.5.1", "No valid recipients"));
            }
            Some(_) => {}
        }
        let no_recipient = || out_of_order("RCPT first");
        let Some(begun) = transaction.take_if(|begun| !begun.recipients.is_empty()) else {
            return Err(no_recipient());
        };
        let Transaction { grant, sender, body, recipients, .. } = begun;
        let envelope = Envelope::new(sender, recipients, body).map_err(|_| no_recipient())?;
        let client = Client { helo: hello.name.clone(), address, extended: hello.extended };
        Ok(Accepted { grant, envelope, origin: Origin { client: Some(client), by } })
    }

    /// A message was accepted: the client knows what it does.
    pub(super) fn forgive(&mut self) {
        self.errors = 0;
    }

    /// Counts and logs a refusal; the client gets no more than its text.
    pub(super) fn refuse(&self, verb: &'static str, refusal: &Refusal) -> Reply {
        self.service.metrics.refused(Ingress::Smtp, refusal.reason);
        info!(command = verb, reason = refusal.reason.as_str(), %refusal, "refused");
        Reply::from(refusal)
    }

    fn transaction(&mut self) -> Option<&mut Transaction> {
        self.greeted.as_mut()?.transaction.as_mut()
    }

    fn forget_transaction(&mut self) {
        if let Some(greeted) = &mut self.greeted {
            greeted.transaction = None;
        }
    }

    async fn reply(&mut self, verb: &'static str, reply: &Reply) -> io::Result<()> {
        self.service.metrics.smtp_command(verb, reply.code);
        self.wire.reply(reply).await
    }

    async fn hang_up(mut self, reply: Reply) -> io::Result<()> {
        self.reply("other", &reply).await?;
        self.wire.close().await
    }
}

fn out_of_order(text: &'static str) -> Reply {
    Reply::new(503, "5.5.1", text)
}

fn timed_out() -> Reply {
    Reply::new(421, "4.4.2", "Timeout, closing")
}
