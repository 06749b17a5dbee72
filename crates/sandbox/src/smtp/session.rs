//! One connection: what is said, what is answered, and what faults make of it.

use std::{net::IpAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    command::Command,
    record::SmtpLine,
    replies::{self, FRONT, Reply},
    standing::Login,
    transaction::Transaction,
    wire::{Heard, Nothing, Wire},
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
    /// What it goes by in replies.
    pub(super) session_id: u64,
    pub(super) client: IpAddr,
    pub(super) is_encrypted: bool,
    /// Whether the client's hello was EHLO, once it has said one.
    pub(super) greeted: Option<bool>,
    pub(super) login: Option<Login>,
    pub(super) transaction: Option<Transaction>,
    /// It was told at once that there is no service here (RFC 5321 section 3.1).
    turned_away: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    /// All has been said.
    Close,
    /// Nothing more is said: by a fault, or since the client is gone.
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
        let (latency, idle_timeout) = (world.options.latency, world.options.submission.idle_timeout);
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

    pub(super) async fn run(mut self) {
        let greeting = self.greeting();
        let mut go = self.step(On::SmtpConnect, |_| greeting).await;
        while go == Go::On {
            go = match self.wire.command().await {
                Heard::Line(line) => self.obey(&line).await,
                Heard::TooLong => {
                    self.heard("(a line that is too long)".into());
                    self.say(&"500 5.5.2 Line too long".into())
                }
                Heard::Silence => self.time_out(),
                Heard::End => Go::Cut,
            };
        }
        // Before the client learns that the connection is over: its place is free by then.
        self.login = None;
        match go {
            Go::Cut => {
                self.log(false, "(the connection ends)".into());
                self.wire.cut().await;
            }
            _ => self.wire.close().await,
        }
    }

    async fn obey(&mut self, line: &[u8]) -> Go {
        self.heard(Command::shown(line));
        let Some(Command { verb, argument }) = Command::parse(line) else {
            return self.say(&"500 5.5.2 Syntax error, command unrecognized".into());
        };
        match verb.as_str() {
            "QUIT" => {
                self.say(&"221 2.0.0 Service closing transmission channel".into());
                Go::Close
            }
            _ if self.turned_away => self.say(&replies::BAD_SEQUENCE.into()),
            "EHLO" | "HELO" => self.step(On::SmtpEhlo, |s| s.ehlo(&argument, verb == "EHLO")).await,
            "STARTTLS" => self.start_tls(&argument).await,
            "AUTH" => self.auth(&argument).await,
            "MAIL" => self.step(On::SmtpMail, |s| s.mail(&argument)).await,
            "RCPT" => self.step(On::SmtpRcpt, |s| s.rcpt(&argument)).await,
            "DATA" => self.data(&argument).await,
            "BDAT" => self.bdat(&argument).await,
            "RSET" => {
                self.transaction = None;
                self.say(&"250 2.0.0 Resetting".into())
            }
            "NOOP" => self.say(&"250 2.0.0 OK".into()),
            "HELP" => {
                let text = "214-This server supports the following commands:\n214 HELO EHLO STARTTLS RCPT DATA RSET \
                            MAIL QUIT HELP AUTH BDAT";
                self.say(&text.into())
            }
            "VRFY" => self.say(&"252 2.1.5 Cannot VRFY user".into()),
            "EXPN" | "ETRN" => self.say(&"502 5.3.3 Command not implemented".into()),
            _ => self.say(&Reply::new(format!("500 5.3.3 Unrecognized command [{FRONT}]"))),
        }
    }

    fn ehlo(&mut self, name: &str, extended: bool) -> Reply {
        if name.is_empty() {
            return "501 5.5.4 Invalid domain name".into();
        }
        self.greeted = Some(extended);
        self.transaction = None;
        self.hello(extended)
    }

    async fn start_tls(&mut self, argument: &str) -> Go {
        let ready = Reply::from("220 2.0.0 SMTP server ready");
        let (said, cut) = match self.fate(On::SmtpStartTls).await {
            Fate::Refuse(reply) => return self.say(&reply),
            Fate::Cut => return Go::Cut,
            Fate::Do => (ready, false),
            Fate::DoThenSay(reply) => (reply, false),
            Fate::DoThenCut => (ready, true),
        };
        let refusal = match self.greeted {
            _ if self.is_encrypted => Some(replies::BAD_SEQUENCE),
            None | Some(false) => Some(replies::SEND_HELLO),
            Some(true) if !argument.is_empty() => Some(replies::ARGUMENTS),
            Some(true) => None,
        };
        if let Some(refusal) = refusal {
            return self.say(&refusal.into());
        }
        let go = self.say(&said);
        if cut {
            // Once the client has begun.
            self.wire.flush().await;
            let _ = self.wire.content().await;
            return Go::Cut;
        }
        if said.code() != 220 {
            return go;
        }
        let world = self.world.clone();
        if let Err(error) = self.wire.encrypt(&world.smtp.identity().acceptor).await {
            self.log(false, format!("(no TLS: {error})"));
            return Go::Cut;
        }
        self.is_encrypted = true;
        self.greeted = None;
        Go::On
    }

    // === faults ===

    /// Does `act` and says what it answers, unless faults say otherwise.
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

    /// For a step of whoever has logged in.
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
            // What was answered before is no part of it.
            self.wire.flush().await;
            tokio::time::sleep(struck.delay).await;
        }
        match struck.then {
            Some(Action::Reply(text)) => Fate::Refuse(Reply::new(text)),
            Some(Action::ReplyAfter(text)) => Fate::DoThenSay(Reply::new(text)),
            Some(Action::CutBefore) => Fate::Cut,
            Some(Action::CutAfter) => Fate::DoThenCut,
            // A status is of HTTP, and is not let in here.
            None | Some(Action::Delay(_) | Action::Status(_) | Action::StatusAfter(_)) => Fate::Do,
        }
    }

    // === saying and hearing ===

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

    fn log(&self, from_client: bool, text: String) {
        let (connection, encrypted) = (self.connection, self.is_encrypted);
        self.world.smtp.record.line(SmtpLine { connection, from_client, encrypted, text });
    }
}
