//! One command line becomes a [`Command`], or the reply that says what is wrong with it.
//!
//! `smtp-proto` reads verbs and their arguments, except for paths: see [`super::path`]. It is a parser for a
//! server that supports everything, and it is forgiving. So the line is framed first: no CR, NUL or other
//! control character gets that far.

use std::borrow::Cow;

use smtp_proto::{Error, Request};

use super::{
    exchange::Begin,
    path::{self, Mail},
    reply::Reply,
};
use relay_mail::{Recipient, RecipientWish};

/// A command that the server carries out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Hello(Hello),
    Mail(Mail),
    Rcpt(Recipient),
    Auth(Begin),
    Data,
    /// RFC 3030: this many octets of content follow at once.
    Bdat {
        octets: u64,
        is_last: bool,
    },
    Rset,
    Noop,
    Help,
    Vrfy,
    StartTls,
    Quit,
}

/// What the client called itself, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Anything at all: devices send what they like.
    pub(crate) name: String,
    /// EHLO rather than HELO.
    pub(crate) extended: bool,
}

/// A line that is not a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misunderstood {
    pub(crate) reply: Reply,
    pub(crate) then: Then,
    pub(crate) meant: Option<Box<Meant>>,
}

/// A command whose path is no address, which can be understood by those who know more than the line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The tenant may have a sender for all of its mail.
    Sender(Mail),
    /// What was written in place of an address may be an alias.
    Recipient(String, RecipientWish),
}

impl Misunderstood {
    pub(crate) fn new(reply: Reply, then: Then) -> Self {
        Self { reply, then, meant: None }
    }

    pub(super) fn meant(reply: Reply, meant: Meant) -> Self {
        Self { reply, then: Then::GoOn, meant: Some(Box::new(meant)) }
    }
}

/// What to do after the reply to a misunderstood line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    /// The client does not speak SMTP.
    Close,
}

/// The verbs that the server knows, in lower case, as in its metric.
const VERBS: [&str; 17] = [
    "ehlo", "helo", "mail", "rcpt", "data", "rset", "noop", "help", "vrfy", "quit", "starttls", "auth",
    "bdat", "expn", "etrn", "lhlo", "burl",
];

/// Verbs of HTTP: a browser may be made to post to this port, with mail in the body of its request.
const WEB_VERBS: [&str; 8] = ["get", "post", "put", "head", "options", "connect", "delete", "patch"];

/// Verbs that the server knows and does not offer.
const NOT_OFFERED: [&str; 4] = ["expn", "etrn", "lhlo", "burl"];

/// The verb of `line` as the metric names it: one of a fixed set, or `"other"`.
pub(super) fn verb(line: &[u8]) -> &'static str {
    let word = first_word(line);
    VERBS.into_iter().find(|verb| word.eq_ignore_ascii_case(verb.as_bytes())).unwrap_or("other")
}

impl Command {
    /// `line` ends with its only LF.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, Misunderstood> {
        // RFC 5321 section 4.1.1: white space at the end must be tolerated. A form feed is not white space.
        let is_space = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
        let text = &line[..line.iter().rposition(|octet| !is_space(octet)).map_or(0, |last| last + 1)];
        if text.iter().any(u8::is_ascii_control) {
            let reply = Reply::new(500, "5.5.2", "Control character in command");
            // As below: a chunk may follow.
            let then = if verb(text) == "bdat" { Then::Close } else { Then::GoOn };
            return Err(Misunderstood::new(reply, then));
        }
        let word = first_word(text);
        if WEB_VERBS.into_iter().any(|verb| word.eq_ignore_ascii_case(verb.as_bytes())) {
            let reply = Reply::new(421, "4.7.0", "This is a mail server, closing");
            return Err(Misunderstood::new(reply, Then::Close));
        }
        match verb(text) {
            "mail" => return Ok(Self::Mail(path::mail(text)?)),
            "rcpt" => return Ok(Self::Rcpt(path::rcpt(text)?)),
            "bdat" => return Self::bdat(text),
            // The parser copies what it reads, and here that is a password.
            "auth" => return Ok(Self::Auth(Begin::parse(&text.trim_ascii_start()[word.len()..])?)),
            _ => {}
        }
        match Request::parse(&mut [text, b"\r\n"].concat().iter()) {
            Ok(request) => Self::from_request(request, text),
            Err(error) => Err(refusal_of(&error, text).into()),
        }
    }

    /// RFC 3030 section 2: `BDAT octets [LAST]`.
    fn bdat(text: &[u8]) -> Result<Self, Misunderstood> {
        let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).skip(1);
        let digits = words.next().filter(|word| word.iter().all(u8::is_ascii_digit));
        let octets = digits.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let is_last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
            Some(_) => None,
        };
        match (octets, is_last, words.next()) {
            (Some(octets), Some(is_last), None) => Ok(Self::Bdat { octets, is_last }),
            // It is not known how many octets follow that are not commands.
            _ => {
                let reply = Reply::new(501, "5.5.4", "Syntax: BDAT octets [LAST], closing");
                Err(Misunderstood::new(reply, Then::Close))
            }
        }
    }

    fn from_request(request: Request<Cow<'_, str>>, text: &[u8]) -> Result<Self, Misunderstood> {
        Ok(match request {
            Request::Ehlo { host } => Self::Hello(Hello { name: host.into_owned(), extended: true }),
            Request::Helo { host } => Self::Hello(Hello { name: host.into_owned(), extended: false }),
            Request::Data | Request::Rset | Request::StartTls if has_argument(text) => {
                return Err(Reply::new(501, "5.5.4", "This command takes no argument").into());
            }
            Request::Data => Self::Data,
            Request::Rset => Self::Rset,
            Request::Quit => Self::Quit,
            Request::Noop { .. } => Self::Noop,
            Request::Help { .. } => Self::Help,
            Request::Vrfy { .. } => Self::Vrfy,
            Request::StartTls => Self::StartTls,
            Request::Lhlo { .. }
            | Request::Auth { .. }
            | Request::Expn { .. }
            | Request::Etrn { .. }
            | Request::Atrn { .. }
            | Request::Bdat { .. }
            | Request::Burl { .. }
            | Request::Mail { .. }
            | Request::Rcpt { .. } => return Err(not_offered().into()),
        })
    }
}

fn first_word(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii_start();
    line.split(u8::is_ascii_whitespace).next().unwrap_or_default()
}

fn has_argument(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    first_word(text).len() < text.len()
}

fn refusal_of(error: &Error, text: &[u8]) -> Reply {
    if NOT_OFFERED.contains(&verb(text)) {
        return not_offered();
    }
    match error {
        Error::SyntaxError { syntax } => Reply::new(501, "5.5.4", format!("Syntax: {syntax}")),
        _ => Reply::new(500, "5.5.2", "Command not recognized"),
    }
}

pub(super) fn not_offered() -> Reply {
    Reply::new(502, "5.5.1", "Command not implemented")
}

impl From<Reply> for Misunderstood {
    fn from(reply: Reply) -> Self {
        Self::new(reply, Then::GoOn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use relay_mail::{BodyKind, MailParameters, MailboxAddress, RecipientWish, Return};

    fn parsed(line: &str) -> Result<Command, String> {
        Command::parse(format!("{line}\r\n").as_bytes()).map_err(|wrong| wrong.reply.to_string())
    }

    fn code(line: &[u8]) -> String {
        let reply = Command::parse(line).expect_err("not a command").reply.to_string();
        reply.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    fn mail(sender: Option<&str>, size: Option<u64>, body: BodyKind) -> Result<Command, String> {
        let parameters = MailParameters { body, ..MailParameters::default() };
        Ok(Command::Mail(Mail {
            sender: sender.map(|text| text.parse().unwrap()),
            size,
            parameters,
            auth: false,
        }))
    }

    #[test]
    fn commands() {
        let hello = |name: &str, extended| Ok(Command::Hello(Hello { name: name.into(), extended }));
        assert_eq!(parsed("EHLO relay.example"), hello("relay.example", true));
        assert_eq!(parsed("helo [10.0.0.1]"), hello("[10.0.0.1]", false));
        assert_eq!(parsed("DATA"), Ok(Command::Data));
        assert_eq!(parsed("data  \t"), Ok(Command::Data));
        assert_eq!(parsed("RSET"), Ok(Command::Rset));
        assert_eq!(parsed("NOOP ignored"), Ok(Command::Noop));
        assert_eq!(parsed("VRFY someone"), Ok(Command::Vrfy));
        assert_eq!(parsed("HELP"), Ok(Command::Help));
        assert_eq!(parsed("QUIT"), Ok(Command::Quit));
        assert_eq!(Command::parse(b"QUIT\n"), Ok(Command::Quit));
    }

    #[test]
    fn senders() {
        let seven = BodyKind::SevenBit;
        assert_eq!(parsed("MAIL FROM:<a@b.example>"), mail(Some("a@b.example"), None, seven));
        assert_eq!(parsed("mail from: <a@b.example>"), mail(Some("a@b.example"), None, seven));
        assert_eq!(parsed("MAIL FROM:<>"), mail(None, None, seven));
        assert_eq!(
            parsed("MAIL FROM:<> SIZE=123 BODY=8BITMIME"),
            mail(None, Some(123), BodyKind::EightBitMime)
        );
        assert_eq!(parsed("MAIL FROM:<@x,@y:a@b.example> body=7bit"), mail(Some("a@b.example"), None, seven));
        assert_eq!(parsed(r#"MAIL FROM:<"a b>"@c.example>"#), mail(Some(r#""a b>"@c.example"#), None, seven));
        assert_eq!(
            parsed(r#"MAIL FROM:<"a\">\\"@c.example>"#),
            mail(Some(r#""a\">\\"@c.example"#), None, seven)
        );
        // Old devices.
        for line in ["MAIL FROM:a@b.example", "MAIL FROM : a@b.example", "mail  from: a@b.example"] {
            assert_eq!(parsed(line), mail(Some("a@b.example"), None, seven), "{line}");
        }
    }

    #[test]
    fn what_else_a_client_asks_for() {
        let parameters = MailParameters {
            body: BodyKind::EightBitMime,
            utf8: true,
            ret: Some(Return::Headers),
            envid: Some("QQ+3D1".parse().unwrap()),
        };
        let sender = Some("\u{e9}@b.example".parse().unwrap());
        assert_eq!(
            parsed(
                "MAIL FROM:<\u{e9}@b.example> SMTPUTF8 RET=hdrs ENVID=QQ+3D1 BODY=8BITMIME SIZE=99999999999999999999"
            ),
            Ok(Command::Mail(Mail { sender, size: Some(u64::MAX), parameters, auth: false }))
        );
        let wish = RecipientWish {
            notify: Some("SUCCESS,DELAY".parse().unwrap()),
            original: Some("rfc822;x@b.example".parse().unwrap()),
        };
        assert_eq!(
            parsed("RCPT TO:<a@b.example> NOTIFY=Delay,Success ORCPT=rfc822;x@b.example"),
            Ok(Command::Rcpt(Recipient { address: "a@b.example".parse().unwrap(), wish }))
        );
        assert_eq!(parsed("BDAT 1000"), Ok(Command::Bdat { octets: 1000, is_last: false }));
        assert_eq!(parsed("bdat 0 last"), Ok(Command::Bdat { octets: 0, is_last: true }));
    }

    #[test]
    fn what_is_wrong() {
        for (line, expected) in [
            ("", "500 5.5.2"),
            ("HELLO", "500 5.5.2"),
            ("DATAX", "500 5.5.2"),
            ("EHLO", "501 5.5.4"),
            ("HELO", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL FROM:", "501 5.5.4"),
            ("MAIL FROM:<a@b.example", "501 5.5.4"),
            ("MAIL TO:<a@b.example>", "501 5.5.4"),
            ("DATA now", "501 5.5.4"),
            ("RSET now", "501 5.5.4"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("MAIL FROM:<postmaster>", "501 5.1.7"),
            ("MAIL FROM:<a@b@c>", "501 5.1.7"),
            ("MAIL FROM:<a@>", "501 5.1.7"),
            ("MAIL FROM:<a@-b->", "501 5.1.7"),
            ("MAIL FROM:<é@b.example>", "553 5.6.7"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<a>", "501 5.1.3"),
            ("RCPT TO:<a@[192.0.2.1]>", "550 5.1.2"),
            ("RCPT TO:<a@localhost>", "550 5.1.2"),
            ("RCPT TO:<postmaster>", "550 5.1.1"),
            ("RCPT FROM:<a@b.example>", "501 5.5.4"),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
            ("RCPT TO:<a@b.example> NOTIFY", "501 5.5.4"),
            ("RCPT TO:<a@b.example> ORCPT=a@b.example", "501 5.5.4"),
            ("RCPT TO:<a@b.example> RET=FULL", "555 5.5.4"),
            ("MAIL FROM:<> SMTPUTF8=1", "555 5.5.4"),
            ("MAIL FROM:<> RET=ALL", "501 5.5.4"),
            ("MAIL FROM:<> ENVID=", "501 5.5.4"),
            ("MAIL FROM:<> ENVID=a=b", "501 5.5.4"),
            ("MAIL FROM:<> SIZE", "501 5.5.4"),
            ("MAIL FROM:<> SIZE=-1", "501 5.5.4"),
            ("MAILFROM:<a@b.example>", "500 5.5.2"),
            ("MAIL FROM:<> AUTH", "555 5.5.4"),
            ("MAIL FROM:<> MT-PRIORITY=0", "555 5.5.4"),
            ("MAIL FROM:<> X-FOO", "555 5.5.4"),
            ("MAIL FROM:<> BODY=BINARYMIME", "504 5.5.4"),
            ("MAIL FROM:<> BODY=9BIT", "504 5.5.4"),
            ("MAIL FROM:<> SIZE=big", "501 5.5.4"),
            ("STARTTLS now", "501 5.5.4"),
            ("STARTTLS=x", "500 5.5.2"),
            ("AUTH", "501 5.5.4"),
            ("AUTH PLAIN \0", "500 5.5.2"),
            ("EXPN list", "502 5.5.1"),
            ("LHLO x", "502 5.5.1"),
            ("ETRN x", "502 5.5.1"),
            ("BDAT", "501 5.5.4"),
            ("BDAT -1", "501 5.5.4"),
            ("BDAT 1x", "501 5.5.4"),
            ("BDAT 1 FIRST", "501 5.5.4"),
            ("BDAT 99999999999999999999999", "501 5.5.4"),
            ("GET / HTTP/1.1", "421 4.7.0"),
            ("NOOP\0", "500 5.5.2"),
            ("EHLO x\u{c}", "500 5.5.2"),
            ("RCPT TO:<a@b.example>\rDATA", "500 5.5.2"),
            ("MAIL FROM:<a\x7f@b.example>", "500 5.5.2"),
        ] {
            assert_eq!(code(format!("{line}\r\n").as_bytes()), expected, "{line}");
        }
        assert_eq!(code(b"MAIL FROM:<\xe9@b.example>\r\n"), "553 5.6.7");
        assert_eq!(code(b"M\xc4IL FROM:<>\r\n"), "500 5.5.2");
    }

    #[test]
    fn the_web_is_hung_up_on_and_so_is_a_chunk_of_unknown_size() {
        for line in ["BDAT x LAST", "BDAT 5\x01", "bdat\t5\0 LAST"] {
            let wrong = Command::parse(format!("{line}\r\n").as_bytes()).expect_err("no size");
            assert_eq!(wrong.then, Then::Close, "{line}");
        }
        assert_eq!(Command::parse(b"POST / HTTP/1.1\r\n").expect_err("not SMTP").then, Then::Close);
    }

    #[test]
    fn verbs_are_a_fixed_set() {
        assert_eq!(verb(b"Mail FROM:<>\r\n"), "mail");
        assert_eq!(verb(b"quit\n"), "quit");
        assert_eq!(verb(b"anything at all\r\n"), "other");
        assert_eq!(verb(b""), "other");
    }

    proptest! {
        #[test]
        fn no_line_panics(
            start in prop_oneof![Just("MAIL FROM:<"), Just("RCPT TO:<"), Just("EHLO "), Just("BDAT "), Just("AUTH "), Just("")],
            rest in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(b'>'), Just(b'@')], 0..80),
        ) {
            let mut line = start.as_bytes().to_vec();
            line.extend(rest.into_iter().filter(|&octet| octet != b'\n'));
            line.push(b'\n');
            let _ = Command::parse(&line);
        }

        #[test]
        fn an_address_comes_through(text in r#"("[a-z @>\\]{1,5}"|[a-z.+]{1,8})@[a-z]{1,5}\.example"#) {
            if let Ok(address) = text.parse::<MailboxAddress>() {
                let recipient = Recipient::from(address);
                prop_assert_eq!(parsed(&format!("RCPT TO:<{text}>")), Ok(Command::Rcpt(recipient)));
            }
        }
    }
}
