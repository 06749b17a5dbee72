//! Faults on demand: refusals, delays and cut connections that a test or a person asks for.
//!
//! A fault is looked at after the request has arrived whole and before anything in it is checked, so it stands for
//! a gateway in front of the service. `struck` says which of several strikes.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::{
    errors::{GraphError, LoginError, with_retry_after},
    options::Directory,
    server::Exchange,
};

/// In JSON: `{"on":"send_mail","action":{"status":{"code":503,"error":"serviceNotAvailable"}},"times":2}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub on: On,
    pub action: Action,
    /// Only for this mailbox, if given. Case does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// Only for this organisation, by any of its names, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// So many matching calls pass before it strikes. It counts down.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip: u32,
    /// How often it strikes. `None`: until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// 0 to 1: the part of the matching calls that it strikes.
    #[serde(default = "always")]
    pub probability: f64,
}

/// Which calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// The token endpoint, and that for device codes.
    Token,
    /// The endpoints for identities of the machine. Whose it is shows too late for `directory`.
    ManagedIdentity,
    /// `sendMail`.
    SendMail,
    /// `/send` of a draft.
    SendDraft,
    /// Messages and attachments: all that the next six name.
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
    /// Deleted for good or to the bin: `DELETE` and `permanentDelete`.
    DeleteDraft,
    /// Everything under `/v1.0`.
    AnyGraph,
    /// Calls of an upload URL.
    Upload,
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
    /// The `Retry-After` header, as it is to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// The `x-ms-throttle-scope` header, as it is to be sent.
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
    /// What a gateway says.
    Html,
}

fn always() -> f64 {
    1.0
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl On {
    /// Whether a fault on this is about a call of kind `call`.
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
            Self::AnyGraph => !matches!(call, Self::Token | Self::ManagedIdentity | Self::Upload),
            Self::Messages => on_messages,
            one => one == call,
        }
    }
}

impl Fault {
    /// Strikes every such call until cleared.
    pub fn new(on: On, action: Action) -> Self {
        Self { on, action, mailbox: None, directory: None, skip: 0, times: None, probability: 1.0 }
    }

    /// Answers `code` with Graph error `error`, without doing anything.
    pub fn status(on: On, code: u16, error: &str) -> Self {
        Self::new(on, Action::Status(StatusFault::new(code, error)))
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

    /// Throws the dice.
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

    pub(super) fn respond(mut self, on: On, exchange: &Exchange) -> Response {
        let scope = self.throttle_scope.take();
        let mut response = self.answer(on, exchange);
        if let Some(scope) = scope.and_then(|scope| HeaderValue::from_str(&scope).ok()) {
            response.headers_mut().insert("x-ms-throttle-scope", scope);
        }
        response
    }

    fn answer(self, on: On, exchange: &Exchange) -> Response {
        let status = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self.body {
            FaultBody::Empty => with_retry_after(status.into_response(), self.retry_after),
            FaultBody::Html => {
                let page = format!(
                    "<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
                );
                let response = (status, [(header::CONTENT_TYPE, "text/html")], page).into_response();
                with_retry_after(response, self.retry_after)
            }
            FaultBody::Service if matches!(on, On::Token | On::ManagedIdentity) => {
                let numbered = self.message.strip_prefix("AADSTS").and_then(|rest| rest.split_once(": "));
                let (number, message) = match numbered {
                    Some((number, text)) if number.parse::<u32>().is_ok() => {
                        (number.parse().ok(), text.to_owned())
                    }
                    _ => (None, self.message.clone()),
                };
                LoginError {
                    status,
                    error: self.error.into(),
                    number,
                    message: message.into(),
                    retry_after: self.retry_after,
                }
                .into_response(exchange)
            }
            FaultBody::Service => GraphError {
                retry_after: self.retry_after,
                ..GraphError::new(status, self.error, self.message)
            }
            .into_response(exchange),
        }
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
