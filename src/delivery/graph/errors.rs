//! What Graph's errors mean for the queue: one table, and what to do with a code that is not in it.
//!
//! Exchange answers with the response codes of its older web services (Microsoft, "ResponseCode", Exchange Web Services
//! reference), Graph's front end with its own (Microsoft, "Microsoft Graph error responses and resource types"). New codes
//! may appear at any time, so an unknown one is judged by its HTTP status. Messages are for people: only codes decide.

use serde::Deserialize;

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Come again.
    Transient,
    /// Too much: come again when the service says, and not before.
    Throttled,
    /// This message will never be taken.
    Message(Fault),
    /// The mailbox can send nothing until something is mended there.
    Mailbox,
    /// It can send nothing for some hours.
    MailboxQuota,
    /// The tenant can send nothing until an administrator mends something.
    Tenant,
    /// The token is not accepted.
    Token,
    /// It may have been sent.
    Unknown,
}

/// What is wrong with a message, as an enhanced status (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// 5.6.0
    Content,
    /// 5.1.3
    Recipients,
    /// 5.3.4
    TooLarge,
    /// 5.7.60: the mailbox may not send as this From.
    SendAs,
    /// 5.7.0
    Virus,
}

const TABLE: [(&str, Class); 62] = {
    use Class::{Mailbox, MailboxQuota, Message, Tenant, Throttled, Token, Transient, Unknown};
    use Fault::{Content, Recipients, SendAs, TooLarge, Virus};
    [
        ("ErrorMimeContentInvalidBase64String", Message(Content)),
        ("ErrorMimeContentInvalid", Message(Content)),
        ("ErrorContentConversionFailed", Message(Content)),
        ("ErrorInvalidRecipients", Message(Recipients)),
        ("ErrorMessageSizeExceeded", Message(TooLarge)),
        ("RequestEntityTooLarge", Message(TooLarge)),
        ("InvalidInternetMessageHeader", Message(Content)),
        ("InvalidInternetMessageHeaderCollection", Message(Content)),
        ("ErrorInvalidParameter", Message(Content)),
        ("UnableToDeserializePostBody", Message(Content)),
        ("RequestBodyRead", Message(Content)),
        ("BadRequest", Message(Content)),
        ("ErrorVirusDetected", Message(Virus)),
        ("malwareDetected", Message(Virus)),
        ("ErrorSendAsDenied", Message(SendAs)),
        // A missing permission shows as this for the whole app, and for one mailbox if the app is limited to some. Only
        // the mailbox is certain; other mailboxes find out for themselves.
        ("ErrorAccessDenied", Mailbox),
        ("Authorization_RequestDenied", Tenant),
        ("insufficient_claims", Tenant),
        ("InvalidAuthenticationToken", Token),
        ("CompactToken", Token),
        ("TokenExpired", Token),
        ("ResourceNotFound", Mailbox),
        ("Request_ResourceNotFound", Mailbox),
        ("MailboxNotEnabledForRESTAPI", Mailbox),
        ("MailboxNotSupportedForRESTAPI", Mailbox),
        ("ErrorInvalidUser", Mailbox),
        ("ErrorNonExistentMailbox", Mailbox),
        ("ErrorAccountDisabled", Mailbox),
        ("extensionError", Mailbox),
        ("ErrorMessageSubmissionBlocked", Mailbox),
        ("ErrorMessageBlocked", Mailbox),
        ("ErrorAccountSuspend", Mailbox),
        ("ErrorQuotaExceeded", Mailbox),
        ("quotaLimitReached", Mailbox),
        ("ErrorSubmissionQuotaExceeded", MailboxQuota),
        ("ErrorExceededMessageLimit", MailboxQuota),
        ("ErrorExceededHourlyMessageLimit", MailboxQuota),
        ("ErrorExceededMaxRecipientLimit", MailboxQuota),
        ("ErrorExceededMaxRecipientLimitBlock", MailboxQuota),
        ("TooManyRequests", Throttled),
        ("ApplicationThrottled", Throttled),
        ("activityLimitReached", Throttled),
        ("throttledRequest", Throttled),
        ("ErrorExceededConnectionCount", Throttled),
        ("ErrorTooManyObjectsOpened", Throttled),
        ("ErrorServerBusy", Throttled),
        ("ErrorMailboxStoreUnavailable", Transient),
        ("ErrorMailboxFailover", Transient),
        ("ErrorMailboxMoveInProgress", Transient),
        ("ErrorConnectionFailed", Transient),
        ("ErrorADUnavailable", Transient),
        ("ErrorADOperation", Transient),
        ("ErrorInsufficientResources", Transient),
        ("ErrorNoRespondingCASInDestinationSite", Transient),
        // The body had gone out when these came: they do not prove that nothing was sent.
        ("ErrorInternalServerTransientError", Unknown),
        ("serviceNotAvailable", Unknown),
        ("ErrorInternalServerError", Unknown),
        ("generalException", Unknown),
        ("UnknownError", Unknown),
        ("ErrorTimeoutExpired", Unknown),
        ("gatewayTimeout", Unknown),
        ("ErrorItemNotFound", Transient),
    ]
};

/// What Graph said with an error status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GraphError {
    pub(super) class: Class,
    /// The code that decided, or the outermost one.
    pub(super) code: String,
    pub(super) message: String,
}

impl GraphError {
    /// Reads the answer to a call whose body had gone out. The body may be empty or HTML: a gateway's.
    ///
    /// `retry_after`: whether the service said when to come again, by which a 503 of a throttle differs from one of a
    /// broken back end.
    pub(super) fn read(status: u16, body: &[u8], retry_after: bool) -> Self {
        let error = serde_json::from_slice::<Answer>(body).map(|answer| answer.error).unwrap_or_default();
        let codes = error.codes();
        // The deepest known code is the most specific one.
        let known = codes.iter().rev().find_map(|code| class_of(code).map(|class| (class, *code)));
        let (class, code) = match known {
            Some((class, code)) => (by_status_too(class, status, retry_after), code),
            None => (class_of_status(status, retry_after), codes.first().copied().unwrap_or("")),
        };
        Self { class, code: printable(code, 80), message: printable(&error.message, 500) }
    }
}

fn class_of(code: &str) -> Option<Class> {
    TABLE.iter().find(|(known, _)| known.eq_ignore_ascii_case(code)).map(|(_, class)| *class)
}

/// Two statuses say more than their code: 413 always means the size, and 503 that the call was not executed (Microsoft,
/// "Best practices for working with Microsoft Graph": back off and call again).
fn by_status_too(class: Class, status: u16, retry_after: bool) -> Class {
    match (class, status) {
        (_, 413) => Class::Message(Fault::TooLarge),
        (Class::Unknown | Class::Transient, 503) => class_of_status(503, retry_after),
        _ => class,
    }
}

fn class_of_status(status: u16, retry_after: bool) -> Class {
    match status {
        401 => Class::Token,
        403 | 404 => Class::Mailbox,
        408 => Class::Unknown,
        413 => Class::Message(Fault::TooLarge),
        429 | 509 => Class::Throttled,
        503 if retry_after => Class::Throttled,
        503 => Class::Transient,
        507 => Class::Mailbox,
        400..500 => Class::Message(Fault::Content),
        // A gateway gave up waiting, or something broke behind it: mail was delivered after such answers.
        500..600 => Class::Unknown,
        // Nothing else is an answer to sendMail.
        _ => Class::Unknown,
    }
}

fn printable(text: &str, longest: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(longest).collect()
}

#[derive(Deserialize)]
struct Answer {
    error: ErrorBody,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorBody {
    code: String,
    message: String,
    #[serde(alias = "innererror", alias = "innerError")]
    inner: Option<Box<InnerError>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InnerError {
    code: String,
    #[serde(alias = "innererror", alias = "innerError")]
    inner: Option<Box<InnerError>>,
}

impl ErrorBody {
    /// Outermost first.
    fn codes(&self) -> Vec<&str> {
        let mut codes = vec![self.code.as_str()];
        let mut next = self.inner.as_deref();
        while let Some(inner) = next {
            codes.push(&inner.code);
            next = inner.inner.as_deref();
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(status: u16, body: &str) -> Class {
        GraphError::read(status, body.as_bytes(), false).class
    }

    fn body(code: &str) -> String {
        format!(
            r#"{{"error":{{"code":"{code}","message":"m","innerError":{{"date":"d","request-id":"r"}}}}}}"#
        )
    }

    #[test]
    fn every_row_is_found_and_stands_once() {
        for (n, (code, expected)) in TABLE.iter().enumerate() {
            assert_eq!(class(400, &body(code)), *expected, "{code}");
            assert!(
                TABLE[n + 1..].iter().all(|(other, _)| !other.eq_ignore_ascii_case(code)),
                "{code} twice"
            );
        }
    }

    #[test]
    fn the_deepest_known_code_decides() {
        let nested = r#"{"error":{"code":"generalException","message":"m","innererror":{"code":"ErrorAccessDenied",
            "innererror":{"code":"somethingNew"}}}}"#;
        assert_eq!(class(403, nested), Class::Mailbox);
        // A throttled answer repeats its status as an inner code.
        let throttled = r#"{"error":{"code":"TooManyRequests","innerError":{"code":"429","status":"429"}}}"#;
        assert_eq!(class(429, throttled), Class::Throttled);
    }

    #[test]
    fn without_a_known_code_the_status_decides() {
        for (status, expected) in [
            (400, Class::Message(Fault::Content)),
            (401, Class::Token),
            (403, Class::Mailbox),
            (404, Class::Mailbox),
            (413, Class::Message(Fault::TooLarge)),
            (422, Class::Message(Fault::Content)),
            (429, Class::Throttled),
            (500, Class::Unknown),
            (502, Class::Unknown),
            (503, Class::Transient),
            (504, Class::Unknown),
            (507, Class::Mailbox),
            (509, Class::Throttled),
        ] {
            for body in ["", "<html>Bad Gateway</html>", "{}", &body("brandNew")] {
                assert_eq!(class(status, body), expected, "{status} {body}");
            }
        }
        assert_eq!(GraphError::read(503, b"", true).class, Class::Throttled);
        assert_eq!(
            GraphError::read(413, body("BadRequest").as_bytes(), false).class,
            Class::Message(Fault::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(status: u16, body: Vec<u8>, retry_after: bool) {
            let error = GraphError::read(status, &body, retry_after);
            prop_assert!(!error.message.contains(['\r', '\n']));
        }
    }
}
