//! `m365-relay reload`: makes the running relay read its configuration again.

use std::{
    fmt::{self, Write},
    process::ExitCode,
};

use anyhow::Context;

use super::{config_path::ConfigPath, console, daemon::Daemon};
use crate::{admin::Reloaded, config::Changes};
use relay_mail::outside::json_visible;

/// Make the running relay read its configuration again: the tenants and all that belongs to them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigPath,
    /// Print the relay's JSON instead of text
    #[arg(long)]
    json: bool,
}

/// More names than this are shown as a number.
const NAMED: usize = 20;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // The relay reads the rest itself: it may have secrets in its environment that this process does not
    // have.
    let daemon = Daemon::of(&args.config.path())?;
    let (status, text) = daemon.post("/api/v1/reload")?;
    if !matches!(status, 200 | 422) {
        return Err(daemon.strange(status));
    }
    let reloaded: Reloaded = serde_json::from_str(&text).context("cannot understand the relay's answer")?;
    if args.json {
        console::say(json_visible(&text))?;
    } else {
        let mut out = String::new();
        let mut err = String::new();
        show(&reloaded, &mut out, &mut err)?;
        console::show(&out, &err)?;
    }
    Ok(if reloaded.ok && reloaded.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(reloaded: &Reloaded, out: &mut String, err: &mut String) -> fmt::Result {
    let Reloaded { ok, errors, warnings, changes } = reloaded;
    for error in errors {
        writeln!(err, "{error}")?;
    }
    for warning in warnings {
        writeln!(err, "warning: {warning}")?;
    }
    if !ok {
        return writeln!(err, "m365-relay: nothing has changed: the relay keeps its current configuration");
    }
    let Changes { added, changed, removed, invalid, unchanged, at_restart } = changes;
    for (what, names) in [("added", added), ("changed", changed), ("removed", removed), ("invalid", invalid)]
    {
        match names.len() {
            0 => {}
            1..=NAMED => writeln!(out, "{what:<10} {}", names.join(", "))?,
            many => writeln!(out, "{what:<10} {many} tenants")?,
        }
    }
    writeln!(out, "unchanged  {unchanged} tenant{}", if *unchanged == 1 { "" } else { "s" })?;
    if !invalid.is_empty() {
        writeln!(
            err,
            "m365-relay: what is invalid stays as it was, or is blocked if it is new: correct the mistakes \
             above, then reload again"
        )?;
    }
    for table in at_restart {
        writeln!(err, "warning: {table} has changed too: it takes effect at the next start")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(reloaded: &Reloaded) -> (String, String) {
        let mut out = String::new();
        let mut err = String::new();
        show(reloaded, &mut out, &mut err).unwrap();
        (out, err)
    }

    #[test]
    fn for_people() {
        let changes = Changes {
            added: vec!["a".into(), "b".into()],
            changed: (0..21).map(|n| format!("t{n}")).collect(),
            removed: Vec::new(),
            invalid: Vec::new(),
            unchanged: 1,
            at_restart: vec!["smtp".into()],
        };
        let (out, err) = shown(&Reloaded { ok: true, errors: Vec::new(), warnings: Vec::new(), changes });
        assert_eq!(out, "added      a, b\nchanged    21 tenants\nunchanged  1 tenant\n");
        assert_eq!(err, "warning: smtp has changed too: it takes effect at the next start\n");
    }
}
