//! `m365-relay top`: the status, live: tenants by what they have waiting, how fast it goes, who sleeps and
//! for how long.
//!
//! Asks the running relay every two seconds, over the API. What it holds does not grow with the queue, and of
//! many tenants it keeps those with the most mail. `q`, Esc and Ctrl-C end it; the terminal is left as it
//! was.

mod screen;

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde::Serialize;
use tokio::time::Instant;

use super::{config_path::ConfigPath, daemon::Daemon};
use crate::{
    admin::{StatusPage, TenantPage, TenantsPage},
    clock,
};

/// Show the relay's status live: tenants by depth, rates, who sleeps; q ends it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigPath,
}

/// How often the relay is asked.
const EVERY: Duration = Duration::from_secs(2);
/// Tenants that are kept of one answer: those with the most mail.
const KEPT: usize = 200;

#[derive(Serialize)]
struct Query {
    limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// What is on the screen.
struct View {
    status: StatusPage,
    tenants: Vec<Line>,
    /// Why the relay did not answer the last time.
    trouble: Option<String>,
}

/// A tenant, and by how many messages a minute its queue grows or shrinks.
struct Line {
    tenant: TenantPage,
    growth: Option<f64>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "top needs a terminal: for a program, or once, use m365-relay status or tenant list, with --json"
        );
    }
    let daemon = Daemon::of(&args.config.path())?;
    // Before the screen is taken, so that an error is a line.
    let mut view = View::ask(&daemon, None)?;
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let ended = live(&daemon, &mut terminal, &mut view);
    ratatui::restore();
    ended.map(|()| ExitCode::SUCCESS)
}

fn live(daemon: &Daemon, terminal: &mut DefaultTerminal, view: &mut View) -> anyhow::Result<()> {
    loop {
        let asked = Instant::now();
        while asked.elapsed() < EVERY {
            terminal.draw(|frame| screen::draw(frame, view, now()))?;
            // Each second, since there are countdowns.
            let wait = EVERY.saturating_sub(asked.elapsed()).min(Duration::from_secs(1));
            if event::poll(wait)? && is_end(&event::read()?) {
                return Ok(());
            }
        }
        match View::ask(daemon, Some((view, asked.elapsed()))) {
            Ok(new) => *view = new,
            Err(error) => view.trouble = Some(format!("{error:#}")),
        }
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_break = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (is_break || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

impl View {
    /// `before`: what was shown until now, and how old that is.
    fn ask(daemon: &Daemon, before: Option<(&Self, Duration)>) -> anyhow::Result<Self> {
        let text = daemon.ask_for("/api/v1/status", &())?;
        let status = serde_json::from_str(&text).context("cannot understand the relay's answer")?;
        let mut tenants: Vec<TenantPage> = Vec::new();
        let mut query = Query { limit: 1000, cursor: None };
        loop {
            let text = daemon.ask_for("/api/v1/tenants", &query)?;
            let page: TenantsPage =
                serde_json::from_str(&text).context("cannot understand the relay's answer")?;
            tenants.extend(page.tenants);
            tenants.sort_by_cached_key(|tenant| (std::cmp::Reverse(waiting(tenant)), tenant.id.clone()));
            tenants.truncate(KEPT);
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        Ok(Self::of(status, tenants, before))
    }

    fn of(status: StatusPage, tenants: Vec<TenantPage>, before: Option<(&Self, Duration)>) -> Self {
        let (then, age) = before.map_or_else(
            || (HashMap::new(), Duration::ZERO),
            |(view, age)| {
                (view.tenants.iter().map(|line| (&*line.tenant.id, waiting(&line.tenant))).collect(), age)
            },
        );
        let line = |tenant: TenantPage| {
            let growth = then.get(&*tenant.id).filter(|_| !age.is_zero()).map(|before| {
                #[allow(clippy::cast_precision_loss, reason = "no queue is that long")]
                let more = waiting(&tenant) as f64 - *before as f64;
                more * 60.0 / age.as_secs_f64()
            });
            Line { tenant, growth }
        };
        Self { status, tenants: tenants.into_iter().map(line).collect(), trouble: None }
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(clock::wall().as_millis())
}

/// Messages of all states.
fn waiting(tenant: &TenantPage) -> u64 {
    tenant.messages.values().sum()
}
