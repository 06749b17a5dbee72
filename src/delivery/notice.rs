//! Notifications: made of a message that is given up or handed over, and ready to be queued.

use super::{Reason, letter::read_header};
use crate::{
    bounce::{self, EnhancedStatus, Kind, MAX_RETURNED_BODY, Notification, RecipientReport, Service},
    clock,
    config::Tenant,
};
use relay_mail::{
    BodyKind, Envelope, HeaderBlock, Ingress, MailboxAddress, MessageId, RecipientWish, Return,
};
use relay_spool::{BodyReader, Claim, DamagedBody, Message, NewMessage, Spool, SpoolError};

/// The outcome of a message, for its sender.
pub(super) struct News<'a> {
    pub(super) kind: Kind,
    pub(super) whom: Whom<'a>,
    /// Who said so.
    pub(super) service: Service,
    /// Its host name, if it was reached and has one.
    pub(super) remote: Option<&'a str>,
}

/// The recipients of whom there is news, and what it is.
pub(super) enum Whom<'a> {
    All { status: EnhancedStatus, diagnostic: &'a str },
    Each(&'a [(MailboxAddress, Reason)]),
}

impl<'a> Whom<'a> {
    fn news_of(&self, recipient: &MailboxAddress) -> Option<(EnhancedStatus, &'a str)> {
        match self {
            Self::All { status, diagnostic } => Some((*status, diagnostic)),
            Self::Each(each) => {
                let (_, reason) = each.iter().find(|(address, _)| address == recipient)?;
                Some((reason.status, &reason.why.text))
            }
        }
    }

    /// What was said first.
    pub(super) fn diagnostic(&self) -> &'a str {
        match self {
            Self::All { diagnostic, .. } => diagnostic,
            Self::Each(each) => each.first().map_or("", |(_, reason)| &reason.why.text),
        }
    }
}

/// The message that there is news of.
#[derive(Clone, Copy)]
pub(super) struct Original<'a> {
    pub(super) id: MessageId,
    pub(super) message: &'a Message,
    /// `None`: it must not be touched.
    pub(super) body: Option<&'a BodyReader>,
}

impl<'a> From<&'a Claim> for Original<'a> {
    fn from(claim: &'a Claim) -> Self {
        Self { id: claim.lease.id, message: &claim.message, body: Some(&claim.body) }
    }
}

/// The notification that tells the sender of `original`, or `None` if nobody is to be told.
///
/// It is sent to the envelope sender, from the tenant's bounce mailbox or else from the mailbox that was to
/// send the message.
pub(super) async fn notification_for(
    spool: &Spool,
    tenant: &Tenant,
    hostname: &str,
    mailbox: &MailboxAddress,
    original: Original<'_>,
    news: News<'_>,
) -> Result<Option<Box<NewMessage>>, SpoolError> {
    let Original { id: original, message, body } = original;
    let News { kind, whom, service, remote } = news;
    let outcome = |(address, wish): (_, RecipientWish)| {
        let (status, diagnostic) = whom.news_of(address)?;
        Some(RecipientReport { address, original: wish.original, status, service, diagnostic, remote })
    };
    let told_of = message.envelope.wishes().filter(|(_, wish)| kind.is_wished(wish));
    let recipients: Vec<_> = told_of.filter_map(outcome).collect();
    let Some(to) = message.envelope.sender().filter(|_| !recipients.is_empty()) else { return Ok(None) };
    if !bounce::wants_bounce(&message.envelope, &tenant.bounces) {
        return Ok(None);
    }
    let is_full = kind != Kind::Relayed && message.envelope.ret() == Some(Return::Full);
    // A damaged body has no header to quote, but its sender must be told all the same.
    let (header, body) = match body {
        Some(body) => quoted(body, is_full).await.unwrap_or_default(),
        None => Default::default(),
    };
    let author = tenant.bounces.mailbox.as_ref().unwrap_or(mailbox);
    let report = bounce::report(&Notification {
        kind,
        reporting_mta: hostname,
        from: tenant.mailbox_for(author),
        to,
        id: original,
        recipients,
        envid: message.envelope.envid(),
        header: &header,
        body: body.as_deref(),
        now: clock::wall(),
    });
    let Ok(envelope) = Envelope::new(None, [to.clone()], BodyKind::EightBitMime) else { return Ok(None) };
    let (id, mut body) = spool.begin();
    body.write(&report).await?;
    let message = Message {
        tenant: tenant.name.clone(),
        ingress: Ingress::Bounce,
        envelope,
        author: author.clone(),
        bounce_of: Some(original),
    };
    Ok(Some(Box::new(NewMessage { id, message, body: body.finish().await? })))
}

/// The header, and the rest if it is wanted and small.
async fn quoted(body: &BodyReader, is_full: bool) -> Result<(HeaderBlock, Option<Vec<u8>>), DamagedBody> {
    let (split, mut rest) = read_header(body).await?;
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
