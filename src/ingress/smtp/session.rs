//! One client's conversation.
//!
//! A session is one small task. What it holds between commands is a greeting and, inside a transaction, an envelope; while
//! content comes in, [`content`] has the word.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    auth::Peer,
    command::{self, Command, Hello, Misunderstood, Then},
    content::{self, Incoming},
    exchange,
    memory::{Holding, Memory},
    path::{self, Mail},
    reply::Reply,
    seats::Seat,
    tls::{Handshakes, Security},
    wire::{Heard, Wire},
};
use crate::{
    config::SessionLimits,
    ingress::{
        Client, Door, Grant, Origin, Refusal,
        login::{Login, Logins},
    },
    telemetry::{Metrics, Refused},
};
use relay_mail::{Envelope, Ingress, MailParameters, MailboxAddress, Recipient};

/// What all sessions share.
pub(super) struct Service {
    pub(super) hostname: String,
    pub(super) max_recipients: usize,
    pub(super) limits: SessionLimits,
    pub(super) memory: Memory,
    pub(super) handshakes: Handshakes,
    pub(super) door: Door,
    pub(super) logins: Logins,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
    /// Sessions so far: each is known by its number in the logs.
    pub(super) sessions: AtomicU64,
}

pub(super) struct Session<S> {
    pub(super) wire: Wire<S>,
    pub(super) service: Arc<Service>,
    pub(super) peer: Peer,
    /// Who has logged in, until the end of the session.
    pub(super) login: Option<Login>,
    /// Its place among the connections, which is somebody's.
    pub(super) seat: Option<Seat>,
    /// The greeting was sent before TLS was started.
    greeting_sent: bool,
    greeted: Option<Greeted>,
    /// A message of which more chunks are to come.
    pub(super) incoming: Option<Box<Incoming>>,
    /// Messages accepted so far, and what was counted since the last one.
    messages: u32,
    errors: u32,
    commands: u32,
}

struct Greeted {
    hello: Hello,
    transaction: Option<Transaction>,
}

/// Between MAIL and the end of DATA.
struct Transaction {
    grant: Grant,
    sender: Option<MailboxAddress>,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    /// Of the memory for envelopes and headers.
    holding: Holding,
    /// Octets of what the recipients hold.
    held: u64,
    /// A RCPT was refused, so a DATA that follows it in one batch is to be expected.
    refused_recipient: bool,
    /// A RCPT was refused because of those before it.
    is_full: bool,
}

/// Everything that DATA needs.
pub(super) struct Admitted {
    pub(super) grant: Grant,
    pub(super) envelope: Envelope,
    pub(super) origin: Origin,
    pub(super) holding: Holding,
    /// Octets that the envelope has of the holding.
    pub(super) held: u64,
}

/// What follows a reply.
pub(super) enum Next {
    Listen,
    Close,
    StartTls,
}

/// How a session ended.
pub(super) enum Ended<S> {
    Closed,
    /// The client was told to begin the handshake. All that is known of it is forgotten.
    StartTls(S),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) fn new(stream: S, peer: Peer, service: Arc<Service>) -> Self {
        Self {
            wire: Wire::new(stream),
            service,
            peer,
            login: None,
            seat: None,
            greeting_sent: false,
            greeted: None,
            incoming: None,
            messages: 0,
            errors: 0,
            commands: 0,
        }
    }

    pub(super) fn seated(self, seat: Option<Seat>) -> Self {
        Self { seat, ..self }
    }

    /// The client was greeted in clear, and speaks first.
    pub(super) fn greeted_before(self) -> Self {
        Self { greeting_sent: true, ..self }
    }

    /// Talks until one side has enough. An error says how the connection broke.
    pub(super) async fn run(mut self) -> io::Result<Ended<S>> {
        if !self.greeting_sent {
            let greeting = format!("{} ESMTP m365-relay", self.service.hostname);
            self.wire.reply(&Reply::plain(220, greeting)).await?;
        }
        let shutdown = self.service.shutdown.clone();
        loop {
            // Here too, since a client that always has more to say is never waited for.
            if self.is_over() {
                let reply = self.out_of_time();
                return self.hang_up(reply).await;
            }
            let deadline = self.ends().min(Instant::now() + self.service.limits.idle_timeout);
            let (verb, command) = match self.wire.command(deadline, &shutdown).await? {
                Heard::Line(len) => {
                    let line = self.wire.line(len);
                    let heard = (command::verb(line), Command::parse(line));
                    self.wire.wipe(len);
                    heard
                }
                Heard::TooLong => ("other", Err(Reply::new(500, "5.5.2", "Line too long").into())),
                Heard::Nothing => {
                    let reply = self.out_of_time();
                    return self.hang_up(reply).await;
                }
                Heard::Shutdown => {
                    return self.hang_up(shutting_down()).await;
                }
            };
            match self.answer(verb, command).await? {
                Next::Listen => {}
                Next::Close if verb == "quit" => return self.wire.part().await.map(|()| Ended::Closed),
                Next::Close => return self.wire.close().await.map(|()| Ended::Closed),
                Next::StartTls => return self.wire.into_stream().await.map(Ended::StartTls),
            }
        }
    }

    async fn answer(
        &mut self,
        verb: &'static str,
        command: Result<Command, Misunderstood>,
    ) -> io::Result<Next> {
        let (reply, next) = match command {
            Ok(Command::Data) => match self.end_envelope() {
                Ok(accepted) => {
                    self.reply(verb, &Reply::plain(354, "End data with <CR><LF>.<CR><LF>")).await?;
                    // Boxed, so that a session without content does not hold room for one.
                    match Box::pin(content::receive(self, accepted)).await? {
                        Some(reply) => (reply, Next::Listen),
                        None => (self.out_of_time(), Next::Close),
                    }
                }
                Err(reply) => (reply, Next::Listen),
            },
            Ok(Command::Bdat { octets, is_last }) => {
                match Box::pin(content::receive_chunk(self, octets, is_last)).await? {
                    Some(reply) => (reply, Next::Listen),
                    None => (self.out_of_time(), Next::Close),
                }
            }
            Ok(Command::Auth(begin)) => Box::pin(self.auth(begin)).await?,
            Ok(Command::Quit) => (Reply::new(221, "2.0.0", "Bye"), Next::Close),
            Ok(Command::StartTls) => self.start_tls(),
            // Postfix asks so whether a connection is good for another message, and puts the message off for minutes if
            // that one is refused. So it learns here to open another.
            Ok(Command::Rset) if self.has_sent_enough() => {
                (Reply::new(421, "4.5.3", "Too many messages on this connection, closing"), Next::Close)
            }
            Ok(command) => (self.carry_out(command), Next::Listen),
            Err(Misunderstood { reply, then: Then::GoOn }) => {
                if let Some(transaction) = self.transaction().filter(|_| verb == "rcpt") {
                    transaction.refused_recipient = true;
                }
                (reply, Next::Listen)
            }
            Err(Misunderstood { reply, then: Then::Close }) => (reply, Next::Close),
        };
        self.reply(verb, &reply).await?;
        if reply.is_permanent_error() {
            debug!(%verb, %reply, "refused a command");
            self.errors += 1;
        }
        if matches!(next, Next::Listen)
            && let Some(why) = self.enough(verb, &reply)
        {
            info!(why, "hanging up");
            self.reply("other", &Reply::new(421, "4.7.0", format!("{why}, closing"))).await?;
            return Ok(Next::Close);
        }
        Ok(next)
    }

    /// Why the client has had enough of this connection, if it has.
    fn enough(&mut self, verb: &'static str, reply: &Reply) -> Option<&'static str> {
        // A message may have many recipients and many chunks; those that are refused bring it no nearer.
        self.commands += u32::from(!matches!(verb, "rcpt" | "bdat") || reply.code >= 400);
        let limits = &self.service.limits;
        if self.errors >= limits.max_errors {
            return Some("Too many errors");
        }
        if self.commands > limits.max_commands {
            return Some("Too many commands without a message");
        }
        None
    }

    /// When the connection's time is up, whatever is under way.
    pub(super) fn ends(&self) -> Instant {
        self.peer.since + self.service.limits.session_timeout
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.ends()
    }

    /// What a client hears that has taken too long: for its next words, or altogether.
    pub(super) fn out_of_time(&self) -> Reply {
        if !self.is_over() {
            return Reply::new(421, "4.4.2", "Timeout, closing");
        }
        self.service.metrics.refused(Ingress::Smtp, Refused::SessionTimeout);
        info!("connected for longer than smtp.session_timeout, hanging up");
        Reply::new(421, "4.7.0", "Connected too long, closing")
    }

    /// Any command but DATA, BDAT, AUTH, STARTTLS and QUIT.
    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Hello(hello) => self.hello(hello),
            Command::Mail(Mail { auth: true, .. }) if !self.offers_auth() => path::not_offered(),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Rset => {
                self.forget_transaction();
                Reply::new(250, "2.0.0", "Ok")
            }
            Command::Noop => Reply::new(250, "2.0.0", "Ok"),
            Command::Vrfy => Reply::new(252, "2.5.2", "Cannot verify, send some mail"),
            Command::Help => Reply::new(214, "2.0.0", "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT"),
            Command::Data | Command::Bdat { .. } | Command::Auth(_) | Command::StartTls | Command::Quit => {
                out_of_order("Not now")
            }
        }
    }

    fn hello(&mut self, hello: Hello) -> Reply {
        let Service { hostname, door, limits, max_recipients, .. } = &*self.service;
        let reply = if hello.extended {
            let (size, messages) = (door.max_message().0, limits.max_messages);
            let starttls = if let Security::StartTlsOffered = self.peer.security { "STARTTLS\n" } else { "" };
            let auth = if self.offers_auth() { format!("{}\n", exchange::OFFER) } else { String::new() };
            format!(
                "{hostname}\nPIPELINING\nSIZE {size}\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING\nDSN\n\
                 {starttls}{auth}LIMITS MAILMAX={messages} RCPTMAX={max_recipients}"
            )
        } else {
            hostname.clone()
        };
        // RFC 5321 section 4.1.4: EHLO clears what was begun, as RSET does.
        self.incoming = None;
        self.greeted = Some(Greeted { hello, transaction: None });
        Reply::plain(250, reply)
    }

    /// RFC 3207. Octets that came behind the command, in clear, could be meant to be read as if they had come over TLS.
    /// The connection ends then, and not just the octets: what comes a moment later is no handshake, which ends it too,
    /// so the outcome does not depend on how the network cut the stream.
    fn start_tls(&mut self) -> (Reply, Next) {
        match self.peer.security {
            Security::Encrypted(_) => (out_of_order("TLS is in use already"), Next::Listen),
            Security::StartTlsOffered if self.wire.has_input() => {
                info!("octets behind STARTTLS, hanging up");
                let text = "STARTTLS must be the last command before the handshake, closing";
                (Reply::new(501, "5.5.4", text), Next::Close)
            }
            Security::StartTlsOffered => (Reply::new(220, "2.0.0", "Ready to start TLS"), Next::StartTls),
            Security::Clear => (command::not_offered(), Next::Listen),
        }
    }

    fn mail(&mut self, mail: Mail) -> Reply {
        let Mail { sender, size, parameters, .. } = mail;
        if self.greeted.is_none() {
            return out_of_order("Say EHLO or HELO first");
        }
        if self.has_transaction() || self.incoming.is_some() {
            return out_of_order("A message has begun already");
        }
        if self.has_sent_enough() {
            return Reply::new(452, "4.5.3", "Too many messages on this connection, open another");
        }
        let grant = match self.admit(sender.as_ref(), size) {
            Ok(grant) => grant,
            Err(refusal) => return self.refuse("MAIL", &refusal),
        };
        let holding = self.service.memory.holding(self.peer.address, &grant.tenant.name);
        if let Some(greeted) = &mut self.greeted {
            greeted.transaction = Some(Transaction {
                holding,
                held: 0,
                grant,
                sender,
                parameters,
                recipients: Vec::new(),
                refused_recipient: false,
                is_full: false,
            });
        }
        Reply::new(250, "2.1.0", "Sender ok")
    }

    /// RFC 9422 section 4.1.
    fn has_sent_enough(&self) -> bool {
        self.messages >= self.service.limits.max_messages
    }

    fn rcpt(&mut self, recipient: Recipient) -> Reply {
        let max_recipients = self.service.max_recipients;
        let Some(transaction) = self.transaction() else { return out_of_order("MAIL first") };
        if !recipient.address.is_ascii() && !transaction.parameters.utf8 {
            transaction.refused_recipient = true;
            return path::needs_utf8("recipient");
        }
        if transaction.recipients.len() >= max_recipients {
            // RFC 5321 section 4.5.3.1.10: the client sends the message to the others in another transaction.
            let refusal = Refusal::new(452, "4.5.3", "Too many recipients", Refused::TooLarge);
            // Of a client that has thousands more, one line in the log is enough.
            return match std::mem::replace(&mut transaction.is_full, true) {
                false => self.refuse("RCPT", &refusal),
                true => Reply::from(&refusal),
            };
        }
        let held = transaction.held + recipient.held() as u64;
        if let Err(refusal) = transaction.holding.hold(held) {
            transaction.refused_recipient = true;
            return self.refuse("RCPT", &refusal);
        }
        transaction.held = held;
        transaction.recipients.push(recipient);
        Reply::new(250, "2.1.5", "Recipient ok")
    }

    /// The envelope is complete, and content is to come.
    pub(super) fn end_envelope(&mut self) -> Result<Admitted, Reply> {
        if self.incoming.is_some() {
            return Err(out_of_order("This message comes in chunks"));
        }
        let by = self.service.hostname.clone();
        let (Peer { address, security, .. }, authenticated) = (self.peer, self.login.is_some());
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
        let Transaction { grant, sender, parameters, recipients, holding, held, .. } = begun;
        let envelope =
            Envelope::with_parameters(sender, parameters, recipients).map_err(|_| no_recipient())?;
        let client = Client {
            helo: hello.name.clone(),
            address,
            extended: hello.extended,
            encryption: security.encryption(),
            authenticated,
        };
        Ok(Admitted { grant, envelope, origin: Origin { client: Some(client), by }, holding, held })
    }

    /// A message was accepted: the client knows what it does.
    pub(super) fn forgive(&mut self) {
        self.messages = self.messages.saturating_add(1);
        self.errors = 0;
        self.commands = 0;
    }

    /// Counts and logs a refusal; the client gets no more than its text.
    pub(super) fn refuse(&self, verb: &'static str, refusal: &Refusal) -> Reply {
        self.service.metrics.refused(Ingress::Smtp, refusal.reason);
        info!(command = verb, reason = refusal.reason.as_str(), %refusal, "refused");
        Reply::from(refusal)
    }

    /// EHLO rather than HELO, or nothing.
    pub(super) fn said_ehlo(&self) -> bool {
        self.greeted.as_ref().is_some_and(|greeted| greeted.hello.extended)
    }

    pub(super) fn has_transaction(&self) -> bool {
        self.greeted.as_ref().is_some_and(|greeted| greeted.transaction.is_some())
    }

    fn transaction(&mut self) -> Option<&mut Transaction> {
        self.greeted.as_mut()?.transaction.as_mut()
    }

    fn forget_transaction(&mut self) {
        self.incoming = None;
        if let Some(greeted) = &mut self.greeted {
            greeted.transaction = None;
        }
    }

    pub(super) async fn reply(&mut self, verb: &'static str, reply: &Reply) -> io::Result<()> {
        self.service.metrics.smtp_command(verb, reply.code);
        self.wire.reply(reply).await
    }

    async fn hang_up(mut self, reply: Reply) -> io::Result<Ended<S>> {
        self.reply("other", &reply).await?;
        self.wire.close().await.map(|()| Ended::Closed)
    }
}

pub(super) fn out_of_order(text: &'static str) -> Reply {
    Reply::new(503, "5.5.1", text)
}

pub(super) fn shutting_down() -> Reply {
    Reply::new(421, "4.3.2", "Shutting down, closing")
}
