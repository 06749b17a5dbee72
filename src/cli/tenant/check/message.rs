//! A test message, sent in the way that the relay would.

use anyhow::Context;
use mail_builder::MessageBuilder;

use super::Check;
use crate::{
    delivery::{Disposition, Reason, Receipt, Routes, graph::Graph},
    telemetry::Metrics,
};
use relay_mail::{BodyKind, Envelope, Ingress, MailboxAddress};
use relay_spool::{MemoryStore, Message, NewMessage, Spool};

pub(super) async fn send(
    check: &mut Check<'_>,
    from: &MailboxAddress,
    to: &MailboxAddress,
) -> anyhow::Result<()> {
    let tenant = check.tenant;
    let metrics = Metrics::new();
    // It is in no queue: one try, and no other.
    let (spool, _events) =
        Spool::start(MemoryStore::default(), ()).context("cannot prepare the test message")?;
    let (id, mut body) = spool.begin();
    let text = format!(
        "This is a test message.\r\n\r\nm365-relay {} sent it, since somebody ran\r\n\r\n    m365-relay tenant check {} --send {to}\r\n",
        env!("CARGO_PKG_VERSION"),
        tenant.name
    );
    let letter = MessageBuilder::new()
        .from(from.as_str())
        .to(to.as_str())
        .subject(format!("m365-relay: test message of {}", tenant.name))
        .message_id(format!("{}@{}", uuid::Uuid::new_v4(), from.domain()))
        .text_body(text)
        .write_to_vec()
        .context("cannot write the message")?;
    body.write(&letter).await?;
    let message = Message {
        tenant: tenant.name.clone(),
        ingress: Ingress::Bounce,
        envelope: Envelope::new(Some(from.clone()), [to.clone()], BodyKind::SevenBit)?,
        author: from.clone(),
        bounce_of: None,
    };
    let accepted = spool.accept(NewMessage { id, message, body: body.finish().await? }).await?;
    let id = accepted.id();
    accepted.announce();
    let claim = spool.claim(id).await?;
    let smtp = check.smtp()?;
    let graph = Graph::new(
        check.config.graph,
        check.config.delivery.settle_after,
        check.graph_means(),
        spool.clone(),
        metrics,
    );
    match Routes::new(graph, smtp).try_once(tenant, tenant.mailbox_for(from), &claim).await? {
        Disposition::Delivered(Receipt { status, request_id, .. }) => {
            let text = format!(
                "to {to}: Microsoft 365 accepted it ({status}, {request_id}). Check that it arrives."
            );
            check.report.good("message", text);
        }
        Disposition::Failed(Reason { why, .. })
        | Disposition::Retry { why, .. }
        | Disposition::Refused { why, .. }
        | Disposition::MailboxBlocked { why, .. }
        | Disposition::TenantBlocked { why, .. } => check.report.failed("message", format!("to {to}: {why}")),
        Disposition::Unknown { why, .. } | Disposition::Unsettled { why, .. } => {
            check.report.failed("message", format!("to {to}: delivery outcome unknown: {why}"));
        }
        other => check.report.failed("message", format!("to {to}: {other:?}")),
    }
    Ok(())
}
