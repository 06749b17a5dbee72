//! One connection: its state, its dialogue, and what faults make of a step.

use std::{net::IpAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    record::SmtpLine,
    replies::{self, Reply},
    seat::Login,
    transaction::Transaction,
    wire::{Nothing, Wire},
};
use crate::{
    faults::{Action, On},
    options::Directory,
    world::World,
};

pub(super) struct Session {
    pub(super) world: Arc<World>,
    pub(super) wire: Wire,
    /// 1, 2, 3 … in the order of acceptance.
    pub(super) connection: u64,
    /// Its name in replies.
    pub(super) session_id: u64,
    pub(super) client: IpAddr,
    pub(super) is_encrypted: bool,
    /// Whether the client's hello was EHLO, once it has said one.
    pub(super) greeted: Option<bool>,
    pub(super) login: Option<Login>,
    pub(super) transaction: Option<Transaction>,
    /// It was told at once that there is no service here (RFC 5321 section 3.1).
    pub(super) turned_away: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    /// Everything has been said.
    Close,
    /// Nothing more is sent: because of a fault, or because the client is gone.
    Cut,
}

/// What faults make of a step.
pub(super) enum Fate {
    Do,
    Refuse(Reply),
    DoThenSay(Reply),
    Cut,
    DoThenCut,
}

impl Session {
    pub(super) fn new(world: Arc<World>, stream: TcpStream, client: IpAddr) -> Self {
        let latency = world.options.latency;
        let idle_timeout = world.options.submission.idle_timeout;
        Self {
            connection: world.smtp.record.connection(),
            world,
            wire: Wire::new(stream, latency, idle_timeout),
            session_id: rand::random(),
            client,
            is_encrypted: false,
            greeted: None,
            login: None,
            transaction: None,
            turned_away: false,
        }
    }

    /// Does `act` and sends the reply that it returns, unless faults decide otherwise.
    pub(super) async fn step(&mut self, on: On, act: impl FnOnce(&mut Self) -> Reply) -> Go {
        let reply = match self.fate(on).await {
            Fate::Do => act(self),
            Fate::Refuse(reply) => reply,
            Fate::DoThenSay(reply) => {
                act(self);
                reply
            }
            Fate::Cut => return Go::Cut,
            Fate::DoThenCut => {
                act(self);
                return Go::Cut;
            }
        };
        if on == On::SmtpConnect {
            self.turned_away = reply.code() != 220;
        }
        self.say(&reply)
    }

    /// For a step of the mailbox that has logged in.
    pub(super) async fn fate(&mut self, on: On) -> Fate {
        let login = self.login.as_ref().map(|login| (login.tenant.clone(), login.mailbox.clone()));
        let directory = login.as_ref().map(|(tenant, _)| &tenant.directory);
        let mailbox = login.as_ref().map(|(_, mailbox)| mailbox.address.as_str());
        self.fate_of(on, directory, mailbox).await
    }

    pub(super) async fn fate_of(
        &mut self,
        on: On,
        directory: Option<&Directory>,
        mailbox: Option<&str>,
    ) -> Fate {
        let struck = self.world.faults.strike(on, directory, mailbox);
        if !struck.delay.is_zero() {
            // Earlier replies are not part of this step.
            self.wire.flush().await;
            tokio::time::sleep(struck.delay).await;
        }
        match struck.then {
            Some(Action::Reply(text)) => Fate::Refuse(Reply::new(text)),
            Some(Action::ReplyAfter(text)) => Fate::DoThenSay(Reply::new(text)),
            Some(Action::CutBefore) => Fate::Cut,
            Some(Action::CutAfter) => Fate::DoThenCut,
            // The last three belong to HTTP, and are not accepted here.
            None
            | Some(Action::Delay(_) | Action::Status(_) | Action::StatusAfter(_) | Action::Recipients(_)) => {
                Fate::Do
            }
        }
    }

    pub(super) fn say(&mut self, reply: &Reply) -> Go {
        for line in reply.lines() {
            self.log(false, line.to_owned());
        }
        self.wire.say(&reply.to_string());
        // RFC 5321 section 3.8: the service goes away.
        if reply.code() == 421 { Go::Close } else { Go::On }
    }

    pub(super) fn heard(&self, text: String) {
        self.log(true, text);
    }

    pub(super) fn time_out(&mut self) -> Go {
        self.say(&replies::TIMED_OUT.into())
    }

    pub(super) fn nothing(&mut self, nothing: Nothing) -> Go {
        match nothing {
            Nothing::Silence => self.time_out(),
            Nothing::End => Go::Cut,
        }
    }

    pub(super) fn log(&self, from_client: bool, text: String) {
        let connection = self.connection;
        let encrypted = self.is_encrypted;
        self.world.smtp.record.line(SmtpLine { connection, from_client, encrypted, text });
    }
}
