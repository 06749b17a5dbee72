//! docs/metrics.md, the dashboard and the alerts match the metrics that the code has: names, types and
//! labels.
//!
//! A family with labels shows on `/metrics` only after its first event, so the families are read from the two
//! files that make them.

#![allow(clippy::unwrap_used, reason = "a test that cannot read a file of this repository fails")]

use std::collections::{BTreeMap, BTreeSet};

use m365_relay::telemetry::Metrics;
use serde_json::Value;

const SOURCES: [&str; 3] = [
    include_str!("../src/telemetry/families.rs"),
    include_str!("../src/telemetry/metrics.rs"),
    include_str!("../src/admin/gauges.rs"),
];
const DOCUMENTED: &str = include_str!("../docs/metrics.md");
const DASHBOARD: &str = include_str!("../dashboards/m365-relay.json");
const ALERTS: &str = include_str!("../dashboards/alerts.yml");

const PREFIX: &str = "m365_relay_";

#[derive(Debug, PartialEq, Eq)]
struct Family {
    kind: &'static str,
    labels: BTreeSet<String>,
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let known = families();
    let documented = documented();
    for (name, family) in &known {
        assert_eq!(documented.get(name), Some(family), "{name} in docs/metrics.md");
    }
    for name in documented.keys() {
        assert!(known.contains_key(name), "docs/metrics.md has {name}, and the code has not");
    }
}

#[test]
fn the_sources_are_read_rightly() {
    let known = families();
    let text = Metrics::new().render().unwrap();
    let shown: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(shown.len() > 5, "{text}");
    for line in shown {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(known.get(name).map(|family| family.kind), Some(kind), "{name}");
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let queries = dashboard_queries();
    assert!(queries.len() > 25, "the dashboard has lost its queries");
    for query in &queries {
        check_query(query);
    }
    let dashboard = dashboard();
    let variables: Vec<_> = dashboard["templating"]["list"].as_array().unwrap().iter().collect();
    for (name, kind) in [("datasource", "datasource"), ("tenant", "query")] {
        let is_there = variables.iter().any(|v| v["name"] == name && v["type"] == kind);
        assert!(is_there, "the dashboard has no variable {name}");
    }
    for variable in variables.iter().filter(|v| v["type"] == "query") {
        check_query(variable["query"]["query"].as_str().unwrap());
    }
}

#[test]
fn panels_are_named_and_in_their_places() {
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id of {title}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert((x, y)), "{title} lies over another panel");
        }
        if panel["type"] != "row" {
            assert!(
                !panel["description"].as_str().unwrap_or_default().is_empty(),
                "{title} is not explained"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn the_alerts_ask_for_what_there_is() {
    let expressions: Vec<_> = ALERTS.lines().filter(|line| line.contains(PREFIX)).collect();
    assert!(expressions.len() > 8, "the alerts have lost their expressions");
    expressions.into_iter().for_each(check_query);
}

/// The dashboard's queries are PromQL: promtool reads them as rules.
#[cfg(feature = "outside-clients")]
#[test]
fn the_dashboard_speaks_promql() {
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, query) in dashboard_queries().into_iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
        rules.push_str(&format!("  - record: query:{number}\n    expr: {}\n", Value::from(query)));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    let checked =
        std::process::Command::new("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

// === what the code has ===

/// Finds `.counters("name", "help", &["label", …])` and similar calls.
fn families() -> BTreeMap<String, Family> {
    let makers = [
        ("counter", "counter"),
        ("counters", "counter"),
        ("gauge", "gauge"),
        ("gauges", "gauge"),
        ("histogram", "histogram"),
        ("histograms", "histogram"),
    ];
    let mut families = BTreeMap::new();
    for source in SOURCES {
        let code = source.split_once("struct Build").map_or(source, |(before, _)| before);
        for (maker, kind) in makers {
            for (at, _) in code.match_indices(&format!("build.{maker}(")) {
                let call = &code[at..];
                let end = [");", "),"].iter().filter_map(|end| call.find(end)).min();
                let call = &call[..end.unwrap_or(call.len())];
                let mut texts = quoted(call);
                let name = format!("{PREFIX}{}", texts.remove(0));
                // The help text.
                texts.remove(0);
                let family = Family { kind, labels: texts.into_iter().collect() };
                assert!(families.insert(name.clone(), family).is_none(), "{name} is made twice");
            }
        }
    }
    families
}

fn quoted(code: &str) -> Vec<String> {
    code.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

// === what the documents say ===

/// Rows such as ``| `m365_relay_in_flight` | gauge | `tenant` | … |``.
fn documented() -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    for line in DOCUMENTED.lines().filter(|line| line.starts_with("| `m365_relay_")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let kind = match cells[2] {
            "counter" => "counter",
            "gauge" => "gauge",
            "histogram" => "histogram",
            other => panic!("{other:?} is no type of metric"),
        };
        let ticked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let name = ticked(cells[1]).remove(0);
        assert!(cells[4].len() > 10, "{name} is not explained");
        families.insert(name, Family { kind, labels: ticked(cells[3]).into_iter().collect() });
    }
    families
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().unwrap().clone()
}

fn dashboard_queries() -> Vec<String> {
    let mut queries = Vec::new();
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    queries
}

/// Each metric exists, and each label in its braces is one of its labels. So is each label that anything is
/// grouped by.
fn check_query(query: &str) {
    let known = families();
    let mut labels = BTreeSet::from(["instance".to_owned(), "job".to_owned(), "le".to_owned()]);
    for (at, _) in query.match_indices(PREFIX) {
        let rest = &query[at..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let family = family_of(&known, name);
        let family = family.unwrap_or_else(|| panic!("there is no metric {name}, in {query}"));
        labels.extend(family.labels.iter().cloned());
        let braces = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let matchers = braces.map_or("", |(inside, _)| inside).split("\",").map(str::trim);
        for matcher in matchers.filter(|matcher| !matcher.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap();
            let is_label = family.labels.contains(label) || label == "instance";
            assert!(is_label, "{name} has no label {label}, in {query}");
        }
    }
    for rest in query.split("by (").skip(1) {
        let (group, _) = rest.split_once(')').unwrap();
        for label in group.split(',').map(str::trim) {
            assert!(labels.contains(label), "nothing has a label {label}, in {query}");
        }
    }
}

/// A histogram is queried by its parts.
fn family_of<'a>(known: &'a BTreeMap<String, Family>, name: &str) -> Option<&'a Family> {
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    match part.and_then(|name| known.get(name)) {
        Some(family) if family.kind == "histogram" => Some(family),
        _ => known.get(name).filter(|family| family.kind != "histogram"),
    }
}
