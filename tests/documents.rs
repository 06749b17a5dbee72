//! The documents are right: the example configuration loads, links lead somewhere, dependencies are
//! explained.

#![allow(clippy::unwrap_used, reason = "a test that cannot read a file of this repository fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use m365_relay::{
    cli::Cli,
    config::{Config, LogFormat},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../README.md");

#[test]
fn the_example_configuration_loads() {
    // No group may write to a configuration's files, whatever the umask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let text = README.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "a secret\n").unwrap();
    let text = text.replace("/etc/m365-relay/contoso.secret", secret.to_str().unwrap());

    let config = Config::parse(&text, Path::new("config.toml")).unwrap_or_else(|errors| panic!("{errors}"));

    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.smtp.listeners.len(), 1);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    assert!(documents.len() > 8, "{documents:?}");
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} is not there", document.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).any(|a| a == anchor), "{}: no heading {link}", document.display());
            }
        }
    }
}

#[test]
fn every_dependency_is_explained() {
    let explained = include_str!("../docs/dependencies.md");
    let rows: Vec<_> = explained.lines().filter(|line| line.starts_with("| `")).collect();
    for package in [".", "crates/mail", "crates/spool", "crates/sandbox"] {
        let manifest = fs::read_to_string(Path::new(ROOT).join(package).join("Cargo.toml")).unwrap();
        let manifest = toml_span::parse(&manifest).unwrap();
        for table in ["dependencies", "dev-dependencies"] {
            let names = manifest.as_table().unwrap()[table].as_table().unwrap().keys();
            for name in names.filter(|name| !name.name.starts_with("relay-")) {
                let has_row = rows
                    .iter()
                    .any(|row| row[1..].split('|').next().unwrap().contains(&format!("`{}`", name.name)));
                assert!(has_row, "docs/dependencies.md does not explain {}", name.name);
            }
        }
    }
}

#[test]
fn the_readme_has_every_command() {
    let table = README.split("## Commands\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let cli = Cli::command();
    for command in cli.get_subcommands() {
        let name = command.get_name();
        let begin = format!("| `{name}");
        let of_it: Vec<_> = rows.iter().filter(|row| row.starts_with(&begin)).collect();
        assert!(!of_it.is_empty(), "the README has no {name}");
        for part in command.get_subcommands().map(Command::get_name) {
            let has_it = of_it
                .iter()
                .any(|row| row.contains(&format!("`{part}")) || row.contains(&format!(" {part}")));
            assert!(has_it, "the README has no {name} {part}");
        }
    }
    assert!(rows.iter().all(|row| is_command(&cli, &row[3..])), "{rows:?}");
}

#[test]
fn commands_in_documents_exist() {
    let cli = Cli::command();
    let mut found = 0;
    let forms = files_of(".github/ISSUE_TEMPLATE", "yml");
    assert!(!forms.is_empty());
    for document in documents().into_iter().chain(forms) {
        let text = fs::read_to_string(&document).unwrap();
        for begin in ["`m365-relay ", "\n    m365-relay ", "$ m365-relay ", "=/usr/bin/m365-relay "] {
            for rest in
                text.split(begin).skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
            {
                found += 1;
                let line = rest.lines().next().unwrap();
                assert!(is_command(&cli, rest), "{}: there is no m365-relay {line}", document.display());
            }
        }
    }
    assert!(found > 20, "the documents have lost their commands");
}

/// Whether the text begins with a command, as far as it is written out.
fn is_command(cli: &Command, text: &str) -> bool {
    let written = text.split(['`', '\n']).next().unwrap();
    let mut at = cli;
    for word in written.split(' ').take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())) {
        match at.find_subcommand(word) {
            Some(command) => at = command,
            // What follows are arguments.
            None => return !at.has_subcommands(),
        }
    }
    true
}

fn documents() -> Vec<PathBuf> {
    ["", ".github", "docs", "docs/decisions", "dashboards"]
        .iter()
        .flat_map(|folder| files_of(folder, "md"))
        .collect()
}

/// The files of a folder whose names end in `extension`.
fn files_of(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// The headings as GitHub names them, and explicit anchors.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    });
    let written = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    headings.chain(written)
}
