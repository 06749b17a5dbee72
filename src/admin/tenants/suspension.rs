//! `POST /api/v1/tenants/{name}/suspend` and `/resume`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::{field::display, info};

use super::{no_tenant, show};
use crate::{
    admin::{
        Desk, Page, SuspensionError, SuspensionKind, SuspensionWish, error_page::failed, gate::Actor,
        reload::stopping,
    },
    clock,
};
use relay_mail::{
    MailboxAddress, TenantName,
    outside::{Outside, one_line},
};

/// Characters of a reason that are kept.
const LONGEST_REASON: usize = 500;

/// The body of a suspension.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuspendRequest {
    /// How long: `1h`. Without it, until somebody resumes it.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub long: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// This mailbox only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
}

pub(super) async fn suspend(
    State(desk): Page,
    Path(name): Path<String>,
    Extension(by): Extension<Actor>,
    body: Bytes,
) -> Response {
    change(&desk, &name, &by, &body, true).await
}

pub(super) async fn resume(
    State(desk): Page,
    Path(name): Path<String>,
    Extension(by): Extension<Actor>,
    body: Bytes,
) -> Response {
    change(&desk, &name, &by, &body, false).await
}

/// The answer is what `GET /api/v1/tenants/{name}` answers.
async fn change(desk: &Arc<Desk>, name: &str, by: &Actor, body: &[u8], is_suspended: bool) -> Response {
    let wrong = |error: String| failed(StatusCode::BAD_REQUEST, error);
    let Ok(tenant) = name.parse::<TenantName>() else { return no_tenant(name) };
    let request = match body {
        [] => SuspendRequest::default(),
        body => match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return wrong(format!("the body: {error}")),
        },
    };
    let SuspendRequest { long, reason, mailbox } = request;
    let mailbox = match mailbox.as_deref().map(str::parse::<MailboxAddress>).transpose() {
        Ok(mailbox) => mailbox,
        Err(error) => return wrong(format!("mailbox: {error}")),
    };
    let long = match long.as_deref().map(humantime::parse_duration).transpose() {
        Ok(long) => long,
        Err(_) => return wrong("for: not a duration: write a number and a unit, such as 30m or 4h".into()),
    };
    let until = long.map(|long| clock::wall() + long);
    // Every message that waits for it says it.
    let reason = reason.map(|reason| one_line(&reason, LONGEST_REASON)).filter(|reason| !reason.is_empty());
    let is = if is_suspended {
        SuspensionKind::Suspend { until, reason: reason.clone() }
    } else {
        SuspensionKind::Resume
    };
    let wish = SuspensionWish { tenant: tenant.clone(), mailbox: mailbox.clone(), is };
    match desk.shown.reloads.suspension(wish).await {
        None => stopping(),
        Some(Ok(())) => {
            let reason = reason.as_ref().map(|reason| display(Outside::new(reason)));
            let mailbox = mailbox.map(display);
            let until = until.map(display);
            let done = if is_suspended { "suspended" } else { "resumed" };
            info!(%tenant, mailbox, until, reason, %by, "tenant {done} by an operator");
            show(State(desk.clone()), Path(tenant.to_string())).await
        }
        Some(Err(error)) => {
            let status = match error {
                SuspensionError::NoTenant(_) => StatusCode::NOT_FOUND,
                SuspensionError::Configured(_) | SuspensionError::NotSuspended(_) => StatusCode::CONFLICT,
                SuspensionError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            failed(status, error.to_string())
        }
    }
}
