//! `m365-relay queue summary`: how many messages there are, in rows, by age.

use std::{fmt::Write, process::ExitCode};

use anyhow::Context;
use serde::Serialize;

use crate::{
    admin::{SummaryPage, SummaryRow},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::outside::Outside;

/// Count messages in the queues: a row for each tenant, a column for each age
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What makes a row
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = By::Tenant)]
    by: By,
    /// Of this tenant only
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
    /// Print a JSON array instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Tenant,
    Mailbox,
    State,
    /// What they wait for
    Why,
    /// All of them in one row
    Age,
}

#[derive(Serialize)]
struct Query<'a> {
    by: By,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let by = if args.by == By::Age { By::State } else { args.by };
    let text = daemon.ask_for("/api/v1/queue", &Query { by, tenant: args.tenant.as_deref() })?;
    let mut page: SummaryPage =
        serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    if args.by == By::Age {
        page.rows = vec![total(&page)];
    }
    if args.json {
        console::say(console::json(&page.rows)?)?;
    } else {
        console::show(&shown(&page, args.by != By::Age)?, "")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn total(page: &SummaryPage) -> SummaryRow {
    let mut total = SummaryRow { ages: vec![0; page.up_to.len() + 1], ..SummaryRow::default() };
    for row in &page.rows {
        total.messages += row.messages;
        total.ages.iter_mut().zip(&row.ages).for_each(|(sum, more)| *sum += more);
    }
    total
}

/// Characters of a name that are shown.
const LONGEST: usize = 60;

fn shown(page: &SummaryPage, has_total: bool) -> Result<String, std::fmt::Error> {
    let mut rows: Vec<(String, &SummaryRow)> = page.rows.iter().map(|row| (name(row), row)).collect();
    let total = total(page);
    if has_total || rows.is_empty() {
        rows.push(("TOTAL".into(), &total));
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = format!("{:<width$}  {:>9}", "", "MESSAGES");
    for seconds in &page.up_to {
        write!(out, "  {:>7}", format!("<{}", age(*seconds)))?;
    }
    writeln!(out, "  {:>7}", "OLDER")?;
    for (name, SummaryRow { messages, ages, .. }) in rows {
        write!(out, "{name:<width$}  {messages:>9}")?;
        for number in ages {
            write!(out, "  {number:>7}")?;
        }
        out.push('\n');
    }
    Ok(out)
}

fn name(row: &SummaryRow) -> String {
    let SummaryRow { tenant, mailbox, state, why, .. } = row;
    let parts: Vec<_> = [tenant, mailbox, state, why]
        .into_iter()
        .flatten()
        .map(|part| Outside::up_to(LONGEST, if part.is_empty() { "-" } else { part }).to_string())
        .collect();
    parts.join("  ")
}

fn age(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let row = |tenant: &str, messages, ages: [u64; 3]| SummaryRow {
            tenant: Some(tenant.into()),
            messages,
            ages: ages.into(),
            ..SummaryRow::default()
        };
        let page = SummaryPage {
            by: "tenant".into(),
            up_to: vec![300, 172_800],
            rows: vec![row("contoso", 12, [10, 2, 0]), row("x", 1, [0, 0, 1])],
        };
        assert_eq!(
            shown(&page, true).unwrap(),
            "          MESSAGES      <5m      <2d    OLDER\n\
             contoso         12       10        2        0\n\
             x                1        0        0        1\n\
             TOTAL           13       10        2        1\n"
        );
    }
}
