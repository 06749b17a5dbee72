//! What X-Sender and X-Receiver lines ask for beside the addresses: the parameters of MAIL and RCPT (RFC 3461 section 4, RFC 6152,
//! RFC 4954), as Exchange Replay writes them.
//!
//! Values are kept as they stand; those that RFC 3461 has encoded (xtext) stay encoded. A value that breaks its rule is an
//! error, as it is in SMTP. Parameters that are not known here are let pass: nothing depends on them.

use super::{BodyKind, MailboxAddress};

/// What is to be reported, and to whom it will mean something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DsnRequest {
    pub ret: Option<Ret>,
    /// xtext, 1 to 100 octets.
    pub envid: Option<String>,
    /// One for each X-Receiver line, in order; an address may come twice.
    pub recipients: Vec<(MailboxAddress, RecipientRequest)>,
}

/// How much of the message comes back with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecipientRequest {
    /// `None`: nothing was said.
    pub notify: Option<Notify>,
    /// Such as `rfc822;b@example.net`, with the address as xtext.
    pub orcpt: Option<String>,
}

/// When to report. All false is NEVER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

/// The parameters of an X-Sender line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SenderParameters {
    pub(super) body: Option<BodyKind>,
    pub(super) ret: Option<Ret>,
    pub(super) envid: Option<String>,
}

/// What is wrong with a parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameter {
    #[error("{0:?} is not a parameter of the form KEY=VALUE; a line has one address")]
    Form(String),
    #[error("{0} stands twice")]
    Twice(&'static str),
    #[error("{0} belongs on an {1} line")]
    Misplaced(&'static str, &'static str),
    #[error("{key}={value:?} is not {wanted}")]
    Value { key: &'static str, value: String, wanted: &'static str },
}

impl SenderParameters {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidParameter> {
        let mut parameters = Self::default();
        let mut has_auth = false;
        for parameter in split(text) {
            let (key, value) = parameter?;
            match key.to_ascii_uppercase().as_str() {
                "BODY" => {
                    let body = match value.to_ascii_uppercase().as_str() {
                        "7BIT" => BodyKind::SevenBit,
                        // Nothing is promised that a file does not have to keep anyway.
                        "8BITMIME" | "BINARYMIME" => BodyKind::EightBitMime,
                        _ => return Err(wrong("BODY", value, "7BIT, 8BITMIME or BINARYMIME")),
                    };
                    once("BODY", &mut parameters.body, body)?;
                }
                "RET" => {
                    let ret = match value.to_ascii_uppercase().as_str() {
                        "FULL" => Ret::Full,
                        "HDRS" => Ret::Headers,
                        _ => return Err(wrong("RET", value, "FULL or HDRS")),
                    };
                    once("RET", &mut parameters.ret, ret)?;
                }
                "ENVID" if is_xtext(value) && value.len() <= 100 => {
                    once("ENVID", &mut parameters.envid, value.to_owned())?;
                }
                "ENVID" => {
                    return Err(wrong("ENVID", value, "xtext of 1 to 100 characters (RFC 3461 section 4)"));
                }
                // Who had logged in elsewhere: here the folder is the login.
                "AUTH" if has_auth => return Err(InvalidParameter::Twice("AUTH")),
                "AUTH" if value == "<>" || is_xtext(value) => has_auth = true,
                "AUTH" => return Err(wrong("AUTH", value, "<> or xtext (RFC 4954 section 5)")),
                "NOTIFY" => return Err(InvalidParameter::Misplaced("NOTIFY", "X-Receiver")),
                "ORCPT" => return Err(InvalidParameter::Misplaced("ORCPT", "X-Receiver")),
                _ => {}
            }
        }
        Ok(parameters)
    }
}

impl RecipientRequest {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidParameter> {
        let mut request = Self::default();
        for parameter in split(text) {
            let (key, value) = parameter?;
            match key.to_ascii_uppercase().as_str() {
                "NOTIFY" => {
                    let notify = Notify::parse(value).ok_or_else(|| {
                        wrong("NOTIFY", value, "NEVER, or some of SUCCESS, FAILURE and DELAY with commas")
                    })?;
                    once("NOTIFY", &mut request.notify, notify)?;
                }
                "ORCPT" if is_orcpt(value) => once("ORCPT", &mut request.orcpt, value.to_owned())?,
                "ORCPT" => {
                    let wanted = "an address type, a semicolon and xtext, such as rfc822;b@example.net";
                    return Err(wrong("ORCPT", value, wanted));
                }
                "BODY" => return Err(InvalidParameter::Misplaced("BODY", "X-Sender")),
                "RET" => return Err(InvalidParameter::Misplaced("RET", "X-Sender")),
                "ENVID" => return Err(InvalidParameter::Misplaced("ENVID", "X-Sender")),
                _ => {}
            }
        }
        Ok(request)
    }
}

impl Notify {
    fn parse(value: &str) -> Option<Self> {
        let mut notify = Self::default();
        if value.eq_ignore_ascii_case("NEVER") {
            return Some(notify);
        }
        for word in value.split(',') {
            match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => notify.success = true,
                "FAILURE" => notify.failure = true,
                "DELAY" => notify.delay = true,
                _ => return None,
            }
        }
        Some(notify)
    }
}

fn split(text: &str) -> impl Iterator<Item = Result<(&str, &str), InvalidParameter>> {
    text.split_ascii_whitespace().map(|parameter| {
        let found = parameter.split_once('=').filter(|(key, _)| is_keyword(key));
        found.ok_or_else(|| InvalidParameter::Form(parameter.chars().take(100).collect()))
    })
}

/// RFC 5321 section 4.1.2, esmtp-keyword.
fn is_keyword(key: &str) -> bool {
    let mut octets = key.bytes();
    octets.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && octets.all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
}

/// RFC 3461 section 4: printable characters but `+` and `=`; or `+` and two digits of capital hexadecimal.
fn is_xtext(value: &str) -> bool {
    let is_hex = |digit: &u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(digit);
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = match first {
            b'+' if after.len() >= 2 && after[..2].iter().all(is_hex) => &after[2..],
            b'+' | b'=' => return false,
            b'!'..=b'~' => after,
            _ => return false,
        };
    }
    !value.is_empty()
}

fn is_orcpt(value: &str) -> bool {
    value.len() <= 500
        && value.split_once(';').is_some_and(|(kind, address)| is_keyword(kind) && is_xtext(address))
}

fn once<T>(key: &'static str, place: &mut Option<T>, value: T) -> Result<(), InvalidParameter> {
    if place.replace(value).is_some() { Err(InvalidParameter::Twice(key)) } else { Ok(()) }
}

fn wrong(key: &'static str, value: &str, wanted: &'static str) -> InvalidParameter {
    InvalidParameter::Value { key, value: value.chars().take(100).collect(), wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sender_parameters() {
        let parse = |text| SenderParameters::parse(text).unwrap();
        assert_eq!(parse(""), SenderParameters::default());
        let all = parse(" BODY=7bit ret=hdrs ENVID=QQ+2B314 auth=<> SIZE=12 X-NEW=1\t");
        assert_eq!((all.body, all.ret), (Some(BodyKind::SevenBit), Some(Ret::Headers)));
        assert_eq!(all.envid.as_deref(), Some("QQ+2B314"));
        assert_eq!(parse("Body=8BitMime RET=FULL").ret, Some(Ret::Full));
    }

    #[test]
    fn recipient_parameters() {
        let parse = |text| RecipientRequest::parse(text).unwrap();
        assert_eq!(parse("notify=never").notify, Some(Notify::default()));
        let request = parse("NOTIFY=DELAY,failure ORcpt=rfc822;b+2Bc@y.se");
        assert_eq!(request.notify, Some(Notify { success: false, failure: true, delay: true }));
        assert_eq!(request.orcpt.as_deref(), Some("rfc822;b+2Bc@y.se"));
    }

    #[test]
    fn wrong_parameters_are_named() {
        let long = format!("ENVID={}", "x".repeat(101));
        let sender = [
            ("BODY=9BIT", "BODY=\"9BIT\" is not 7BIT"),
            ("RET=SOME", "RET=\"SOME\" is not FULL or HDRS"),
            ("RET=FULL RET=FULL", "RET stands twice"),
            ("ENVID=", "ENVID=\"\" is not xtext"),
            ("ENVID=a+2b", "is not xtext"),
            (&long, "is not xtext"),
            ("auth=a=b", "AUTH=\"a=b\""),
            ("NOTIFY=NEVER", "NOTIFY belongs on an X-Receiver line"),
            ("c@y.se", "\"c@y.se\" is not a parameter"),
            ("=x", "is not a parameter"),
        ];
        for (text, part) in sender {
            let said = SenderParameters::parse(text).unwrap_err().to_string();
            assert!(said.contains(part), "{text}: {said}");
        }
        let receiver = [
            ("NOTIFY=ALWAYS", "NOTIFY=\"ALWAYS\" is not NEVER"),
            ("NOTIFY=NEVER,DELAY", "is not NEVER"),
            ("NOTIFY=", "is not NEVER"),
            ("ORCPT=b@y.se", "ORCPT=\"b@y.se\" is not an address type"),
            ("ORCPT=rfc822;", "is not an address type"),
            ("ENVID=1", "ENVID belongs on an X-Sender line"),
        ];
        for (text, part) in receiver {
            let said = RecipientRequest::parse(text).unwrap_err().to_string();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = SenderParameters::parse(&text);
            let _ = RecipientRequest::parse(&text);
        }
    }
}
