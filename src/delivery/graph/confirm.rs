//! Finding out the outcome of an attempt in doubt, and by which means a tenant can be asked.
//!
//! | means      | permission           | how                                                          |
//! |------------|----------------------|--------------------------------------------------------------|
//! | draft      | `Mail.ReadWrite`     | by the immutable id of the draft, which a sent message keeps |
//! | sent items | `Mail.ReadBasic.All` | by `internetMessageId`; the copy may take minutes to appear  |
//! | none       |                      | not at all: the message is sent again after `settle_after`   |
//!
//! With `confirm = "auto"` the best means is tried. What the service refuses is tried again only after an
//! hour, as a permission may be granted meanwhile. Before `settle_after`, not finding something proves
//! nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    answer::{CallError, GraphResponse},
    conversation::{Conversation, Request},
    draft::Draft,
    resource::Recipients,
};
use crate::config::{Confirm, Tenant};
use relay_mail::{Envelope, MailboxAddress, TenantName};

/// How long a refused permission is assumed to be missing.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// The first look after an interrupted call: the service may still be working on it.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Pauses between looks grow with the age of the doubt, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the service refused to the app, by tenant.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<TenantName, Refused>>);

#[derive(Debug, Default, Clone, Copy)]
struct Refused {
    drafts: Option<Instant>,
    reading: Option<Instant>,
}

/// What is known of an earlier attempt.
#[derive(Debug)]
pub(super) enum Finding {
    Sent(Box<GraphResponse>),
    /// A draft that was made for it, and not sent.
    StillDraft,
    /// Drafts with its Message-ID, of an attempt that was cut off before it knew their ids.
    Leftover(Vec<Draft>),
    Nothing,
    /// There is nobody to ask.
    CannotAsk,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(default)]
    id: String,
    #[serde(default)]
    is_draft: bool,
    #[serde(flatten)]
    recipients: Recipients,
}

#[derive(Deserialize)]
struct Items {
    value: Vec<Item>,
}

impl Refusals {
    /// Whether messages of this tenant are sent as drafts.
    pub(super) fn drafts(&self, tenant: &Tenant) -> bool {
        match tenant.confirm {
            Confirm::Draft => true,
            Confirm::Auto => !self.is(tenant, |refused| refused.drafts),
            Confirm::SentItems | Confirm::Off => false,
        }
    }

    /// Whether the service can be asked about this tenant's mail.
    pub(super) fn can_ask(&self, tenant: &Tenant) -> bool {
        match tenant.confirm {
            Confirm::Off => false,
            Confirm::Draft | Confirm::SentItems => true,
            Confirm::Auto => !self.is(tenant, |refused| refused.reading),
        }
    }

    pub(super) fn drafts_refused(&self, tenant: &Tenant) {
        self.note(tenant, |refused| refused.drafts = Some(Instant::now() + REMEMBERED));
    }

    fn reading_refused(&self, tenant: &Tenant) {
        self.note(tenant, |refused| refused.reading = Some(Instant::now() + REMEMBERED));
    }

    fn is(&self, tenant: &Tenant, which: impl Fn(&Refused) -> Option<Instant>) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&tenant.name).and_then(which).is_some_and(|until| until > Instant::now())
    }

    fn note(&self, tenant: &Tenant, change: impl FnOnce(&mut Refused)) {
        // A panic elsewhere leaves the values here complete.
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(refused.entry(tenant.name.clone()).or_default());
    }

    /// Asks for the outcome of an attempt. An error means that asking failed. `to_nobody_else`: a copy that
    /// names more people than the envelope belongs to another message.
    pub(super) async fn look(
        &self,
        conversation: &mut Conversation<'_>,
        draft: Option<&Draft>,
        message_id: Option<&str>,
        envelope: &Envelope,
        to_nobody_else: bool,
    ) -> Result<Finding, CallError> {
        let tenant = conversation.tenant;
        if let Some(draft) = draft {
            let request = Request::get(&["messages", &draft.id], "$select=isDraft".to_owned());
            match conversation.call(request).await {
                Ok(answer) => match answer.json::<Item>() {
                    Some(item) if item.is_draft => return Ok(Finding::StillDraft),
                    Some(_) => return Ok(Finding::Sent(Box::new(answer))),
                    None => return Ok(Finding::Nothing),
                },
                // It may be on its way to Sent Items, or a rule may have moved it: its Message-ID finds it in
                // any folder.
                Err(error) if error.is_status(404) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(message_id) = message_id.filter(|_| self.can_ask(tenant)) else {
            return Ok(Finding::CannotAsk);
        };
        match conversation.call(Request::get(&["messages"], query(message_id))).await {
            Ok(answer) => Ok(judge(answer, conversation.mailbox, envelope, to_nobody_else)),
            Err(error) if error.is_denied() => {
                self.reading_refused(tenant);
                Ok(Finding::CannotAsk)
            }
            Err(error) => Err(error),
        }
    }
}

/// When to look again at a doubt of this age.
pub(super) fn next_look(age: Duration, settle_after: Duration) -> Duration {
    let rest = settle_after.saturating_sub(age);
    age.clamp(FIRST_LOOK, LONGEST_PAUSE).min(rest.max(Duration::from_millis(100)))
}

/// A program may use one Message-ID for several messages to different people, and the parts of a split
/// message share one. So a copy proves that this message was sent only if it was sent to everybody in its
/// envelope.
fn judge(
    answer: GraphResponse,
    mailbox: &MailboxAddress,
    envelope: &Envelope,
    to_nobody_else: bool,
) -> Finding {
    let Some(Items { value: items }) = answer.json() else { return Finding::Nothing };
    let ours: Vec<Item> =
        items.into_iter().filter(|item| item.reaches(envelope.recipients(), to_nobody_else)).collect();
    if ours.iter().any(|item| !item.is_draft) {
        return Finding::Sent(Box::new(answer));
    }
    if ours.is_empty() {
        return Finding::Nothing;
    }
    Finding::Leftover(ours.into_iter().map(|item| Draft { mailbox: mailbox.clone(), id: item.id }).collect())
}

impl Item {
    fn reaches(&self, recipients: &[MailboxAddress], and_nobody_else: bool) -> bool {
        let reached: HashSet<MailboxAddress> =
            self.recipients.addresses().filter_map(|address| address.parse().ok()).collect();
        let recipients: HashSet<&MailboxAddress> = recipients.iter().collect();
        recipients.iter().all(|recipient| reached.contains(*recipient))
            && (!and_nobody_else || reached.len() == recipients.len())
    }
}

/// Asks for the messages with this Message-ID, in any folder.
pub(super) fn query(message_id: &str) -> String {
    // A quote inside is written twice (OData 4.01, "ABNF": SQUOTE-in-string).
    let filter = format!("internetMessageId eq '{}'", message_id.replace('\'', "''"));
    let filter = utf8_percent_encode(&filter, NON_ALPHANUMERIC);
    format!("$filter={filter}&$select=id,isDraft,toRecipients,ccRecipients,bccRecipients")
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_mail::Mailbox;

    #[test]
    fn looks_become_rarer_and_the_last_is_when_it_is_settled() {
        let settle = Duration::from_secs(300);
        let mut at = FIRST_LOOK;
        let mut looks = vec![at.as_secs()];
        while at < settle {
            at += next_look(at, settle);
            looks.push(at.as_secs());
        }
        assert_eq!(looks, [2, 4, 8, 16, 32, 64, 124, 184, 244, 300]);
    }

    #[test]
    fn a_message_id_is_quoted_and_escaped() {
        let query = query("<a'b+c d@x>");
        assert!(
            query.starts_with("$filter=internetMessageId%20eq%20%27%3Ca%27%27b%2Bc%20d%40x%3E%27&$select="),
            "{query}"
        );
    }

    #[test]
    fn a_copy_is_ours_only_if_it_went_to_all_of_ours() {
        let item = |to: &[&str], bcc: &[&str]| {
            let list = |list: &[&str]| {
                let mailbox = |address: &&str| Mailbox { name: None, address: (*address).to_owned() };
                list.iter().map(mailbox).collect()
            };
            let recipients = Recipients::new(list(to), Vec::new(), list(bcc));
            Item { id: String::new(), is_draft: false, recipients }
        };
        let envelope: Vec<MailboxAddress> = ["a@x.se", "b@x.se"].map(|text| text.parse().unwrap()).into();
        let more = item(&["B@x.se"], &["a@x.se", "c@x.se"]);
        assert!(more.reaches(&envelope, false) && !more.reaches(&envelope, true));
        assert!(!item(&["b@x.se", "c@x.se"], &[]).reaches(&envelope, false));
        assert!(!item(&[], &[]).reaches(&envelope, false));
        assert!(item(&["a@x.se", "b@x.se", "A@x.se"], &[]).reaches(&envelope, true));
    }
}
