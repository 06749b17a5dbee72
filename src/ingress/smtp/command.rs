//! One command line becomes a [`Command`], or the reply that says what is wrong with it.
//!
//! `smtp-proto` reads verbs, paths and parameters. It is a parser for a server that supports everything, and it forgives;
//! so the line is framed before it (no CR, NUL or other control character gets that far), and two things are looked up
//! in the line itself: the path, since `<>` and `<postmaster>` are the same to the parser and it takes the quotes off a
//! local part, and the names of parameters, since it knows more of them than this server.

use std::borrow::Cow;

use smtp_proto::{Error, MAIL_BODY_8BITMIME, MAIL_BODY_BINARYMIME, Request};

use super::reply::Reply;
use crate::message::{BodyKind, MailboxAddress};

/// A command that the server carries out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Hello(Hello),
    Mail { sender: Option<MailboxAddress>, size: Option<u64>, body: BodyKind },
    Rcpt(MailboxAddress),
    Data,
    Rset,
    Noop,
    Help,
    Vrfy,
    StartTls,
    Quit,
}

/// What the client called itself, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    /// Anything at all: devices send what they like.
    pub(super) name: String,
    /// EHLO rather than HELO.
    pub(super) extended: bool,
}

/// A line that is no command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misunderstood {
    pub(super) reply: Reply,
    pub(super) then: Then,
}

/// What to do after the reply to a misunderstood line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// So many octets follow that are no commands.
    Skip(usize),
    /// Whoever this is does not speak SMTP.
    Close,
}

/// The verbs that the server knows, in lower case as in its metric.
const VERBS: [&str; 17] = [
    "ehlo", "helo", "mail", "rcpt", "data", "rset", "noop", "help", "vrfy", "quit", "starttls", "auth",
    "bdat", "expn", "etrn", "lhlo", "burl",
];

/// Verbs of HTTP: a browser that was made to post to this port, with mail in the body of its request.
const WEB_VERBS: [&str; 8] = ["get", "post", "put", "head", "options", "connect", "delete", "patch"];

/// Verbs that the server knows and does not offer.
const NOT_OFFERED: [&str; 6] = ["auth", "bdat", "expn", "etrn", "lhlo", "burl"];

/// The verb of `line` as the metric names it: one of a fixed set, or `"other"`.
pub(super) fn verb(line: &[u8]) -> &'static str {
    let word = first_word(line);
    VERBS.into_iter().find(|verb| word.eq_ignore_ascii_case(verb.as_bytes())).unwrap_or("other")
}

impl Command {
    /// `line` ends with its only LF.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Misunderstood> {
        // RFC 5321 section 4.1.1: white space at the end is to be tolerated.
        let text = line.trim_ascii_end();
        if text.iter().any(u8::is_ascii_control) {
            return Err(Reply::new(500, "5.5.2", "Control character in command").into());
        }
        let word = first_word(text);
        if WEB_VERBS.into_iter().any(|verb| word.eq_ignore_ascii_case(verb.as_bytes())) {
            let reply = Reply::new(421, "4.7.0", "This is a mail server, closing");
            return Err(Misunderstood { reply, then: Then::Close });
        }
        match Request::parse(&mut line.iter()) {
            Ok(request) => Self::from_request(request, text),
            Err(error) => Err(refusal_of(&error, text).into()),
        }
    }

    fn from_request(request: Request<Cow<'_, str>>, text: &[u8]) -> Result<Self, Misunderstood> {
        Ok(match request {
            Request::Ehlo { host } => Self::Hello(Hello { name: host.into_owned(), extended: true }),
            Request::Helo { host } => Self::Hello(Hello { name: host.into_owned(), extended: false }),
            Request::Mail { from } => {
                let path = Path::find(text);
                let sender =
                    if path.address.is_empty() { None } else { Some(path.mailbox("5.1.7", "sender")?) };
                path.check_parameters(&["SIZE", "BODY"])?;
                if from.flags & MAIL_BODY_BINARYMIME != 0 {
                    return Err(body_not_offered().into());
                }
                let eight_bit = from.flags & MAIL_BODY_8BITMIME != 0;
                let body = if eight_bit { BodyKind::EightBitMime } else { BodyKind::SevenBit };
                let size = u64::try_from(from.size).ok().filter(|&size| size > 0);
                Self::Mail { sender, size, body }
            }
            Request::Rcpt { .. } => {
                let path = Path::find(text);
                // RFC 5321 section 4.5.1 wants a postmaster at every server that receives for a domain of its own. This
                // one has no domain, and says so.
                if path.address.eq_ignore_ascii_case(b"postmaster") {
                    return Err(Reply::new(550, "5.1.1", "No postmaster here, give a full address").into());
                }
                let recipient = path.mailbox("5.1.3", "recipient")?;
                path.check_parameters(&[])?;
                Self::Rcpt(recipient)
            }
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
            // The client sends its chunk without waiting for an answer. Read as commands, the chunk of a message could
            // hold a second message.
            Request::Bdat { chunk_size, .. } => {
                return Err(Misunderstood { reply: not_offered(), then: Then::Skip(chunk_size) });
            }
            Request::Lhlo { .. }
            | Request::Auth { .. }
            | Request::Expn { .. }
            | Request::Etrn { .. }
            | Request::Atrn { .. }
            | Request::Burl { .. } => return Err(not_offered().into()),
        })
    }
}

/// What stands between `<` and `>`, and behind it.
struct Path<'a> {
    /// Without source route, which RFC 5321 section 3.3 has servers ignore.
    address: &'a [u8],
    parameters: &'a [u8],
}

impl<'a> Path<'a> {
    /// In a line in which the parser found a path.
    fn find(text: &'a [u8]) -> Self {
        let start = memchr::memchr(b'<', text).map_or(text.len(), |at| at + 1);
        let (mut quoted, mut escaped) = (false, false);
        let closing = text[start..].iter().position(|&octet| {
            let closes = octet == b'>' && !quoted;
            match octet {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            closes
        });
        let end = closing.map_or(text.len(), |at| start + at);
        let address = text[start..end].trim_ascii();
        let route = address.starts_with(b"@").then(|| memchr::memchr(b':', address)).flatten();
        Self {
            address: route.map_or(address, |colon| &address[colon + 1..]),
            parameters: text.get(end + 1..).unwrap_or_default(),
        }
    }

    fn mailbox(&self, enhanced: &'static str, whose: &str) -> Result<MailboxAddress, Reply> {
        if !self.address.is_ascii() {
            // RFC 6531 section 3.5.
            return Err(Reply::new(553, "5.6.7", format!("Non-ASCII {whose} address needs SMTPUTF8")));
        }
        let invalid = |why: String| Reply::new(501, enhanced, format!("Bad {whose} address: {why}"));
        let text = std::str::from_utf8(self.address).map_err(|why| invalid(why.to_string()))?;
        text.parse().map_err(|why: crate::message::InvalidAddress| invalid(why.to_string()))
    }

    fn check_parameters(&self, offered: &[&str]) -> Result<(), Reply> {
        let name = |word: &'a [u8]| word.split(|&octet| octet == b'=').next().unwrap_or_default();
        let is_offered = |name: &[u8]| offered.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()));
        let words = self.parameters.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        if words.map(name).all(is_offered) { Ok(()) } else { Err(parameter_not_offered()) }
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
        Error::InvalidSenderAddress => path_refusal(text, "5.1.7", "sender"),
        Error::InvalidRecipientAddress => path_refusal(text, "5.1.3", "recipient"),
        Error::SyntaxError { syntax } => Reply::new(501, "5.5.4", format!("Syntax: {syntax}")),
        Error::InvalidParameter { param: "BODY" } => body_not_offered(),
        Error::InvalidParameter { param: "SIZE" } => Reply::new(501, "5.5.4", "SIZE is a number of octets"),
        Error::InvalidParameter { .. } | Error::UnsupportedParameter { .. } => parameter_not_offered(),
        Error::UnknownCommand
        | Error::NeedsMoreData { .. }
        | Error::ResponseTooLong
        | Error::InvalidResponse { .. } => Reply::new(500, "5.5.2", "Command not recognized"),
    }
}

/// The parser took no address in this line: say why as for any other.
fn path_refusal(text: &[u8], enhanced: &'static str, whose: &'static str) -> Reply {
    let refused = Path::find(text).mailbox(enhanced, whose).err();
    refused.unwrap_or_else(|| Reply::new(501, enhanced, format!("Bad {whose} address")))
}

pub(super) fn not_offered() -> Reply {
    Reply::new(502, "5.5.1", "Command not implemented")
}

fn parameter_not_offered() -> Reply {
    Reply::new(555, "5.5.4", "Parameter not supported")
}

fn body_not_offered() -> Reply {
    Reply::new(504, "5.5.4", "BODY is 7BIT or 8BITMIME")
}

impl From<Reply> for Misunderstood {
    fn from(reply: Reply) -> Self {
        Self { reply, then: Then::GoOn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> Result<Command, String> {
        Command::parse(format!("{line}\r\n").as_bytes()).map_err(|wrong| wrong.reply.to_string())
    }

    fn code(line: &[u8]) -> String {
        let reply = Command::parse(line).expect_err("not a command").reply.to_string();
        reply.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    fn mail(sender: Option<&str>, size: Option<u64>, body: BodyKind) -> Result<Command, String> {
        Ok(Command::Mail { sender: sender.map(|text| text.parse().unwrap()), size, body })
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
            ("MAIL FROM:a@b.example", "501 5.5.4"),
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
            ("RCPT TO:<a@bücher.example>", "553 5.6.7"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<a>", "501 5.1.3"),
            ("RCPT TO:<a..b@c.example>", "501 5.1.3"),
            ("RCPT TO:<postmaster>", "550 5.1.1"),
            ("RCPT FROM:<a@b.example>", "501 5.5.4"),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
            ("RCPT TO:<a@b.example> ORCPT=rfc822;a@b.example", "555 5.5.4"),
            ("RCPT TO:<a@b.example> NOTIFY=WHATEVER", "555 5.5.4"),
            ("MAIL FROM:<> SMTPUTF8", "555 5.5.4"),
            ("MAIL FROM:<> RET=FULL", "555 5.5.4"),
            ("MAIL FROM:<> AUTH=<>", "555 5.5.4"),
            ("MAIL FROM:<> MT-PRIORITY=0", "555 5.5.4"),
            ("MAIL FROM:<> X-FOO", "555 5.5.4"),
            ("MAIL FROM:<> BODY=BINARYMIME", "504 5.5.4"),
            ("MAIL FROM:<> BODY=9BIT", "504 5.5.4"),
            ("MAIL FROM:<> SIZE=big", "501 5.5.4"),
            ("STARTTLS now", "501 5.5.4"),
            ("STARTTLS=x", "500 5.5.2"),
            ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
            ("AUTH", "502 5.5.1"),
            ("EXPN list", "502 5.5.1"),
            ("LHLO x", "502 5.5.1"),
            ("ETRN x", "502 5.5.1"),
            ("BDAT", "502 5.5.1"),
            ("GET / HTTP/1.1", "421 4.7.0"),
            ("NOOP\0", "500 5.5.2"),
            ("RCPT TO:<a@b.example>\rDATA", "500 5.5.2"),
            ("MAIL FROM:<a\x7f@b.example>", "500 5.5.2"),
        ] {
            assert_eq!(code(format!("{line}\r\n").as_bytes()), expected, "{line}");
        }
        assert_eq!(code(b"MAIL FROM:<\xe9@b.example>\r\n"), "553 5.6.7");
        assert_eq!(code(b"M\xc4IL FROM:<>\r\n"), "500 5.5.2");
    }

    #[test]
    fn a_chunk_is_skipped_and_the_web_hung_up_on() {
        assert_eq!(Command::parse(b"BDAT 1000 LAST\r\n").expect_err("not offered").then, Then::Skip(1000));
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
                prop_assert_eq!(parsed(&format!("RCPT TO:<{text}>")), Ok(Command::Rcpt(address)));
            }
        }
    }
}
