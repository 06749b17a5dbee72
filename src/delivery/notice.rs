//! Notifications, from a message that is given up or handed over to one that can be queued.

use crate::{
    bounce::{self, EnhancedStatus, Kind, MAX_RETURNED_BODY, Notification, Outcome, Service},
    clock,
    config::Tenant,
    message::{BodyKind, Envelope, HeaderBlock, MailboxAddress, RecipientWish, Return},
    spool::{BodyReader, Claim, DamagedBody, Message, NewMessage, Spool, SpoolError},
    telemetry::Ingress,
};

/// What became of a message, for its sender.
pub(super) struct News<'a> {
    pub(super) kind: Kind,
    pub(super) status: EnhancedStatus,
    pub(super) diagnostic: &'a str,
}

/// The notification that tells the sender of `claim`, or `None` if nobody is to be told.
///
/// It goes to the envelope sender, from the tenant's bounce mailbox or else from the mailbox that was to send the message.
pub(super) async fn notification_for(
    spool: &Spool,
    tenant: &Tenant,
    hostname: &str,
    mailbox: &MailboxAddress,
    claim: &Claim,
    news: News<'_>,
) -> Result<Option<Box<NewMessage>>, SpoolError> {
    let message = &claim.message;
    let News { kind, status, diagnostic } = news;
    let outcome = |(address, wish): (_, RecipientWish)| Outcome {
        address,
        original: wish.original,
        status,
        service: Service::Graph,
        diagnostic,
        remote: None,
    };
    let told_of = message.envelope.wishes().filter(|(_, wish)| kind.is_wished(wish));
    let recipients: Vec<_> = told_of.map(outcome).collect();
    let Some(to) = message.envelope.sender().filter(|_| !recipients.is_empty()) else { return Ok(None) };
    let is_full = kind != Kind::Relayed && message.envelope.ret() == Some(Return::Full);
    // A damaged body has no header to quote, and its sender is to know all the same.
    let (header, body) = quoted(&claim.body, is_full).await.unwrap_or_default();
    if !bounce::wants_bounce(&message.envelope, &header, &tenant.bounces) {
        return Ok(None);
    }
    let author = tenant.bounces.mailbox.as_ref().unwrap_or(mailbox);
    let report = bounce::report(&Notification {
        kind,
        reporting_mta: hostname,
        from: tenant.mailbox_for(author),
        to,
        id: claim.lease.id,
        recipients,
        envid: message.envelope.envid(),
        header: &header,
        body: body.as_deref(),
        now: clock::now(),
    });
    let Ok(envelope) = Envelope::new(None, [to.clone()], BodyKind::EightBitMime) else { return Ok(None) };
    let (id, mut body) = spool.begin();
    body.write(&report).await?;
    let message = Message {
        tenant: tenant.name.clone(),
        ingress: Ingress::Bounce,
        envelope,
        author: author.clone(),
        bounce_of: Some(claim.lease.id),
    };
    Ok(Some(Box::new(NewMessage { id, message, body: body.finish().await? })))
}

/// The header, and the rest if it is wanted and small.
async fn quoted(body: &BodyReader, is_full: bool) -> Result<(HeaderBlock, Option<Vec<u8>>), DamagedBody> {
    let (split, mut rest) = super::graph::read_header(body).await?;
    let len = split.body.len() as u64 + rest.remaining();
    if !is_full || len > MAX_RETURNED_BODY as u64 {
        return Ok((split.header, None));
    }
    let mut whole = split.body;
    while let Some(part) = rest.next().await.map_err(|e| body.damaged(e))? {
        whole.extend_from_slice(&part);
    }
    Ok((split.header, Some(whole)))
}
