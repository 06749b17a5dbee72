//! `m365-relay quarantine list` and `show ID`.

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    admin::{QuarantineEntry, QuarantinePage},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::{ByteSize, outside::Outside};

/// List what is in the quarantine
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigPath,
    /// Print a JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// Show an entry: whose it is, and why it is there
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The entry, as in the list
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    config: ConfigPath,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let text = daemon.ask_for("/api/v1/quarantine", &())?;
    let QuarantinePage { entries } =
        serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    if args.json {
        console::say(console::json(&entries)?)?;
    } else if entries.is_empty() {
        console::say("nothing is in the quarantine")?;
    } else {
        console::show(&entries.iter().map(line).collect::<String>(), "")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let text = daemon.ask_for(&path(&args.id), &())?;
    let entry: QuarantineEntry =
        serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    if args.json {
        console::say(console::json(&entry)?)?;
    } else {
        console::show(&shown(&entry), "")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The path of an entry, whatever the user has written.
pub(super) fn path(id: &str) -> String {
    let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/v1/quarantine/{id}")
}

fn size(entry: &QuarantineEntry) -> String {
    entry.size.map_or_else(|| "no body".to_owned(), |size| ByteSize(size).rounded().to_string())
}

/// Characters of a value that are shown.
const LONGEST: usize = 4096;

fn line(entry: &QuarantineEntry) -> String {
    let QuarantineEntry { id, time, reason, tenant, .. } = entry;
    let [time, tenant] = [time, tenant.as_ref().unwrap_or(&String::new())]
        .map(|text| Outside::new(if text.is_empty() { "-" } else { text }).to_string());
    let reason = Outside::up_to(LONGEST, reason);
    format!("{id}  {time}  {:>10}  {tenant}  {reason}\n", size(entry))
}

fn shown(entry: &QuarantineEntry) -> String {
    let QuarantineEntry { id, time, reason, tenant, from, to, .. } = entry;
    let size = size(entry);
    let mut lines = vec![("entry", &**id), ("time", time), ("reason", reason)];
    lines.extend(tenant.iter().map(|tenant| ("tenant", &**tenant)));
    lines.extend(from.iter().map(|from| ("from", if from.is_empty() { "<>" } else { from })));
    lines.extend(to.iter().map(|to| ("to", &**to)));
    lines.push(("size", &size));
    let line = |(name, value): (&str, &str)| format!("{name:<10} {}\n", Outside::up_to(LONGEST, value));
    lines.into_iter().map(line).collect()
}
