//! A request over HTTP while it is being handled: its headers, its body, and its line in the log of calls.

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use uuid::Uuid;

use super::{faults::Misreading, ids::random_uuid, store::Call};
use crate::clock;
use relay_mail::Timestamp;

/// How much is read of a body that is too large before it is refused, so that a client that sends everything
/// before it listens gets its 413 and not a broken connection.
const DRAIN: usize = 256 << 20;

/// A request while it is being handled, and what its line in the log will say.
pub(super) struct Exchange {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) request_id: Uuid,
    pub(super) client_request_id: Option<String>,
    pub(super) directory: Option<String>,
    pub(super) mailbox: Option<String>,
    pub(super) body_len: usize,
    /// The recipients of its draft are to be misunderstood.
    pub(super) misreading: Option<Misreading>,
    connection: u64,
    received: Timestamp,
}

pub(super) enum Outcome {
    Answer(Response),
    /// Close the connection without a word.
    Cut,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    /// The client went away in the middle.
    Broken,
}

impl Exchange {
    pub(super) fn new(parts: Parts, connection: u64) -> Self {
        Self {
            client_request_id: text_header(&parts.headers, "client-request-id").map(str::to_owned),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            request_id: random_uuid(),
            directory: None,
            mailbox: None,
            body_len: 0,
            misreading: None,
            connection,
            received: clock::now(),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        text_header(&self.headers, name)
    }

    /// The client's own id, or ours if it gave none.
    pub(super) fn client_request_id(&self) -> String {
        self.client_request_id.clone().unwrap_or_else(|| self.request_id.to_string())
    }

    /// Reads the whole body, if it is no longer than `most`.
    pub(super) async fn read(&mut self, body: Body, most: usize) -> Result<Bytes, BodyError> {
        let mut chunks = body.into_data_stream();
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            self.body_len += chunk.len();
            if self.body_len > DRAIN {
                return Err(BodyError::TooLarge);
            }
            if self.body_len > most {
                more.clear();
            } else if whole.is_empty() {
                whole = chunk;
            } else {
                if more.is_empty() {
                    let length = self.header(header::CONTENT_LENGTH.as_str()).and_then(|n| n.parse().ok());
                    more.reserve(length.unwrap_or(0_usize).min(most));
                    more.extend_from_slice(&whole);
                }
                more.extend_from_slice(&chunk);
            }
        }
        if self.body_len > most {
            return Err(BodyError::TooLarge);
        }
        if more.is_empty() { Ok(whole) } else { Ok(more.freeze()) }
    }

    /// Adds the headers that Microsoft puts on each answer. `Date` comes from the HTTP engine.
    pub(super) fn sign(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.request_id.to_string()) {
            headers.insert("request-id", id);
        }
        if let Ok(id) = HeaderValue::from_str(&self.client_request_id()) {
            headers.insert("client-request-id", id);
        }
        response
    }

    pub(super) fn into_call(self, outcome: &Outcome) -> Call {
        // The query of an upload URL is the secret that gives access to it.
        let secret_query = self.uri.path().starts_with("/api/");
        let path = match self.uri.path_and_query() {
            Some(all) if !secret_query => all.as_str(),
            _ => self.uri.path(),
        };
        Call {
            received_at_ms: self.received.as_millis(),
            connection: self.connection,
            method: self.method.to_string(),
            path: path.to_owned(),
            directory: self.directory,
            mailbox: self.mailbox,
            status: match outcome {
                Outcome::Answer(response) => Some(response.status().as_u16()),
                Outcome::Cut => None,
            },
            body_len: self.body_len,
            request_id: self.request_id.to_string(),
            client_request_id: self.client_request_id,
        }
    }
}

pub(super) fn is_media_type(exchange: &Exchange, wanted: &str) -> bool {
    exchange
        .header(header::CONTENT_TYPE.as_str())
        .map(|value| value.split(';').next().unwrap_or_default().trim())
        .is_some_and(|media| media.eq_ignore_ascii_case(wanted))
}

pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
