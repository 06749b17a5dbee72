//! A message with more recipients than the service takes becomes several, each with a part of them.
//!
//! They are messages of their own from then on: each is sent once, and tried again apart from the others.

use crate::{
    message::{Envelope, MailParameters, Recipient},
    spool::{Claim, Message, NewMessage, Spool, SpoolError},
};

/// The parts of `claim`, with at most `most` recipients each.
pub(super) async fn parts(spool: &Spool, claim: &Claim, most: usize) -> Result<Vec<NewMessage>, SpoolError> {
    let whole = &claim.message;
    let mut parts = Vec::new();
    for envelope in divide(&whole.envelope, most) {
        let (id, mut body) = spool.begin();
        let mut rest = claim.body.open().await.map_err(unreadable)?;
        while let Some(piece) = rest.next().await.map_err(|e| unreadable(claim.body.damaged(e)))? {
            body.write(&piece).await?;
        }
        let message = Message { envelope, ..Message::clone(whole) };
        parts.push(NewMessage { id, message, body: body.finish().await? });
    }
    Ok(parts)
}

fn unreadable(damaged: crate::spool::DamagedBody) -> SpoolError {
    SpoolError::Body(std::sync::Arc::new(std::io::Error::other(damaged)))
}

fn divide(envelope: &Envelope, most: usize) -> impl Iterator<Item = Envelope> {
    let recipients: Vec<Recipient> =
        envelope.wishes().map(|(address, wish)| Recipient { address: address.clone(), wish }).collect();
    let parts: Vec<_> = recipients.chunks(most.max(1)).map(<[_]>::to_vec).collect();
    parts.into_iter().filter_map(move |part| {
        let parameters = MailParameters {
            body: envelope.body(),
            utf8: envelope.utf8(),
            ret: envelope.ret(),
            envid: envelope.envid().cloned(),
        };
        // No part is empty, and that is all that can be wrong.
        Envelope::with_parameters(envelope.sender().cloned(), parameters, part).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MailboxAddress, RecipientWish};

    #[test]
    fn everybody_is_in_one_part() {
        let recipient = |n: usize| Recipient {
            address: format!("b{n}@x.se").parse().unwrap(),
            wish: RecipientWish {
                notify: n.is_multiple_of(2).then(|| "NEVER".parse().unwrap()),
                original: None,
            },
        };
        let sender: MailboxAddress = "a@x.se".parse().unwrap();
        let parameters = MailParameters { utf8: true, ..MailParameters::default() };
        let whole = Envelope::with_parameters(Some(sender), parameters, (0..1001).map(recipient)).unwrap();
        let parts: Vec<_> = divide(&whole, 500).collect();
        assert_eq!(parts.iter().map(|part| part.recipients().len()).collect::<Vec<_>>(), [500, 500, 1]);
        let again: Vec<_> = parts.iter().flat_map(Envelope::wishes).collect();
        assert_eq!(again, whole.wishes().collect::<Vec<_>>());
        assert!(parts.iter().all(|part| part.utf8() && part.sender() == whole.sender()));
    }
}
