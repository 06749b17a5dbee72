//! Refusals in Microsoft's own shapes: Graph's `{"error":{…}}` and Entra's
//! `{"error":"…","error_description":"AADSTS…"}`.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use uuid::Uuid;

use super::{
    exchange::Exchange,
    ids::random_uuid,
    limits::{Limit, Throttled},
    options::RetryAfter,
};
use crate::clock;

pub(super) struct GraphError {
    pub(super) status: StatusCode,
    pub(super) code: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    pub(super) retry_after: Option<String>,
}

impl GraphError {
    pub(super) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code: code.into(), message: message.into(), retry_after: None }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn token(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", message)
    }

    pub(super) fn denied() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "ErrorAccessDenied",
            "Access is denied. Check credentials and try again.",
        )
    }

    pub(super) fn no_such_user(mailbox: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "ErrorInvalidUser",
            format!("The requested user '{mailbox}' is invalid."),
        )
    }

    pub(super) fn no_such_item() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "ErrorItemNotFound",
            "The specified object was not found in the store.",
        )
    }

    pub(super) fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            "The maximum request length supported is 4MB.",
        )
    }

    pub(super) fn throttled(throttled: Throttled, retry_after: &RetryAfter) -> Self {
        let (code, message) = match throttled.limit {
            Limit::Concurrency => {
                ("ApplicationThrottled", "Application is over its MailboxConcurrency limit.")
            }
            Limit::Messages | Limit::Requests | Limit::Upload => {
                ("TooManyRequests", "Please retry again later.")
            }
        };
        Self {
            retry_after: retry_after.header(throttled.wait),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
    }

    pub(super) fn into_response(self, exchange: &Exchange) -> Response {
        let mut inner = json!({
            "date": iso(clock::now()),
            "request-id": exchange.request_id.to_string(),
            "client-request-id": exchange.client_request_id(),
        });
        // Graph's documented sample of a 429 repeats the status inside.
        if self.code == "TooManyRequests" {
            inner["code"] = "429".into();
            inner["status"] = "429".into();
            inner["message"] = "Please retry after".into();
        }
        let body = json!({ "error": { "code": self.code, "message": self.message, "innerError": inner } });
        with_retry_after(json_response(self.status, &body), self.retry_after)
    }
}

/// A refusal of the token endpoint. Clients are told to branch on `error`; people read the AADSTS number.
pub(super) struct LoginError {
    pub(super) status: StatusCode,
    pub(super) error: Cow<'static, str>,
    /// The number after AADSTS.
    pub(super) number: Option<u32>,
    pub(super) message: Cow<'static, str>,
    pub(super) retry_after: Option<String>,
}

impl LoginError {
    pub(super) fn new(
        status: StatusCode,
        error: &'static str,
        number: u32,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, error: error.into(), number: Some(number), message: message.into(), retry_after: None }
    }

    pub(super) fn into_response(self, exchange: &Exchange) -> Response {
        let timestamp = iso(clock::now()).replace('T', " ");
        let trace = exchange.request_id;
        let correlation = exchange
            .client_request_id
            .as_deref()
            .and_then(|id| Uuid::try_parse(id).ok())
            .unwrap_or_else(random_uuid);
        let prefix = self.number.map(|number| format!("AADSTS{number}: ")).unwrap_or_default();
        let mut body = json!({
            "error": self.error,
            "error_description": format!(
                "{prefix}{} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
                self.message
            ),
            "error_codes": self.number.into_iter().collect::<Vec<_>>(),
            "timestamp": timestamp,
            "trace_id": trace.to_string(),
            "correlation_id": correlation.to_string(),
        });
        if let Some(number) = self.number {
            body["error_uri"] = format!("https://login.microsoftonline.com/error?code={number}").into();
        }
        with_retry_after(json_response(self.status, &body), self.retry_after)
    }
}

pub(super) fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}

pub(super) fn with_retry_after(mut response: Response, value: Option<String>) -> Response {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// RFC 3339 with a `Z`, to the second.
pub(super) fn iso(time: relay_mail::Timestamp) -> String {
    time.to_string()
}
