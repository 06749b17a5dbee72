//! Replies of the service: how they are read, and what they mean for the message.
//!
//! The code and the enhanced status decide. Some of Exchange's refusals differ in their text only (Microsoft,
//! "Fix issues with printers, scanners, and LOB applications that send email using Microsoft 365"); there, a
//! word of the text decides.

use smtp_proto::EhloResponse;

use crate::{bounce::EnhancedStatus, delivery::Trouble, telemetry::ErrorClass};
use relay_mail::outside::one_line;

/// The most octets of one reply.
const LONGEST: usize = 64 * 1024;
/// Characters of a reply's text that are kept.
const KEPT: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) status: Option<EnhancedStatus>,
    /// Without codes, on one line, without control characters.
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something other than an SMTP reply")]
pub(super) struct Malformed;

/// What was sent before the reply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Greeting, EHLO, STARTTLS: nothing about the message has been sent yet.
    Hello,
    Auth,
    Mail,
    Rcpt,
    /// DATA or BDAT, and the end of the content.
    Content,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Try again.
    Again,
    /// The mailbox has as many connections or messages in flight as it may.
    Busy,
    /// The login is refused.
    Login,
    /// SMTP submission is closed to all mailboxes of the tenant.
    Tenant,
    /// The mailbox can send nothing until something is fixed there.
    Mailbox,
    /// It has used up its recipients of the day.
    Quota,
    /// It may not send as this sender.
    SendAs,
    /// This message, or this recipient, will never be taken.
    Refused,
}

impl Reply {
    /// The first reply in `octets`, and how many of them it takes. `None`: it is not complete yet.
    pub(super) fn parse(octets: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut at = 0;
        let mut reply = None::<Self>;
        loop {
            let Some(end) = memchr::memchr(b'\n', &octets[at..]) else {
                return if octets.len() > LONGEST { Err(Malformed) } else { Ok(None) };
            };
            let line = octets[at..at + end].trim_ascii_end();
            at += end + 1;
            let (code, rest) = line.split_at_checked(3).ok_or(Malformed)?;
            let code = std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
            let code = code.and_then(|code| code.parse::<u16>().ok()).ok_or(Malformed)?;
            let (is_last, text) = match rest.split_first() {
                None => (true, rest),
                Some((b' ', text)) => (true, text),
                Some((b'-', text)) => (false, text),
                Some(_) => return Err(Malformed),
            };
            let reply = reply.get_or_insert_with(|| Self { code, status: None, text: String::new() });
            if reply.code != code || !(200..600).contains(&code) {
                return Err(Malformed);
            }
            reply.add(&String::from_utf8_lossy(text));
            if is_last {
                return Ok(Some((reply.clone(), at)));
            }
        }
    }

    fn add(&mut self, line: &str) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let status = first.parse::<EnhancedStatus>().ok();
        let text = if status.is_some() { rest } else { line };
        self.status = self.status.or(status);
        let room = KEPT.saturating_sub(self.text.chars().count());
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text += &one_line(text, room);
    }

    /// 2xx.
    pub(super) fn is_good(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx or 5xx.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.code / 100, 4 | 5)
    }

    /// RFC 5321 section 3.8: the server closes the connection after it.
    pub(super) fn is_closing(&self) -> bool {
        self.code == 421
    }

    /// Subject and detail of the enhanced status.
    fn is(&self, subject: u16, details: impl std::ops::RangeBounds<u16>) -> bool {
        self.status.is_some_and(|status| status.subject() == subject && details.contains(&status.detail()))
    }

    fn says(&self, words: &str) -> bool {
        self.text.to_ascii_lowercase().contains(words)
    }

    /// What a reply that [refuses](Self::is_refusal) means.
    pub(super) fn class(&self, step: Step) -> Class {
        let is_busy = self.says("thread limit") || self.says("concurrent connections");
        match (self.code, step) {
            (432, _) => Class::Busy,
            (400..500, _) if is_busy => Class::Busy,
            (400..500, _) | (_, Step::Hello) => Class::Again,
            (_, Step::Auth) if self.says("smtpclientauthentication is disabled") => {
                if self.says("tenant") {
                    Class::Tenant
                } else {
                    Class::Mailbox
                }
            }
            (_, Step::Auth) => Class::Login,
            // The connection has lost its login, or never had one; or the server has lost count of the
            // commands.
            (503 | 530, _) => Class::Again,
            _ if self.says("submissionquotaexceeded") => Class::Quota,
            _ if self.says("sendasdenied") || self.is(7, 60..=60) || self.is(2, 252..=252) => Class::SendAs,
            // "Bad outbound sender", and accounts that are barred as spammers.
            _ if self.is(1, 8..=8) || self.is(7, 501..=503) || self.is(7, 511..=511) => Class::Mailbox,
            // The same, told in other words: OutboundSpamException; verdict RefuseQuota or Suspend.
            _ if self.bars_the_sender(step) => Class::Mailbox,
            // The tenant has exceeded a threshold; its address; a domain that is not registered.
            _ if self.is(7, 705..=705) || self.is(7, 708..=708) || self.is(7, 750..=750) => Class::Tenant,
            // In reply to a recipient, it is that recipient's mailbox which is full.
            (_, Step::Mail | Step::Content) if self.is(2, 2..=2) || self.says("quotaexceeded") => {
                Class::Mailbox
            }
            _ => Class::Refused,
        }
    }

    /// What a reply that [refuses](Self::is_refusal) means for the message, and what the server said.
    pub(super) fn trouble(&self, step: Step) -> Trouble {
        let class = match self.class(step) {
            Class::Again => ErrorClass::Service,
            Class::Busy => ErrorClass::Throttled,
            Class::Login | Class::Tenant => ErrorClass::Permission,
            Class::Mailbox => ErrorClass::Mailbox,
            Class::Quota => ErrorClass::Quota,
            Class::SendAs => ErrorClass::SendAs,
            Class::Refused if step == Step::Rcpt => ErrorClass::Recipients,
            Class::Refused if self.code == 552 || self.is(3, 4..=4) => ErrorClass::TooLarge,
            Class::Refused => ErrorClass::Content,
        };
        let code =
            self.status.map_or_else(|| self.code.to_string(), |status| format!("{} {status}", self.code));
        Trouble { class, code, request_id: String::new(), text: self.to_string() }
    }

    /// Microsoft's filter against outgoing spam has closed the mailbox. Of a recipient it says nothing.
    fn bars_the_sender(&self, step: Step) -> bool {
        let words = ["outboundspamexception", "refusequota", "useraction verdict is suspend"];
        step != Step::Rcpt
            && (self.is(1, 90..=90) || self.is(1, 92..=92) || words.into_iter().any(|words| self.says(words)))
    }

    /// The status for the report of a permanent refusal.
    pub(super) fn report_status(&self) -> EnhancedStatus {
        let usual =
            |subject, detail| EnhancedStatus::new(5, subject, detail).unwrap_or(EnhancedStatus::UNDEFINED);
        match self.status.filter(|status| status.class() == 5) {
            Some(status) => status,
            None => match self.code {
                552 => usual(3, 4),
                _ => EnhancedStatus::UNDEFINED,
            },
        }
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " {}", self.text) }
    }
}

/// What the server offers, as far as this client can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extensions {
    pub(super) start_tls: bool,
    pub(super) xoauth2: bool,
    pub(super) pipelining: bool,
    pub(super) chunking: bool,
    pub(super) eight_bit_mime: bool,
    pub(super) utf8: bool,
    pub(super) dsn: bool,
    pub(super) size: bool,
    /// The largest message; 0: not stated.
    pub(super) max_size: u64,
}

impl Extensions {
    /// Reads the whole reply to EHLO.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, Malformed> {
        let said = EhloResponse::<String>::parse(&mut octets.iter()).map_err(|_| Malformed)?;
        let has = |extension| said.has_capability(extension);
        Ok(Self {
            start_tls: has(smtp_proto::EXT_START_TLS),
            xoauth2: said.auth() & smtp_proto::AUTH_XOAUTH2 != 0,
            pipelining: has(smtp_proto::EXT_PIPELINING),
            chunking: has(smtp_proto::EXT_CHUNKING),
            eight_bit_mime: has(smtp_proto::EXT_8BIT_MIME),
            utf8: has(smtp_proto::EXT_SMTP_UTF8),
            dsn: has(smtp_proto::EXT_DSN),
            size: has(smtp_proto::EXT_SIZE),
            max_size: if has(smtp_proto::EXT_SIZE) { said.size as u64 } else { 0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(text: &str) -> Reply {
        let octets = format!("{text}\r\n");
        let (reply, used) = Reply::parse(octets.as_bytes()).unwrap().unwrap();
        assert_eq!(used, octets.len());
        reply
    }

    #[test]
    fn what_each_reply_means() {
        use Class::{Again, Busy, Login, Mailbox, Quota, Refused, SendAs, Tenant};
        use Step::{Auth, Content, Hello, Mail, Rcpt};
        for (step, text, class) in [
            (Hello, "421 4.3.2 Service not available", Again),
            (Hello, "554 5.3.2 go away", Again),
            (Auth, "535 5.7.3 Authentication unsuccessful [AM0PR.eurprd.prod.outlook.com]", Login),
            (Auth, "501 5.5.124 Invalid XOAUTH2 auth data", Login),
            (Auth, "550 5.7.30 Basic authentication is not supported for Client Submission", Login),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit \
                    https://aka.ms/smtp_auth_disabled for more information.",
                Tenant,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
                Mailbox,
            ),
            (Auth, "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.", Login),
            (Auth, "454 4.7.0 Temporary authentication failure", Again),
            (Auth, "432 4.3.2 Concurrent connections limit exceeded", Busy),
            (Mail, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Busy),
            (Content, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Busy),
            (Content, "451 4.3.2 Concurrent connections limit exceeded", Busy),
            (
                Content,
                "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
                Again,
            ),
            (Content, "451 4.7.500 Server busy. Please try again later (AS77712345)", Again),
            (Rcpt, "451 4.7.699 Access denied, please try again later", Again),
            (Rcpt, "452 4.5.3 Too many recipients", Again),
            (Mail, "530 5.7.57 Client not authenticated to send mail", Again),
            (Mail, "503 5.5.1 Bad sequence of commands", Again),
            (Mail, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", SendAs),
            (Content, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", SendAs),
            (
                Content,
                "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed",
                SendAs,
            ),
            (Content, "554 5.2.252 SendAsDenied; a@x not allowed to send as b@x", SendAs),
            (
                Content,
                "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed",
                Quota,
            ),
            (
                Content,
                "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException.Mapi",
                Mailbox,
            ),
            (Rcpt, "552 5.2.2 mailbox full", Refused),
            (Content, "550 5.1.8 Access denied, bad outbound sender", Mailbox),
            (Mail, "550 5.1.8 Access denied, bad outbound sender", Mailbox),
            (Mail, "550 5.7.501 Access denied, spam abuse detected", Mailbox),
            (
                Content,
                "554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message due to a \
                 permanent exception with message [BeginDiagnosticData]WASCL UserAction verdict is RefuseQuota.",
                Mailbox,
            ),
            (Content, "554 5.2.0 Failed; WASCL UserAction verdict is Suspend. Actions: LogOnly", Mailbox),
            (
                Content,
                "550 5.1.90 Your message can't be sent because you've reached your daily limit",
                Mailbox,
            ),
            (Mail, "550 5.1.92 Access denied", Mailbox),
            (Rcpt, "550 5.1.90 no such user", Refused),
            (Content, "550 5.7.705 Access denied, tenant has exceeded threshold", Tenant),
            (Mail, "552 5.3.4 Message size exceeds fixed maximum message size", Refused),
            (Content, "554 5.6.0 STOREDRV.Submit; invalid message content", Refused),
            (Rcpt, "550 5.1.1 User unknown", Refused),
            (Content, "554 what is this", Refused),
            (Mail, "502 5.3.3 Command not implemented", Refused),
        ] {
            assert_eq!(reply(text).class(step), class, "{step:?} {text}");
        }
    }

    #[test]
    fn status_and_text_over_several_lines() {
        let several = reply("550-5.7.705 first\r\n550-5.7.705 second\t\u{1}\r\n550 third");
        assert_eq!(several.to_string(), "550 5.7.705 first second third");
        assert_eq!(several.report_status().to_string(), "5.7.705");
        assert_eq!(reply("552 too large").report_status().to_string(), "5.3.4");
        assert_eq!(reply("554 4.2.1 odd").report_status(), EnhancedStatus::UNDEFINED);
        assert_eq!(reply("250").to_string(), "250");
        for wrong in ["25\r\n", "abc d\r\n", "250_ok\r\n", "250-a\r\n251 b\r\n", "100 x\r\n", "\r\n"] {
            assert_eq!(Reply::parse(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
        for partial in ["", "250", "250-a\r\n", "250-a\r\n250 b"] {
            assert_eq!(Reply::parse(partial.as_bytes()), Ok(None), "{partial:?}");
        }
        assert_eq!(Reply::parse(&[b'x'; LONGEST + 1]), Err(Malformed));
    }

    #[test]
    fn what_exchange_offers() {
        let text = "250-AM0PR01.eurprd.prod.outlook.com Hello [192.0.2.1]\r\n250-SIZE 157286400\r\n250-PIPELINING\r\n\
                    250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-AUTH LOGIN XOAUTH2\r\n250-8BITMIME\r\n250-BINARYMIME\r\n\
                    250-CHUNKING\r\n250 SMTPUTF8\r\n";
        let offered = Extensions::parse(text.as_bytes()).unwrap();
        let all = Extensions {
            start_tls: false,
            xoauth2: true,
            pipelining: true,
            chunking: true,
            eight_bit_mime: true,
            utf8: true,
            dsn: true,
            size: true,
            max_size: 157_286_400,
        };
        assert_eq!(offered, all);
        let bare = Extensions::parse(b"250-mail.example\r\n250-X-UNHEARD of\r\n250-SIZE\r\n250 STARTTLS\r\n")
            .unwrap();
        assert_eq!(bare, Extensions { start_tls: true, size: true, ..Extensions::default() });
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets: Vec<u8>, text in "([2-5][0-9]{2}[ -]\\PC{0,20}\r?\n){0,5}") {
            for octets in [octets, text.into_bytes()] {
                if let Ok(Some((reply, used))) = Reply::parse(&octets) {
                    prop_assert!(used <= octets.len() && !reply.text.chars().any(char::is_control));
                }
                let _ = Extensions::parse(&octets);
            }
        }
    }
}
