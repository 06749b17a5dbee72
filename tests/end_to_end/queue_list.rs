//! `m365-relay queue list` and `summary`: what is in the queues.

use std::process::Output;

use relay_sandbox::{Fault, On};
use serde_json::Value;

use crate::harness::{Lab, message, wait_until};

const FROM: &str = "a@contoso.example";
const OTHER: &str = "b@contoso.example";

fn queue(lab: &Lab, arguments: &[&str]) -> Output {
    let file = lab.config_file();
    lab.run(&[&["queue"], arguments, &["--config", file.to_str().unwrap()]].concat())
}

fn listed(lab: &Lab, filter: &[&str]) -> Vec<Value> {
    let output = queue(lab, &[&["list", "--json"], filter].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ids(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["id"].as_str().unwrap()).collect()
}

/// Some messages that wait, of two tenants: the first of contoso is held, and the last is large.
fn lab() -> (Lab, Vec<String>) {
    let lab = Lab::with(|setup| {
        setup.retry = "first = '1h'\njitter = 0.0".into();
        setup.tenant("fabrikam");
    });
    lab.inject(Fault::status(On::SendMail, 503, "ErrorMailboxStoreUnavailable"));
    let large = [message(FROM, "e@example.org", "large"), vec![b'x'; 100_000], b"\r\n".to_vec()].concat();
    lab.send(FROM, &["c@example.net"], &message(FROM, "c@example.net", "first"));
    lab.send(OTHER, &["c@example.net", "d@example.org"], &message(OTHER, "c@example.net", "second"));
    let fabrikam = "a@fabrikam.example";
    lab.send(fabrikam, &["c@example.net"], &message(fabrikam, "c@example.net", "third"));
    lab.send(FROM, &["e@example.org"], &large);
    let accepted = lab.wait_for_logs("message accepted", 4);
    let ids: Vec<_> = accepted.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    wait_until("the first attempts", || listed(&lab, &["--state", "scheduled"]).len() == 4);
    assert_eq!(queue(&lab, &["hold", &ids[0]]).status.code(), Some(0));
    (lab, ids)
}

#[test]
fn each_filter() {
    let (lab, all) = lab();
    let [first, second, third, large] = [&all[0], &all[1], &all[2], &all[3]].map(String::as_str);
    assert_eq!(ids(&listed(&lab, &[])), [first, second, third, large], "oldest first");
    for (filter, expected) in [
        (&["--tenant", "fabrikam"][..], &[third][..]),
        (&["--mailbox", FROM], &[first, large]),
        (&["--mailbox", OTHER], &[second]),
        (&["--from", "@fabrikam.example"], &[third]),
        (&["--from", "<>"], &[]),
        (&["--to", "@example.org"], &[second, large]),
        (&["--to", "c@example.net", "--tenant", "contoso"], &[first, second]),
        (&["--state", "held"], &[first]),
        (&["--why", "held"], &[first]),
        (&["--why", "service", "--state", "scheduled"], &[second, third, large]),
        (&["--older-than", "1h"], &[]),
        (&["--older-than", "0s"], &[first, second, third, large]),
        (&["--larger-than", "64KiB"], &[large]),
        (&["--limit", "2"], &[first, second]),
        (&["--limit", "0"], &[first, second, third, large]),
        (&["--tenant", "nobody"], &[]),
    ] {
        assert_eq!(ids(&listed(&lab, filter)), expected, "{filter:?}");
    }
    let raw = queue(&lab, &["show", "--headers", second]);
    let header = String::from_utf8(raw.stdout).unwrap();
    let message_id =
        header.split("Message-ID: ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert_eq!(ids(&listed(&lab, &["--message-id", message_id])), [second]);
    assert_eq!(ids(&listed(&lab, &["--message-id", message_id.trim_matches(['<', '>'])])), [second]);
}

#[test]
fn for_people_and_for_programs() {
    let (lab, all) = lab();
    let found = listed(&lab, &["--state", "scheduled"]);
    let message = &found[0];
    assert_eq!(
        (&message["recipients"], &message["to"][1]),
        (&2.into(), &"d@example.org".into()),
        "{message:#}"
    );
    assert_eq!(message["last_error"]["class"], "service");
    assert!(message["failed_attempts"].is_null(), "{message:#}");
    let text = String::from_utf8(queue(&lab, &["list"]).stdout).unwrap();
    assert!(text.contains(&format!("{}  held ", all[0])), "{text}");
    assert!(text.contains(&format!("contoso  {OTHER} -> c@example.net and 1 more\n")), "{text}");
    assert!(text.contains("ErrorMailboxStoreUnavailable") && text.ends_with("4 messages\n"), "{text}");
    let text = String::from_utf8(queue(&lab, &["list", "--limit", "1"]).stdout).unwrap();
    assert!(
        text.ends_with("1 message; there are more: --limit 0 lists all, and `queue summary` counts them\n")
    );
}

/// A page is not lost or given twice when its limit cuts through what was found.
#[test]
fn page_after_page() {
    let (lab, all) = lab();
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let (code, page) = lab.api("GET", &format!("/api/v1/messages?limit=1&to=%40example.org{cursor}"));
        assert_eq!(code, 200, "{page}");
        let page: Value = serde_json::from_str(&page).unwrap();
        let messages = page["messages"].as_array().unwrap();
        found.extend(messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, [all[1].clone(), all[3].clone()]);
}

#[test]
fn what_is_wrong_with_a_query_is_named() {
    let lab = Lab::start();
    for (query, part) in [
        ("state=dead", "state: dead: there is no such state"),
        ("limit=0", "limit: 0 is out of range"),
        ("older_than=5", "older_than: 5 is not a duration"),
        ("colour=red", "colour"),
    ] {
        let (code, page) = lab.api("GET", &format!("/api/v1/messages?{query}"));
        assert!(code == 400 && page.contains(part), "{query}: {code} {page}");
    }
    assert_eq!(lab.api("GET", "/api/v1/queue?by=colour").0, 400);
    let output = queue(&lab, &["list", "--state", "dead"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write one of ready, scheduled"), "{output:?}");
}

#[test]
fn a_row_for_each() {
    let (lab, _) = lab();
    let rows = |by: &[&str]| -> Vec<(String, u64)> {
        let output = queue(&lab, &[&["summary", "--json"], by].concat());
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        let name = |row: &Value| {
            let parts =
                ["tenant", "mailbox", "state", "why"].map(|key| row[key].as_str().unwrap_or_default());
            parts.concat()
        };
        let rows = rows.as_array().unwrap();
        let mut rows: Vec<_> =
            rows.iter().map(|row| (name(row), row["messages"].as_u64().unwrap())).collect();
        rows.sort();
        rows
    };
    let owned =
        |rows: &[(&str, u64)]| rows.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(rows(&[]), owned(&[("contoso", 3), ("fabrikam", 1)]));
    assert_eq!(
        rows(&["--by", "mailbox", "--tenant", "contoso"]),
        owned(&[("contosoa@contoso.example", 2), ("contosob@contoso.example", 1)])
    );
    assert_eq!(rows(&["--by", "state"]), owned(&[("held", 1), ("scheduled", 3)]));
    assert_eq!(rows(&["--by", "why"]), owned(&[("held", 1), ("retry: service", 3)]));
    assert_eq!(rows(&["--by", "age"]), owned(&[("", 4)]));
    let text = String::from_utf8(queue(&lab, &["summary"]).stdout).unwrap();
    let total: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(total, ["TOTAL", "4", "4", "0", "0", "0", "0", "0", "0", "0"], "{text}");
}

/// As monitoring has called it for decades.
#[test]
fn mailq_lists_everything() {
    let (lab, all) = lab();
    let link = lab.folder().join("mailq");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_m365-relay"), &link).unwrap();
    let output =
        std::process::Command::new(&link).env("M365_RELAY_CONFIG", lab.config_file()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.ends_with("4 messages\n"), "{text}");
    assert!(all.iter().all(|id| text.contains(id)), "{text}");
}
