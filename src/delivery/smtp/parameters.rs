//! What MAIL and RCPT say: the true envelope, and of parameters what the message needs and the server offers.
//!
//! | parameter              | when                                                                          |
//! |------------------------|-------------------------------------------------------------------------------|
//! | `SIZE`                 | always                                                                        |
//! | `BODY=8BITMIME`        | an octet of the message has its eighth bit                                    |
//! | `SMTPUTF8`             | an address or the header is not ASCII                                         |
//! | `RET`, `ENVID`, `NOTIFY`, `ORCPT` | as the client gave them                                            |
//!
//! Exchange's front end has refused SMTPUTF8, though it offers it; then the header is sent without it.
//!
//! A domain that is not ASCII is sent in its ASCII form (RFC 5891), so that it alone needs no SMTPUTF8.

use std::{borrow::Cow, fmt::Write, io};

use super::reply::Extensions;
use crate::{
    bounce::EnhancedStatus,
    delivery::{Reason, Trouble, letter::Mime},
    telemetry::ErrorClass,
};
use relay_mail::{Envelope, MailboxAddress, RecipientWish};

/// What decides about the parameters of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    size: u64,
    eight_bit: bool,
    /// The header is in UTF-8.
    utf8_header: bool,
}

/// The lines that begin a transaction, without line ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) mail: String,
    /// In the order of the envelope.
    pub(super) rcpt: Vec<String>,
    /// SMTPUTF8 is needed for the header only, which can be sent without it as well.
    pub(super) could_spare_utf8: bool,
    /// The server will tell the sender of success if the sender wants that.
    pub(super) reports_success: bool,
}

impl Needs {
    /// Reads the message, up to the first octet that decides.
    pub(super) async fn of(mime: &Mime) -> io::Result<Self> {
        let Mime { header, begun, rest } = mime;
        let utf8_header = !header.is_ascii() && std::str::from_utf8(header).is_ok();
        let mut eight_bit = !header.is_ascii() || !begun.is_ascii();
        let mut rest = rest.clone();
        while !eight_bit && let Some(part) = rest.next().await? {
            eight_bit = !part.is_ascii();
        }
        Ok(Self { size: mime.len(), eight_bit, utf8_header })
    }

    /// The header is sent as if it were not in UTF-8.
    pub(super) fn without_utf8(self) -> Self {
        Self { utf8_header: false, ..self }
    }
}

impl Lines {
    /// `Err`: the server does not offer what the message cannot do without.
    pub(super) fn new(
        envelope: &Envelope,
        mailbox: &MailboxAddress,
        needs: Needs,
        offered: &Extensions,
    ) -> Result<Self, Reason> {
        // A submission server lets a mailbox send as itself. `<>` belongs to nobody, and Exchange replies
        // SendAsDenied to what does not belong to the mailbox; NOTIFY=NEVER ensures that no report on a
        // report comes back.
        let sender = path(envelope.sender().unwrap_or(mailbox));
        let recipients: Vec<_> = envelope.recipients().iter().map(path).collect();
        let utf8_address = !sender.is_ascii() || recipients.iter().any(|path| !path.is_ascii());
        check_offer(needs, utf8_address, offered)?;
        let utf8 = offered.utf8 && (utf8_address || needs.utf8_header);
        let rcpt = envelope.wishes().zip(&recipients);
        Ok(Self {
            mail: mail_line(&sender, envelope, needs, utf8, offered),
            rcpt: rcpt.map(|((_, wish), path)| rcpt_line(path, wish, envelope, utf8, offered)).collect(),
            could_spare_utf8: utf8 && !utf8_address,
            reports_success: offered.dsn,
        })
    }
}

/// Whether the server offers what the message cannot do without.
fn check_offer(needs: Needs, utf8_address: bool, offered: &Extensions) -> Result<(), Reason> {
    if utf8_address && !offered.utf8 {
        return Err(reason(6, 7, "the server does not offer SMTPUTF8, and an address is not ASCII"));
    }
    if needs.eight_bit && !offered.eight_bit_mime {
        return Err(reason(6, 3, "the server does not offer 8BITMIME, and the message is not ASCII"));
    }
    if offered.max_size != 0 && needs.size > offered.max_size {
        let size = needs.size;
        let most = offered.max_size;
        return Err(reason(3, 4, &format!("the message has {size} bytes, and the server takes {most}")));
    }
    Ok(())
}

fn mail_line(sender: &str, envelope: &Envelope, needs: Needs, utf8: bool, offered: &Extensions) -> String {
    let mut line = format!("MAIL FROM:<{sender}>");
    if offered.size {
        push(&mut line, "SIZE", needs.size);
    }
    if needs.eight_bit {
        push(&mut line, "BODY", "8BITMIME");
    }
    if utf8 {
        line.push_str(" SMTPUTF8");
    }
    if offered.dsn {
        if let Some(ret) = envelope.ret() {
            push(&mut line, "RET", ret);
        }
        if let Some(envid) = envelope.envid() {
            push(&mut line, "ENVID", envid);
        }
    }
    line
}

fn rcpt_line(
    path: &str,
    wish: RecipientWish,
    envelope: &Envelope,
    utf8: bool,
    offered: &Extensions,
) -> String {
    let mut line = format!("RCPT TO:<{path}>");
    if !offered.dsn {
        return line;
    }
    match wish.notify {
        Some(notify) => push(&mut line, "NOTIFY", notify),
        // A report: no report on it may come back.
        None if envelope.sender().is_none() => push(&mut line, "NOTIFY", "NEVER"),
        None => {}
    }
    // An original recipient that is not ASCII needs SMTPUTF8 (RFC 6533 section 3). Without that, it would
    // give no more than the address does.
    let original = wish.original.map(|original| original.to_string());
    if let Some(text) = original.filter(|text| utf8 || text.is_ascii()) {
        push(&mut line, "ORCPT", text);
    }
    line
}

fn push(line: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = write!(line, " {name}={value}");
}

fn reason(subject: u16, detail: u16, diagnostic: &str) -> Reason {
    let status = EnhancedStatus::new(5, subject, detail).unwrap_or(EnhancedStatus::UNDEFINED);
    Reason { status, why: Trouble::new(ErrorClass::Content, diagnostic) }
}

/// The address as it is written in an envelope.
fn path(address: &MailboxAddress) -> Cow<'_, str> {
    if !address.domain().is_ascii()
        && let Ok(domain) = idna::domain_to_ascii(address.domain())
    {
        return Cow::Owned(format!("{}@{domain}", address.local()));
    }
    Cow::Borrowed(address.as_str())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use relay_mail::{BodyKind, MailParameters, Recipient, RecipientWish};
    use relay_spool::OpenBody;

    const ALL: Extensions = Extensions {
        start_tls: false,
        xoauth2: true,
        pipelining: true,
        chunking: true,
        eight_bit_mime: true,
        utf8: true,
        dsn: true,
        size: true,
        max_size: 1000,
    };
    const NOTHING: Needs = Needs { size: 100, eight_bit: false, utf8_header: false };

    fn address(text: &str) -> MailboxAddress {
        text.parse().unwrap()
    }

    fn lines(from: Option<&str>, to: &[&str], needs: Needs, offered: &Extensions) -> Result<Lines, Reason> {
        let to = to.iter().map(|text| address(text));
        let envelope = Envelope::new(from.map(address), to, BodyKind::EightBitMime).unwrap();
        Lines::new(&envelope, &address("box@x.se"), needs, offered)
    }

    #[test]
    fn only_what_is_needed() {
        let said = lines(Some("a@x.se"), &["b@x.se", "\"c d\"@x.se"], NOTHING, &ALL).unwrap();
        assert_eq!(said.mail, "MAIL FROM:<a@x.se> SIZE=100");
        assert_eq!(said.rcpt, ["RCPT TO:<b@x.se>", "RCPT TO:<\"c d\"@x.se>"]);
        assert!(said.reports_success);
        let bare = lines(Some("a@x.se"), &["b@x.se"], NOTHING, &Extensions::default()).unwrap();
        assert_eq!((bare.mail.as_str(), bare.reports_success), ("MAIL FROM:<a@x.se>", false));
    }

    #[test]
    fn what_is_not_ascii() {
        let eight_bit = Needs { eight_bit: true, ..NOTHING };
        let said = lines(Some("a@x.se"), &["b@x.se"], eight_bit, &ALL).unwrap();
        assert_eq!(said.mail, "MAIL FROM:<a@x.se> SIZE=100 BODY=8BITMIME");
        let header = Needs { utf8_header: true, ..eight_bit };
        let said = lines(Some("a@x.se"), &["b@x.se"], header, &ALL).unwrap();
        assert_eq!(said.mail, "MAIL FROM:<a@x.se> SIZE=100 BODY=8BITMIME SMTPUTF8");
        // A header can do without: such mail is sent that way everywhere.
        let no_utf8 = Extensions { utf8: false, ..ALL };
        assert!(!lines(Some("a@x.se"), &["b@x.se"], header, &no_utf8).unwrap().mail.contains("SMTPUTF8"));
        let said = lines(Some("a@x.se"), &["b@bücher.example"], NOTHING, &ALL).unwrap();
        assert_eq!(
            (said.mail.as_str(), said.rcpt[0].as_str()),
            ("MAIL FROM:<a@x.se> SIZE=100", "RCPT TO:<b@xn--bcher-kva.example>")
        );
        let said = lines(Some("a@x.se"), &["zoë@bücher.example"], NOTHING, &ALL).unwrap();
        assert_eq!(
            (said.mail.as_str(), said.rcpt[0].as_str()),
            ("MAIL FROM:<a@x.se> SIZE=100 SMTPUTF8", "RCPT TO:<zoë@xn--bcher-kva.example>")
        );
        let status = |result: Result<Lines, Reason>| result.unwrap_err().status.to_string();
        assert_eq!(status(lines(Some("a@x.se"), &["zoë@x.se"], NOTHING, &no_utf8)), "5.6.7");
        let seven_bit = Extensions { eight_bit_mime: false, ..ALL };
        assert_eq!(status(lines(Some("a@x.se"), &["b@x.se"], eight_bit, &seven_bit)), "5.6.3");
        let large = Needs { size: 1001, ..NOTHING };
        assert_eq!(status(lines(Some("a@x.se"), &["b@x.se"], large, &ALL)), "5.3.4");
    }

    #[test]
    fn a_report_goes_as_its_mailbox_and_is_not_answered() {
        let said = lines(None, &["b@x.se"], NOTHING, &ALL).unwrap();
        assert_eq!(said.mail, "MAIL FROM:<box@x.se> SIZE=100");
        assert_eq!(said.rcpt, ["RCPT TO:<b@x.se> NOTIFY=NEVER"]);
    }

    #[test]
    fn wishes_are_passed_on_as_they_were_written() {
        let recipient = |to: &str, notify: Option<&str>, original: Option<&str>| Recipient {
            address: address(to),
            wish: RecipientWish {
                notify: notify.map(|text| text.parse().unwrap()),
                original: original.map(|text| text.parse().unwrap()),
            },
        };
        let recipients = [
            recipient("b@x.se", Some("delay,SUCCESS"), Some("rfc822;a+2Bb@c.example")),
            recipient("c@x.se", Some("NEVER"), None),
            recipient("d@x.se", None, Some("utf-8;zoë@c.example")),
        ];
        let parameters = MailParameters {
            ret: Some("hdrs".parse().unwrap()),
            envid: Some("a+3Db".parse().unwrap()),
            ..MailParameters::default()
        };
        let envelope = Envelope::with_parameters(Some(address("a@x.se")), parameters, recipients).unwrap();
        let said = Lines::new(&envelope, &address("a@x.se"), NOTHING, &ALL).unwrap();
        assert_eq!(said.mail, "MAIL FROM:<a@x.se> SIZE=100 RET=HDRS ENVID=a+3Db");
        let rcpt = [
            "RCPT TO:<b@x.se> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c.example",
            "RCPT TO:<c@x.se> NOTIFY=NEVER",
            "RCPT TO:<d@x.se>",
        ];
        assert_eq!(said.rcpt, rcpt);
        let no_dsn = Extensions { dsn: false, ..ALL };
        let said = Lines::new(&envelope, &address("a@x.se"), NOTHING, &no_dsn).unwrap();
        assert_eq!(
            (said.mail.as_str(), said.rcpt[0].as_str()),
            ("MAIL FROM:<a@x.se> SIZE=100", "RCPT TO:<b@x.se>")
        );
    }

    #[tokio::test]
    async fn octets_are_looked_at() {
        let needs = async |header: &'static str, begun: &'static [u8], rest: &'static [u8]| {
            let rest = OpenBody::Whole(Bytes::from_static(rest));
            Needs::of(&Mime { header: header.into(), begun: begun.into(), rest }).await.unwrap()
        };
        let found = |size, eight_bit, utf8_header| Needs { size, eight_bit, utf8_header };
        assert_eq!(needs("A: b\r\n\r\n", b"c", b"d").await, found(10, false, false));
        assert_eq!(needs("A: b\r\n\r\n", b"c", b"\xE9").await, found(10, true, false));
        assert_eq!(needs("A: b\r\n\r\n", b"\xE9", b"d").await, found(10, true, false));
        assert_eq!(needs("A: é\r\n\r\n", b"", b"").await, found(9, true, true));
    }
}
