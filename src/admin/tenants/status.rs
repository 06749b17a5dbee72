//! `/api/v1/status`: is mail flowing, and who is in trouble?

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{TenantPage, mistakes};
use crate::{
    admin::{Page, not_ready},
    schedule::Blocked,
};

/// `/api/v1/status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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

/// Tenants in trouble that the status names.
const NAMED: usize = 50;

pub(super) async fn status(State(desk): Page) -> Json<StatusPage> {
    let (names, depths) = desk.tenants();
    let names: Vec<_> = names.into_iter().collect();
    let mut pages = desk.pages(&names, &depths).await;
    pages.extend(mistakes::of_nobody(desk.shown.by_hand.roster.now().invalid()));
    let mut status = StatusPage {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        up: desk.flow.up().as_secs(),
        not_ready: not_ready(&desk.shown),
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
