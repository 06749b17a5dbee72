//! Messages that leave so that several others can enter.

use tracing::{error, info, warn};

use super::Attempt;
use crate::{
    bounce::Kind,
    delivery::{Division, notice::Whom, split},
    schedule::Verdict,
    telemetry::{List, Route},
};
use relay_spool::Settlement;

impl Attempt<'_> {
    pub(super) async fn split(self, most: usize) -> Verdict {
        let id = self.claim.lease.id;
        let tenant = &self.tenant.name;
        let recipients = self.claim.message.envelope.recipients().len();
        match split::parts(&self.worker.spool, &self.claim, most, self.header()).await {
            Ok(parts) => {
                let into = List::of(parts.iter().map(|part| part.id));
                info!(%id, %tenant, count = recipients, most, ?into, "message split: the service accepts fewer recipients per message");
                self.settle(Settlement::Split { parts }, Verdict::Done).await
            }
            Err(error) => {
                warn!(%id, %tenant, %error, "message split failed");
                self.wait_for_machine(format!("the message cannot be split: {error}")).await
            }
        }
    }

    fn header(&self) -> split::Header {
        match self.route {
            Route::Graph => split::Header::OfItsOwn,
            Route::Smtp => split::Header::Shared,
        }
    }

    /// The failed recipients are reported at once, and the others no longer wait for each other.
    pub(super) async fn divide(self, division: Division) -> Verdict {
        let Division { taken, later, failed } = division;
        if taken.is_empty() && later.is_empty() {
            return self.give_up(Kind::Failed, Whom::Each(&failed)).await;
        }
        let id = self.claim.lease.id;
        let tenant = &self.tenant.name;
        let mut entering =
            match split::parts_for(&self.worker.spool, &self.claim, [&taken, &later], self.header()).await {
                Ok(parts) => parts,
                Err(error) => {
                    warn!(%id, %tenant, %error, "message division failed");
                    return self.wait_for_machine(format!("the message cannot be divided: {error}")).await;
                }
            };
        let into = List::of(entering.iter().map(|part| part.id));
        let taken = taken.len();
        let later = later.len();
        let refused = failed.len();
        let recipients = List::of(failed.iter().map(|(recipient, _)| recipient));
        let why = Whom::Each(&failed).diagnostic();
        info!(%id, %tenant, taken, later, refused, ?recipients, why, ?into, "message divided: its recipients had different results");
        if !failed.is_empty() {
            match self.notification(self.news(Kind::Failed, Whom::Each(&failed))).await {
                Ok(bounce) => {
                    if bounce.is_some() {
                        self.worker.metrics.bounce(tenant, Kind::Failed.label());
                    }
                    entering.extend(bounce.map(|bounce| *bounce));
                }
                Err(e) => {
                    error!(%id, error = %e, "bounce not stored");
                    let why = format!("the report to the sender cannot be stored: {e}");
                    return self.wait_for_machine(why).await;
                }
            }
        }
        self.settle(Settlement::Split { parts: entering }, Verdict::Done).await
    }
}
