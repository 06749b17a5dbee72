//! Which recipients a refusal is about.
//!
//! Graph refuses a message as a whole where it cannot resolve one recipient (`ErrorInvalidRecipients`), and
//! sends it to nobody. So dividing it is safe. Where the answer names addresses, those are told to the
//! sender and the others get the message; where it names none, halves of it are sent until the one is
//! found. No message is tried more often than it has recipients, twice over.

use crate::delivery::{Disposition, Division, Reason};
use relay_mail::{Envelope, MailboxAddress};

/// What becomes of a message that was refused because of its recipients, for `said`, the service's words.
pub(super) fn blame(reason: Reason, said: &str, envelope: &Envelope) -> Disposition {
    let recipients = envelope.recipients();
    if recipients.len() < 2 {
        return Disposition::Failed(reason);
    }
    let said = said.to_lowercase();
    let (failed, taken): (Vec<_>, Vec<_>) =
        recipients.iter().cloned().partition(|address| names(&said, address));
    if taken.is_empty() {
        return Disposition::Failed(reason);
    }
    if failed.is_empty() {
        let (taken, later) = recipients.split_at(recipients.len() / 2);
        return Disposition::Divided(Division {
            taken: taken.to_vec(),
            later: later.to_vec(),
            failed: Vec::new(),
        });
    }
    let failed = failed.into_iter().map(|address| (address, reason.clone())).collect();
    Disposition::Divided(Division { taken, later: Vec::new(), failed })
}

/// Whether the text, in lower case, has the address, and not as the end or the beginning of another.
fn names(said: &str, address: &MailboxAddress) -> bool {
    let address = address.as_str().to_lowercase();
    let is_part_of_one = |c: char| c.is_alphanumeric() || "!#$%&*+-/=?^_`{|}~.@".contains(c);
    said.match_indices(&address).any(|(at, _)| {
        let before = said[..at].chars().next_back();
        let mut after = said[at + address.len()..].chars();
        let next = after.next();
        // A full stop ends a sentence, unless a label follows.
        let goes_on = match next {
            Some('.') => after.next().is_some_and(char::is_alphanumeric),
            Some(c) => is_part_of_one(c),
            None => false,
        };
        !before.is_some_and(is_part_of_one) && !goes_on
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bounce::EnhancedStatus, delivery::Trouble, telemetry::ErrorClass};
    use relay_mail::BodyKind;

    fn blamed(said: &str, recipients: &[&str]) -> Disposition {
        let why = Trouble::new(ErrorClass::Recipients, said);
        let reason = Reason { status: EnhancedStatus::UNDEFINED, why };
        let recipients = recipients.iter().map(|address| address.parse().unwrap());
        blame(reason, said, &Envelope::new(None, recipients, BodyKind::SevenBit).unwrap())
    }

    fn parts(said: &str, recipients: &[&str]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let Disposition::Divided(Division { taken, later, failed }) = blamed(said, recipients) else {
            panic!("not divided: {said}")
        };
        let text =
            |addresses: Vec<MailboxAddress>| addresses.iter().map(|a| a.to_string()).collect::<Vec<_>>();
        (text(taken), text(later), text(failed.into_iter().map(|(address, _)| address).collect()))
    }

    #[test]
    fn who_is_named_fails_and_the_others_go() {
        let said = "At least one recipient is not valid., Recipient 'B@X.se' is not resolved. All must be.";
        let of = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            parts(said, &["a@x.se", "b@x.se", "ab@x.se", "b@x.se.example"]),
            (of(&["a@x.se", "ab@x.se", "b@x.se.example"]), vec![], of(&["b@x.se"]))
        );
        assert_eq!(parts("not resolved: b@x.se.", &["a@x.se", "b@x.se"]).2, ["b@x.se"]);
    }

    #[test]
    fn without_a_name_it_is_halved() {
        let (taken, later, failed) =
            parts("At least one recipient is not valid.", &["a@x.se", "b@x.se", "c@x.se"]);
        assert_eq!((taken.len(), later.len(), failed.len()), (1, 2, 0));
    }

    #[test]
    fn one_recipient_or_all_of_them_fail() {
        assert!(matches!(blamed("not valid", &["a@x.se"]), Disposition::Failed(_)));
        assert!(matches!(blamed("'a@x.se', 'b@x.se'", &["a@x.se", "b@x.se"]), Disposition::Failed(_)));
    }
}
