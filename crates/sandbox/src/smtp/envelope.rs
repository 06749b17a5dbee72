//! What is recorded of a message's envelope.

use serde::Serialize;

/// How a message was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SmtpEnvelope {
    /// The sender in MAIL, without the angle brackets.
    pub mail_from: String,
    /// The parameters of MAIL, as they were written, such as `SIZE=1234`.
    pub parameters: Vec<String>,
    /// The accepted recipients, in the order of RCPT.
    pub recipients: Vec<SmtpRecipient>,
    /// It came by BDAT.
    pub chunking: bool,
    /// Octets of content received, without dots that were put before dots.
    pub size: u64,
    /// It has octets above 127, whatever BODY said.
    pub eight_bit: bool,
    /// The number of its connection: 1, 2, 3 … in the order of acceptance.
    pub connection: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SmtpRecipient {
    pub address: String,
    /// The parameters of RCPT, as they were written, such as `NOTIFY=NEVER`.
    pub parameters: Vec<String>,
}

impl SmtpEnvelope {
    /// The value of a parameter of MAIL; empty if it has none. Case does not matter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        value(&self.parameters, name)
    }
}

impl SmtpRecipient {
    /// The value of a parameter of RCPT; empty if it has none. Case does not matter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        value(&self.parameters, name)
    }
}

fn value<'a>(parameters: &'a [String], name: &str) -> Option<&'a str> {
    parameters
        .iter()
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .find(|(keyword, _)| keyword.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}
