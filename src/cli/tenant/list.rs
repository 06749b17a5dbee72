//! `m365-relay tenant list` and `show T`: which tenants the running relay has, and how each of them does.

use std::{fmt::Write, process::ExitCode};

use anyhow::Context;
use serde::Serialize;

use crate::{
    admin::{ConfigurationPage, MailboxPage, TenantPage, TenantsPage, WaitsPage},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::{ByteSize, outside::Outside};

/// List the running relay's tenants: how each does, and what it has waiting
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only those that somebody must do something about
    #[arg(long)]
    in_trouble: bool,
    #[command(flatten)]
    config: ConfigPath,
    /// Print a JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// Show one of the running relay's tenants: what waits, what is wrong, which mailboxes sleep
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// As in [tenants.NAME]
    #[arg(value_name = "TENANT")]
    tenant: String,
    #[command(flatten)]
    config: ConfigPath,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Query {
    in_trouble: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

pub(super) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let mut query = Query { in_trouble: args.in_trouble, cursor: None };
    let mut tenants = Vec::new();
    loop {
        let text = daemon.ask_for("/api/v1/tenants", &query)?;
        let page: TenantsPage =
            serde_json::from_str(&text).context("cannot understand the relay's answer")?;
        tenants.extend(page.tenants);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    if args.json {
        console::say(console::json(&tenants)?)?;
    } else {
        console::show(&listed(&tenants, args.in_trouble)?, "")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let text = daemon.ask_for(&path(&args.tenant), &())?;
    print(&text, args.json)
}

/// The path of a tenant, whatever the user has written.
pub(super) fn path(tenant: &str) -> String {
    let tenant = percent_encoding::utf8_percent_encode(tenant, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/v1/tenants/{tenant}")
}

/// Prints what the relay says of a tenant.
pub(super) fn print(text: &str, json: bool) -> anyhow::Result<ExitCode> {
    let page: TenantPage = serde_json::from_str(text).context("cannot understand the relay's answer")?;
    if json {
        console::say(console::json(&page)?)?;
    } else {
        console::show(&shown(&page)?, "")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(tenants: &[TenantPage], in_trouble: bool) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let width = tenants.iter().map(|tenant| tenant.id.chars().count()).max().unwrap_or(0).max(6);
    if !tenants.is_empty() {
        writeln!(out, "{:<width$}  {:<9}  {:>8}  {:>10}  TROUBLE", "TENANT", "STATE", "MESSAGES", "SIZE")?;
    }
    for tenant in tenants {
        let TenantPage { id, state, bytes, trouble, why, .. } = tenant;
        let messages: u64 = tenant.messages.values().sum();
        let size = ByteSize(*bytes).rounded().to_string();
        let said = match (trouble.split_first(), why) {
            (Some((first, [])), _) => first.clone(),
            (Some((first, more)), _) => format!("{first} (and {} more: tenant show {id})", more.len()),
            (None, Some(why)) => until(why),
            (None, None) => "-".to_owned(),
        };
        let (id, said) = (Outside::new(id).to_string(), Outside::new(said));
        writeln!(out, "{id:<width$}  {state:<9}  {messages:>8}  {size:>10}  {said}")?;
    }
    match (tenants.len(), in_trouble) {
        (0, true) => writeln!(out, "no tenant is in trouble")?,
        (0, false) => writeln!(out, "no tenants")?,
        (1, _) => writeln!(out, "1 tenant")?,
        (many, _) => writeln!(out, "{many} tenants")?,
    }
    Ok(out)
}

fn until(waits: &WaitsPage) -> String {
    let WaitsPage { why, until, .. } = waits;
    let until = until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
    format!("{why}{until}")
}

/// Characters of a value that are shown.
const LONGEST: usize = 4096;

fn shown(page: &TenantPage) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<11} {}", Outside::up_to(LONGEST, value));
    line("tenant", &page.id)?;
    line("state", &page.state)?;
    if let Some(why) = &page.why {
        line("because", &until(why))?;
    }
    for trouble in &page.trouble {
        line("trouble", trouble)?;
    }
    let states: Vec<_> = page
        .messages
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    line("messages", &if states.is_empty() { "none".to_owned() } else { states.join(", ") })?;
    line("size", &ByteSize(page.bytes).rounded().to_string())?;
    if let Some(oldest) = &page.oldest {
        line("oldest", oldest)?;
    }
    if let Some(ConfigurationPage { cloud, directory, client_id, route }) = &page.configuration {
        line("cloud", cloud)?;
        line("directory", directory)?;
        line("client id", client_id)?;
        line("route", route)?;
    }
    for MailboxPage { mailbox, waits } in &page.suspended_mailboxes {
        line("suspended", &format!("{mailbox}: {}", until(waits)))?;
    }
    for MailboxPage { mailbox, waits } in &page.asleep {
        line("asleep", &format!("{mailbox}: {}", until(waits)))?;
    }
    let unnamed = page.mailboxes_asleep.saturating_sub(page.asleep.len());
    if unnamed > 0 {
        line("asleep", &format!("and {unnamed} mailboxes more"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let waits = |why: &str| WaitsPage {
            class: "credential".into(),
            why: why.into(),
            limit: None,
            until: Some("2026-01-01T00:00:00Z".into()),
        };
        let page = TenantPage {
            id: "contoso".into(),
            state: "blocked".into(),
            why: Some(waits("wrong\u{1b}[2J secret")),
            trouble: vec!["blocked (credential): wrong\u{1b}[2J secret".into(), "more".into()],
            messages: [("blocked".to_owned(), 3), ("ready".to_owned(), 0)].into(),
            bytes: 2048,
            mailboxes_asleep: 2,
            asleep: vec![MailboxPage { mailbox: "a@x.se".into(), waits: waits("full") }],
            ..TenantPage::default()
        };
        let list = listed(std::slice::from_ref(&page), false).unwrap();
        assert_eq!(
            list,
            "TENANT   STATE      MESSAGES        SIZE  TROUBLE\ncontoso  blocked           3      2.0 KB  blocked \
             (credential): wrong\\u{1b}[2J secret (and 1 more: tenant show contoso)\n1 tenant\n"
        );
        assert_eq!(listed(&[], true).unwrap(), "no tenant is in trouble\n");
        let text = shown(&page).unwrap();
        for part in [
            "because     wrong\\u{1b}[2J secret, until 2026-01-01T00:00:00Z\n",
            "messages    3 blocked\n",
            "asleep      a@x.se: full, until 2026-01-01T00:00:00Z\nasleep      and 1 mailboxes more\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
