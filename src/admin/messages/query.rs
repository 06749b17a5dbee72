//! Which messages a request asks for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Known, Stored};
use crate::{
    clock,
    delivery::stored_message_id,
    schedule::{MessageState, Selection},
};
use relay_mail::{ByteSize, MailboxAddress, MessageId, TenantName, outside::Outside};

/// The query of `GET /api/v1/messages`. What is not there selects nothing; of what is there, all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MessageQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The mailbox that posts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// The envelope sender: an address, `@DOMAIN`, or `<>` for the null sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// One of the envelope recipients: an address, or `@DOMAIN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What it waits for, or what its last attempt failed for: a word as in `waits.class` or
    /// `last_error.class`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Accepted longer ago than this: `90s`, `4h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<String>,
    /// `150MB`, `64KiB`, or a number of octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<String>,
    /// The field Message-ID, with or without angle brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Messages of one answer: 100 by default, 1000 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `next` of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Without what only the spool knows: envelope, size, attempts. Quicker.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub brief: bool,
}

/// A query that makes sense.
#[derive(Debug)]
pub(super) struct Filter {
    /// What the scheduler knows of.
    pub(super) selection: Selection,
    from: Option<AddressPattern>,
    to: Option<AddressPattern>,
    why: Option<String>,
    larger_than: Option<u64>,
    message_id: Option<String>,
    pub(super) limit: usize,
    pub(super) after: Option<MessageId>,
    brief: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum AddressPattern {
    Nobody,
    /// In lower case.
    Domain(String),
    Address(MailboxAddress),
}

const LIMIT: usize = 100;
const LARGEST_LIMIT: usize = 1000;

impl MessageQuery {
    /// The error names the key.
    pub(super) fn parse(&self) -> Result<Filter, String> {
        let older_than = self.older_than.as_deref().map(|text| duration("older_than", text)).transpose()?;
        let selection = Selection {
            tenant: parsed("tenant", self.tenant.as_deref(), str::parse::<TenantName>)?,
            mailbox: parsed("mailbox", self.mailbox.as_deref(), str::parse::<MailboxAddress>)?,
            state: parsed("state", self.state.as_deref(), state)?,
            before: older_than.map(|long| clock::wall() - long),
        };
        let limit = self.limit.unwrap_or(LIMIT);
        if !(1..=LARGEST_LIMIT).contains(&limit) {
            return Err(format!("limit: {limit} is out of range: write a number from 1 to {LARGEST_LIMIT}"));
        }
        Ok(Filter {
            selection,
            from: parsed("from", self.from.as_deref(), AddressPattern::parse)?,
            to: parsed("to", self.to.as_deref(), AddressPattern::parse)?,
            why: self.why.clone(),
            larger_than: parsed("larger_than", self.larger_than.as_deref(), str::parse::<ByteSize>)?
                .map(|size| size.0),
            message_id: self.message_id.as_deref().map(|id| {
                let bare = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id);
                format!("<{bare}>")
            }),
            limit,
            after: parsed("cursor", self.cursor.as_deref(), str::parse::<MessageId>)?,
            brief: self.brief,
        })
    }
}

fn parsed<T, E: std::fmt::Display>(
    key: &str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    let wrong = |text, error| format!("{key}: {}: {error}", Outside::new(text));
    text.map(|text| parse(text).map_err(|error| wrong(text, error))).transpose()
}

fn duration(key: &str, text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!(
            "{key}: {} is not a duration: write a number and a unit, such as 90s or 4h",
            Outside::new(text)
        )
    })
}

fn state(text: &str) -> Result<MessageState, String> {
    let known = MessageState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| {
        let words: Vec<_> = MessageState::ALL.iter().map(|state| state.as_str()).collect();
        format!("there is no such state: write one of {}", words.join(", "))
    })
}

impl AddressPattern {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            _ if text == "<>" => Ok(Self::Nobody),
            Some(domain) if !domain.is_empty() => Ok(Self::Domain(domain.to_lowercase())),
            _ => text.parse().map(Self::Address).map_err(|error| format!("{error}")),
        }
    }

    fn has(&self, address: Option<&MailboxAddress>) -> bool {
        match (self, address) {
            (Self::Nobody, address) => address.is_none(),
            (Self::Domain(domain), Some(address)) => address.domain().to_lowercase() == *domain,
            (Self::Address(wanted), Some(address)) => wanted == address,
            (Self::Domain(_) | Self::Address(_), None) => false,
        }
    }
}

impl Filter {
    /// Whether the spool must be asked: for the filter, or for the answer.
    pub(super) fn needs_spool(&self) -> bool {
        !self.brief || self.selects_by_content() || self.larger_than.is_some() || self.why.is_some()
    }

    fn selects_by_content(&self) -> bool {
        self.from.is_some() || self.to.is_some() || self.message_id.is_some()
    }

    /// Whether most messages that the scheduler names may be left out.
    pub(super) fn is_selective(&self) -> bool {
        self.selects_by_content() || self.larger_than.is_some() || self.why.is_some()
    }

    pub(super) async fn has(&self, known: &Known) -> bool {
        if !self.is_selective() {
            return true;
        }
        let Some(Stored { found, content }) = &known.stored else { return false };
        let waits_for = known.status.waits.as_ref().map(|waits| waits.class);
        let is_why = |why: &String| {
            waits_for == Some(why) || found.failed.list().last().is_some_and(|last| *last.class == **why)
        };
        if self.larger_than.is_some_and(|least| found.size <= least) || !self.why.as_ref().is_none_or(is_why)
        {
            return false;
        }
        if !self.selects_by_content() {
            return true;
        }
        let Some((message, body)) = content else { return false };
        let envelope = &message.envelope;
        let is_from = self.from.as_ref().is_none_or(|from| from.has(envelope.sender()));
        let is_to = |to: &AddressPattern| envelope.recipients().iter().any(|address| to.has(Some(address)));
        if !is_from || !self.to.as_ref().is_none_or(is_to) {
            return false;
        }
        match &self.message_id {
            None => true,
            Some(wanted) => stored_message_id(body).await.is_ok_and(|found| found.as_ref() == Some(wanted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let query = |key: &str, value: &str| {
            let mut query = MessageQuery::default();
            let value = Some(value.to_owned());
            match key {
                "tenant" => query.tenant = value,
                "mailbox" => query.mailbox = value,
                "from" => query.from = value,
                "to" => query.to = value,
                "state" => query.state = value,
                "older_than" => query.older_than = value,
                "larger_than" => query.larger_than = value,
                "cursor" => query.cursor = value,
                _ => unreachable!(),
            }
            query.parse().map(drop)
        };
        for (key, value) in [
            ("tenant", "No Tenant"),
            ("mailbox", "a"),
            ("from", "@"),
            ("to", "b\u{1b}[2J"),
            ("state", "dead"),
            ("older_than", "5"),
            ("larger_than", "big"),
            ("cursor", "x"),
        ] {
            let error = query(key, value).unwrap_err();
            assert!(error.starts_with(&format!("{key}: ")) && !error.contains('\u{1b}'), "{error}");
        }
        for (key, value) in [
            ("tenant", "contoso"),
            ("from", "<>"),
            ("from", "@Contoso.example"),
            ("to", "b@x.se"),
            ("state", "held"),
            ("older_than", "1h 30m"),
            ("larger_than", "1MB"),
        ] {
            query(key, value).unwrap();
        }
        assert!(MessageQuery { limit: Some(0), ..MessageQuery::default() }.parse().is_err());
    }

    #[test]
    fn addresses_and_domains() {
        let pattern = |text| AddressPattern::parse(text).unwrap();
        let address: MailboxAddress = "Ann@Contoso.example".parse().unwrap();
        for (text, holds) in [
            ("ann@contoso.example", "ann@contoso.example".parse::<MailboxAddress>().unwrap() == address),
            ("@contoso.EXAMPLE", true),
            ("@example", false),
            ("<>", false),
        ] {
            assert_eq!(pattern(text).has(Some(&address)), holds, "{text}");
        }
        assert!(pattern("<>").has(None) && !pattern("@contoso.example").has(None));
    }
}
