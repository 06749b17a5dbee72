//! What Graph's errors mean for the queue: one table, and what to do with a code that is not in it.
//!
//! Exchange answers with the response codes of its older web services (Microsoft, "ResponseCode", Exchange
//! Web Services reference), Graph's front end with its own (Microsoft, "Microsoft Graph error responses and
//! resource types"). New codes may appear at any time, so an unknown one is judged by its HTTP status.
//! Messages are for people: only codes decide.

use serde::Deserialize;

use relay_mail::outside::one_line;

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Try again.
    Transient,
    /// Too much: try again when the service says, and not before.
    Throttled,
    /// This message will never be taken.
    Message(Fault),
    /// The mailbox can send nothing until something is fixed there.
    Mailbox,
    /// It can send nothing for some hours.
    MailboxQuota,
    /// The tenant can send nothing until an administrator fixes something.
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
        // A missing permission gives this code for the whole app, or for one mailbox if the app is limited to
        // some. Only this mailbox is certain; other mailboxes find out for themselves.
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
        // The body had been sent when these came: they do not prove that nothing was sent.
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
    /// Reads the answer to a call whose body had been sent. The answer's body may be empty, or a gateway's
    /// HTML.
    ///
    /// `retry_after`: whether the service said when to try again. That tells a 503 of a throttle from one of
    /// a broken back end.
    pub(super) fn read(status: u16, body: &[u8], retry_after: bool) -> Self {
        let error =
            serde_json::from_slice::<ErrorResponse>(body).map(|answer| answer.error).unwrap_or_default();
        let codes = error.codes();
        // The deepest known code is the most specific one.
        let known = codes.iter().rev().find_map(|code| class_of(code).map(|class| (class, *code)));
        let outermost = codes.first().copied().unwrap_or("");
        let by_status = class_of_status(status, retry_after, !outermost.is_empty());
        let (class, code) = match known {
            Some((class, code)) => (if status_says_more(class, status) { by_status } else { class }, code),
            None => (by_status, outermost),
        };
        Self { class, code: one_line(code, 80), message: one_line(&error.message, 500) }
    }
}

impl GraphError {
    /// Whether the same call may work in a moment.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.class, Class::Transient | Class::Throttled | Class::Unknown)
    }
}

fn class_of(code: &str) -> Option<Class> {
    TABLE.iter().find(|(known, _)| known.eq_ignore_ascii_case(code)).map(|(_, class)| *class)
}

/// Whether the status decides although the code is known.
fn status_says_more(class: Class, status: u16) -> bool {
    match (class, status) {
        // Always the size.
        (_, 413) => true,
        // Always a throttle, whatever its body says; only the body of a quota error says how long it lasts.
        (_, 429) => class != Class::MailboxQuota,
        // The call was not executed (Microsoft, "Best practices for working with Microsoft Graph": back off
        // and call again).
        (Class::Unknown | Class::Transient, 503) => true,
        // Nor was it executed after any other 4xx except "Request Timeout": nothing is unknown then, whatever
        // the code says.
        (Class::Unknown, 400..500) => status != 408,
        // The token or the permission must be fixed first.
        (Class::Transient, 401 | 403) => true,
        _ => false,
    }
}

/// `has_code`: the answer has an error code, so it comes from Graph and not from a gateway in front of it.
fn class_of_status(status: u16, retry_after: bool, has_code: bool) -> Class {
    match status {
        401 => Class::Token,
        403 | 404 => Class::Mailbox,
        408 => Class::Unknown,
        // A conflict, a lock, and a call that came too early: they pass.
        409 | 423 | 425 => Class::Transient,
        413 => Class::Message(Fault::TooLarge),
        429 | 509 => Class::Throttled,
        503 if retry_after => Class::Throttled,
        503 => Class::Transient,
        507 => Class::Mailbox,
        400..500 if has_code => Class::Message(Fault::Content),
        // What a gateway says about the message is not final.
        400..500 => Class::Transient,
        // A gateway gave up waiting, or something broke behind it: mail was delivered after such answers.
        500..600 => Class::Unknown,
        // Nothing else is an answer to sendMail.
        _ => Class::Unknown,
    }
}

#[derive(Deserialize)]
struct ErrorResponse {
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
    fn every_code_at_its_status() {
        use Class::{Mailbox, MailboxQuota, Message, Tenant, Throttled, Token, Transient, Unknown};
        use Fault::{Content, Recipients, SendAs, TooLarge, Virus};
        let cases: [(u16, &[&str], Class); 28] = [
            (400, &["ErrorMimeContentInvalidBase64String", "ErrorMimeContentInvalid"], Message(Content)),
            (400, &["ErrorContentConversionFailed", "ErrorInvalidParameter"], Message(Content)),
            (400, &["UnableToDeserializePostBody", "RequestBodyRead", "BadRequest"], Message(Content)),
            (400, &["InvalidInternetMessageHeader"], Message(Content)),
            (400, &["InvalidInternetMessageHeaderCollection"], Message(Content)),
            (400, &["ErrorInvalidRecipients"], Message(Recipients)),
            (400, &["ErrorMessageSizeExceeded", "RequestEntityTooLarge"], Message(TooLarge)),
            (413, &["ErrorMessageSizeExceeded", "RequestEntityTooLarge", "BadRequest"], Message(TooLarge)),
            (400, &["ErrorVirusDetected", "malwareDetected"], Message(Virus)),
            (403, &["ErrorSendAsDenied"], Message(SendAs)),
            (403, &["ErrorAccessDenied", "ErrorAccountDisabled", "extensionError"], Mailbox),
            (403, &["Authorization_RequestDenied", "insufficient_claims"], Tenant),
            (401, &["InvalidAuthenticationToken", "CompactToken", "TokenExpired"], Token),
            (401, &["insufficient_claims"], Tenant),
            (404, &["ResourceNotFound", "Request_ResourceNotFound", "ErrorInvalidUser"], Mailbox),
            (404, &["MailboxNotEnabledForRESTAPI", "MailboxNotSupportedForRESTAPI"], Mailbox),
            (404, &["ErrorNonExistentMailbox"], Mailbox),
            (404, &["ErrorItemNotFound"], Transient),
            (403, &["ErrorMessageSubmissionBlocked", "ErrorMessageBlocked", "ErrorAccountSuspend"], Mailbox),
            (507, &["ErrorQuotaExceeded", "quotaLimitReached"], Mailbox),
            (400, &["ErrorQuotaExceeded"], Mailbox),
            (403, &QUOTAS, MailboxQuota),
            (429, &QUOTAS, MailboxQuota),
            (429, &["TooManyRequests", "ApplicationThrottled", "activityLimitReached"], Throttled),
            (
                429,
                &["throttledRequest", "ErrorExceededConnectionCount", "ErrorTooManyObjectsOpened"],
                Throttled,
            ),
            (
                503,
                &["ErrorServerBusy", "ErrorExceededConnectionCount", "ErrorTooManyObjectsOpened"],
                Throttled,
            ),
            (503, &TRANSIENT, Transient),
            (500, &UNKNOWN, Unknown),
        ];
        for (status, codes, expected) in cases {
            for code in codes {
                assert_eq!(class(status, &body(code)), expected, "{status} {code}");
            }
        }
        for (n, (code, _)) in TABLE.iter().enumerate() {
            assert!(cases.iter().any(|(_, codes, _)| codes.contains(code)), "{code} has no case");
            assert!(
                TABLE[n + 1..].iter().all(|(other, _)| !other.eq_ignore_ascii_case(code)),
                "{code} twice"
            );
        }
    }

    const QUOTAS: [&str; 5] = [
        "ErrorSubmissionQuotaExceeded",
        "ErrorExceededMessageLimit",
        "ErrorExceededHourlyMessageLimit",
        "ErrorExceededMaxRecipientLimit",
        "ErrorExceededMaxRecipientLimitBlock",
    ];
    const TRANSIENT: [&str; 8] = [
        "ErrorMailboxStoreUnavailable",
        "ErrorMailboxFailover",
        "ErrorMailboxMoveInProgress",
        "ErrorConnectionFailed",
        "ErrorADUnavailable",
        "ErrorADOperation",
        "ErrorInsufficientResources",
        "ErrorNoRespondingCASInDestinationSite",
    ];
    /// Not proven unsent.
    const UNKNOWN: [&str; 7] = [
        "ErrorInternalServerTransientError",
        "serviceNotAvailable",
        "ErrorInternalServerError",
        "generalException",
        "UnknownError",
        "ErrorTimeoutExpired",
        "gatewayTimeout",
    ];

    #[test]
    fn after_a_4xx_nothing_is_unknown() {
        for (status, expected) in [
            (400, Class::Message(Fault::Content)),
            (401, Class::Token),
            (403, Class::Mailbox),
            (404, Class::Mailbox),
            (408, Class::Unknown),
            (409, Class::Transient),
            (413, Class::Message(Fault::TooLarge)),
            (429, Class::Throttled),
        ] {
            for code in UNKNOWN {
                assert_eq!(class(status, &body(code)), expected, "{status} {code}");
            }
        }
        for code in TRANSIENT {
            assert_eq!(class(500, &body(code)), Class::Transient, "{code}");
            assert_eq!(class(400, &body(code)), Class::Transient, "{code}");
            assert_eq!(class(401, &body(code)), Class::Token, "{code}");
            assert_eq!(class(403, &body(code)), Class::Mailbox, "{code}");
        }
    }

    #[test]
    fn a_429_is_a_throttle_whatever_it_says() {
        for code in
            ["BadRequest", "ErrorAccessDenied", "InvalidAuthenticationToken", "UnknownError", "brandNew"]
        {
            assert_eq!(class(429, &body(code)), Class::Throttled, "{code}");
        }
    }

    #[test]
    fn a_gateways_refusal_bounces_nothing() {
        for status in [400, 405, 409, 421, 422, 423, 425, 431] {
            for body in ["", "<html>Bad Request</html>", "{}", r#"{"error":{}}"#, r#"{"error":"no"}"#] {
                assert_eq!(class(status, body), Class::Transient, "{status} {body}");
            }
        }
        for status in [409, 423, 425] {
            assert_eq!(class(status, &body("brandNew")), Class::Transient, "{status}");
        }
        for status in [400, 422] {
            assert_eq!(class(status, &body("brandNew")), Class::Message(Fault::Content), "{status}");
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
            (401, Class::Token),
            (403, Class::Mailbox),
            (404, Class::Mailbox),
            (408, Class::Unknown),
            (413, Class::Message(Fault::TooLarge)),
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
    }

    proptest! {
        #[test]
        fn no_answer_panics(status: u16, body: Vec<u8>, retry_after: bool) {
            let error = GraphError::read(status, &body, retry_after);
            prop_assert!(!error.message.contains(['\r', '\n']));
        }
    }
}
