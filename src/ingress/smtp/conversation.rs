//! What is said on one connection, and by whom: the half of a session that its parts share.
//!
//! Commands, logins and content each have a file of their own; all of them read and reply here, and count
//! what a client has done.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use relay_mail::{Envelope, Ingress, MailParameters, MailboxAddress, Recipient};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    command::Hello,
    memory::{Holding, Memory},
    outdated::Outdated,
    reply::Reply,
    seats::Seat,
    tls::{Handshakes, Security},
    wire::Wire,
};
use crate::{
    config::SessionLimits,
    ingress::{
        Client, Door, Grant, Origin, Refusal,
        login::{Login, Logins},
    },
    telemetry::{Metrics, Refused},
};

/// What all sessions share.
pub(super) struct Service {
    pub(super) hostname: String,
    pub(super) max_recipients: usize,
    pub(super) limits: SessionLimits,
    pub(super) memory: Memory,
    pub(super) handshakes: Handshakes,
    pub(super) outdated: Outdated,
    pub(super) door: Door,
    pub(super) logins: Logins,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
    /// Sessions so far. The logs identify each by its number.
    pub(super) sessions: AtomicU64,
}

/// Who is at the other end, and what carries the conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) security: Security,
    /// The listener or the client's network is trusted to carry a password unencrypted.
    pub(super) trusted: bool,
    /// When the client was first met. STARTTLS begins another session, and gives it no more time.
    pub(super) since: Instant,
}

impl Peer {
    pub(super) fn new(address: IpAddr, trusted: bool) -> Self {
        Self { address, security: Security::Clear, trusted, since: Instant::now() }
    }
}

/// The conversation with one client, until it ends or TLS begins.
pub(super) struct Conversation<S> {
    pub(super) wire: Wire<S>,
    pub(super) service: Arc<Service>,
    pub(super) peer: Peer,
    /// Who has logged in, until the end of the session.
    pub(super) login: Option<Login>,
    /// Its place among the connections, which belongs to some party.
    pub(super) seat: Option<Seat>,
    pub(super) greeted: Option<Greeted>,
    /// Messages accepted so far, and what was counted since the last one.
    messages: u32,
    pub(super) errors: u32,
    pub(super) commands: u32,
}

pub(super) struct Greeted {
    pub(super) hello: Hello,
    pub(super) transaction: Option<Transaction>,
}

/// Between MAIL and the end of DATA.
pub(super) struct Transaction {
    pub(super) grant: Grant,
    pub(super) sender: Option<MailboxAddress>,
    pub(super) parameters: MailParameters,
    pub(super) recipients: Vec<Recipient>,
    /// Of the memory for envelopes and headers.
    pub(super) holding: Holding,
    /// Octets that the recipients take up.
    pub(super) held: u64,
    /// A RCPT was refused, so a DATA that follows it in the same batch is expected.
    pub(super) refused_recipient: bool,
    /// A RCPT was refused because of the number before it.
    pub(super) is_full: bool,
}

/// Everything that DATA needs.
pub(super) struct Admitted {
    pub(super) grant: Grant,
    pub(super) envelope: Envelope,
    pub(super) origin: Origin,
    pub(super) holding: Holding,
    /// Octets that the envelope takes up of the holding.
    pub(super) held: u64,
}

/// What follows a reply.
pub(super) enum Next {
    Listen,
    Close,
    StartTls,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub(super) fn new(stream: S, peer: Peer, service: Arc<Service>) -> Self {
        Self {
            wire: Wire::new(stream),
            service,
            peer,
            login: None,
            seat: None,
            greeted: None,
            messages: 0,
            errors: 0,
            commands: 0,
        }
    }

    pub(super) async fn reply(&mut self, verb: &'static str, reply: &Reply) -> io::Result<()> {
        self.service.metrics.smtp_command(verb, reply.code);
        self.wire.reply(reply).await
    }

    /// When the connection's time is up, whatever is in progress.
    pub(super) fn ends(&self) -> Instant {
        self.peer.since + self.service.limits.session_timeout
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.ends()
    }

    /// What a client is told that has taken too long, for its next command or altogether.
    pub(super) fn out_of_time(&self) -> Reply {
        if !self.is_over() {
            return Reply::new(421, "4.4.2", "Timeout, closing");
        }
        self.service.metrics.refused(Ingress::Smtp, Refused::SessionTimeout);
        info!("connection closed: open for longer than smtp.session_timeout");
        Reply::new(421, "4.7.0", "Session time limit reached, closing")
    }

    /// RFC 9422 section 4.1.
    pub(super) fn has_sent_enough(&self) -> bool {
        self.messages >= self.service.limits.max_messages
    }

    /// Ends the envelope: it is complete, and content is to come.
    pub(super) fn end_envelope(&mut self) -> Result<Admitted, Reply> {
        let by = self.service.hostname.clone();
        let Peer { address, security, .. } = self.peer;
        let authenticated = self.login.is_some();
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

    /// A message was accepted: the client knows what it is doing.
    pub(super) fn forgive(&mut self) {
        self.messages = self.messages.saturating_add(1);
        self.errors = 0;
        self.commands = 0;
    }

    /// Counts and logs a refusal; the client gets no more than its text.
    pub(super) fn refuse(&self, verb: &'static str, refusal: &Refusal) -> Reply {
        self.service.metrics.refused(Ingress::Smtp, refusal.reason);
        info!(command = verb, reason = refusal.reason.as_str(), %refusal, "message refused");
        Reply::from(refusal)
    }

    /// EHLO rather than HELO, or nothing.
    pub(super) fn has_transaction(&self) -> bool {
        self.greeted.as_ref().is_some_and(|greeted| greeted.transaction.is_some())
    }

    pub(super) fn transaction(&mut self) -> Option<&mut Transaction> {
        self.greeted.as_mut()?.transaction.as_mut()
    }
}

pub(super) fn out_of_order(text: &'static str) -> Reply {
    Reply::new(503, "5.5.1", text)
}

pub(super) fn shutting_down() -> Reply {
    Reply::new(421, "4.3.2", "Shutting down, closing")
}
