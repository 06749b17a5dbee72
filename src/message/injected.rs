//! The envelope of a picked-up file.
//!
//! Two forms: lines that stand before the header (Exchange Replay, the SMTP service of IIS, .NET's
//! `SpecifiedPickupDirectory`), or none, when the header itself says who sends and who receives (Exchange Pickup). Errors say what
//! to mend in the file.
//!
//! In both, Bcc is taken out of what goes on, as Exchange does. Exchange's Pickup takes out Received and Resent fields, too; they
//! stay here: Received shows loops, and the Resent fields are for people to read (RFC 5322 section 3.6.6). Resent-Bcc goes as Bcc
//! does.

use super::{
    AddressList, BodyKind, BrokenAddress, DsnRequest, Envelope, Field, HeaderBlock, InvalidAuthor,
    InvalidParameter, MAX_HEADER, MailboxAddress, RecipientRequest, author, dsn_request::SenderParameters,
    recipients_of, single_sender, without_bcc,
};

/// Lines that Exchange Replay knows beside X-Sender and X-Receiver. They are checked where that is possible, and go no further.
const REPLAY_LINES: [&str; 6] =
    [CREATED_BY, END_OF_LINES, "X-ExtendedMessageProps", "X-HeloDomain", "X-Source", "X-SourceIPAddress"];
const CREATED_BY: &str = "X-CreatedBy";
const END_OF_LINES: &str = "X-EndOfInjectedXHeaders";

/// What the lines before a header say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    pub envelope: Envelope,
    pub reports: DsnRequest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPickup {
    #[error("{0} X-Sender lines at the top of the file: exactly one is needed beside X-Receiver")]
    SenderLines(usize),
    #[error(
        "an X-Sender line at the top of the file, but no X-Receiver line: one for each recipient is needed"
    )]
    NoReceiverLine,
    #[error("{line}: {text:?} is not one address, bare or in angle brackets")]
    Line { line: &'static str, text: String },
    #[error("{line}: {why}")]
    Parameter { line: &'static str, why: InvalidParameter },
    #[error("X-CreatedBy is blank: write who made the file, or leave the line out")]
    BlankCreatedBy,
    #[error("X-EndOfInjectedXHeaders: {0:?} is not the size of the lines at the top of the file in octets")]
    Size(String),
    #[error("To, Cc and Bcc name no recipient")]
    NoRecipient,
    #[error(transparent)]
    Sender(#[from] InvalidAuthor),
    #[error(transparent)]
    Recipient(#[from] BrokenAddress),
}

/// The envelope in X-Sender and X-Receiver lines at the very top, and the header without them and without Bcc.
///
/// `None` if the header does not begin with such lines: behind any other field, they are fields like others, since mail that has
/// come from elsewhere may have them. The sender may be `<>`.
pub fn injected_envelope(header: &HeaderBlock) -> Result<Option<(Injected, HeaderBlock)>, InvalidPickup> {
    let lines = injected_lines(header);
    let senders: Vec<_> = lines.iter().filter(|line| line.is("X-Sender")).collect();
    let receivers: Vec<_> = lines.iter().filter(|line| line.is("X-Receiver")).collect();
    let sender = match (senders.as_slice(), receivers.as_slice()) {
        ([], []) => return Ok(None),
        ([_], []) => return Err(InvalidPickup::NoReceiverLine),
        ([sender], _) => sender,
        _ => return Err(InvalidPickup::SenderLines(senders.len())),
    };
    check_others(&lines)?;

    let sender = Line::read(sender, "X-Sender")?;
    let said = SenderParameters::parse(&sender.parameters).map_err(|why| sender.wrong(why))?;
    let mut recipients = Vec::with_capacity(receivers.len());
    for field in receivers {
        let line = Line::read(field, "X-Receiver")?;
        let request = RecipientRequest::parse(&line.parameters).map_err(|why| line.wrong(why))?;
        recipients.push((line.address.ok_or_else(|| invalid_line(field, "X-Receiver"))?, request));
    }
    let addresses = recipients.iter().map(|(address, _)| address.clone());
    let envelope = Envelope::new(sender.address, addresses, said.body.unwrap_or(FILE_BODY))
        .map_err(|_| InvalidPickup::NoReceiverLine)?;
    let reports = DsnRequest { ret: said.ret, envid: said.envid, recipients };
    let rest = HeaderBlock::from_fields(header.fields().skip(lines.len()));
    Ok(Some((Injected { envelope, reports }, without_bcc(&rest))))
}

/// The envelope in the header, by the rules of Exchange's Pickup folder, and the header without Bcc.
///
/// The sender is From if that names one mailbox, else Sender. The recipients are To, Cc and Bcc.
pub fn pickup_envelope(header: &HeaderBlock) -> Result<(Envelope, HeaderBlock), InvalidPickup> {
    let sender = match author(header) {
        Ok(author) => author.mailbox().clone(),
        Err(InvalidAuthor::Missing) => single_sender(header)?.ok_or(InvalidAuthor::Missing)?,
        Err(why) => return Err(why.into()),
    };
    let envelope = Envelope::new(Some(sender), recipients_of(header)?, FILE_BODY)
        .map_err(|_| InvalidPickup::NoRecipient)?;
    Ok((envelope, without_bcc(header)))
}

/// A file promises nothing about its octets.
const FILE_BODY: BodyKind = BodyKind::EightBitMime;

fn injected_lines(header: &HeaderBlock) -> Vec<Field<'_>> {
    let known = |field: &Field<'_>| {
        field.is("X-Sender") || field.is("X-Receiver") || REPLAY_LINES.iter().any(|name| field.is(name))
    };
    let mut lines: Vec<_> = header.fields().take_while(known).collect();
    if let Some(end) = lines.iter().position(|line| line.is(END_OF_LINES)) {
        lines.truncate(end + 1);
    }
    lines
}

/// The lines that say nothing about the envelope.
fn check_others(lines: &[Field<'_>]) -> Result<(), InvalidPickup> {
    for line in lines {
        let value = line.value();
        if line.is(CREATED_BY) && value.is_empty() {
            return Err(InvalidPickup::BlankCreatedBy);
        }
        // The size itself is not compared: Replay files are made to be edited, and who adds a recipient does not count octets.
        let is_size = |text: &str| text.parse().is_ok_and(|size: usize| size <= MAX_HEADER);
        if line.is(END_OF_LINES) && !std::str::from_utf8(&value).is_ok_and(is_size) {
            return Err(InvalidPickup::Size(excerpt(&value)));
        }
    }
    Ok(())
}

/// An X-Sender or X-Receiver line.
struct Line {
    name: &'static str,
    /// `None` for `<>`.
    address: Option<MailboxAddress>,
    parameters: String,
}

impl Line {
    fn read(line: &Field<'_>, name: &'static str) -> Result<Self, InvalidPickup> {
        let value = line.value();
        let (path, parameters) = value.split_at(end_of_path(&value));
        let address = match AddressList::parse(path).entries.as_slice() {
            _ if path == b"<>" => None,
            [entry] if entry.address.is_some() => entry.address.clone(),
            _ => return Err(invalid_line(line, name)),
        };
        Ok(Self { name, address, parameters: String::from_utf8_lossy(parameters).into_owned() })
    }

    fn wrong(&self, why: InvalidParameter) -> InvalidPickup {
        InvalidPickup::Parameter { line: self.name, why }
    }
}

/// Behind the closing angle bracket; without brackets, before the first white space.
fn end_of_path(value: &[u8]) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    let mut space = None;
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'>' => return at + 1,
            b' ' | b'\t' => space = space.or(Some(at)),
            _ => {}
        }
    }
    let open = memchr::memchr(b'<', value);
    space.filter(|_| open.is_none()).unwrap_or(value.len())
}

fn invalid_line(line: &Field<'_>, name: &'static str) -> InvalidPickup {
    InvalidPickup::Line { line: name, text: excerpt(&line.value()) }
}

fn excerpt(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{HeaderScanner, Notify, Ret};

    fn header(text: &str) -> HeaderBlock {
        HeaderScanner::split_message(text.as_bytes()).unwrap().header
    }

    fn injected(text: &str) -> Result<Option<(String, String)>, InvalidPickup> {
        let found = injected_envelope(&header(text))?;
        Ok(found.map(|(Injected { envelope, .. }, rest)| {
            let to: Vec<_> = envelope.recipients().iter().map(MailboxAddress::as_str).collect();
            let from = envelope.sender().map_or("", MailboxAddress::as_str);
            (format!("{from} > {}", to.join(" ")), String::from_utf8(rest.into_bytes()).unwrap())
        }))
    }

    #[test]
    fn lines_at_the_top_are_the_envelope() {
        let rows = [
            ("X-Sender: <a@x.se>\nX-Receiver: <b@y.se>\n", "a@x.se > b@y.se"),
            ("x-sender: a@x.se\nx-RECEIVER: b@y.se\nX-Receiver:c@y.se\n", "a@x.se > b@y.se c@y.se"),
            ("X-Receiver: B@y.se\nX-Sender: <>\nX-Receiver: b@Y.se\n", " > B@y.se"),
            (
                "X-Sender: =?utf-8?B?w4XDpA==?= <a@x.se>\nX-Receiver: \"Bee, <B>\" <b@y.se>\n",
                "a@x.se > b@y.se",
            ),
            (
                "X-Sender: <a@x.se> BODY=8bitmime RET=HDRS auth=<>\nX-Receiver: <b@y.se> NOTIFY=NEVER ORcpt=rfc822;b@y.se\n",
                "a@x.se > b@y.se",
            ),
            ("X-Sender: a@x.se BODY=7bit\nX-Receiver: \"b b\"@y.se NOTIFY=NEVER\n", "a@x.se > \"b b\"@y.se"),
            (
                "X-HeloDomain: h\nX-Source: Replay\nX-Sender: a@x.se\nX-CreatedBy: me\nX-Receiver: b@y.se\n\
                 X-SourceIPAddress: 0.0.0.0\nX-ExtendedMessageProps: x\nX-EndOfInjectedXHeaders: 99\n",
                "a@x.se > b@y.se",
            ),
        ];
        for (lines, envelope) in rows {
            let text =
                format!("{lines}From: o@x.se\nX-Receiver: no@y.se\nBcc: hidden@y.se\nTo: t@y.se\n\nbody");
            let rest = "From: o@x.se\r\nX-Receiver: no@y.se\r\nTo: t@y.se\r\n";
            // Behind the end marker, or behind another field, the lines mean nothing.
            let expected = Ok(Some((envelope.to_owned(), rest.to_owned())));
            assert_eq!(injected(&text), expected, "{lines}");
            assert_eq!(injected(&text.replace('\n', "\r\n")), expected, "{lines}");
        }
    }

    #[test]
    fn the_body_parameter_is_heeded() {
        let found = injected_envelope(&header("X-Sender: <a@x.se> BODY=7bit\nX-Receiver: <b@y.se>\n"));
        assert_eq!(found.unwrap().unwrap().0.envelope.body(), BodyKind::SevenBit);
    }

    #[test]
    fn the_parameters_are_kept() {
        let text = "X-Sender: <a@x.se> RET=HDRS ENVID=42\nX-Receiver: <b@y.se> NOTIFY=FAILURE,DELAY\n\
                    X-Receiver: c@y.se ORCPT=rfc822;C@y.se\n";
        let reports = injected_envelope(&header(text)).unwrap().unwrap().0.reports;
        assert_eq!((reports.ret, reports.envid.as_deref()), (Some(Ret::Headers), Some("42")));
        let notify = Notify { failure: true, delay: true, success: false };
        assert_eq!(reports.recipients[0].1.notify, Some(notify));
        assert_eq!(reports.recipients[1].1.orcpt.as_deref(), Some("rfc822;C@y.se"));
    }

    /// As System.Net.Mail writes it: the sender, then each of To, Cc and Bcc; names may be encoded and lines folded.
    #[test]
    fn what_net_writes() {
        let text = "X-Sender: a@x.se\r\nX-Receiver: =?utf-8?B?w4XDpA==?= <b@y.se>\r\nX-Receiver: c@y.se\r\n\
                    X-Receiver: \"A name that is long enough for a line of its own\"\r\n <d@y.se>\r\n\
                    MIME-Version: 1.0\r\nFrom: a@x.se\r\nTo: =?utf-8?B?w4XDpA==?= <b@y.se>\r\n";
        let (envelope, rest) = injected(text).unwrap().unwrap();
        assert_eq!(envelope, "a@x.se > b@y.se c@y.se d@y.se");
        assert!(rest.starts_with("MIME-Version") && !rest.contains("c@y.se"), "{rest}");
    }

    #[test]
    fn received_and_resent_fields_stay() {
        let text = "Received: by r; now\nResent-From: o@x.se\nResent-Bcc: h@y.se\nFrom: a@x.se\nTo: b@y.se\n";
        let rest = pickup_envelope(&header(text)).unwrap().1;
        let expected = "Received: by r; now\r\nResent-From: o@x.se\r\nFrom: a@x.se\r\nTo: b@y.se\r\n";
        assert_eq!(rest.as_bytes(), expected.as_bytes());
    }

    #[test]
    fn plain_headers_have_no_lines() {
        assert_eq!(injected("From: a@x.se\nX-Sender: a@x.se\nX-Receiver: b@y.se\n"), Ok(None));
        assert_eq!(injected("X-Source: a program\nFrom: a@x.se\n"), Ok(None));
        assert_eq!(injected(""), Ok(None));
    }

    #[test]
    fn errors_say_what_to_mend() {
        let rows = [
            ("X-Sender: a@x.se\n", "no X-Receiver"),
            ("X-Receiver: b@y.se\n", "0 X-Sender"),
            ("X-Sender: a@x.se\nX-Sender: a@x.se\nX-Receiver: b@y.se\n", "2 X-Sender"),
            ("X-Sender: a@x.se\nX-Receiver: b@y.se, c@y.se\n", "X-Receiver: \"c@y.se\" is not a parameter"),
            ("X-Sender: a@x.se\nX-Receiver: <b@y.se> <c@y.se>\n", "form KEY=VALUE"),
            ("X-Sender: a@x.se RET=ALL\nX-Receiver: b@y.se\n", "X-Sender: RET=\"ALL\" is not"),
            ("X-Sender: a@x.se\nX-Receiver: b@y.se NOTIFY=YES\n", "X-Receiver: NOTIFY=\"YES\" is not"),
            ("X-Sender: a@x.se\nX-CreatedBy: \nX-Receiver: b@y.se\n", "X-CreatedBy is blank"),
            (
                "X-Sender: a@x.se\nX-Receiver: b@y.se\nX-EndOfInjectedXHeaders: many\n",
                "\"many\" is not the size",
            ),
            ("X-Sender: a@x.se\nX-Receiver: b@y.se\nX-EndOfInjectedXHeaders: 999999999\n", "is not the size"),
            ("X-Sender: a@x.se\nX-Receiver: <>\n", "X-Receiver: \"<>\""),
            ("X-Sender: root\nX-Receiver: b@y.se\n", "X-Sender: \"root\""),
        ];
        for (lines, part) in rows {
            let text = injected(lines).unwrap_err().to_string();
            assert!(text.contains(part), "{lines:?}: {text}");
        }
    }

    #[test]
    fn plain_pickup() {
        let (envelope, rest) = pickup_envelope(&header(
            "From: A <a@x.se>\nTo: b@y.se\nCC: g: c@y.se;\nBcc: d@y.se,\n b@y.se\nSubject: s\n",
        ))
        .unwrap();
        assert_eq!(envelope.sender().unwrap().as_str(), "a@x.se");
        let to: Vec<_> = envelope.recipients().iter().map(MailboxAddress::as_str).collect();
        assert_eq!(to, ["b@y.se", "c@y.se", "d@y.se"]);
        assert_eq!(rest.as_bytes(), b"From: A <a@x.se>\r\nTo: b@y.se\r\nCC: g: c@y.se;\r\nSubject: s\r\n");
    }

    #[test]
    fn the_sender_of_a_plain_pickup() {
        let sender = |text: &str| {
            let envelope = pickup_envelope(&header(&format!("{text}To: b@y.se\n")));
            envelope
                .map(|(envelope, _)| envelope.sender().unwrap().to_string())
                .map_err(|why| why.to_string())
        };
        assert_eq!(sender("From: a@x.se\nSender: s@x.se\n"), Ok("a@x.se".to_owned()));
        assert_eq!(sender("From: a@x.se, b@x.se\nSender: s@x.se\n"), Ok("s@x.se".to_owned()));
        assert_eq!(sender("Sender: s@x.se\n"), Ok("s@x.se".to_owned()));
        let why = |text: &str| sender(text).unwrap_err();
        assert!(why("").contains("no From"));
        assert!(why("From: a@x.se, b@x.se\n").contains("Sender"));
        assert!(why("From: a@x.se, b@x.se\nSender: s@x.se, t@x.se\n").contains("exactly one"));
        assert!(why("From: root\n").contains("From: \"root\""));
    }

    #[test]
    fn a_plain_pickup_needs_recipients() {
        let why = |text: &str| pickup_envelope(&header(text)).unwrap_err().to_string();
        assert!(why("From: a@x.se\nTo: undisclosed-recipients:;\n").contains("no recipient"));
        assert!(why("From: a@x.se\nTo: b@y.se\nCc: bob\n").contains("Cc: \"bob\""));
    }
}
