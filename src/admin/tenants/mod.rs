//! `/api/v1/tenants`: which tenants there are, and which of them are in trouble; who is suspended; and
//! `/api/v1/status`.

mod mistakes;
mod status;
mod suspension;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{
    Desk, Page,
    error_page::failed,
    messages::WaitsPage,
    reload::{self, stopping},
};
use crate::{
    clock,
    config::{RouteRule, Suspension, Tenant},
    schedule::{Blocked, Depth, TenantStatus, Waits},
    telemetry::LimitKind,
};
use relay_mail::{TenantName, outside::Outside};

pub use status::StatusPage;
pub use suspension::SuspendRequest;

const NOT_CONFIGURED: &str = "its mail is held: the configuration does not have it";
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
    /// Its name; for a file of tenants.d of which nobody knows whose tables are in it, the file's.
    pub id: String,
    /// `ok`, `suspended`, `blocked`, `invalid`: its configuration has mistakes; or `unknown`: the
    /// configuration does not have it.
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

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantsQuery {
    in_trouble: bool,
    limit: Option<usize>,
    cursor: Option<String>,
}

pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/status", get(status::status))
        .route("/tenants", get(list))
        .route("/tenants/{name}", get(show))
        .route("/tenants/{name}/retry", post(reload::retry))
        .route("/tenants/{name}/suspend", post(suspension::suspend))
        .route("/tenants/{name}/resume", post(suspension::resume))
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
    /// The configured tenants, including those with mistakes, and others that have mail all the same.
    fn tenants(&self) -> (BTreeSet<TenantName>, BTreeMap<TenantName, Arc<Depth>>) {
        let depths: BTreeMap<_, _> = self.shown.depths.all().into_iter().collect();
        let roster = self.shown.by_hand.roster.now();
        let invalid = roster.invalid().tenants.keys().filter_map(|name| name.parse().ok());
        let names = roster.tenants().keys().chain(depths.keys()).cloned().chain(invalid).collect();
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
            let mut page = self.page(name, roster.tenant(name), status, depths.get(name));
            if let Some(invalid) = roster.invalid().tenants.get(name.as_str()) {
                mistakes::add(&mut page, &invalid.problems, roster.tenant(name).is_some());
            }
            page
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
            page.trouble.push(NOT_CONFIGURED.to_owned());
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
    if page.next.is_none() {
        page.tenants.extend(mistakes::of_nobody(desk.shown.by_hand.roster.now().invalid()));
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
