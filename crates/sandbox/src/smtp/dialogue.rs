//! The course of one connection: commands in, and which function answers each.

use super::{
    command::Command,
    replies::{self, FRONT, Reply},
    session::{Fate, Go, Session},
    wire::Heard,
};
use crate::faults::On;

impl Session {
    pub(super) async fn run(mut self) {
        let greeting = replies::greeting(self.session_id);
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
        // Before the client learns that the connection is over: its place is already free then.
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
        replies::hello(self.client, self.is_encrypted, extended)
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
            // Once the client has begun the handshake.
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
}
