//! `POST /api/v1/reload`: reads the configuration again. `POST /api/v1/tenants/{name}/retry`: tries mail of a
//! tenant again that Microsoft 365 has refused. Also the channel by which other parts ask for either.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Page, error_page::failed};
use crate::config::{Changes, Problem};
use relay_mail::{MailboxAddress, TenantName, Timestamp, outside::Outside};

/// Asks the relay to read its configuration again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

/// For the relay, which must answer it.
#[derive(Debug)]
pub enum ReloadRequest {
    Everything {
        answer: oneshot::Sender<Reloaded>,
    },
    /// What stopped this tenant's mail has been fixed. The answer: whether there is such a tenant.
    Tenant {
        name: TenantName,
        answer: oneshot::Sender<bool>,
    },
    /// Keep back the mail of a tenant or of one of its mailboxes, or let it go again.
    Suspension {
        wish: SuspensionWish,
        answer: oneshot::Sender<Result<(), SuspensionError>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspensionWish {
    pub tenant: TenantName,
    /// `None`: all of its mail.
    pub mailbox: Option<MailboxAddress>,
    pub is: SuspensionKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuspensionKind {
    Suspend { until: Option<Timestamp>, reason: Option<String> },
    Resume,
}

/// Why nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum SuspensionError {
    #[error("the running relay has no tenant {0}")]
    NoTenant(TenantName),
    #[error("{0} is suspended in the configuration: remove suspended from its table, then reload")]
    Configured(TenantName),
    #[error("{0} is not suspended")]
    NotSuspended(String),
    #[error("cannot store it in the spool's folder: {0}")]
    Store(std::io::Error),
}

/// How a reload went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reloaded {
    /// False: nothing has changed, because of `errors`. Otherwise these concern single tenants, which are
    /// named in `invalid`.
    pub ok: bool,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
    #[serde(flatten)]
    pub changes: Changes,
}

impl Reloads {
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        // One at a time; requests that come meanwhile wait, and are answered together. The gate admits fewer.
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// `None`: the relay is stopping.
    pub async fn reload(&self) -> Option<Reloaded> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ReloadRequest::Everything { answer }).await.ok()?;
        answered.await.ok()
    }

    /// `None`: the relay is stopping.
    pub(super) async fn suspension(&self, wish: SuspensionWish) -> Option<Result<(), SuspensionError>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ReloadRequest::Suspension { wish, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Whether there is such a tenant. `None`: the relay is stopping.
    pub(super) async fn retry(&self, name: TenantName) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ReloadRequest::Tenant { name, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// A page of some web site can have a browser post a form here, but not JSON: for that the browser asks
/// first.
pub(super) async fn reload(State(desk): Page, headers: HeaderMap) -> Response {
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return failed(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json".into());
    }
    match desk.shown.reloads.reload().await {
        Some(reloaded) => {
            let status = if reloaded.ok { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            (status, Json(reloaded)).into_response()
        }
        None => stopping(),
    }
}

/// The answer to [`retry`].
#[derive(Debug, Serialize)]
struct Retried {
    tenant: TenantName,
}

pub(super) async fn retry(State(desk): Page, Path(name): Path<String>) -> Response {
    let name: TenantName = match name.parse() {
        Ok(name) => name,
        Err(error) => return failed(StatusCode::BAD_REQUEST, format!("{}: {error}", Outside::new(name))),
    };
    match desk.shown.reloads.retry(name.clone()).await {
        Some(true) => Json(Retried { tenant: name }).into_response(),
        Some(false) => failed(StatusCode::NOT_FOUND, format!("the running relay has no tenant {name}")),
        None => stopping(),
    }
}

pub(super) fn stopping() -> Response {
    failed(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping".into())
}
