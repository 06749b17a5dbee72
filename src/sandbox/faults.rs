//! Faults on demand: refusals, delays and cut connections that a test or a person asks for.
//!
//! A fault is looked at after the request has arrived whole and before anything in it is checked, so it stands for
//! a gateway in front of the service. Faults are tried in the order of injection: delays add up, and the first fault of
//! another kind decides.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::{
    errors::{GraphError, LoginError, with_retry_after},
    options::Directory,
    server::Exchange,
    store::lock,
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
    /// So many matching calls pass first.
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
    /// The token endpoint.
    Token,
    /// `sendMail`.
    SendMail,
    /// `/send` of a draft.
    SendDraft,
    /// Messages and attachments: all of the following.
    Messages,
    CreateDraft,
    UpdateDraft,
    DeleteDraft,
    /// Adding an attachment with its content.
    Attach,
    /// `createUploadSession`.
    BeginUpload,
    /// Messages, a message, its attachments.
    Read,
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
    /// The `x-ms-throttle-scope` header.
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

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn always() -> f64 {
    1.0
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

    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
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

    fn strikes(&self, on: On, directory: Option<&Directory>, mailbox: Option<&str>) -> bool {
        self.on.covers(on)
            && self.mailbox.as_ref().is_none_or(|m| mailbox.is_some_and(|o| o.eq_ignore_ascii_case(m)))
            && self.directory.as_ref().is_none_or(|name| {
                directory.is_some_and(|d| d.names.iter().any(|n| n.eq_ignore_ascii_case(name)))
            })
            && (self.probability >= 1.0 || rand::random::<f64>() < self.probability)
    }
}

impl On {
    fn covers(self, call: Self) -> bool {
        use On::{AnyGraph, Messages, SendDraft, SendMail, Token, Upload};
        match self {
            AnyGraph => !matches!(call, Token | Upload),
            Messages => !matches!(call, Token | Upload | SendMail | SendDraft | AnyGraph),
            on => on == call,
        }
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
        let scope = self.throttle_scope.take().and_then(|scope| HeaderValue::from_str(&scope).ok());
        let mut response = self.answer(on, exchange);
        if let Some(scope) = scope {
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
            FaultBody::Service if on == On::Token => {
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

#[derive(Default)]
pub(super) struct Faults {
    list: Mutex<Vec<Fault>>,
    /// Whether the list is worth a lock: most calls meet no fault.
    any: AtomicBool,
}

/// What a call meets: first the delay, then one of the actions other than `Delay`.
#[derive(Default)]
pub(super) struct Struck {
    pub(super) delay: Duration,
    pub(super) then: Option<Action>,
}

impl Faults {
    pub(super) fn inject(&self, fault: Fault) {
        let mut list = lock(&self.list);
        list.push(fault);
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        let mut list = lock(&self.list);
        list.clear();
        self.any.store(false, Ordering::Release);
    }

    /// Those that may still strike.
    pub(super) fn active(&self) -> Vec<Fault> {
        lock(&self.list).clone()
    }

    pub(super) fn strike(&self, on: On, directory: Option<&Directory>, mailbox: Option<&str>) -> Struck {
        let mut struck = Struck::default();
        if !self.any.load(Ordering::Acquire) {
            return struck;
        }
        let mut list = lock(&self.list);
        for fault in list.iter_mut() {
            if fault.times == Some(0) || !fault.strikes(on, directory, mailbox) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            match &fault.action {
                Action::Delay(time) => struck.delay += *time,
                action => {
                    struck.then = Some(action.clone());
                    break;
                }
            }
        }
        list.retain(|fault| fault.times != Some(0));
        self.any.store(!list.is_empty(), Ordering::Release);
        struck
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
