//! Bounces, from a message that is given up to one that can be queued.

use crate::{
    bounce::{self, EnhancedStatus, Failure, Kind, Outcome, Service},
    clock,
    config::Tenant,
    message::{BodyKind, Envelope, HeaderBlock, MailboxAddress},
    spool::{Claim, Message, NewMessage, Spool, SpoolError},
    telemetry::Ingress,
};

/// Why a message is given up, for its bounce.
pub(super) struct GivenUp<'a> {
    pub(super) kind: Kind,
    pub(super) status: EnhancedStatus,
    pub(super) diagnostic: &'a str,
}

/// The bounce that tells the sender of `claim`, or `None` if nobody is to be told.
///
/// It goes to the envelope sender, from the tenant's bounce mailbox or else from the mailbox that was to send the message.
pub(super) async fn bounce_for(
    spool: &Spool,
    tenant: &Tenant,
    hostname: &str,
    mailbox: &MailboxAddress,
    claim: &Claim,
    given_up: GivenUp<'_>,
) -> Result<Option<Box<NewMessage>>, SpoolError> {
    let message = &claim.message;
    // A damaged body has no header to quote, and its sender is to know all the same.
    let header = super::graph::header_of(&claim.body).await.unwrap_or_else(|_| HeaderBlock::default());
    let Some(to) = message.envelope.sender() else { return Ok(None) };
    if !bounce::wants_bounce(&message.envelope, &header, &tenant.bounces) {
        return Ok(None);
    }
    let author = tenant.bounces.mailbox.as_ref().unwrap_or(mailbox);
    let GivenUp { kind, status, diagnostic } = given_up;
    let outcome = |address| Outcome { address, status, service: Service::Graph, diagnostic, remote: None };
    let report = bounce::report(&Failure {
        kind,
        reporting_mta: hostname,
        from: tenant.mailbox_for(author),
        to,
        id: claim.lease.id,
        recipients: message.envelope.recipients().iter().map(outcome).collect(),
        header: &header,
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
