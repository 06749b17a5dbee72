//! `/api/v1/tenants` and `/api/v1/status`: which tenants there are, which of them are in trouble and what
//! mends that, and who is suspended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::{field::display, info};

use super::{
    Desk, Page, SuspensionError, SuspensionKind, SuspensionWish,
    gate::Actor,
    messages::{WaitsPage, failed},
    reload::{self, stopping},
};
use crate::{
    clock,
    config::{RouteRule, Suspension, Tenant},
    schedule::{Blocked, Depth, TenantStatus, Waits},
    telemetry::LimitKind,
};
use relay_mail::{MailboxAddress, TenantName, outside::Outside};

/// Mail that waits longer than this is trouble, unless somebody has suspended it.
const LONG: Duration = Duration::from_secs(4 * 3600);
/// Tenants of one page.
const LIMIT: usize = 200;
const LARGEST_LIMIT: usize = 1000;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct TenantsPage {
    pub tenants: Vec<TenantPage>,
    /// For the query's `cursor`. `None`: there are no more.
    pub next: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantPage {
    pub id: String,
    /// `ok`, `suspended`, `blocked` or `unknown`: the configuration does not have it.
    pub state: String,
    /// Why it is suspended or blocked, and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<WaitsPage>,
    /// What is wrong, a sentence each. Empty: it is not in trouble.
    pub trouble: Vec<String>,
    /// Messages by state.
    pub messages: BTreeMap<String, u64>,
    /// When its oldest message was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// Octets that it takes up on the disk.
    pub bytes: u64,
    /// Mailboxes that sleep: those that need mending, and then some of the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asleep: Vec<MailboxPage>,
    pub mailboxes_asleep: usize,
    /// Mailboxes that an operator has suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended_mailboxes: Vec<MailboxPage>,
    /// From its configuration. Not in a list of tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationPage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MailboxPage {
    pub mailbox: String,
    #[serde(flatten)]
    pub waits: WaitsPage,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationPage {
    pub cloud: String,
    pub directory: String,
    pub client_id: String,
    pub route: String,
}

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

/// `/api/v1/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StatusPage {
    pub version: String,
    /// Seconds since the start.
    pub up: u64,
    /// Why no mail is taken, if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// Messages in the last minute, and in the last ten.
    pub accepted: [u64; 2],
    pub delivered: [u64; 2],
    /// Messages by state, of all tenants.
    pub messages: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    pub tenants: usize,
    pub suspended: usize,
    /// The tenants in trouble; the worst first, fifty at most.
    pub in_trouble: Vec<TenantPage>,
    pub tenants_in_trouble: usize,
    /// Entries in the quarantine.
    pub quarantined: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantsQuery {
    in_trouble: bool,
    limit: Option<usize>,
    cursor: Option<String>,
}

pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/status", get(status))
        .route("/tenants", get(list))
        .route("/tenants/{name}", get(show))
        .route("/tenants/{name}/retry", post(reload::retry))
        .route("/tenants/{name}/suspend", post(suspend))
        .route("/tenants/{name}/resume", post(resume))
}

impl From<&Waits> for WaitsPage {
    fn from(waits: &Waits) -> Self {
        let Waits { class, why, limit, until } = waits;
        Self {
            class: (*class).to_owned(),
            why: why.clone(),
            limit: limit.map(|limit| limit.as_str().to_owned()),
            until: until.map(|until| until.to_string()),
        }
    }
}

fn suspension_page(suspension: &Suspension) -> WaitsPage {
    let Suspension { why, until, .. } = suspension;
    let until = until.map(|until| until.to_string());
    WaitsPage { class: Blocked::SUSPENDED.to_owned(), why: why.clone(), limit: None, until }
}

impl Desk {
    /// The configured tenants, and those that have mail all the same.
    fn tenants(&self) -> (BTreeSet<TenantName>, BTreeMap<TenantName, Arc<Depth>>) {
        let depths: BTreeMap<_, _> = self.shown.depths.all().into_iter().collect();
        let roster = self.shown.by_hand.roster.now();
        let names = roster.tenants().keys().chain(depths.keys()).cloned().collect();
        (names, depths)
    }

    async fn pages(
        &self,
        names: &[TenantName],
        depths: &BTreeMap<TenantName, Arc<Depth>>,
    ) -> Vec<TenantPage> {
        let statuses = self.shown.inspector.tenants(names).await;
        let roster = self.shown.by_hand.roster.now();
        let mut statuses = statuses.into_iter();
        let page = |name| {
            let status = statuses.next().flatten();
            self.page(name, roster.tenant(name), status, depths.get(name))
        };
        names.iter().map(page).collect()
    }

    fn page(
        &self,
        name: &TenantName,
        tenant: Option<&Arc<Tenant>>,
        status: Option<TenantStatus>,
        depth: Option<&Arc<Depth>>,
    ) -> TenantPage {
        let tally = self.shown.spool.tally().tenant(name);
        let oldest = depth.and_then(|depth| depth.oldest());
        let messages = depth.map_or_else(BTreeMap::new, |depth| {
            depth.states().iter().map(|(state, number)| ((*state).to_owned(), *number)).collect()
        });
        let mut page = TenantPage {
            id: name.to_string(),
            state: "ok".to_owned(),
            messages,
            oldest: oldest.map(|oldest| oldest.to_string()),
            bytes: tally.bytes(),
            ..TenantPage::default()
        };
        let Some(tenant) = tenant else {
            page.state = "unknown".to_owned();
            page.trouble.push("its mail is held: the configuration does not have it".to_owned());
            return page;
        };
        page.suspended_mailboxes = tenant
            .suspended_mailboxes
            .iter()
            .map(|(mailbox, suspension)| MailboxPage {
                mailbox: mailbox.to_string(),
                waits: suspension_page(suspension),
            })
            .collect();
        page.suspended_mailboxes.sort_by(|one, other| one.mailbox.cmp(&other.mailbox));
        if let Some(suspension) = &tenant.suspended {
            page.state = Blocked::SUSPENDED.to_owned();
            page.why = Some(suspension_page(suspension));
            return page;
        }
        if let Some(TenantStatus { blocked, asleep, mailboxes_asleep }) = status {
            if let Some(waits) = &blocked {
                page.state = "blocked".to_owned();
                page.why = Some(waits.into());
                if waits.class != Blocked::THROTTLED {
                    page.trouble.push(format!("blocked ({}): {}", waits.class, waits.why));
                }
            }
            page.mailboxes_asleep = mailboxes_asleep;
            for (mailbox, waits) in &asleep {
                if waits.limit == Some(LimitKind::Mailbox) {
                    page.trouble.push(waits.why.clone());
                }
                page.asleep.push(MailboxPage { mailbox: mailbox.to_string(), waits: waits.into() });
            }
        }
        match page.messages.get("held").copied().unwrap_or(0) {
            0 => {}
            1 => page.trouble.push("a message is held: queue list --state held".to_owned()),
            held => page.trouble.push(format!("{held} messages are held: queue list --state held")),
        }
        let is_old = oldest.is_some_and(|oldest| clock::now().since(oldest) > LONG);
        if is_old && page.trouble.is_empty() {
            page.trouble.push(format!("mail has been waiting for more than {} hours", LONG.as_secs() / 3600));
        }
        page
    }
}

async fn list(State(desk): Page, uri: Uri) -> Response {
    let query = match Query::<TenantsQuery>::try_from_uri(&uri) {
        Ok(Query(query)) => query,
        Err(error) => return failed(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LARGEST_LIMIT).contains(&limit) {
        let error = format!("limit: {limit} is out of range: write a number from 1 to {LARGEST_LIMIT}");
        return failed(StatusCode::BAD_REQUEST, error);
    }
    let (names, depths) = desk.tenants();
    let after = query.cursor.unwrap_or_default();
    let names: Vec<_> = names.into_iter().filter(|name| name.as_str() > after.as_str()).collect();
    let mut page = TenantsPage::default();
    'names: for part in names.chunks(limit) {
        for tenant in desk.pages(part, &depths).await {
            if query.in_trouble && tenant.trouble.is_empty() {
                continue;
            }
            if page.tenants.len() == limit {
                page.next = page.tenants.last().map(|last| last.id.clone());
                break 'names;
            }
            page.tenants.push(tenant);
        }
    }
    Json(page).into_response()
}

async fn show(State(desk): Page, Path(name): Path<String>) -> Response {
    let Ok(name) = name.parse::<TenantName>() else { return no_tenant(&name) };
    let (names, depths) = desk.tenants();
    if !names.contains(&name) {
        return no_tenant(name.as_str());
    }
    let mut pages = desk.pages(std::slice::from_ref(&name), &depths).await;
    let Some(mut page) = pages.pop() else { return stopping() };
    let roster = desk.shown.by_hand.roster.now();
    page.configuration = roster.tenant(&name).map(|tenant| ConfigurationPage {
        cloud: tenant.cloud.name.to_string(),
        directory: tenant.directory.clone(),
        client_id: tenant.client_id.clone(),
        route: match tenant.route {
            RouteRule::Graph => "graph",
            RouteRule::Smtp => "smtp",
            RouteRule::Auto => "auto",
        }
        .to_owned(),
    });
    Json(page).into_response()
}

fn no_tenant(name: &str) -> Response {
    failed(StatusCode::NOT_FOUND, format!("the running relay has no tenant {}", Outside::new(name)))
}

async fn suspend(
    State(desk): Page,
    Path(name): Path<String>,
    Extension(by): Extension<Actor>,
    body: Bytes,
) -> Response {
    change(&desk, &name, &by, &body, true).await
}

async fn resume(
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
    let reason = reason.filter(|reason| !reason.is_empty());
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

/// Tenants in trouble that the status names.
const NAMED: usize = 50;

async fn status(State(desk): Page) -> Json<StatusPage> {
    let (names, depths) = desk.tenants();
    let names: Vec<_> = names.into_iter().collect();
    let pages = desk.pages(&names, &depths).await;
    let mut status = StatusPage {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        up: desk.flow.up().as_secs(),
        not_ready: super::not_ready(&desk.shown),
        accepted: desk.flow.accepted(),
        delivered: desk.flow.delivered(),
        tenants: pages.len(),
        quarantined: desk.shown.metrics.quarantine(),
        ..StatusPage::default()
    };
    let oldest = depths.values().filter_map(|depth| depth.oldest()).min();
    status.oldest = oldest.map(|oldest| oldest.to_string());
    for page in pages {
        for (state, number) in &page.messages {
            *status.messages.entry(state.clone()).or_default() += number;
        }
        status.suspended += usize::from(page.state == Blocked::SUSPENDED);
        if !page.trouble.is_empty() {
            status.in_trouble.push(page);
        }
    }
    status.tenants_in_trouble = status.in_trouble.len();
    status.in_trouble.sort_by_key(|page| std::cmp::Reverse(page.messages.values().sum::<u64>()));
    status.in_trouble.truncate(NAMED);
    Json(status)
}
