//! Messages whose delivery breaks down: it panics, or what the disk has of them is no message any more.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tracing::{error, info, warn};

use super::{LOCAL_FAULT, Worker};
use crate::{
    bounce::{EnhancedStatus, Kind, Service},
    clock,
    config::Tenant,
    delivery::{
        Trouble,
        notice::{News, Original, Whom, notification_for},
    },
    schedule::Verdict,
    telemetry::ErrorClass,
};
use relay_mail::{MailboxAddress, Timestamp};
use relay_spool::{Claim, Lease, Message, Settlement, SpoolError};

/// What must be known of a message when nothing is left of its attempt.
pub(super) struct Broken<'a> {
    pub(super) lease: Lease,
    pub(super) message: Arc<Message>,
    pub(super) tenant: &'a Tenant,
    pub(super) mailbox: &'a MailboxAddress,
    pub(super) attempts: u16,
    pub(super) doubt: Option<Timestamp>,
    /// The service may have been called.
    pub(super) is_call: bool,
}

impl<'a> Broken<'a> {
    pub(super) fn of(claim: &Claim, tenant: &'a Tenant, mailbox: &'a MailboxAddress, is_call: bool) -> Self {
        let Claim { lease, attempts, doubt, .. } = *claim;
        Self { lease, message: claim.message.clone(), tenant, mailbox, attempts, doubt, is_call }
    }
}

impl Worker {
    /// Without this, a message whose delivery panics would stay leased until the next start.
    pub(super) async fn unless_it_panics(
        &self,
        carried: impl Future<Output = Verdict>,
        broken: Broken<'_>,
    ) -> Verdict {
        // Nothing of the attempt is used after a panic, and what it shares belongs to the process, behind its
        // locks.
        if let Ok(verdict) = AssertUnwindSafe(carried).catch_unwind().await {
            return verdict;
        }
        let Broken { lease, attempts, doubt, is_call, .. } = broken;
        error!(id = %lease.id, "delivery panicked: this is a bug");
        if clock::now() >= self.give_up_at(lease) {
            return self.quarantine(broken, "its delivery panics".into()).await;
        }
        let due = clock::now() + self.unknown_wait(attempts);
        let doubt = doubt.or_else(|| is_call.then(clock::now));
        let why = "its delivery panicked, which is a bug of the relay";
        let attempt = Trouble::new(ErrorClass::Relay, why).attempt(clock::wall());
        self.settle(lease, Settlement::Wait { due, counted: true, doubt, attempt }, Verdict::Done).await
    }

    /// The message is put aside, and its sender is told. Should the process end between the two, the sender
    /// is told twice.
    pub(super) async fn quarantine(&self, broken: Broken<'_>, reason: String) -> Verdict {
        let lease = broken.lease;
        // Whatever the delivery panicked at may be in the envelope.
        match AssertUnwindSafe(self.tell_of(&broken)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                error!(id = %lease.id, error = %e, "bounce not stored");
                let due = clock::now() + LOCAL_FAULT;
                let settlement = Settlement::Wait { due, counted: false, doubt: broken.doubt, attempt: None };
                return self.settle(lease, settlement, Verdict::Done).await;
            }
            Err(_) => {
                error!(id = %lease.id, "bounce not possible: writing it panics, too; its sender is not told");
            }
        }
        self.settle(lease, Settlement::Quarantine { reason }, Verdict::Done).await
    }

    /// Its octets are left out: they are damaged, or what the delivery panics at.
    async fn tell_of(&self, broken: &Broken<'_>) -> Result<(), SpoolError> {
        let Broken { lease, message, tenant, mailbox, .. } = broken;
        let original = Original { id: lease.id, message, body: None };
        let diagnostic = "the relay cannot read the message any more";
        let whom = Whom::All { status: EnhancedStatus::SYSTEM, diagnostic };
        let news = News { kind: Kind::Failed, whom, service: Service::Relay, remote: None };
        let hostname = &self.settings.hostname;
        let notice = notification_for(&self.spool, tenant, hostname, mailbox, original, news).await?;
        let Some(notice) = notice else { return Ok(()) };
        info!(id = %notice.id, bounce_of = %lease.id, tenant = %tenant.name, "bounce queued");
        self.spool.accept(*notice).await?.announce();
        self.metrics.bounce(&tenant.name, Kind::Failed.label());
        Ok(())
    }

    /// Not even the message's owner can be read, though nothing says that the message is damaged. When it is
    /// put aside in the end, nobody is known whom to tell.
    pub(super) async fn cannot_read_at_all(
        &self,
        lease: Lease,
        doubt: Option<Timestamp>,
        reason: String,
    ) -> Verdict {
        warn!(id = %lease.id, reason, "message not readable");
        let settlement = if clock::now() >= self.give_up_at(lease) {
            Settlement::Quarantine { reason }
        } else {
            let attempt = Trouble::new(ErrorClass::Relay, reason).attempt(clock::wall());
            Settlement::Wait { due: clock::now() + LOCAL_FAULT, counted: false, doubt, attempt }
        };
        self.settle(lease, settlement, Verdict::Done).await
    }
}
