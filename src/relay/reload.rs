//! Reads the configuration again while the relay runs.
//!
//! It is read and checked whole first: on any mistake nothing changes. Then the new tenants take the place of the old, at once for
//! new mail. What tenants did not change is not disturbed; deliveries and SMTP transactions that have begun end as they began.
//! Other tables count from the next start on, and are named.
//!
//! One reload at a time.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::mpsc, task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admin::{ReloadRequest, Reloaded},
    config::{Changes, Config, Problem, Roster, RosterKeeper},
    identity::Identity,
    ingress::pickup::{Marks, settle_leftovers},
    network::Clients,
    schedule::Order,
    spool::Spool,
    telemetry::Metrics,
};

/// What a reload changes.
pub(super) struct Reloader {
    pub(super) file: PathBuf,
    /// What counts now.
    pub(super) running: Config,
    pub(super) keeper: RosterKeeper,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) identity: Arc<Identity>,
    pub(super) clients: Clients,
    pub(super) marks: Marks,
    pub(super) spool: Spool,
    pub(super) metrics: Metrics,
}

impl Reloader {
    /// Answers requests until `shutdown`.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<ReloadRequest>,
        shutdown: CancellationToken,
    ) {
        while let Some(Some(request)) = shutdown.run_until_cancelled(requests.recv()).await {
            let reloaded = self.reload().await;
            self.metrics.reloaded(reloaded.ok);
            // Whoever asked may have gone: it is done all the same.
            let _ = request.answer.send(reloaded);
        }
    }

    async fn reload(&mut self) -> Reloaded {
        let began = Instant::now();
        let (file, clients) = (self.file.clone(), self.clients.clone());
        let read = move || {
            let config = Config::load(&file).map_err(|errors| errors.problems().to_vec())?;
            clients
                .follow(config.tenants.values().map(|tenant| &tenant.cloud))
                .map_err(|error| vec![Problem::of_file(&file, error.to_string())])?;
            Ok::<_, Vec<Problem>>(config)
        };
        let read = spawn_blocking(read).await;
        match read.unwrap_or_else(|error| Err(vec![Problem::of_file(&self.file, error.to_string())])) {
            Ok(config) => {
                let reloaded = self.adopt(config).await;
                let Changes { added, changed, removed, unchanged, at_restart } = &reloaded.changes;
                info!(?added, ?changed, ?removed, unchanged, took = ?began.elapsed(), "the configuration is loaded anew");
                for table in at_restart {
                    warn!(table, "this has changed, and counts from the next start on");
                }
                reloaded.warnings.iter().for_each(|warning| warn!("{warning}"));
                reloaded
            }
            Err(errors) => {
                errors.iter().for_each(|problem| error!("{problem}"));
                error!(
                    errors = errors.len(),
                    "the configuration has mistakes: the relay goes on with the one that it has"
                );
                let unchanged = self.running.tenants.len();
                let changes = Changes { unchanged, ..Changes::default() };
                Reloaded { ok: false, errors, warnings: Vec::new(), changes }
            }
        }
    }

    async fn adopt(&mut self, mut new: Config) -> Reloaded {
        let changes = Changes::between(&self.running, &mut new);
        if let Some(pickup) = &self.running.pickup {
            // Of a process that ended while the tenant was there. Before any of its mail is delivered: see there.
            let added = new.tenants.keys().filter(|name| !self.running.tenants.contains_key(*name));
            settle_leftovers(&pickup.path, added.cloned(), &self.spool, &self.marks).await;
        }
        let roster = Arc::new(Roster::new(new.tenants.clone()));
        // First who delivers, then who accepts. It listens as long as the relay runs.
        let _ = self.orders.send(Order::Adopt(roster.clone()));
        self.keeper.replace(roster);
        // Whoever reloads may have mended what the configuration only names.
        for tenant in self.identity.forgive() {
            let _ = self.orders.send(Order::LookAgain(tenant));
        }
        self.identity.note_tenants(&new.tenants).await;
        let warnings = std::mem::take(&mut new.warnings);
        // Tables that wait for a restart are compared with what runs, each time.
        self.running.tenants = new.tenants;
        Reloaded { ok: true, errors: Vec::new(), warnings, changes }
    }
}
