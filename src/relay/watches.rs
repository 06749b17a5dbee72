//! The watches over the disk, the spool and the credentials: each runs until the relay stops.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::mpsc::UnboundedSender, task::spawn_blocking, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config::Tenant, identity::Identity, schedule::Order, telemetry::Metrics, vital::Vital};
use relay_mail::TenantName;
use relay_spool::{FreeSpace, PutAside, Spool, Tally, Usage};

/// Tells `vital` about an operation on the store that has not returned for `limit`.
pub(super) async fn stalls(spool: Spool, limit: Duration, vital: Vital, stop: CancellationToken) {
    let Some(what) = stop.run_until_cancelled(spool.stalled(limit)).await else { return };
    let limit = humantime::format_duration(limit);
    vital.tell(
        "the spool",
        &format!("an operation on its {what} has not returned for {limit} (spool.stalled_after)"),
    );
    stop.cancelled().await;
}

/// Makes the scheduler look again at tenants whose credential files have changed.
pub(super) async fn credentials(
    identity: Arc<Identity>,
    tenants: BTreeMap<TenantName, Arc<Tenant>>,
    scheduler: UnboundedSender<Order>,
    stop: CancellationToken,
) {
    identity.note_tenants(&tenants).await;
    // The scheduler listens as long as this runs; if not, nothing depends on it.
    let look_again = |tenant| {
        let _ = scheduler.send(Order::LookAgain(tenant));
    };
    identity.watch(look_again, stop).await;
}

/// The figures of the disk.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) spool: PathBuf,
    pub(super) free_space: FreeSpace,
    pub(super) usage: Usage,
    pub(super) put_aside: PutAside,
    pub(super) tally: Arc<Tally>,
    pub(super) metrics: Metrics,
}

impl Disk {
    /// Keeps them up to date: free space every second, since mail is refused by it, the rest less often.
    pub(super) async fn watch(self, shutdown: CancellationToken) {
        const USAGE_EVERY: u32 = 15;
        let mut was_short = false;
        let mut second = interval(Duration::from_secs(1));
        for n in (0..USAGE_EVERY).cycle() {
            if shutdown.run_until_cancelled(second.tick()).await.is_none() {
                return;
            }
            let disk = self.clone();
            let measured = spawn_blocking(move || disk.measure(n == 0));
            if let Err(error) = measured.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
                warn!(%error, "spool disk measurement failed");
            }
            let shortage = self.free_space.shortage();
            match shortage {
                Some(shortage) if !was_short => warn!("new mail refused with 452: {shortage}"),
                None if was_short => info!("new mail taken again: the disk has room"),
                Some(_) | None => {}
            }
            was_short = shortage.is_some();
        }
    }

    fn measure(&self, all: bool) -> io::Result<()> {
        self.free_space.measure()?;
        if all {
            self.metrics.in_quarantine(self.put_aside.measure(&self.tally)?);
            self.usage.measure()?;
            relay_spool::give_to_owner(&self.spool)?;
        }
        Ok(())
    }
}
