//! The targets without a fuzzer: every file of the corpus as it is, and a fixed series of random changes to
//! them.

use std::{fmt, fs, path::PathBuf};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::TARGETS;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The seeds of a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = folder("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// The words of a dictionary of libFuzzer's: `"word"` on each line, with `\xHH`, `\"` and `\\`.
fn words(target: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(folder("dictionaries").join(format!("{target}.dict"))).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| word(line).unwrap_or_else(|| panic!("{target}: {line}"))).collect()
}

fn word(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?;
    let mut octets = Vec::new();
    while let Some(c) = rest.chars().next() {
        let (octet, len) = match rest.get(1..2) {
            Some("x") if c == '\\' => (u8::from_str_radix(rest.get(2..4)?, 16).ok()?, 4),
            Some(escaped @ ("\"" | "\\")) if c == '\\' => (escaped.as_bytes()[0], 2),
            _ if matches!(c, '"' | '\\') => return None,
            _ if c.is_ascii() => (c as u8, 1),
            _ => return None,
        };
        octets.push(octet);
        rest = &rest[len..];
    }
    Some(octets)
}

/// One change to an input.
#[derive(Debug, Clone)]
struct Edit {
    /// Where, of the whole input.
    at: prop::sample::Index,
    removed: usize,
    put: Vec<u8>,
}

fn edit(words: Vec<Vec<u8>>) -> impl Strategy<Value = Edit> {
    // Octets that mean something to one of the parsers, and any.
    let octet = prop_oneof![
        3 => prop::sample::select(b"\r\n\r\n\0 \t.:;,<>()[]\"\\@=+?%-_\x7f\x80\xff".as_slice()),
        1 => any::<u8>(),
    ];
    let put = prop_oneof![
        4 => prop::sample::select(words.clone()),
        3 => prop::collection::vec(octet, 0..6),
        1 => (prop::sample::select(words), 1usize..40).prop_map(|(word, times)| word.repeat(times)),
    ];
    (any::<prop::sample::Index>(), prop_oneof![3 => Just(0), 1 => 0usize..40], put)
        .prop_map(|(at, removed, put)| Edit { at, removed, put })
}

/// As one can read it.
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// A file of the corpus or nothing, changed in some places.
fn an_input(target: &str) -> impl Strategy<Value = Input> + use<> {
    let mut seeds = corpus(target);
    seeds.push(Vec::new());
    let edits = prop::collection::vec(edit(words(target)), 0..12);
    (prop::sample::select(seeds), edits).prop_map(|(mut octets, edits)| {
        for Edit { at, removed, put } in edits {
            let from = at.index(octets.len() + 1);
            let to = octets.len().min(from + removed);
            octets.splice(from..to, put);
        }
        Input(octets)
    })
}

fn check(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let seeds = corpus(name);
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| target(seed));
    // The same series in each run: what fails here fails everywhere. New inputs are the fuzzer's business.
    let config = Config { failure_persistence: None, ..Config::default() };
    let seed = [7; 32];
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&an_input(name), |Input(octets)| {
        target(&octets);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

#[test]
fn smtp_line() {
    check("smtp_line");
}

#[test]
fn smtp_data() {
    check("smtp_data");
}

#[test]
fn smtp_session() {
    check("smtp_session");
}

#[test]
fn addresses() {
    check("addresses");
}

#[test]
fn pickup() {
    check("pickup");
}

#[test]
fn notification() {
    check("notification");
}

#[test]
fn every_target_has_a_program() {
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let program = fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzzing::{name}(")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    let folders = fs::read_dir(folder("corpus")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().file_name()).collect();
    let mut names = TARGETS.map(|(name, _)| std::ffi::OsString::from(name)).to_vec();
    folders.sort();
    names.sort();
    assert_eq!(folders, names);
}
