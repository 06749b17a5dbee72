//! Faults on demand: refusals, delays and cut connections that a test or a person asks for.
//!
//! A fault is applied after the request has arrived whole and before anything in it is checked, so it
//! represents a gateway in front of the service. `struck` decides which of several strikes.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::options::Directory;

/// In JSON: `{"on":"send_mail","action":{"status":{"code":503,"error":"serviceNotAvailable"}},"times":2}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub on: On,
    pub action: Action,
    /// Only for this mailbox, if given. Case does not matter. In SMTP it is the mailbox that logs in or has
    /// logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// Only for this organisation, by any of its names, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// This many matching calls pass before it strikes. It counts down.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip: u32,
    /// How often it strikes. `None`: until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// 0 to 1: the fraction of the matching calls that it strikes.
    #[serde(default = "always")]
    pub probability: f64,
}

/// The calls that a fault is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// The token endpoint, and the one for device codes.
    Token,
    /// The endpoints for identities of the machine. Their organisation is known too late for `directory`.
    ManagedIdentity,
    /// `sendMail`.
    SendMail,
    /// `/send` of a draft.
    SendDraft,
    /// Messages and attachments: everything that the next six name.
    Messages,
    /// A new draft.
    CreateDraft,
    /// A change of a draft.
    UpdateDraft,
    /// A small attachment, posted whole.
    Attach,
    /// `createUploadSession`.
    BeginUpload,
    /// A message, a list of messages, a list of attachments.
    Read,
    /// Deleting for good or to the bin: `DELETE` and `permanentDelete`.
    DeleteDraft,
    /// Everything under `/v1.0`.
    AnyGraph,
    /// Calls of an upload URL.
    Upload,
    /// A new SMTP connection, before its greeting.
    SmtpConnect,
    /// EHLO or HELO.
    SmtpEhlo,
    /// After [`Action::CutAfter`] the client has its 220, and is cut off in the handshake.
    SmtpStartTls,
    /// AUTH, once the client has sent all its parts.
    SmtpAuth,
    /// MAIL.
    SmtpMail,
    /// RCPT, each one.
    SmtpRcpt,
    /// DATA, or the first BDAT of a message with its chunk. After [`Action::CutAfter`] the client has its
    /// 354, and is cut off in the content.
    SmtpData,
    /// The end of the content: the final dot, or the last chunk.
    SmtpContent,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answer with this, and do nothing.
    Status(StatusFault),
    /// Do what was asked, then answer with this: the 504 after which the mail arrives all the same.
    StatusAfter(StatusFault),
    /// Wait before going on, whether or not the client waits too. In JSON `{"delay":"2s 500ms"}`.
    Delay(#[serde(with = "duration")] Duration),
    /// Close the connection without an answer, and do nothing.
    CutBefore,
    /// Do what was asked, then close the connection without an answer.
    CutAfter,
    /// In SMTP: answer with this, and do nothing. One line or several, exactly as sent, such as `432 4.3.2
    /// Concurrent connections limit exceeded`. After 421 the connection is closed. If the answer to AUTH is
    /// 334, the client answers once more before it gets its 535.
    Reply(String),
    /// In SMTP: do what was asked, then answer with this. STARTTLS and DATA are only done if this reply says
    /// that they are.
    ReplyAfter(String),
    /// Do what was asked, but understand other recipients: the draft has these, and goes to these. On
    /// `create_draft`, `update_draft` or `messages`. In JSON
    /// `{"recipients":{"drop":["b@x.se"],"add":["c@x.se"],"rewrite":{"alias@x.se":"primary@x.se"}}}`.
    Recipients(Misreading),
}

/// How recipients are misunderstood. Case does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Misreading {
    /// These are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    /// These are added to Bcc.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// An address becomes another.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rewrite: BTreeMap<String, String>,
}

/// A fault that could not strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFault {
    #[error("probability goes from 0 to 1")]
    Probability,
    #[error("code goes from 200 to 599")]
    Code,
    #[error(
        "status is an answer of HTTP: for a step of SMTP write reply, such as \"451 4.7.500 Server busy\""
    )]
    StatusInSmtp,
    #[error("reply is an answer of SMTP: for a call of HTTP write status, with a code")]
    ReplyInHttp,
    #[error("only create_draft and update_draft, or messages for both, can understand other recipients")]
    NoRecipients,
    #[error("a reply begins with three digits, and has no control characters but its line ends")]
    Reply,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusFault {
    /// HTTP status, 200 to 599.
    pub code: u16,
    /// Graph's `error.code`, or `error` of the token endpoint.
    #[serde(default)]
    pub error: String,
    /// For the token endpoint, `AADSTSnnn: text` also fills `error_codes`.
    #[serde(default)]
    pub message: String,
    /// The `Retry-After` header, exactly as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// The `x-ms-throttle-scope` header, exactly as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_scope: Option<String>,
    #[serde(default)]
    pub body: FaultBody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultBody {
    /// The service's own JSON.
    #[default]
    Service,
    Empty,
    /// The page that a gateway sends.
    Html,
}

fn always() -> f64 {
    1.0
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl On {
    fn is_smtp(self) -> bool {
        matches!(
            self,
            Self::SmtpConnect
                | Self::SmtpEhlo
                | Self::SmtpStartTls
                | Self::SmtpAuth
                | Self::SmtpMail
                | Self::SmtpRcpt
                | Self::SmtpData
                | Self::SmtpContent
        )
    }

    /// Whether a fault on this covers a call of kind `call`.
    fn covers(self, call: Self) -> bool {
        let on_messages = matches!(
            call,
            Self::Messages
                | Self::CreateDraft
                | Self::UpdateDraft
                | Self::Attach
                | Self::BeginUpload
                | Self::Read
                | Self::DeleteDraft
        );
        match self {
            Self::AnyGraph => {
                !matches!(call, Self::Token | Self::ManagedIdentity | Self::Upload) && !call.is_smtp()
            }
            Self::Messages => on_messages,
            one => one == call,
        }
    }
}

impl Fault {
    /// A fault that strikes every such call until cleared.
    pub fn new(on: On, action: Action) -> Self {
        Self { on, action, mailbox: None, directory: None, skip: 0, times: None, probability: 1.0 }
    }

    /// Answers `code` with Graph error `error`, without doing anything.
    pub fn status(on: On, code: u16, error: &str) -> Self {
        Self::new(on, Action::Status(StatusFault::new(code, error)))
    }

    /// Sends `reply` at that step of SMTP, without doing the step.
    pub fn reply(on: On, reply: &str) -> Self {
        Self::new(on, Action::Reply(reply.to_owned()))
    }

    /// Whether it can strike at all.
    pub fn check(&self) -> Result<(), InvalidFault> {
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(InvalidFault::Probability);
        }
        match &self.action {
            Action::Status(_) | Action::StatusAfter(_) if self.on.is_smtp() => {
                Err(InvalidFault::StatusInSmtp)
            }
            Action::Status(status) | Action::StatusAfter(status) if !(200..600).contains(&status.code) => {
                Err(InvalidFault::Code)
            }
            Action::Reply(_) | Action::ReplyAfter(_) if !self.on.is_smtp() => Err(InvalidFault::ReplyInHttp),
            Action::Recipients(_) if !matches!(self.on, On::CreateDraft | On::UpdateDraft | On::Messages) => {
                Err(InvalidFault::NoRecipients)
            }
            Action::Reply(text) | Action::ReplyAfter(text) => {
                let has_code = text.len() >= 3 && text.bytes().take(3).all(|octet| octet.is_ascii_digit());
                let is_clean = text.lines().all(|line| !line.chars().any(char::is_control));
                if has_code && is_clean { Ok(()) } else { Err(InvalidFault::Reply) }
            }
            _ => Ok(()),
        }
    }

    /// Lets `calls` matching calls pass first.
    pub fn skip(self, calls: u32) -> Self {
        Self { skip: calls, ..self }
    }

    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    pub fn for_mailbox(self, mailbox: impl Into<String>) -> Self {
        Self { mailbox: Some(mailbox.into()), ..self }
    }

    pub fn for_directory(self, directory: impl Into<String>) -> Self {
        Self { directory: Some(directory.into()), ..self }
    }

    pub(super) fn is_about(&self, on: On, directory: Option<&Directory>, mailbox: Option<&str>) -> bool {
        self.on.covers(on)
            && self.mailbox.as_ref().is_none_or(|m| mailbox.is_some_and(|o| o.eq_ignore_ascii_case(m)))
            && self.directory.as_ref().is_none_or(|name| {
                directory.is_some_and(|d| d.names.iter().any(|n| n.eq_ignore_ascii_case(name)))
            })
    }

    /// Rolls the dice.
    pub(super) fn happens(&self) -> bool {
        self.probability >= 1.0 || rand::random::<f64>() < self.probability
    }
}

impl StatusFault {
    pub fn new(code: u16, error: &str) -> Self {
        Self {
            code,
            error: error.into(),
            message: "A fault that was asked for.".into(),
            retry_after: None,
            throttle_scope: None,
            body: FaultBody::Service,
        }
    }

    pub fn retry_after(self, value: impl Into<String>) -> Self {
        Self { retry_after: Some(value.into()), ..self }
    }

    pub fn throttle_scope(self, value: impl Into<String>) -> Self {
        Self { throttle_scope: Some(value.into()), ..self }
    }
}

mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
