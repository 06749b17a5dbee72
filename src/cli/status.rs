//! `m365-relay status`: one screen. Is mail flowing, who is in trouble, what to do next?

use std::{fmt::Write, process::ExitCode};

use anyhow::Context;

use super::{config_path::ConfigPath, console, daemon::Daemon};
use crate::admin::{StatusPage, TenantPage};
use relay_mail::outside::Outside;

/// Say whether mail is flowing, who is in trouble, and what to do next
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigPath,
    /// Print the relay's JSON instead of text
    #[arg(long)]
    json: bool,
    /// Succeed if mail is taken, whoever is in trouble: for probes
    #[arg(long)]
    ready: bool,
}

/// Exit code 1: no mail is taken; or, unless only that is asked for, a tenant is in trouble, or something is
/// in the quarantine.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let text = daemon.ask_for("/api/v1/status", &())?;
    let page: StatusPage = serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    if args.json {
        console::say(console::json(&page)?)?;
    } else {
        console::show(&shown(&page)?, "")?;
    }
    let is_well = if args.ready { page.not_ready.is_none() } else { is_well(&page) };
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_well(page: &StatusPage) -> bool {
    page.not_ready.is_none() && page.tenants_in_trouble == 0 && page.quarantined == 0
}

/// Tenants that are shown, and characters of what is wrong with one.
const NAMED: usize = 10;
const LONGEST: usize = 300;

fn shown(page: &StatusPage) -> Result<String, std::fmt::Error> {
    let StatusPage { version, up, not_ready, accepted, delivered, messages, oldest, .. } = page;
    let StatusPage { tenants, suspended, in_trouble, tenants_in_trouble, quarantined, .. } = page;
    let mut out = String::new();
    let up = humantime::format_duration(std::time::Duration::from_secs(*up));
    writeln!(out, "m365-relay {version}, up {up}")?;
    match not_ready {
        None => writeln!(out, "mail is taken")?,
        Some(reason) => writeln!(out, "NO MAIL IS TAKEN: {}", Outside::new(reason))?,
    }
    let [minute, ten] = accepted;
    writeln!(out, "accepted   {minute} in the last minute, {ten} in ten minutes")?;
    let [minute, ten] = delivered;
    writeln!(out, "delivered  {minute} in the last minute, {ten} in ten minutes")?;
    let states: Vec<_> = messages
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    let states = if states.is_empty() { "none".to_owned() } else { states.join(", ") };
    let oldest = oldest.as_ref().map(|oldest| format!("; the oldest since {oldest}")).unwrap_or_default();
    writeln!(out, "messages   {states}{oldest}")?;
    writeln!(out, "tenants    {tenants}, {suspended} suspended, {tenants_in_trouble} in trouble")?;
    if *quarantined > 0 {
        writeln!(out, "\nquarantine {quarantined}: m365-relay quarantine list")?;
    }
    if !in_trouble.is_empty() {
        out.push('\n');
    }
    for tenant in in_trouble.iter().take(NAMED) {
        trouble(tenant, &mut out)?;
    }
    if *tenants_in_trouble > NAMED {
        writeln!(out, "and {} more: m365-relay tenant list --in-trouble", tenants_in_trouble - NAMED)?;
    }
    Ok(out)
}

fn trouble(tenant: &TenantPage, out: &mut String) -> std::fmt::Result {
    let TenantPage { id, trouble, state, .. } = tenant;
    let waiting: u64 = tenant.messages.values().sum();
    for what in trouble.iter().take(1) {
        writeln!(out, "{}  {waiting} waiting  {}", Outside::new(id), Outside::up_to(LONGEST, what))?;
    }
    let next = match state.as_str() {
        "unknown" => "add it to the configuration and reload, or m365-relay queue delete --tenant",
        "blocked" => "m365-relay tenant check",
        "invalid" => {
            return writeln!(out, "    correct that and reload; m365-relay check-config lists every mistake");
        }
        _ => "m365-relay tenant show",
    };
    writeln!(out, "    {next} {}", Outside::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen() {
        let tenant = |n: u64| TenantPage {
            id: format!("t{n}"),
            state: "blocked".into(),
            trouble: vec!["blocked (credential): wrong secret".into()],
            messages: [("blocked".to_owned(), n)].into(),
            ..TenantPage::default()
        };
        let mut page = StatusPage {
            version: "1.0.0".into(),
            up: 3700,
            accepted: [1, 20],
            delivered: [2, 19],
            messages: [("ready".to_owned(), 4), ("held".to_owned(), 0)].into(),
            tenants: 300,
            suspended: 1,
            ..StatusPage::default()
        };
        assert!(is_well(&page));
        assert_eq!(
            shown(&page).unwrap(),
            "m365-relay 1.0.0, up 1h 1m 40s\nmail is taken\naccepted   1 in the last minute, 20 in ten minutes\n\
             delivered  2 in the last minute, 19 in ten minutes\nmessages   4 ready\n\
             tenants    300, 1 suspended, 0 in trouble\n"
        );
        page.in_trouble = (1..=50).map(tenant).collect();
        page.tenants_in_trouble = 60;
        page.not_ready = Some("spool: no\u{1b}".into());
        let text = shown(&page).unwrap();
        assert!(text.contains("NO MAIL IS TAKEN: spool: no\\u{1b}\n"), "{text}");
        assert!(
            text.contains(
                "t1  1 waiting  blocked (credential): wrong secret\n    m365-relay tenant check t1\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with("and 50 more: m365-relay tenant list --in-trouble\n") && text.lines().count() < 30
        );
    }
}
