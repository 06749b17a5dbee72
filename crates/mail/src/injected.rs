//! The envelope of a picked-up file.
//!
//! Two forms: lines before the header (Exchange Replay, the SMTP service of IIS, .NET's
//! `SpecifiedPickupDirectory`), or none, when the header itself says who sends and who receives (Exchange
//! Pickup). Errors say what to correct in the file.
//!
//! In both, Bcc is removed before the message is sent, as Exchange does. Exchange's Pickup removes Received
//! and Resent fields too. Here they stay: Received shows loops, and the Resent fields are for people to read
//! (RFC 5322 section 3.6.6). Resent-Bcc is removed like Bcc.

use super::{
    AddressList, BodyKind, BrokenAddress, Envelope, Field, HeaderBlock, InvalidAuthor, InvalidNotification,
    MAX_HEADER, MailParameters, MailboxAddress, Recipient, RecipientWish, author, recipients_of,
    sender as sender_of, without_bcc,
};

/// Lines that Exchange Replay knows besides X-Sender and X-Receiver. Nothing here needs them.
const REPLAY_LINES: [&str; 6] =
    ["X-CreatedBy", END_OF_LINES, "X-ExtendedMessageProps", "X-HeloDomain", "X-Source", "X-SourceIPAddress"];
const END_OF_LINES: &str = "X-EndOfInjectedXHeaders";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPickup {
    #[error("{0} X-Sender lines at the top of the file: exactly one is needed beside X-Receiver")]
    SenderLines(usize),
    #[error(
        "an X-Sender line at the top of the file, but no X-Receiver line: one for each recipient is needed"
    )]
    NoReceiverLine,
    #[error("{line}: {text:?} is not an address with parameters of the form KEY=VALUE")]
    Line { line: &'static str, text: String },
    #[error("{line}: {text:?}: {why}")]
    Parameter { line: &'static str, text: String, why: InvalidParameter },
    #[error("an X-Receiver line after other fields: X-Sender and X-Receiver must come first")]
    Order,
    #[error("X-CreatedBy is blank: give it a value, or remove it")]
    CreatedBy,
    #[error("X-EndOfInjectedXHeaders: {0:?} is not the size of the lines at the top of the file in octets")]
    Size(String),
    #[error("To, Cc and Bcc name no recipient")]
    NoRecipient,
    #[error(transparent)]
    Sender(#[from] InvalidAuthor),
    #[error(transparent)]
    Recipient(#[from] BrokenAddress),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameter {
    #[error("BODY must be 7bit or 8bitmime")]
    Body,
    #[error(transparent)]
    Notification(#[from] InvalidNotification),
}

/// The envelope in X-Sender and X-Receiver lines at the very top, and the header without them and without
/// Bcc.
///
/// `None` if the header does not begin with such lines. The sender may be `<>`. `BODY`, `RET`, `ENVID`,
/// `NOTIFY` and `ORCPT` are heeded as in SMTP; other parameters, such as `auth`, are accepted and ignored.
///
/// An X-Receiver line further down is an error: it is meant for a recipient, who would not get the mail.
/// After X-EndOfInjectedXHeaders it is a field of the message.
pub fn injected_envelope(header: &HeaderBlock) -> Result<Option<(Envelope, HeaderBlock)>, InvalidPickup> {
    let lines = injected_lines(header);
    let is_ended = lines.last().is_some_and(|line| line.is(END_OF_LINES));
    if !is_ended && header.fields().skip(lines.len()).any(|field| field.is("X-Receiver")) {
        return Err(InvalidPickup::Order);
    }
    let senders: Vec<_> = lines.iter().filter(|line| line.is("X-Sender")).collect();
    let receivers: Vec<_> = lines.iter().filter(|line| line.is("X-Receiver")).collect();
    let sender = match (senders.as_slice(), receivers.as_slice()) {
        ([], []) => return Ok(None),
        ([_], []) => return Err(InvalidPickup::NoReceiverLine),
        ([sender], _) => sender,
        _ => return Err(InvalidPickup::SenderLines(senders.len())),
    };
    check_others(&lines)?;

    let mut parameters = MailParameters { body: FILE_BODY, ..MailParameters::default() };
    let sender = read_line(sender, "X-Sender", |name, value| {
        match name {
            "BODY" if value.eq_ignore_ascii_case("7BIT") => parameters.body = BodyKind::SevenBit,
            "BODY" if value.eq_ignore_ascii_case("8BITMIME") => parameters.body = BodyKind::EightBitMime,
            "BODY" => return Err(InvalidParameter::Body),
            "RET" => parameters.ret = Some(value.parse()?),
            "ENVID" => parameters.envid = Some(value.parse()?),
            _ => {}
        }
        Ok(())
    })?;
    let receivers = receivers.into_iter().map(|line| {
        let mut wish = RecipientWish::default();
        let address = read_line(line, "X-Receiver", |name, value| {
            match name {
                "NOTIFY" => wish.notify = Some(value.parse()?),
                "ORCPT" => wish.original = Some(value.parse()?),
                _ => {}
            }
            Ok(())
        })?;
        let address = address.ok_or_else(|| invalid_line(line, "X-Receiver"))?;
        Ok(Recipient { address, wish })
    });
    let receivers = receivers.collect::<Result<Vec<_>, InvalidPickup>>()?;
    let mut addresses = sender.iter().chain(receivers.iter().map(|receiver| &receiver.address));
    parameters.utf8 = !addresses.all(MailboxAddress::is_ascii);
    let envelope = Envelope::with_parameters(sender, parameters, receivers)
        .map_err(|_| InvalidPickup::NoReceiverLine)?;
    let rest = HeaderBlock::from_fields(header.fields().skip(lines.len()));
    Ok(Some((envelope, without_bcc(&rest))))
}

/// The envelope in the header, by the rules of Exchange's Pickup folder, and the header without Bcc.
///
/// The sender is From if that names one mailbox, else Sender. The recipients are To, Cc and Bcc.
pub fn pickup_envelope(header: &HeaderBlock) -> Result<(Envelope, HeaderBlock), InvalidPickup> {
    let sender = match author(header) {
        Ok(author) => author.mailbox().clone(),
        Err(InvalidAuthor::Missing) => sender_of(header)?.ok_or(InvalidAuthor::Missing)?,
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

/// Checks the lines that say nothing about the envelope.
fn check_others(lines: &[Field<'_>]) -> Result<(), InvalidPickup> {
    for line in lines {
        let value = line.value();
        if line.is("X-CreatedBy") && value.is_empty() {
            return Err(InvalidPickup::CreatedBy);
        }
        // The size itself is not compared: Replay files are made to be edited, and nobody who adds a
        // recipient counts octets.
        let is_size = |text: &str| text.parse().is_ok_and(|size: usize| size <= MAX_HEADER);
        if line.is(END_OF_LINES) && !std::str::from_utf8(&value).is_ok_and(is_size) {
            return Err(InvalidPickup::Size(excerpt(&value)));
        }
    }
    Ok(())
}

/// Returns the address, `None` for `<>`. `take` gets each parameter, its name in upper case.
fn read_line(
    line: &Field<'_>,
    name: &'static str,
    mut take: impl FnMut(&str, &str) -> Result<(), InvalidParameter>,
) -> Result<Option<MailboxAddress>, InvalidPickup> {
    let value = line.value();
    let (path, parameters) = value.split_at(end_of_path(&value));
    let parameters = std::str::from_utf8(parameters).map_err(|_| invalid_line(line, name))?;
    for parameter in parameters.split_ascii_whitespace() {
        let (key, value) = parameter.split_once('=').ok_or_else(|| invalid_line(line, name))?;
        take(&key.to_ascii_uppercase(), value).map_err(|why| InvalidPickup::Parameter {
            line: name,
            text: parameter.chars().take(200).collect(),
            why,
        })?;
    }
    if path == b"<>" {
        return Ok(None);
    }
    match AddressList::parse(path).entries.as_slice() {
        [entry] if entry.address.is_some() => Ok(entry.address.clone()),
        _ => Err(invalid_line(line, name)),
    }
}

/// The place after the closing angle bracket; without brackets, the place before the first white space.
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
    use crate::HeaderScanner;

    fn header(text: &str) -> HeaderBlock {
        HeaderScanner::split_message(text.as_bytes()).unwrap().header
    }

    fn injected(text: &str) -> Result<Option<(String, String)>, InvalidPickup> {
        let found = injected_envelope(&header(text))?;
        Ok(found.map(|(envelope, rest)| {
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
            let end = "X-EndOfInjectedXHeaders: 0\n";
            let (end, later) = if lines.contains("X-EndOf") {
                ("", "X-Receiver: no@y.se\n")
            } else {
                (end, "X-Receiver: no@y.se\n")
            };
            let text = format!("{lines}{end}From: o@x.se\n{later}Bcc: hidden@y.se\nTo: t@y.se\n\nbody");
            let rest = "From: o@x.se\r\nX-Receiver: no@y.se\r\nTo: t@y.se\r\n";
            let found = injected(&text);
            // After the end marker, or after another field, the lines mean nothing.
            assert_eq!(found, Ok(Some((envelope.to_owned(), rest.to_owned()))), "{lines}");
        }
    }

    #[test]
    fn the_body_parameter_is_heeded() {
        let found = injected_envelope(&header("X-Sender: <a@x.se> BODY=7bit\nX-Receiver: <b@y.se>\n"));
        assert_eq!(found.unwrap().unwrap().0.body(), BodyKind::SevenBit);
    }

    #[test]
    fn what_the_sender_wants_to_be_told_is_heeded() {
        let header = header(
            "X-Sender: <a@x.se> BODY=7bit RET=HDRS ENVID=id+3D1 auth=<>\n\
             X-Receiver: <b@y.se> NOTIFY=SUCCESS,DELAY ORcpt=rfc822;c@y.se\nX-Receiver: j\u{f6}rn@y.se\n",
        );
        let (envelope, _) = injected_envelope(&header).unwrap().unwrap();
        assert_eq!(envelope.body(), BodyKind::SevenBit);
        assert_eq!(envelope.ret(), Some(crate::Return::Headers));
        assert_eq!(envelope.envid().unwrap().decoded(), "id=1");
        assert!(envelope.utf8());
        let wishes: Vec<_> = envelope.wishes().map(|(_, wish)| wish).collect();
        assert!(wishes[0].on_success() && !wishes[0].on_failure());
        assert_eq!(wishes[0].original.as_ref().unwrap().address(), "c@y.se");
        assert_eq!(wishes[1], RecipientWish::default());
    }

    /// As System.Net.Mail writes it: the sender, then each of To, Cc and Bcc; names may be encoded and lines
    /// folded.
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
        assert_eq!(injected("From: a@x.se\nX-Sender: a@x.se\n"), Ok(None));
        assert_eq!(injected("X-Source: a program\nFrom: a@x.se\n"), Ok(None));
        assert_eq!(injected(""), Ok(None));
    }

    #[test]
    fn errors_say_what_to_mend() {
        let rows = [
            ("X-Sender: a@x.se\n", "no X-Receiver"),
            ("X-Receiver: b@y.se\n", "0 X-Sender"),
            ("X-Sender: a@x.se\nX-Sender: a@x.se\nX-Receiver: b@y.se\n", "2 X-Sender"),
            ("X-Sender: a@x.se\nX-Receiver: b@y.se, c@y.se\n", "X-Receiver: \"b@y.se, c@y.se\""),
            ("X-Sender: a@x.se\nX-Receiver: <b@y.se> <c@y.se>\n", "KEY=VALUE"),
            ("X-Sender: a@x.se\nX-Receiver: <>\n", "X-Receiver: \"<>\""),
            ("X-Sender: root\nX-Receiver: b@y.se\n", "X-Sender: \"root\""),
            ("From: a@x.se\nX-Sender: a@x.se\nX-Receiver: b@y.se\n", "must come first"),
            ("X-Sender: a@x.se\nX-Receiver: b@y.se\nFrom: a@x.se\nX-Receiver: c@y.se\n", "must come first"),
            (
                "X-Sender: a@x.se\nX-Receiver: b@y.se\nX-EndOfInjectedXHeaders: many\n",
                "\"many\" is not the size",
            ),
            ("X-CreatedBy:\nX-Sender: a@x.se\nX-Receiver: b@y.se\n", "X-CreatedBy is blank"),
            (
                "X-Sender: a@x.se BODY=9bit\nX-Receiver: b@y.se\n",
                "X-Sender: \"BODY=9bit\": BODY must be 7bit",
            ),
            (
                "X-Sender: a@x.se RET=all\nX-Receiver: b@y.se\n",
                "X-Sender: \"RET=all\": RET must be FULL or HDRS",
            ),
            (
                "X-Sender: a@x.se\nX-Receiver: b@y.se notify=maybe\n",
                "X-Receiver: \"notify=maybe\": NOTIFY must be",
            ),
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
