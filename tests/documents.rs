//! What the documents say is so: the example configuration loads, links lead somewhere, dependencies are explained.

#![allow(clippy::unwrap_used, reason = "a test that cannot read a file of this repository fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use m365_relay::config::{Config, LogFormat};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../README.md");

#[test]
fn the_example_configuration_loads() {
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
    let manifest = toml_span::parse(include_str!("../Cargo.toml")).unwrap();
    let manifest = manifest.as_table().unwrap();
    let explained = include_str!("../docs/dependencies.md");
    let rows: Vec<_> = explained.lines().filter(|line| line.starts_with("| `")).collect();
    for table in ["dependencies", "dev-dependencies"] {
        for name in manifest[table].as_table().unwrap().keys() {
            let has_row = rows
                .iter()
                .any(|row| row[1..].split('|').next().unwrap().contains(&format!("`{}`", name.name)));
            assert!(has_row, "docs/dependencies.md does not explain {}", name.name);
        }
    }
}

fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "dashboards"].map(|folder| Path::new(ROOT).join(folder));
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The headings as GitHub names them, and anchors that are written out.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    });
    let written = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    headings.chain(written)
}
