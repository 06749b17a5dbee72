//! `m365-relay queue retry`, `hold`, `release`, `bounce`, `delete` and `requeue`: what is done to messages.
//!
//! Messages are named by their ids or by filters. With filters, the messages are found first, and then
//! exactly these are acted on: what comes in meanwhile is left alone.

use std::{
    io::{IsTerminal, stdin},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde::Serialize;

use super::filter::{Filters, Pages};
use crate::{
    admin::{Action, ActionResponse, ActionsRequest, ActionsResponse},
    cli::{config_path::ConfigPath, console, daemon::Daemon, progress::Progress},
};
use relay_mail::{MessageId, outside::Outside};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The messages' ids, as in the log, the reply to the client and the Received field
    #[arg(value_name = "ID", conflicts_with_all = FILTERS)]
    ids: Vec<MessageId>,
    #[command(flatten)]
    filters: Filters,
    /// All messages of all tenants
    #[arg(long, conflicts_with_all = FILTERS, conflicts_with = "ids")]
    all: bool,
    /// Why, in words: for the log, for whoever asks why a message is held, and for the sender of one that is
    /// bounced
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before more than one message is acted on
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    config: ConfigPath,
    /// Print what became of each message as a JSON array instead of text
    #[arg(long)]
    json: bool,
}

const FILTERS: [&str; 9] =
    ["tenant", "mailbox", "from", "to", "state", "why", "older_than", "larger_than", "message_id"];

/// Messages of one request, and of one page of those that are found.
const AT_A_TIME: usize = 100;
const PAGE: usize = 1000;

/// Messages that cannot be acted on are named, and do not stop the others.
pub(super) fn run(action: Action, args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let mut ids: Vec<String> = args.ids.iter().map(ToString::to_string).collect();
    if ids.is_empty() {
        if args.filters.is_empty() && !args.all {
            bail!("name messages by their ids or by filters such as --tenant, or --all of them");
        }
        ids = find(&daemon, &args.filters)?;
    }
    if args.dry_run {
        return would(action, &ids, args.json);
    }
    if ids.len() > 1 && !args.yes && !is_confirmed(action, ids.len())? {
        bail!("nothing was done");
    }
    act(&daemon, action, &ids, args)
}

fn find(daemon: &Daemon, filters: &Filters) -> anyhow::Result<Vec<String>> {
    let mut query = filters.query();
    query.brief = true;
    query.limit = Some(PAGE);
    let mut pages = Pages::new(daemon, query);
    let mut progress = Progress::new();
    let mut ids = Vec::new();
    while let Some(page) = pages.next()? {
        ids.extend(page.messages.into_iter().map(|message| message.id));
        progress.looked_at(page.looked_at, ids.len());
    }
    Ok(ids)
}

/// What would be done to a message.
#[derive(Serialize)]
struct Plan<'a> {
    id: &'a str,
    would: Action,
}

fn would(action: Action, ids: &[String], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let plans: Vec<_> = ids.iter().map(|id| Plan { id, would: action }).collect();
        console::say(console::json(&plans)?)?;
    } else {
        let lines: String = ids.iter().map(|id| format!("{id} would be {}\n", action.past())).collect();
        console::show(&lines, "")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_confirmed(action: Action, messages: usize) -> anyhow::Result<bool> {
    let action = action.as_str();
    if !stdin().is_terminal() {
        bail!("{messages} messages: add --yes to {action} them all, or --dry-run to see which they are");
    }
    console::ask(&format!("{action} {messages} messages? [y/N] "))?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn act(daemon: &Daemon, action: Action, ids: &[String], args: &Args) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::new();
    let mut is_first = true;
    let mut failed = 0;
    if args.json {
        console::say("[")?;
    }
    let mut done = 0;
    for part in ids.chunks(AT_A_TIME) {
        let request = ActionsRequest { action, ids: part.to_vec(), reason: args.reason.clone() };
        let text = daemon.order("/api/v1/messages/actions", &request)?;
        let ActionsResponse { results } =
            serde_json::from_str(&text).context("cannot understand the relay's answer")?;
        let mut out = String::new();
        let mut err = String::new();
        for result in &results {
            failed += usize::from(result.error.is_some());
            if args.json {
                let comma = if std::mem::take(&mut is_first) { " " } else { "," };
                out += &format!("{comma}{}\n", console::json(result)?);
            } else {
                say(action, result, &mut out, &mut err);
            }
        }
        console::show(&out, &err)?;
        done += results.len();
        progress.done(done, ids.len());
    }
    if args.json {
        console::say("]")?;
    } else if ids.is_empty() {
        console::say("no messages")?;
    } else if ids.len() > 1 {
        let rest = if failed > 0 { format!(", {failed} left alone") } else { String::new() };
        console::say(format_args!("{} messages {}{rest}", done - failed, action.past()))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(action: Action, result: &ActionResponse, out: &mut String, err: &mut String) {
    let ActionResponse { id, done, now, error } = result;
    if let Some(error) = error {
        *err += &format!("m365-relay: {}\n", Outside::new(error));
    } else if let Some(done) = done {
        let more = match (action, now) {
            (Action::Requeue, Some(now)) => format!(": it is {now} now"),
            (Action::Bounce, Some(now)) => format!(": the report to its sender is {now}"),
            (Action::Bounce, None) => ": its sender is not to be told".to_owned(),
            _ => String::new(),
        };
        *out += &format!("{id} {done}{more}\n");
    }
}
