//! config.example.toml is right: it loads, the defaults that it states are the defaults, and it has every key
//! there is.

use std::{collections::BTreeSet, fs, path::Path};

use m365_relay::config::{Config, known_keys};
use toml_span::value::{Table, Value, ValueInner};

const EXAMPLE: &str = include_str!("../config.example.toml");

#[test]
fn loads_as_it_stands() {
    let config =
        Config::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml"))).unwrap();

    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.smtp.listeners.len(), 1);
}

#[test]
fn defaults_are_as_written() {
    assert!(EXAMPLE.lines().filter_map(default_of).count() > 15, "the example has lost its defaults");

    assert_eq!(shown(&with_defaults()), shown(EXAMPLE));
}

#[test]
fn each_alternative_loads() {
    // No group may write to a configuration's files, whatever the umask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lab-ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    fs::write(folder.path().join("contoso.secret"), "a secret\n").unwrap();
    fs::write(folder.path().join("proxy.password"), "a password\n").unwrap();
    for name in ["contoso.token", "contoso.password", "azure-identity-token"] {
        fs::write(folder.path().join(name), "a secret\n").unwrap();
    }
    fs::write(folder.path().join("admin.token"), "0123456789abcdef\n").unwrap();
    fs::write(folder.path().join("contoso.pfx.password"), "pfx-password\n").unwrap();
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/made_up_keys");
    for (name, copy) in [("app.pem", "contoso.pem"), ("app.key", "contoso.key"), ("app.pfx", "contoso.pfx")] {
        fs::write(folder.path().join(copy), fs::read(keys.join(name)).unwrap()).unwrap();
    }
    let both = ["app.pem", "app.key"].map(|name| fs::read_to_string(keys.join(name)).unwrap());
    fs::write(folder.path().join("contoso-both.pem"), both.concat()).unwrap();
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    fs::write(folder.path().join("relay.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("relay.key"), made.signing_key.serialize_pem()).unwrap();
    let alternatives = with_alternatives();
    assert!(alternatives.len() > 10, "the example has lost its alternatives");

    for (line, text) in alternatives {
        // A variable that is set wherever this test runs.
        let text = text.replace("CONTOSO_SECRET", "PATH").replace("PROXY_PASSWORD", "PATH");
        // Only systemd has credentials; a test of the binary gives it one.
        let text = text.replace("{ credential =", "{ file =");
        if let Err(errors) = Config::parse(&text, &folder.path().join("config.toml")) {
            panic!("{line}:\n{errors}");
        }
    }
}

#[test]
fn every_key_is_documented_and_every_documented_key_is_known() {
    let mut documented = BTreeSet::new();
    let alternatives = with_alternatives().into_iter().map(|(_, text)| text);
    for text in alternatives.chain([with_defaults()]) {
        collect_keys(&toml_span::parse(&text).unwrap(), "", &mut documented);
    }

    // "Every secret in this file can be written in these four ways."
    let files: Vec<String> =
        documented.iter().filter_map(|key| key.strip_suffix(".file").map(str::to_owned)).collect();
    assert!(files.len() > 5, "{files:?}");
    documented.extend(files.iter().flat_map(|key| [format!("{key}.env"), format!("{key}.credential")]));

    let known = known_keys(EXAMPLE, Path::new("config.toml"));
    assert_eq!(known.difference(&documented).collect::<Vec<_>>(), [""; 0], "known, but not in the example");
    assert_eq!(documented.difference(&known).collect::<Vec<_>>(), [""; 0], "in the example, but not known");
}

fn shown(text: &str) -> String {
    match Config::parse(text, Path::new("config.toml")) {
        Ok(config) => format!("{config:?}"),
        Err(errors) => panic!("{errors}"),
    }
}

/// The example with each default written out.
fn with_defaults() -> String {
    EXAMPLE.lines().map(|line| default_of(line).unwrap_or(line)).flat_map(|line| [line, "\n"]).collect()
}

/// Alternatives under other keys, and the keys that they replace: a tenant has one credential.
const INSTEAD: [(&str, &[&str]); 3] = [
    ("certificate", &["client_secret"]),
    ("federated_token_file", &["client_secret"]),
    ("managed_identity", &["client_id", "client_secret"]),
];

/// For each `# or:` line, the example with that line instead of the one it replaces. Lines with different
/// keys right below each other belong together.
fn with_alternatives() -> Vec<(&'static str, String)> {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let alternative = |at: usize| lines.get(at)?.strip_prefix("# or: ");
    let key = |at| alternative(at).and_then(key_of);
    let mut all = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let mut together = BTreeSet::new();
        while let Some(key) = key(at + together.len())
            && together.insert(key)
        {}
        let end = at + together.len();
        if let Some(first) = alternative(at) {
            // The lines they replace are above, with nothing but comments between.
            let replaced = |i: &usize| key_of(lines[*i]).is_some_and(|key| together.contains(key));
            let mut replaced: Vec<_> =
                (0..at).rev().take_while(|&i| !lines[i].is_empty()).filter(replaced).collect();
            // A listener has a certificate, too.
            let is_tenants = lines[..at].contains(&"[tenants.contoso]");
            for (_, instead) in INSTEAD.iter().filter(|(key, _)| is_tenants && together.contains(key)) {
                let lines = lines.iter().enumerate();
                let is_of = |line: &str| key_of(line).is_some_and(|key| instead.contains(&key));
                replaced.extend(lines.filter(|(_, line)| is_of(line)).map(|(i, _)| i));
            }
            let kept = (0..lines.len()).filter(|i| !replaced.contains(i));
            let shown =
                |i| if (at..end).contains(&i) { alternative(i).unwrap_or(lines[i]) } else { lines[i] };
            all.push((first, kept.flat_map(|i| [shown(i), "\n"]).collect()));
        }
        at = end.max(at + 1);
    }
    all
}

/// `key = value`
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_').then_some(key)
}

/// `# key = value`
fn default_of(line: &str) -> Option<&str> {
    line.strip_prefix("# ").filter(|line| key_of(line).is_some())
}

fn collect_keys(value: &Value<'_>, path: &str, keys: &mut BTreeSet<String>) {
    match value.as_ref() {
        ValueInner::Table(table) => collect_table(table, path, keys),
        ValueInner::Array(elements) => elements.iter().for_each(|element| collect_keys(element, path, keys)),
        _ => {}
    }
}

fn collect_table(table: &Table<'_>, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = match path {
            "" => key.name.to_string(),
            "aliases"
            | "tenants"
            | "clouds"
            | "tenants.NAME.users"
            | "tenants.NAME.mailboxes"
            | "tenants.NAME.from_map" => format!("{path}.NAME"),
            _ => format!("{path}.{}", key.name),
        };
        collect_keys(value, &path, keys);
        keys.insert(path);
    }
}
