//! AUTH in a session (RFC 4954): when it is offered, the exchange over the wire, and what a login changes at
//! MAIL.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep},
};

use super::{
    conversation::{Conversation, Next, out_of_order, shutting_down},
    exchange::{Begin, Progress},
    reply::Reply,
    wire::Heard,
};
use crate::{
    ingress::{
        Grant, Party, Refusal,
        login::{Credentials, Denied},
    },
    telemetry::Refused,
};
use relay_mail::{MailboxAddress, TenantName};

/// Whether a session takes logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Yes,
    /// There is no user who could log in.
    NoUsers,
    /// The password would travel unencrypted.
    InClear,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Whether EHLO announces AUTH.
    pub(super) fn offers_auth(&self) -> bool {
        self.auth_offer() == Offer::Yes
    }

    fn auth_offer(&self) -> Offer {
        if !self.service.logins.exist() {
            Offer::NoUsers
        } else if self.peer.security.encryption().is_some() || self.peer.trusted {
            Offer::Yes
        } else {
            Offer::InClear
        }
    }

    pub(super) async fn auth(&mut self, begin: Begin) -> io::Result<(Reply, Next)> {
        if let Err(reply) = self.may_authenticate() {
            return Ok((reply, Next::Listen));
        }
        let mut progress = begin.start();
        loop {
            match progress {
                Ok(Progress::Done(credentials)) => return Ok(self.log_in(credentials).await),
                Err(broken) => return Ok((broken.reply(), Next::Listen)),
                Ok(Progress::Ask(exchange, prompt)) => {
                    self.reply("auth", &Reply::plain(334, prompt)).await?;
                    let shutdown = self.service.shutdown.clone();
                    let deadline = self.ends().min(Instant::now() + self.service.limits.idle_timeout);
                    progress = match self.wire.response(deadline, &shutdown).await? {
                        Heard::Line(len) => {
                            let progress = exchange.answer(self.wire.line(len));
                            self.wire.wipe(len);
                            progress
                        }
                        Heard::TooLong => {
                            let reply = Reply::new(500, "5.5.6", "Authentication exchange line is too long");
                            return Ok((reply, Next::Listen));
                        }
                        Heard::Nothing => return Ok((self.out_of_time(), Next::Close)),
                        Heard::Shutdown => return Ok((shutting_down(), Next::Close)),
                    };
                }
            }
        }
    }

    fn may_authenticate(&self) -> Result<(), Reply> {
        match self.auth_offer() {
            Offer::Yes => {}
            Offer::NoUsers => return Err(Reply::new(502, "5.5.1", "Command not implemented")),
            Offer::InClear => return Err(Reply::new(538, "5.7.11", "Encryption required")),
        }
        // After HELO too, as other servers take it: some devices say no EHLO.
        if self.greeted.is_none() {
            return Err(out_of_order("Say EHLO or HELO first"));
        }
        if self.login.is_some() {
            return Err(out_of_order("You are already logged in"));
        }
        // RFC 4954 section 4.
        if self.has_transaction() {
            return Err(out_of_order("AUTH is not allowed during a message"));
        }
        Ok(())
    }

    async fn log_in(&mut self, credentials: Credentials) -> (Reply, Next) {
        match self.service.logins.log_in(credentials, self.peer.address).await {
            Ok(login) => {
                if let Err(refusal) = self.sit_with(&login.tenant.name) {
                    return (self.refuse("AUTH", &Refusal { code: 421, ..refusal }), Next::Close);
                }
                self.login = Some(login);
                (Reply::new(235, "2.7.0", "Authentication successful"), Next::Listen)
            }
            Err(Denied::Wrong(wait)) => {
                // In this client's task, so it delays nobody else.
                let shutdown = self.service.shutdown.clone();
                if shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
                    return (shutting_down(), Next::Close);
                }
                (Reply::new(535, "5.7.8", "Authentication credentials invalid"), Next::Listen)
            }
            Err(Denied::Locked) => {
                (Reply::new(421, "4.7.0", "Too many failed logins, try again later"), Next::Close)
            }
            Err(Denied::Busy) => {
                (Reply::new(454, "4.7.0", "Temporary authentication failure, try again later"), Next::Listen)
            }
        }
    }

    /// The door's answer to MAIL.
    pub(super) fn admit(&self, sender: Option<&MailboxAddress>, size: Option<u64>) -> Result<Grant, Refusal> {
        let door = &self.service.door;
        let grant = match &self.login {
            Some(login) => door.admit_user(login, sender, size),
            None if self.offers_auth() && !door.is_neighbour(self.peer.address) => {
                Err(Refusal::new(530, "5.7.0", "Authentication required", Refused::NoLogin))
            }
            None => door.admit_client(self.peer.address, sender, size),
        }?;
        self.sit_with(&grant.tenant.name)?;
        Ok(grant)
    }

    /// The address that all mail of this client goes out from, if its tenant has one.
    pub(super) fn forced_sender(&self) -> Option<MailboxAddress> {
        let door = &self.service.door;
        door.forced_sender(self.login.as_ref(), self.peer.address)
    }

    /// Makes the connection this tenant's from now on.
    fn sit_with(&self, tenant: &TenantName) -> Result<(), Refusal> {
        let Some(seat) = &self.seat else { return Ok(()) };
        let text = "Too many connections of this tenant, try again later";
        let refuse = |_| Refusal::new(451, "4.7.0", text, Refused::ConnectionsShare);
        seat.give_to(&Party::Tenant(tenant.clone())).map_err(refuse)
    }
}
