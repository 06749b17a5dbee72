//! What an operator does to a message by its content: it is returned to its sender, or begins anew.
//!
//! Either puts another message in the place of the first, in one transaction.

use std::{io, sync::Arc};

use tokio::task::spawn_blocking;

use super::notice::{News, Original, Whom, notification_for};
use crate::{
    bounce::{EnhancedStatus, Kind, Service},
    config::LiveRoster,
    telemetry::Metrics,
};
use relay_mail::{MessageId, TenantName};
use relay_spool::{BodyReader, DamagedBody, Found, Message, NewMessage, Spool, SpoolError};

/// Cheap to clone.
#[derive(Clone)]
pub struct ByHand {
    pub spool: Spool,
    pub roster: LiveRoster,
    /// This relay's name, in reports.
    pub hostname: Arc<str>,
    pub metrics: Metrics,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ByHandError {
    #[error("its tenant {0} is not in the configuration, or that has a mistake")]
    NoTenant(TenantName),
    #[error(transparent)]
    Damaged(#[from] DamagedBody),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl ByHand {
    /// The message leaves, and its sender is told why. Returns the id of the report, or `None` if nobody is
    /// to be told.
    pub async fn bounce(
        &self,
        id: MessageId,
        found: Found,
        why: &str,
    ) -> Result<Option<MessageId>, ByHandError> {
        let (message, body) = read(id, found).await?;
        let roster = self.roster.now();
        let Some(tenant) = roster.tenant(&message.tenant) else {
            return Err(ByHandError::NoTenant(message.tenant.clone()));
        };
        let original = Original { id, message: &message, body: Some(&body) };
        let whom = Whom::All { status: EnhancedStatus::UNDEFINED, diagnostic: why };
        let news = News { kind: Kind::Failed, whom, service: Service::Relay, remote: None };
        let mailbox = tenant.mailbox_for(&message.author);
        let report = notification_for(&self.spool, tenant, &self.hostname, mailbox, original, news).await?;
        let Some(report) = report else {
            self.spool.remove(id).await?;
            return Ok(None);
        };
        let report_id = report.id;
        self.spool.replace(id, *report).await?;
        self.metrics.bounce(&message.tenant, Kind::Failed.label());
        Ok(Some(report_id))
    }

    /// The message begins anew, as if it had just arrived: with no attempts, and with all its time. Returns
    /// its new id.
    pub async fn requeue(&self, id: MessageId, found: Found) -> Result<MessageId, ByHandError> {
        let (message, body) = read(id, found).await?;
        let (new_id, mut copy) = self.spool.begin_for(&message.tenant);
        let mut open = body.open().await?;
        while let Some(part) = open.next().await.map_err(|error| body.damaged(error))? {
            copy.write(&part).await?;
        }
        let body = copy.finish().await?;
        let new = NewMessage { id: new_id, message: Message::clone(&message), body };
        self.spool.replace(id, new).await?;
        Ok(new_id)
    }
}

async fn read(id: MessageId, found: Found) -> Result<(Arc<Message>, BodyReader), DamagedBody> {
    let read = spawn_blocking(move || found.read()).await;
    // Blocking work is interrupted only when the runtime ends.
    read.unwrap_or_else(|error| Err(DamagedBody::Io(id, io::Error::other(error))))
}
