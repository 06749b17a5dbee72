//! A message with more recipients than the service takes, or whose recipients it treats differently, becomes
//! several parts, each for some of the recipients.
//!
//! From then on the parts are messages of their own: each is sent once, and tried again independently of the
//! others. Its time also begins again, since a message's id says when it was accepted. No part can be divided
//! without end, as it has fewer recipients.
//!
//! By SMTP all parts have one header, so a copy of one in Sent Items looks like a copy of another: a
//! [mark](part_mark) says that a part is one.

use std::collections::HashSet;

use super::letter::{is_marked, part_mark};
use relay_mail::{Envelope, MailParameters, MailboxAddress, Recipient};
use relay_spool::{Claim, Message, NewMessage, Spool, SpoolError};

/// Whether the parts need a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Each names the recipients of its part when it is sent.
    OfItsOwn,
    Shared,
}

/// The parts of `claim`, with at most `most` recipients each.
pub(super) async fn parts(
    spool: &Spool,
    claim: &Claim,
    most: usize,
    header: Header,
) -> Result<Vec<NewMessage>, SpoolError> {
    write_parts(spool, claim, divide(&claim.message.envelope, most), header).await
}

/// The parts of `claim` for these of its recipients. Empty ones are left out.
pub(super) async fn parts_for(
    spool: &Spool,
    claim: &Claim,
    recipients: [&[MailboxAddress]; 2],
    header: Header,
) -> Result<Vec<NewMessage>, SpoolError> {
    let envelope = &claim.message.envelope;
    let parts = recipients.into_iter().filter_map(|part| part_of(envelope, part));
    write_parts(spool, claim, parts, header).await
}

async fn write_parts(
    spool: &Spool,
    claim: &Claim,
    envelopes: impl Iterator<Item = Envelope>,
    header: Header,
) -> Result<Vec<NewMessage>, SpoolError> {
    let whole = &claim.message;
    let mut parts = Vec::new();
    for envelope in envelopes {
        let (id, mut body) = spool.begin_for(&whole.tenant);
        let mut rest = claim.body.open().await.map_err(unreadable)?;
        let mut next = rest.next().await.map_err(|e| unreadable(claim.body.damaged(e)))?;
        // One mark is enough, however often a message is divided.
        if header == Header::Shared && !next.as_ref().is_some_and(|begin| is_marked(begin)) {
            body.write(part_mark(claim.lease.id).as_bytes()).await?;
        }
        while let Some(piece) = next {
            body.write(&piece).await?;
            next = rest.next().await.map_err(|e| unreadable(claim.body.damaged(e)))?;
        }
        let message = Message { envelope, ..Message::clone(whole) };
        parts.push(NewMessage { id, message, body: body.finish().await? });
    }
    Ok(parts)
}

fn unreadable(damaged: relay_spool::DamagedBody) -> SpoolError {
    SpoolError::Body(std::sync::Arc::new(std::io::Error::other(damaged)))
}

fn divide(envelope: &Envelope, most: usize) -> impl Iterator<Item = Envelope> {
    let recipients: Vec<Recipient> =
        envelope.wishes().map(|(address, wish)| Recipient { address: address.clone(), wish }).collect();
    let parts: Vec<_> = recipients.chunks(most.max(1)).map(<[_]>::to_vec).collect();
    parts.into_iter().filter_map(move |part| with_recipients(envelope, part))
}

fn part_of(envelope: &Envelope, recipients: &[MailboxAddress]) -> Option<Envelope> {
    let recipients: HashSet<&MailboxAddress> = recipients.iter().collect();
    let part = envelope.wishes().filter(|(address, _)| recipients.contains(address));
    with_recipients(
        envelope,
        part.map(|(address, wish)| Recipient { address: address.clone(), wish }).collect(),
    )
}

/// `None` if there are no recipients.
fn with_recipients(envelope: &Envelope, recipients: Vec<Recipient>) -> Option<Envelope> {
    let parameters = MailParameters {
        body: envelope.body(),
        utf8: envelope.utf8(),
        ret: envelope.ret(),
        envid: envelope.envid().cloned(),
    };
    Envelope::with_parameters(envelope.sender().cloned(), parameters, recipients).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::letter::Letter;
    use relay_mail::{BodyKind, Ingress, RecipientWish};
    use relay_spool::MemoryStore;

    /// A header has room for a few marks, and a message may be divided hundreds of times.
    #[tokio::test]
    async fn a_part_of_a_part_has_one_mark_and_none_is_sent() {
        let (spool, _waiting) = Spool::start(MemoryStore::default(), ()).unwrap();
        let to = ["b@x.se", "c@x.se"].map(|text| text.parse::<MailboxAddress>().unwrap());
        let author: MailboxAddress = "a@x.se".parse().unwrap();
        let (id, mut body) = spool.begin();
        body.write(b"From: a@x.se\r\n\r\nhello\r\n").await.unwrap();
        let message = Message {
            tenant: "contoso".parse().unwrap(),
            ingress: Ingress::Smtp,
            envelope: Envelope::new(Some(author.clone()), to.clone(), BodyKind::SevenBit).unwrap(),
            author,
            bounce_of: None,
        };
        let mut new = NewMessage { id, message, body: body.finish().await.unwrap() };
        for round in 0..3 {
            let id = new.id;
            spool.accept(new).await.unwrap().announce();
            let claim = spool.claim(id).await.unwrap();
            let stored = claim.body.open().await.unwrap().next().await.unwrap().unwrap();
            let stored = String::from_utf8(stored.to_vec()).unwrap();
            assert_eq!(stored.matches("X-M365-Relay-Part-Of: ").count(), round.min(1), "{stored}");
            let letter = Letter::open(&claim).await.unwrap();
            assert_eq!(letter.is_part(), round > 0);
            assert_eq!(letter.as_it_is().header, "From: a@x.se\r\n\r\n");
            new = parts_for(&spool, &claim, [&to, &[]], Header::Shared).await.unwrap().remove(0);
        }
    }

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
