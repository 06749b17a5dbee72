//! One client's conversation.
//!
//! A session is one small task. This file has what a client asks for and what it is answered; what that
//! changes is in [`conversation`](super::conversation). Between commands a session holds a greeting and,
//! inside a transaction, an envelope; while content comes in, [`content`] takes over.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tracing::{debug, info};

use super::{
    command::{self, Command, Hello, Meant, Misunderstood, Then},
    content::{self, Incoming},
    conversation::{Conversation, Greeted, Next, Peer, Service, Transaction, out_of_order, shutting_down},
    exchange,
    path::{self, Mail},
    reply::Reply,
    seats::Seat,
    tls::Security,
    wire::Heard,
};
use crate::{ingress::Refusal, telemetry::Refused};
use relay_mail::{MailboxAddress, Recipient, RecipientWish};

pub(super) struct Session<S> {
    talk: Conversation<S>,
    /// The greeting was sent before TLS was started.
    greeting_sent: bool,
    /// A message that more chunks are to come for.
    incoming: Option<Box<Incoming>>,
}

/// How a session ended.
pub(super) enum Ended<S> {
    Closed,
    /// The client was told to begin the handshake. All that is known of it is forgotten.
    StartTls(S),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) fn new(stream: S, peer: Peer, service: Arc<Service>) -> Self {
        Self { talk: Conversation::new(stream, peer, service), greeting_sent: false, incoming: None }
    }

    pub(super) fn seated(mut self, seat: Option<Seat>) -> Self {
        self.talk.seat = seat;
        self
    }

    /// The client was greeted unencrypted, and speaks first. What it said then is forgotten (RFC 3207 section
    /// 4.2). It should say EHLO again; devices that do not are taken as they are, as other servers do it.
    pub(super) fn greeted_before(mut self) -> Self {
        let hello = Hello { name: "unknown".to_owned(), extended: true };
        self.talk.greeted = Some(Greeted { hello, transaction: None });
        Self { greeting_sent: true, ..self }
    }

    /// Talks until one side has enough. An error says how the connection broke.
    pub(super) async fn run(mut self) -> io::Result<Ended<S>> {
        if !self.greeting_sent {
            let greeting = format!("{} ESMTP m365-relay", self.talk.service.hostname);
            self.talk.wire.reply(&Reply::plain(220, greeting)).await?;
        }
        let shutdown = self.talk.service.shutdown.clone();
        loop {
            // Here too, since a client that always has more to say is never waited for.
            if self.talk.is_over() {
                let reply = self.talk.out_of_time();
                return self.hang_up(reply).await;
            }
            let deadline = self.talk.ends().min(Instant::now() + self.talk.service.limits.idle_timeout);
            let (verb, command) = match self.talk.wire.command(deadline, &shutdown).await? {
                Heard::Line(len) => {
                    let line = self.talk.wire.line(len);
                    let heard = (command::verb(line), Command::parse(line));
                    self.talk.wire.wipe(len);
                    heard
                }
                Heard::TooLong => ("other", Err(Reply::new(500, "5.5.2", "Line too long").into())),
                Heard::Nothing => {
                    let reply = self.talk.out_of_time();
                    return self.hang_up(reply).await;
                }
                Heard::Shutdown => {
                    return self.hang_up(shutting_down()).await;
                }
            };
            match self.answer(verb, command).await? {
                Next::Listen => {}
                Next::Close if verb == "quit" => return self.talk.wire.part().await.map(|()| Ended::Closed),
                Next::Close => return self.talk.wire.close().await.map(|()| Ended::Closed),
                Next::StartTls => return self.talk.wire.into_stream().await.map(Ended::StartTls),
            }
        }
    }

    async fn answer(
        &mut self,
        verb: &'static str,
        command: Result<Command, Misunderstood>,
    ) -> io::Result<Next> {
        let (reply, next) = match command {
            Ok(Command::Data) if self.incoming.is_some() => {
                (out_of_order("DATA is not allowed after BDAT"), Next::Listen)
            }
            Ok(Command::Data) => match self.talk.end_envelope() {
                Ok(accepted) => {
                    self.talk.reply(verb, &Reply::plain(354, "End data with <CR><LF>.<CR><LF>")).await?;
                    // Boxed, so that a session without content does not hold room for one.
                    match Box::pin(content::receive(&mut self.talk, accepted)).await? {
                        Some(reply) => (reply, Next::Listen),
                        None => (self.talk.out_of_time(), Next::Close),
                    }
                }
                Err(reply) => (reply, Next::Listen),
            },
            Ok(Command::Bdat { octets, is_last }) => {
                match Box::pin(content::receive_chunk(&mut self.talk, &mut self.incoming, octets, is_last))
                    .await?
                {
                    Some(reply) => (reply, Next::Listen),
                    None => (self.talk.out_of_time(), Next::Close),
                }
            }
            Ok(Command::Auth(begin)) => Box::pin(self.talk.auth(begin)).await?,
            Ok(Command::Quit) => (Reply::new(221, "2.0.0", "Bye"), Next::Close),
            Ok(Command::StartTls) => self.start_tls(),
            // Postfix uses RSET to ask whether a connection is good for another message, and defers the
            // message for minutes if that message is refused. This reply makes it open another connection.
            Ok(Command::Rset) if self.talk.has_sent_enough() => {
                (Reply::new(421, "4.5.3", "Too many messages on this connection, closing"), Next::Close)
            }
            Ok(command) => (self.carry_out(command), Next::Listen),
            Err(Misunderstood { reply, then: Then::GoOn, meant }) => {
                let reply = match meant.map(|meant| *meant) {
                    Some(Meant::Sender(mail)) => self.mail_without_address(mail, reply),
                    Some(Meant::Recipient(written, wish)) => match self.talk.service.door.alias(&written) {
                        Some(addresses) => self.rcpt_of_alias(addresses, &wish),
                        None => reply,
                    },
                    None => reply,
                };
                let is_refused = verb == "rcpt" && reply.code >= 400;
                if let Some(transaction) = self.talk.transaction().filter(|_| is_refused) {
                    transaction.refused_recipient = true;
                }
                (reply, Next::Listen)
            }
            Err(Misunderstood { reply, then: Then::Close, .. }) => (reply, Next::Close),
        };
        self.talk.reply(verb, &reply).await?;
        if reply.is_permanent_error() {
            debug!(%verb, %reply, "command refused");
            self.talk.errors += 1;
        }
        if matches!(next, Next::Listen)
            && let Some(why) = self.enough(verb, &reply)
        {
            info!(why, "connection closed after an error");
            self.talk.reply("other", &Reply::new(421, "4.7.0", format!("{why}, closing"))).await?;
            return Ok(Next::Close);
        }
        Ok(next)
    }

    /// Why the client has had enough of this connection, if it has.
    fn enough(&mut self, verb: &'static str, reply: &Reply) -> Option<&'static str> {
        // A message may have many recipients and many chunks; refused ones bring it no nearer.
        self.talk.commands += u32::from(!matches!(verb, "rcpt" | "bdat") || reply.code >= 400);
        let limits = &self.talk.service.limits;
        if self.talk.errors >= limits.max_errors {
            return Some("Too many errors");
        }
        if self.talk.commands > limits.max_commands {
            return Some("Too many commands without a message");
        }
        None
    }

    /// Any command but DATA, BDAT, AUTH, STARTTLS and QUIT.
    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Hello(hello) => self.hello(hello),
            Command::Mail(Mail { auth: true, .. }) if !self.talk.offers_auth() => path::not_offered(),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Rset => {
                self.forget_transaction();
                Reply::new(250, "2.0.0", "Ok")
            }
            Command::Noop => Reply::new(250, "2.0.0", "Ok"),
            Command::Vrfy => Reply::new(252, "2.5.2", "Cannot verify, send the message to try the address"),
            Command::Help => Reply::new(214, "2.0.0", "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT"),
            Command::Data | Command::Bdat { .. } | Command::Auth(_) | Command::StartTls | Command::Quit => {
                out_of_order("Not now")
            }
        }
    }

    fn hello(&mut self, hello: Hello) -> Reply {
        let Service { hostname, door, limits, max_recipients, .. } = &*self.talk.service;
        let reply = if hello.extended {
            let size = door.max_message().0;
            let messages = limits.max_messages;
            let starttls =
                if let Security::StartTlsOffered = self.talk.peer.security { "STARTTLS\n" } else { "" };
            let auth = if self.talk.offers_auth() { format!("{}\n", exchange::OFFER) } else { String::new() };
            format!(
                "{hostname}\nPIPELINING\nSIZE {size}\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING\nDSN\n\
                 {starttls}{auth}LIMITS MAILMAX={messages} RCPTMAX={max_recipients}"
            )
        } else {
            hostname.clone()
        };
        // RFC 5321 section 4.1.4: EHLO clears what was begun, as RSET does.
        self.incoming = None;
        self.talk.greeted = Some(Greeted { hello, transaction: None });
        Reply::plain(250, reply)
    }

    /// RFC 3207. Octets that came after the command, unencrypted, could be meant to be read as if they had
    /// come over TLS. Then the connection ends; the octets are not just dropped. What comes a moment later is
    /// not a handshake, which ends it too, so the outcome does not depend on how the network cut the stream.
    fn start_tls(&mut self) -> (Reply, Next) {
        match self.talk.peer.security {
            Security::Encrypted(_) => (out_of_order("TLS is already in use"), Next::Listen),
            Security::StartTlsOffered if self.talk.wire.has_input() => {
                info!("connection closed: data received after STARTTLS");
                let text = "STARTTLS must be the last command before the handshake, closing";
                (Reply::new(501, "5.5.4", text), Next::Close)
            }
            Security::StartTlsOffered => (Reply::new(220, "2.0.0", "Ready to start TLS"), Next::StartTls),
            Security::Clear => (command::not_offered(), Next::Listen),
        }
    }

    fn mail(&mut self, mail: Mail) -> Reply {
        let Mail { sender, size, parameters, .. } = mail;
        if self.talk.greeted.is_none() {
            return out_of_order("Say EHLO or HELO first");
        }
        if self.talk.has_transaction() || self.incoming.is_some() {
            return out_of_order("A message has already begun");
        }
        if self.talk.has_sent_enough() {
            return Reply::new(452, "4.5.3", "Too many messages on this connection, open another");
        }
        let grant = match self.talk.admit(sender.as_ref(), size) {
            Ok(grant) => grant,
            Err(refusal) => return self.talk.refuse("MAIL", &refusal),
        };
        let holding = self.talk.service.memory.holding(self.talk.peer.address, &grant.tenant.name);
        if let Some(greeted) = &mut self.talk.greeted {
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

    /// MAIL with something that is no address, as printers say `MAIL FROM:<scanner>`. It is good enough for a
    /// tenant that has one sender for all of its mail.
    fn mail_without_address(&mut self, mail: Mail, reply: Reply) -> Reply {
        let forced = self.talk.forced_sender();
        match forced {
            Some(sender) => self.carry_out(Command::Mail(Mail { sender: Some(sender), ..mail })),
            None => reply,
        }
    }

    fn rcpt(&mut self, recipient: Recipient) -> Reply {
        match self.talk.service.door.alias(recipient.address.as_str()) {
            Some(addresses) => self.rcpt_of_alias(addresses, &recipient.wish),
            None => self.add_recipients(vec![recipient]),
        }
    }

    fn rcpt_of_alias(&mut self, addresses: Vec<MailboxAddress>, wish: &RecipientWish) -> Reply {
        let all = addresses.into_iter().map(|address| Recipient { address, wish: wish.clone() });
        self.add_recipients(all.collect())
    }

    /// All of them or none.
    fn add_recipients(&mut self, recipients: Vec<Recipient>) -> Reply {
        let max_recipients = self.talk.service.max_recipients;
        let Some(transaction) = self.talk.transaction() else { return out_of_order("MAIL first") };
        let is_ascii = recipients.iter().all(|recipient| recipient.address.is_ascii());
        if !is_ascii && !transaction.parameters.utf8 {
            transaction.refused_recipient = true;
            return path::needs_utf8("recipient");
        }
        if transaction.recipients.len() + recipients.len() > max_recipients {
            // RFC 5321 section 4.5.3.1.10: the client sends the message to the others in another transaction.
            let refusal = Refusal::new(452, "4.5.3", "Too many recipients", Refused::TooLarge);
            // For a client that has thousands more, one line in the log is enough.
            return if std::mem::replace(&mut transaction.is_full, true) {
                Reply::from(&refusal)
            } else {
                self.talk.refuse("RCPT", &refusal)
            };
        }
        let held = transaction.held + recipients.iter().map(|one| one.held() as u64).sum::<u64>();
        if let Err(refusal) = transaction.holding.hold(held) {
            transaction.refused_recipient = true;
            return self.talk.refuse("RCPT", &refusal);
        }
        transaction.held = held;
        transaction.recipients.extend(recipients);
        Reply::new(250, "2.1.5", "Recipient ok")
    }

    fn forget_transaction(&mut self) {
        self.incoming = None;
        if let Some(greeted) = &mut self.talk.greeted {
            greeted.transaction = None;
        }
    }

    async fn hang_up(mut self, reply: Reply) -> io::Result<Ended<S>> {
        self.talk.reply("other", &reply).await?;
        self.talk.wire.close().await.map(|()| Ended::Closed)
    }
}
