//! `m365-relay queue export DIR`: messages of the running relay as files, which `spool import` reads.
//!
//! With `--remove` it is a hand-over: a message is held, written, synced, and only then removed. So at every
//! moment it is in the relay or in the folder, and at no moment can both send it. A run that breaks off is
//! repeated.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::filter::{Filters, Pages};
use crate::{
    admin::{Action, ActionsRequest, ActionsResponse, MessagePage},
    cli::{config_path::ConfigPath, console, daemon::Daemon, progress::Progress},
};
use relay_mail::outside::Outside;

/// Write messages to files while the relay runs: ID.eml and ID.json, as `spool import` reads them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the files go
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    filters: Filters,
    /// Remove each message from the queue when its files are on stable storage
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    config: ConfigPath,
}

/// Messages that are handed over together.
const AT_A_TIME: usize = 50;
/// Why a message is held while it is handed over.
const HAND_OVER: &str = "it is being handed over by queue export";

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.filters.is_empty() {
        bail!("say which messages, for example --tenant NAME");
    }
    let daemon = Daemon::of(&args.config.path())?;
    let folder = &args.folder;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())?;
    let mut query = args.filters.query();
    query.brief = true;
    let mut pages = Pages::new(&daemon, query);
    pages.limit(1000);
    let mut found = Vec::new();
    let mut progress = Progress::new();
    while let Some(page) = pages.next()? {
        found.extend(page.messages);
        progress.looked_at(page.looked_at, found.len());
    }
    let mut left = 0;
    let mut done = 0;
    for part in found.chunks(AT_A_TIME) {
        left += hand_over(&daemon, part, args)?;
        done += part.len();
        progress.done(done, found.len());
    }
    let what = if args.remove { "written and removed" } else { "written" };
    let rest = if left > 0 { format!(", {left} left in the queue") } else { String::new() };
    console::say(format_args!("{} messages {what}{rest}", found.len() - left))?;
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns how many are left in the queue although they should not be, or could not be written.
fn hand_over(daemon: &Daemon, part: &[MessagePage], args: &Args) -> anyhow::Result<usize> {
    let mut left = 0;
    let mut written = Vec::new();
    for message in part {
        // One that an earlier run has held was not held before.
        let why = message.waits.as_ref().map_or("", |waits| &waits.why);
        let is_held = message.state == "held" && !why.ends_with(HAND_OVER);
        if args.remove
            && message.state != "held"
            && !act(daemon, Action::Hold, std::slice::from_ref(&message.id))?.is_empty()
        {
            left += 1;
            continue;
        }
        match write_one(daemon, &message.id, is_held, &args.folder) {
            Ok(()) => written.push(message.id.clone()),
            Err(error) => {
                left += 1;
                console::complain(format_args!("m365-relay: {}: {}", message.id, console::told_once(&error)));
            }
        }
    }
    File::open(&args.folder)?.sync_all()?;
    if args.remove && !written.is_empty() {
        left += act(daemon, Action::Delete, &written)?.len();
    }
    Ok(left)
}

/// Returns those to which it could not be done, and says why.
fn act(daemon: &Daemon, action: Action, ids: &[String]) -> anyhow::Result<Vec<String>> {
    let request = ActionsRequest { action, ids: ids.to_vec(), reason: Some(HAND_OVER.to_owned()) };
    let text = daemon.order("/api/v1/messages/actions", &request)?;
    let ActionsResponse { results } =
        serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    let mut undone = Vec::new();
    for result in results {
        if let Some(error) = result.error {
            console::complain(format_args!("m365-relay: {}", Outside::new(error)));
            undone.push(result.id);
        }
    }
    Ok(undone)
}

fn write_one(daemon: &Daemon, id: &str, is_held: bool, folder: &Path) -> anyhow::Result<()> {
    let (status, description) =
        daemon.octets(&format!("/api/v1/messages/{id}/description?held={is_held}"))?;
    let (other, content) = daemon.octets(&format!("/api/v1/messages/{id}/content"))?;
    if status != 200 || other != 200 {
        bail!("it has left the queue, or cannot be read");
    }
    let entry: Value =
        serde_json::from_slice(&description).context("cannot understand the relay's answer")?;
    let crc = format!("{:08x}", crc32fast::hash(&content));
    if entry["size"].as_u64() != Some(content.len() as u64) || entry["crc32"].as_str() != Some(&crc) {
        bail!("what the relay has sent is not what it has stored");
    }
    // The JSON comes last: a message that has one is complete.
    write(&folder.join(format!("{id}.eml")), &content)?;
    write(&folder.join(format!("{id}.json")), &description)
}

/// What others may not read: it is mail. The name is there when the file is whole and synced.
fn write(path: &Path, octets: &[u8]) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    let written = || {
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
        file.write_all(octets)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    written().with_context(|| path.display().to_string())
}
