//! What was found out, for people and for programs.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::config::Problem;
use relay_mail::outside::Outside;

/// Characters of a finding that are shown. What a service said may hold anything.
const LONGEST: usize = 4096;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) tenant: String,
    pub(super) cloud: String,
    pub(super) directory: String,
    pub(super) client_id: String,
    pub(super) route: &'static str,
    /// Nothing that the configuration asks for is missing.
    pub(super) ok: bool,
    /// The mailbox that was tried.
    pub(super) tried: Option<String>,
    pub(super) findings: Vec<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) state: State,
    /// One word or two.
    pub(super) topic: &'static str,
    pub(super) text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// Mail can be sent without it, with restrictions.
    Warning,
    /// Mail cannot be sent, or not as configured.
    Missing,
}

impl Report {
    /// Of a tenant whose configuration has mistakes, or of a file of tenants.d.
    pub(super) fn of_mistakes(whose: &str, problems: &[Problem]) -> Self {
        let mut report = Self {
            tenant: whose.to_owned(),
            cloud: String::new(),
            directory: String::new(),
            client_id: String::new(),
            route: "",
            ok: false,
            tried: None,
            findings: Vec::new(),
        };
        problems.iter().for_each(|problem| report.failed("mistake", problem.to_string()));
        report
    }

    pub(super) fn good(&mut self, topic: &'static str, text: impl Into<String>) {
        self.findings.push(Finding { state: State::Ok, topic, text: text.into(), mend: None });
    }

    pub(super) fn warn(&mut self, topic: &'static str, text: impl Into<String>, mend: impl Into<String>) {
        let mend = Some(mend.into());
        self.findings.push(Finding { state: State::Warning, topic, text: text.into(), mend });
    }

    pub(super) fn missing(&mut self, topic: &'static str, text: impl Into<String>, mend: impl Into<String>) {
        self.add_missing(topic, text.into(), Some(mend.into()));
    }

    /// The text says what to do.
    pub(super) fn failed(&mut self, topic: &'static str, text: impl Into<String>) {
        self.add_missing(topic, text.into(), None);
    }

    fn add_missing(&mut self, topic: &'static str, text: String, mend: Option<String>) {
        self.findings.push(Finding { state: State::Missing, topic, text, mend });
        self.ok = false;
    }

    pub(super) fn show(&self, out: &mut impl Write) -> fmt::Result {
        let Self { tenant, cloud, directory, client_id, route, ok, tried, findings } = self;
        let app = if client_id.is_empty() { "no app of its own".into() } else { format!("app {client_id}") };
        if directory.is_empty() {
            writeln!(out, "tenant {}\n", Outside::new(tenant))?;
        } else {
            writeln!(out, "tenant {tenant}: cloud {cloud}, directory {directory}, {app}, route {route}\n")?;
        }
        for Finding { state, topic, text, mend } in findings {
            let state = match state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Missing => "MISSING",
            };
            writeln!(out, "  {state:<8} {topic:<12} {}", Outside::up_to(LONGEST, text))?;
            for line in mend.iter().flat_map(|mend| mend.lines()) {
                writeln!(out, "  {:<8} {:<12} {}", "", "", Outside::up_to(LONGEST, line))?;
            }
        }
        let end = match (ok, tried) {
            (true, Some(_)) => "Mail of this tenant can be sent.",
            (true, None) => "Mail of this tenant can be sent, as far as this shows without a mailbox.",
            (false, _) => "Mail of this tenant cannot be sent with this configuration.",
        };
        writeln!(out, "\n{end}")
    }
}
