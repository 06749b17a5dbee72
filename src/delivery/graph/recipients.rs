//! The recipients of a draft, confirmed by the service before the draft is sent.
//!
//! Graph has no envelope: whom a message goes to is what Exchange reads in its To, Cc and Bcc. The answer to
//! the call that creates a draft lists whom it has read. It is compared with the envelope:
//!
//! | the draft names                                      | then                                             |
//! |------------------------------------------------------|--------------------------------------------------|
//! | the envelope's recipients                            | it is sent                                       |
//! | as many, some of them by another address             | it is sent, and that is logged: the service may  |
//! |                                                      | call a recipient by its primary address          |
//! | too few, or too many                                 | its lists are set by a PATCH, and compared again |
//! | too few or too many after that                       | it is deleted, and the message is held           |
//!
//! So that everybody in the envelope gets the message, and nobody else, does not rest on what the service is
//! believed to make of a field.

use std::{collections::HashSet, fmt};

use http::Method;
use tracing::{info, warn};

use super::{
    Passage,
    answer::{CallError, Effect},
    conversation::Request,
    draft::{Draft, json_body},
    resource::Recipients,
};
use crate::{
    delivery::{Disposition, Trouble},
    telemetry::{ErrorClass, RecipientMismatch},
};
use relay_mail::{Mailbox, MailboxAddress, Properties, outside::Outside};

/// Recipients that a reason names of each kind.
const NAMED: usize = 3;

/// What the service has understood, compared with the envelope.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    Same,
    /// As many recipients.
    Respelled(Difference),
    Different(Difference),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    /// In the envelope alone, in its order.
    missing: Vec<MailboxAddress>,
    /// In the draft alone, as the service writes them.
    added: Vec<String>,
}

impl Passage<'_> {
    /// `named`: whom the new draft names. An error: the draft must not be sent, nor the message by another
    /// call that leaves the recipients to the service.
    pub(super) async fn confirm_recipients(
        &mut self,
        draft: &Draft,
        named: &Recipients,
    ) -> Result<(), CallError> {
        let envelope = self.claim.message.envelope.recipients();
        let id = self.claim.lease.id;
        let tenant = &self.talk.tenant.name;
        let metrics = &self.graph.metrics;
        let difference = match compare(envelope, named) {
            Comparison::Same => return Ok(()),
            Comparison::Respelled(difference) => {
                self.respelled(&difference);
                return Ok(());
            }
            Comparison::Different(difference) => difference,
        };
        warn!(%id, %tenant, %difference, "draft has other recipients than the envelope; setting them again");
        let exact = exact(envelope, Properties::of(self.letter.addressed_header()));
        let request = Request::new(Method::PATCH, &["messages", &draft.id], json_body(&exact));
        let changed = match self.talk.call(request).await {
            Ok(changed) => changed,
            // Not that of the mailbox, in which the draft was made a moment ago.
            Err(error) if error.is_status(404) => return Err(CallError::stopped("the new draft is gone")),
            // As a disposition: a refusal to make a draft would have the message sent by `sendMail`.
            Err(error) => return Err(CallError::Stopped(self.failed(error, Effect::Harmless))),
        };
        // An answer that lists nobody has understood nobody.
        match compare(envelope, &changed.json().unwrap_or_default()) {
            Comparison::Same => {}
            Comparison::Respelled(difference) => self.respelled(&difference),
            Comparison::Different(difference) => {
                metrics.recipient_mismatch(tenant, RecipientMismatch::Held);
                let text = format!(
                    "the service lists other recipients than the envelope has, and still does after they were set \
                     again: {difference} (request-id {}, client-request-id {}); nothing was sent",
                    changed.request_id, changed.client_request_id
                );
                let request_id = changed.request_id;
                let why = Trouble::new(ErrorClass::RecipientsDiffer, text);
                let why = Trouble { request_id, ..why };
                return Err(CallError::Stopped(Disposition::Hold { why }));
            }
        }
        metrics.recipient_mismatch(tenant, RecipientMismatch::Mended);
        info!(%id, %tenant, "draft has the envelope's recipients now");
        Ok(())
    }

    fn respelled(&self, difference: &Difference) {
        let id = self.claim.lease.id;
        let tenant = &self.talk.tenant.name;
        info!(%id, %tenant, %difference, "draft names recipients by other addresses");
        self.graph.metrics.recipient_mismatch(tenant, RecipientMismatch::Respelled);
    }
}

fn compare(envelope: &[MailboxAddress], understood: &Recipients) -> Comparison {
    let wanted: HashSet<&MailboxAddress> = envelope.iter().collect();
    let mut found = HashSet::new();
    let mut others = HashSet::new();
    let mut added = Vec::new();
    for text in understood.addresses() {
        let is_added = match text.parse::<MailboxAddress>() {
            Ok(address) => {
                let is_wanted = wanted.contains(&address);
                found.insert(address) && !is_wanted
            }
            // Such as the distinguished name of a recipient in the organisation.
            Err(_) => others.insert(text),
        };
        if is_added {
            added.push(text.to_owned());
        }
    }
    let missing: Vec<_> = envelope.iter().filter(|address| !found.contains(*address)).cloned().collect();
    let is_same = missing.is_empty() && added.is_empty();
    let is_as_many = missing.len() == added.len();
    let difference = Difference { missing, added };
    match (is_same, is_as_many) {
        (true, _) => Comparison::Same,
        (false, true) => Comparison::Respelled(difference),
        (false, false) => Comparison::Different(difference),
    }
}

/// Each recipient of the envelope once, in the list and with the name that the header gives it. Those that it
/// does not name are in Bcc.
fn exact(envelope: &[MailboxAddress], header: Properties) -> Recipients {
    let mut left: HashSet<&MailboxAddress> = envelope.iter().collect();
    let mut wanted = |mailboxes: Vec<Mailbox>| -> Vec<Mailbox> {
        let is_wanted = |mailbox: &Mailbox| {
            mailbox.address.parse::<MailboxAddress>().is_ok_and(|address| left.remove(&address))
        };
        mailboxes.into_iter().filter(is_wanted).collect()
    };
    let to = wanted(header.to);
    let cc = wanted(header.cc);
    let mut bcc = wanted(header.bcc);
    let unnamed = envelope.iter().filter(|address| left.contains(address));
    bcc.extend(unnamed.map(|address| Mailbox { name: None, address: address.as_str().to_owned() }));
    Recipients::new(to, cc, bcc)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            parts.push(format!("missing: {}", some(self.missing.iter())));
        }
        if !self.added.is_empty() {
            parts.push(format!("added: {}", some(self.added.iter())));
        }
        f.write_str(&parts.join("; "))
    }
}

/// The first ones, and how many more there are.
fn some<T: fmt::Display>(all: impl ExactSizeIterator<Item = T>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named: Vec<_> = all.take(NAMED).map(|one| Outside::up_to(100, one).to_string()).collect();
    let named = named.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(addresses: &[&str]) -> Vec<MailboxAddress> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn list(addresses: &[&str]) -> Vec<Mailbox> {
        let mailbox = |address: &&str| Mailbox { name: None, address: (*address).to_owned() };
        addresses.iter().map(mailbox).collect()
    }

    fn compared(wanted: &[&str], to: &[&str], bcc: &[&str]) -> Comparison {
        compare(&envelope(wanted), &Recipients::new(list(to), Vec::new(), list(bcc)))
    }

    fn difference(missing: &[&str], added: &[&str]) -> Difference {
        Difference {
            missing: envelope(missing),
            added: added.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn the_same_recipients_may_be_written_otherwise_and_twice() {
        assert_eq!(compared(&["a@x.se", "b@x.se"], &["A@X.se"], &["\"b\"@x.se", "a@x.se"]), Comparison::Same);
    }

    #[test]
    fn as_many_are_another_spelling() {
        assert_eq!(
            compared(&["a@x.se", "b@x.se"], &["a@x.se", "bert.lee@x.se"], &[]),
            Comparison::Respelled(difference(&["b@x.se"], &["bert.lee@x.se"]))
        );
        assert_eq!(
            compared(&["a@x.se"], &["/O=ORG/CN=A", "/O=ORG/CN=A"], &[]),
            Comparison::Respelled(difference(&["a@x.se"], &["/O=ORG/CN=A"]))
        );
    }

    #[test]
    fn too_few_and_too_many_are_not() {
        let differs = |wanted: &[&str], to: &[&str], missing: &[&str], added: &[&str]| {
            let different = Comparison::Different(difference(missing, added));
            assert_eq!(compared(wanted, to, &[]), different, "{wanted:?} {to:?}");
        };
        differs(&["a@x.se"], &[], &["a@x.se"], &[]);
        differs(&["a@x.se"], &["a@x.se", "c@x.se"], &[], &["c@x.se"]);
        differs(&["a@x.se", "b@x.se"], &["a@x.se"], &["b@x.se"], &[]);
        differs(&["a@x.se", "b@x.se"], &["c@x.se"], &["a@x.se", "b@x.se"], &["c@x.se"]);
        differs(&["a@x.se"], &["a@x.se", ""], &[], &[""]);
    }

    #[test]
    fn a_recipient_without_an_address_is_one_too_many() {
        let named = r#"{"toRecipients":[{"emailAddress":{"name":"A","address":null}},{"emailAddress":{"address":"a@x.se"}}]}"#;
        let named: Recipients = serde_json::from_str(named).unwrap();
        let different = Comparison::Different(difference(&[], &[""]));
        assert_eq!(compare(&envelope(&["a@x.se"]), &named), different);
    }

    #[test]
    fn lists_are_set_to_exactly_the_envelope() {
        let ann = Mailbox { name: Some("Ann".into()), address: "A@x.se".into() };
        let header = Properties {
            to: [vec![ann.clone()], list(&["stranger@x.se"])].concat(),
            cc: list(&["a@x.se", "b@x.se"]),
            ..Properties::default()
        };
        let envelope = envelope(&["a@x.se", "b@x.se", "c@x.se"]);
        let lists = exact(&envelope, header);
        assert_eq!(lists, Recipients::new(vec![ann], list(&["b@x.se"]), list(&["c@x.se"])));
        assert_eq!(compare(&envelope, &lists), Comparison::Same);
    }

    #[test]
    fn a_difference_names_some() {
        let difference = difference(&["a@x.se"], &["1", "2", "3\u{1b}", "4", "5"]);
        assert_eq!(difference.to_string(), "missing: a@x.se; added: 1, 2, 3\\u{1b} and 2 more");
    }
}
