//! `m365-relay check-config`: is this configuration one that can be run?
//!
//! Reads the configuration as `serve` does, tries what it needs of this machine, and starts nothing. Every
//! mistake is written to standard error, one per line, and the exit code is 1; otherwise one line on standard
//! output, warnings on standard error, and 0. With `--json` there is one object on standard output in both
//! cases.

mod machine;

use std::{fmt::Write, path::Path, process::ExitCode};

use serde::Serialize;

use super::{config_path::ConfigPath, console};
use crate::config::{Config, Problem};
use machine::Tried;

/// Check the configuration: every error at once, with line and key
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigPath,
    /// Print {"ok": …, "errors": […], "warnings": […]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    errors: &'a [Problem],
    warnings: &'a [Problem],
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = String::new();
    let mut err = String::new();
    let ok = check(&args.config.path(), args.json, &mut out, &mut err)?;
    console::show(&out, &err)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the configuration can be run.
fn check(path: &Path, json: bool, out: &mut String, err: &mut String) -> anyhow::Result<bool> {
    let result = Config::load(path);
    let (errors, warnings) = match &result {
        Ok(config) => {
            let Tried { errors, warnings } = Tried::of(config);
            (errors, [config.warnings.as_slice(), &warnings].concat())
        }
        Err(errors) => (errors.problems().to_vec(), Vec::new()),
    };
    if json {
        let report = Report { ok: errors.is_empty(), errors: &errors, warnings: &warnings };
        writeln!(out, "{}", console::json(&report)?)?;
        return Ok(report.ok);
    }
    for error in &errors {
        writeln!(err, "{error}")?;
    }
    for warning in &warnings {
        writeln!(err, "warning: {warning}")?;
    }
    let Some(config) = result.ok().filter(|_| errors.is_empty()) else { return Ok(false) };
    let tenants = counted(config.tenants.len(), "tenant");
    let listeners = counted(config.smtp.listeners.len(), "listener");
    writeln!(out, "{}: ok, {tenants}, {listeners}", path.display())?;
    Ok(true)
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[spool]\npath = 's'\n[smtp]\nhostname = 'relay.example'\n[admin]\naddress = '127.0.0.1:0'\n[pickup]\npath = 'p'\n";

    fn checked(text: &str, json: bool) -> (bool, String, String) {
        crate::config::umask_for_tests();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let mut out = String::new();
        let mut err = String::new();
        let ok = check(&path, json, &mut out, &mut err).unwrap();
        let text = |text: String| text.replace(path.to_str().unwrap(), "c.toml");
        (ok, text(out), text(err))
    }

    #[test]
    fn for_people() {
        let (ok, out, err) = checked(GOOD, false);
        assert!(ok && err.starts_with("warning: c.toml: there is no tenant"), "{err}");
        assert_eq!(out, "c.toml: ok, 0 tenants, 0 listeners\n");

        let (ok, out, err) = checked(&format!("{GOOD}paht = 'x'\n"), false);
        assert_eq!(
            (ok, &*out, &*err),
            (false, "", "c.toml:9: pickup.paht: unknown key; did you mean path?\n")
        );
    }

    #[test]
    fn for_programs() {
        let json = |text| {
            let (_, out, err) = checked(text, true);
            assert!(err.is_empty());
            serde_json::from_str::<serde_json::Value>(&out).unwrap()
        };
        let good = json(GOOD);
        assert_eq!(good["ok"], true);
        assert_eq!(good["errors"], serde_json::json!([]));
        assert_eq!(good["warnings"][0]["file"], "c.toml");

        let bad = json("[spool]\npath = 7\n[smtp]\nlisten = 1\n");
        assert_eq!(bad["ok"], false);
        assert_eq!((&bad["errors"][0]["line"], &bad["errors"][0]["key"]), (&2.into(), &"spool.path".into()));
    }

    #[test]
    fn counts_read_well() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "tenant")), ["0 tenants", "1 tenant", "2 tenants"]);
    }
}
