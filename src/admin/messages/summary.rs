//! `GET /api/v1/queue`: how many messages there are, in rows, by age.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{ASKED_AT_A_TIME, failed};
use crate::{
    admin::{Desk, Page},
    clock,
    schedule::{Ages, MessageState, Selection, SurveyBy},
};
use relay_mail::{TenantName, outside::Outside};

/// The query.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SummaryQuery {
    /// `tenant`, `mailbox`, `state` or `why`.
    by: Option<String>,
    /// Of this tenant only.
    tenant: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryPage {
    /// What makes a row.
    pub by: String,
    /// Seconds; each number of `ages` counts messages younger than that, and the last one all others.
    pub up_to: Vec<u64>,
    /// Most messages first.
    pub rows: Vec<SummaryRow>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Empty for mail of tenants that the configuration does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What they wait for. For those that are tried again: `retry`, or what their last attempt failed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub messages: u64,
    pub ages: Vec<u64>,
}

pub(super) async fn summary(State(desk): Page, uri: Uri) -> Response {
    let query = match Query::<SummaryQuery>::try_from_uri(&uri) {
        Ok(Query(query)) => query,
        Err(error) => return failed(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let by = match query.by.as_deref().unwrap_or("tenant") {
        "tenant" => SurveyBy::Tenant,
        "mailbox" => SurveyBy::Mailbox,
        "state" => SurveyBy::State,
        "why" => SurveyBy::Why,
        other => {
            let other = Outside::new(other);
            let error = format!("by: {other} is not known: write tenant, mailbox, state or why");
            return failed(StatusCode::BAD_REQUEST, error);
        }
    };
    let wanted = match query.tenant.as_deref().map(str::parse::<TenantName>).transpose() {
        Ok(wanted) => wanted,
        Err(error) => return failed(StatusCode::BAD_REQUEST, format!("tenant: {error}")),
    };
    match count(&desk, by, wanted.as_ref()).await {
        Some(page) => Json(page).into_response(),
        None => failed(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping".into()),
    }
}

/// `None`: the scheduler has stopped.
async fn count(desk: &Desk, by: SurveyBy, wanted: Option<&TenantName>) -> Option<SummaryPage> {
    // Rows by tenant, if that makes a row, and by the rest.
    let mut rows: BTreeMap<(Option<TenantName>, String), Ages> = BTreeMap::new();
    for (tenant, depth) in desk.shown.depths.all() {
        let is_empty = depth.states().iter().all(|(_, messages)| *messages == 0);
        if is_empty || wanted.is_some_and(|wanted| *wanted != tenant) {
            continue;
        }
        let counted = desk.shown.inspector.survey(&tenant, by).await?;
        let of = matches!(by, SurveyBy::Tenant | SurveyBy::Mailbox).then_some(tenant);
        for (key, ages) in counted {
            // Those are counted by what their attempts failed for.
            if by != SurveyBy::Why || key != RETRY {
                *rows.entry((of.clone(), key)).or_default() += ages;
            }
        }
    }
    if by == SurveyBy::Why {
        for (class, ages) in failures(desk, wanted).await? {
            *rows.entry((None, class)).or_default() += ages;
        }
    }
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|((tenant, key), ages)| {
            let is = |wanted| (by == wanted).then(|| key.clone());
            SummaryRow {
                tenant: tenant.map(|tenant| tenant.to_string()),
                mailbox: is(SurveyBy::Mailbox),
                state: is(SurveyBy::State),
                why: is(SurveyBy::Why),
                messages: ages.total(),
                ages: ages.0.to_vec(),
            }
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.messages));
    Some(SummaryPage { by: name(by).to_owned(), up_to: Ages::UP_TO.to_vec(), rows })
}

const RETRY: &str = "retry";

/// The messages that are tried again, by what their last attempt failed for.
async fn failures(desk: &Desk, tenant: Option<&TenantName>) -> Option<BTreeMap<String, Ages>> {
    let mut rows: BTreeMap<String, Ages> = BTreeMap::new();
    let selection =
        Selection { tenant: tenant.cloned(), state: Some(MessageState::Scheduled), ..Selection::default() };
    let now = clock::wall();
    let mut after = None;
    loop {
        let listing = desk.shown.inspector.list(selection.clone(), after, ASKED_AT_A_TIME).await?;
        let retried = listing
            .found
            .iter()
            .filter(|(_, status)| status.waits.as_ref().is_some_and(|waits| waits.class == RETRY));
        let ids: Vec<_> = retried.map(|(id, _)| *id).collect();
        // A spool that cannot answer does not know; nor does it of mail that it has forgotten the attempts
        // of.
        let found = desk.shown.spool.find(ids.clone()).await.unwrap_or_default();
        for id in ids {
            let last = found.get(&id).and_then(|found| found.failed.list().pop());
            let class = last.map_or_else(|| RETRY.to_owned(), |last| format!("{RETRY}: {}", last.class));
            rows.entry(class).or_default().add(now.since(id.accepted()));
        }
        after = listing.next;
        if after.is_none() {
            return Some(rows);
        }
    }
}

const fn name(by: SurveyBy) -> &'static str {
    match by {
        SurveyBy::Tenant => "tenant",
        SurveyBy::Mailbox => "mailbox",
        SurveyBy::State => "state",
        SurveyBy::Why => "why",
    }
}
