//! Which route a message takes. First, the doubt that an earlier attempt left is settled here, whichever
//! route that attempt took: a message in doubt is looked for before it is sent again.
//!
//! | `route` | Graph                                               | SMTP       |
//! |---------|-----------------------------------------------------|------------|
//! | `graph` | everything                                          |            |
//! | `smtp`  |                                                     | everything |
//! | `auto`  | what it delivers to the right people and as it came | the rest   |
//!
//! With `auto`, SMTP carries mail whose To or Cc names somebody outside the envelope (if `envelope_mismatch`
//! lets it), and mail above `graph.max_mime` that Graph would have to change, or for which the app may make
//! no draft.
//!
//! A copy in Sent Items proves that a message was sent by SMTP only if nothing else can have left it there.
//! So mail whose header names others than its envelope, and parts of a divided message, are sent again after
//! `settle_after` instead. If such mail is sent by Graph, a copy proves it only if it names the envelope's
//! recipients and nobody else; no copy proves it for a part.

use std::sync::Arc;

use super::{
    Attempted, Disposition, Reason, Trouble,
    graph::{Evidence, Graph},
    letter::Letter,
    smtp::Smtp,
};
use crate::{
    bounce::EnhancedStatus,
    config::{EnvelopeMismatch, RouteRule, Tenant},
    telemetry::{ErrorClass, Route},
};
use relay_mail::{MailboxAddress, Visible};
use relay_spool::{Claim, DamagedBody};

/// The routes.
pub struct Routes {
    graph: Graph,
    smtp: Smtp,
}

/// How it went, and by which route.
pub(super) struct Carried {
    pub(super) route: Route,
    pub(super) attempted: Attempted,
}

impl Routes {
    pub fn new(graph: Graph, smtp: Smtp) -> Self {
        Self { graph, smtp }
    }

    /// The route of the tenant's ordinary mail.
    pub(super) fn usual(tenant: &Tenant) -> Route {
        match tenant.route {
            RouteRule::Smtp => Route::Smtp,
            RouteRule::Graph | RouteRule::Auto => Route::Graph,
        }
    }

    /// Sends the message from `mailbox`. `Err`: its body is damaged or cannot be read now, and nothing was
    /// sent.
    pub(super) async fn deliver(
        &self,
        tenant: &Arc<Tenant>,
        mailbox: &MailboxAddress,
        claim: &Claim,
    ) -> Result<Carried, DamagedBody> {
        let letter = Letter::open(claim).await?;
        let route = choose(tenant, letter.visible());
        let mut passage = self.graph.passage(tenant, mailbox, claim, &letter);
        let is_large = letter.addressed().len() > self.graph.max_mime().0;
        let evidence = evidence(tenant, letter.visible(), letter.is_part(), is_large);
        if let Err(disposition) = passage.settle_doubt(route, evidence).await {
            return Ok(Carried { route, attempted: passage.attempted(disposition, claim.doubt) });
        }
        if letter.visible() == Visible::Reduced && tenant.envelope_mismatch == EnvelopeMismatch::Refuse {
            // Accepted before that was configured. The service was asked first whether the message has
            // arrived meanwhile, so its sender is not told that it failed if it arrived.
            let why =
                Trouble::new(ErrorClass::Recipients, "To or Cc names an address that is not a recipient");
            let status = EnhancedStatus::new(5, 7, 1).unwrap_or(EnhancedStatus::UNDEFINED);
            let disposition = Disposition::Failed(Reason { status, why });
            return Ok(Carried { route, attempted: passage.attempted(disposition, None) });
        }
        if route == Route::Graph {
            let attempted = passage.deliver().await;
            if tenant.route != RouteRule::Auto || !attempted.is_unsuited {
                return Ok(Carried { route, attempted });
            }
        }
        let route = Route::Smtp;
        if let Err(disposition) = passage.forget_draft().await {
            return Ok(Carried { route, attempted: passage.attempted(disposition, None) });
        }
        let look_after = self.graph.look_after(tenant).filter(|_| evidence == Evidence::Copy);
        let attempted = self.smtp.deliver(tenant, mailbox, claim, &letter, look_after).await;
        Ok(Carried { route, attempted })
    }

    /// One try, after which nothing is settled or queued: for `tenant check`.
    pub async fn try_once(
        &self,
        tenant: &Arc<Tenant>,
        mailbox: &MailboxAddress,
        claim: &Claim,
    ) -> Result<Disposition, DamagedBody> {
        self.deliver(tenant, mailbox, claim).await.map(|carried| carried.attempted.disposition)
    }

    /// The message is given up: tries to delete what was kept for its next attempt.
    pub(super) async fn discard(&self, tenant: &Arc<Tenant>, mailbox: &MailboxAddress, claim: &Claim) {
        self.graph.discard(tenant, mailbox, claim).await;
    }
}

/// The route that is tried first.
fn choose(tenant: &Tenant, visible: Visible) -> Route {
    match tenant.route {
        RouteRule::Graph => Route::Graph,
        RouteRule::Smtp => Route::Smtp,
        RouteRule::Auto if visible == Visible::Reduced && goes_unchanged(tenant.envelope_mismatch) => {
            Route::Smtp
        }
        RouteRule::Auto => Route::Graph,
    }
}

/// Whether mail whose header names others than its envelope is sent as it is.
fn goes_unchanged(mismatch: EnvelopeMismatch) -> bool {
    match mismatch {
        EnvelopeMismatch::Auto | EnvelopeMismatch::Smtp => true,
        EnvelopeMismatch::Rewrite | EnvelopeMismatch::Refuse => false,
    }
}

/// What a copy proves, whichever route left the doubt: a reload may have changed `route` since then, and
/// other mail that a program sent with the same Message-ID and header may have taken the other route.
fn evidence(tenant: &Tenant, visible: Visible, is_part: bool, is_large: bool) -> Evidence {
    let may_have_gone_by_smtp = match choose(tenant, visible) {
        Route::Smtp => true,
        Route::Graph => tenant.route == RouteRule::Auto && is_large,
    };
    match visible {
        // A copy of one part may name just the recipients of another.
        _ if is_part => Evidence::None,
        Visible::Reduced if may_have_gone_by_smtp => Evidence::None,
        Visible::Reduced => Evidence::OwnCopy,
        Visible::Kept | Visible::Mended => Evidence::Copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cloud;

    #[test]
    fn the_route_of_each_message() {
        use EnvelopeMismatch::{Auto, Refuse, Rewrite, Smtp};
        let chosen = |route, envelope_mismatch, visible| {
            let tenant = Tenant::sample("contoso", Cloud::loopback("http://127.0.0.1:1"));
            choose(&Tenant { route, envelope_mismatch, ..tenant }, visible)
        };
        for mismatch in [Auto, Rewrite, Smtp, Refuse] {
            for visible in [Visible::Kept, Visible::Mended, Visible::Reduced] {
                assert_eq!(chosen(RouteRule::Graph, mismatch, visible), Route::Graph);
                assert_eq!(chosen(RouteRule::Smtp, mismatch, visible), Route::Smtp);
                let by_smtp = visible == Visible::Reduced && matches!(mismatch, Auto | Smtp);
                let expected = if by_smtp { Route::Smtp } else { Route::Graph };
                assert_eq!(chosen(RouteRule::Auto, mismatch, visible), expected, "{mismatch:?} {visible:?}");
            }
        }
    }

    /// The copy that a part leaves by SMTP shows the header of all parts: after a change to Graph it would
    /// prove that another part was sent.
    #[test]
    fn what_a_copy_proves() {
        let tenant =
            |route| Tenant { route, ..Tenant::sample("contoso", Cloud::loopback("http://127.0.0.1:1")) };
        let proves = |route, visible, is_part, is_large| evidence(&tenant(route), visible, is_part, is_large);
        for route in [RouteRule::Graph, RouteRule::Smtp, RouteRule::Auto] {
            for visible in [Visible::Kept, Visible::Mended, Visible::Reduced] {
                assert_eq!(proves(route, visible, true, false), Evidence::None, "{route:?} {visible:?}");
            }
            assert_eq!(proves(route, Visible::Kept, false, true), Evidence::Copy);
            assert_eq!(proves(route, Visible::Mended, false, true), Evidence::Copy);
        }
        assert_eq!(proves(RouteRule::Graph, Visible::Reduced, false, true), Evidence::OwnCopy);
        assert_eq!(proves(RouteRule::Smtp, Visible::Reduced, false, false), Evidence::None);
        assert_eq!(proves(RouteRule::Auto, Visible::Reduced, false, false), Evidence::None);
    }
}
