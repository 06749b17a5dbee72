//! `m365-relay quarantine export ID… DIR`: entries as files. They stay in the quarantine.

use std::{fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use serde_json::Value;

use super::list::path;
use crate::cli::{config_path::ConfigPath, console, daemon::Daemon};

/// Write messages in the quarantine to files: ID.eml, what is left of the body, and ID.json, why and whose
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The entries, as in the list
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    #[command(flatten)]
    config: ConfigPath,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    fs::create_dir_all(&args.to).with_context(|| args.to.display().to_string())?;
    for id in &args.ids {
        let text = daemon.ask_for(&path(id), &())?;
        let entry: Value = serde_json::from_str(&text).context("cannot understand the relay's answer")?;
        // As the relay writes it, and so safe as a name of a file.
        let Some(name) = entry["id"].as_str().filter(|name| name.bytes().all(is_plain)) else {
            bail!("cannot understand the relay's answer");
        };
        let (status, octets) = daemon.octets(&format!("{}/content", path(id)))?;
        if status == 200 {
            write(&args.to.join(format!("{name}.eml")), &octets)?;
        }
        write(&args.to.join(format!("{name}.json")), format!("{entry:#}\n").as_bytes())?;
        console::say(format_args!("{}", args.to.join(name).display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'-'
}

/// What others may not read: it is mail.
fn write(path: &std::path::Path, octets: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| path.display().to_string())?;
    file.write_all(octets).and_then(|()| file.sync_all()).with_context(|| path.display().to_string())
}
