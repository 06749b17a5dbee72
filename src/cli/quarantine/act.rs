//! `m365-relay quarantine release` and `delete`.

use std::process::ExitCode;

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};

use super::list::path;
use crate::{
    admin::{ErrorPage, QuarantineDone},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::outside::Outside;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The entries, as in the list
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    config: ConfigPath,
    /// Print what became of each entry as a JSON array instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Release,
    Delete,
}

/// Entries that cannot be acted on are named, and do not stop the others.
pub(super) fn run(act: Act, args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let mut out = String::new();
    let mut err = String::new();
    let mut answers = Vec::new();
    for id in &args.ids {
        let (method, path) = match act {
            Act::Release => (Method::POST, format!("{}/release", path(id))),
            Act::Delete => (Method::DELETE, path(id)),
        };
        let (status, text) = daemon.send(method, &path)?;
        let unclear = || "cannot understand the relay's answer";
        match status {
            200 => {
                let QuarantineDone { id, done, now } = serde_json::from_str(&text).with_context(unclear)?;
                let now = now.map(|now| format!(": it is {now} now")).unwrap_or_default();
                out += &format!("{id} {done}{now}\n");
                answers.push(serde_json::from_str(&text)?);
            }
            404 | 409 => {
                let ErrorPage { error } = serde_json::from_str(&text).with_context(unclear)?;
                err += &format!("m365-relay: {}: {}\n", Outside::new(id), Outside::new(&error));
                answers.push(json!({ "id": id, "error": error }));
            }
            _ => return Err(daemon.strange(status)),
        }
    }
    if args.json {
        console::say(console::json(&Value::Array(answers))?)?;
    } else {
        console::show(&out, &err)?;
    }
    Ok(if err.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
