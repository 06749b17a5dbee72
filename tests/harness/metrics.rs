//! A strict reader of Prometheus' text format (version 0.0.4), so that each look at a metric is a test of the
//! page.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub struct Metrics {
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Checks that every family has HELP and TYPE before its samples and is in one piece; that names, labels
    /// and values have their form; that no series occurs twice; that buckets do not decrease and that the
    /// last is the count.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("no line end after the last line".into());
        }
        let mut helped = BTreeSet::new();
        let mut family: Option<(&str, &str)> = None;
        let mut samples = Vec::<Sample>::new();
        let mut series = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, said) = help.split_once(' ').ok_or(format!("HELP without text: {line}"))?;
                if said.is_empty() || !is_name(name) || !helped.insert(name) {
                    return Err(format!("second HELP, or one that says nothing: {line}"));
                }
                family = None;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').ok_or(format!("TYPE without type: {line}"))?;
                if !["counter", "gauge", "histogram"].contains(&kind) || !helped.contains(name) {
                    return Err(format!("unknown type, or no HELP before it: {line}"));
                }
                family = Some((name, kind));
            } else {
                let sample = Sample::parse(line)?;
                let (name, kind) = family.ok_or(format!("a sample without a family: {line}"))?;
                let suffix = sample.name.strip_prefix(name).ok_or(format!("not of family {name}: {line}"))?;
                let allowed: &[&str] =
                    if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                if !allowed.contains(&suffix) || (suffix == "_bucket") != sample.labels.contains_key("le") {
                    return Err(format!("not a sample of a {kind}: {line}"));
                }
                if kind != "gauge" && sample.value < 0.0 {
                    return Err(format!("a {kind} below zero: {line}"));
                }
                if !series.insert((sample.name.clone(), sample.labels.clone())) {
                    return Err(format!("a second sample of one series: {line}"));
                }
                samples.push(sample);
            }
        }
        let metrics = Self { samples };
        metrics.check_buckets()?;
        Ok(metrics)
    }

    /// The sum over all series of that name with these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(|sample| sample.name == name).filter(has).map(|sample| sample.value).sum()
    }

    fn check_buckets(&self) -> Result<(), String> {
        let mut last: Option<(&Sample, BTreeMap<String, String>)> = None;
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le");
            match (&last, bound) {
                (Some((before, same)), Some(_)) if *same == labels && before.name == sample.name => {
                    if before.value > sample.value {
                        return Err(format!("a bucket with less than the one before it: {sample:?}"));
                    }
                    last = Some((sample, labels));
                }
                (_, Some(_)) => last = Some((sample, labels)),
                (Some((before, same)), None) => {
                    let whole = before.name.replace("_bucket", "_count");
                    if sample.name == whole && *same == labels {
                        if before.labels["le"] != "+Inf" || before.value != sample.value {
                            return Err(format!("the last bucket is not the count: {before:?} {sample:?}"));
                        }
                        last = None;
                    }
                }
                (None, None) => {}
            }
        }
        match last {
            None => Ok(()),
            Some((sample, _)) => Err(format!("buckets without a count: {sample:?}")),
        }
    }
}

impl Sample {
    fn parse(line: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}: {line}");
        let end = line.find(['{', ' ']).ok_or(wrong("no value"))?;
        let (name, mut rest) = line.split_at(end);
        if !is_name(name) {
            return Err(wrong("not a name"));
        }
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"").ok_or(wrong("not a label"))?;
                let (value, after) = quoted(after).ok_or(wrong("a value without end"))?;
                if !is_name(label) || label.contains(':') || labels.insert(label.to_owned(), value).is_some()
                {
                    return Err(wrong("not a label, or twice"));
                }
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').ok_or(wrong("no value"))?;
        let value = value.parse().map_err(|_| wrong("not a number"))?;
        Ok(Self { name: name.to_owned(), labels, value })
    }
}

/// Text up to the closing quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match rest.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}
