//! The relay: puts the rooms together and takes them apart again.
//!
//! Start: the spool is opened and told to the scheduler, then the listeners are bound, then mail is accepted. A start that
//! fails leaves nothing behind. Stop: no new mail, sessions end, deliveries in flight are waited for (at most
//! [`GRACE`]); what is still in flight then is found in doubt at the next start. Nothing is lost by a stop of any kind.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::{JoinError, JoinSet, spawn_blocking},
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin,
    config::Config,
    delivery::{Worker, WorkerSettings, graph::Graph},
    identity::Identity,
    ingress::{Door, pickup::Pickup, smtp},
    network::{Clients, NetworkError},
    schedule::{Depths, Scheduler, Settings},
    spool::{DiskStore, FreeSpace, OpenError, Spool, StoreError, Usage},
    telemetry::Metrics,
};

/// How long a stop waits for what is in flight.
const GRACE: Duration = Duration::from_secs(30);

/// Ready to run: everything is opened and bound.
pub struct Relay {
    config: Config,
    spool: Spool,
    free_space: FreeSpace,
    metrics: Metrics,
    depths: Depths,
    smtp: smtp::Server,
    admin: admin::Server,
    scheduler: ScheduledParts,
}

/// What the scheduler is made of.
struct ScheduledParts {
    settings: Settings,
    worker: Arc<Worker>,
    waiting: tokio::sync::mpsc::UnboundedReceiver<crate::spool::Waiting>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the spool: {0}")]
    Open(#[from] OpenError),
    #[error("cannot read the spool: {0}")]
    Spool(#[from] StoreError),
    #[error("cannot tell how much space is free at {path}: {source}")]
    FreeSpace { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("smtp.listener: {0}")]
    Smtp(#[from] smtp::BindError),
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    #[error("the start broke off: {0}")]
    BrokenOff(#[from] JoinError),
}

impl Relay {
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let (path, settle_after) = (config.spool.path.clone(), config.delivery.settle_after);
        let to_spool = metrics.clone();
        let opened = spawn_blocking(move || {
            let store = DiskStore::open(&path)?;
            Ok::<_, StartError>(Spool::start(store, settle_after, to_spool)?)
        });
        let (spool, waiting) = opened.await??;
        let path = &config.spool.path;
        let free_space = FreeSpace::of(path, config.spool.min_free)
            .map_err(|source| StartError::FreeSpace { path: path.clone(), source })?;

        let tenants = Arc::new(config.tenants.clone());
        let clients = Clients::new(tenants.values().map(|tenant| &tenant.cloud))?;
        let identity = Arc::new(Identity::new(&tenants, &clients, &metrics));
        let graph = Graph::new(identity.clone(), clients);
        let worker = WorkerSettings {
            tenants: tenants.clone(),
            hostname: config.smtp.hostname.clone(),
            retry: config.delivery.retry,
            settle_after,
        };
        let worker = Arc::new(Worker::new(worker, spool.clone(), identity, graph, metrics.clone()));
        let settings = Settings {
            tenants,
            max_in_flight: config.delivery.max_in_flight,
            give_up_after: config.delivery.retry.give_up_after,
        };
        let smtp = smtp::Server::bind(&config.smtp).await?;
        let admin = admin::Server::bind(config.admin.address).await?;
        let scheduler = ScheduledParts { settings, worker, waiting };
        Ok(Self { config, spool, free_space, metrics, depths: Depths::default(), smtp, admin, scheduler })
    }

    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        self.smtp.addresses()
    }

    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.address()
    }

    /// Runs until `shutdown`, then stops in good order.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let Self { config, spool, free_space, metrics, depths, smtp, admin, scheduler } = self;
        for address in smtp.addresses() {
            info!(%address, "listening for SMTP");
        }
        info!(address = %admin.address()?, "listening for metrics and health");
        let tenants = scheduler.settings.tenants.clone();
        let door = Door::new(tenants.clone(), spool.clone(), free_space.clone(), config.smtp.max_message);

        let mut tasks = JoinSet::new();
        let ScheduledParts { settings, worker, waiting } = scheduler;
        tasks.spawn(Scheduler::run(
            settings,
            worker,
            spool.clone(),
            metrics.clone(),
            depths.clone(),
            waiting,
            shutdown.clone(),
        ));
        tasks.spawn(smtp.serve(door.clone(), metrics.clone(), shutdown.clone()));
        if let Some(pickup) = config.pickup {
            let names = tenants.keys().cloned().collect();
            let pickup = Pickup::new(pickup.path, names, door, config.smtp.hostname, metrics.clone());
            tasks.spawn(pickup.run(shutdown.clone()));
        }
        let usage = Usage::of(&config.spool.path);
        tasks.spawn(watch(free_space.clone(), usage.clone(), shutdown.clone()));
        // Health is answered until everything else has ended.
        let admin_stop = CancellationToken::new();
        let shown = admin::Shown { metrics, spool, depths, free_space, usage };
        let admin = tokio::spawn(admin.serve(shown, admin_stop.clone()));
        info!(tenants = tenants.len(), version = env!("CARGO_PKG_VERSION"), "ready");

        shutdown.cancelled().await;
        info!("stopping: no new mail, waiting for what is in flight");
        if timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            warn!("deliveries are still in flight: they are in doubt at the next start");
        }
        admin_stop.cancel();
        // An admin client that keeps its connection open is not waited for.
        let _ = timeout(Duration::from_secs(1), admin).await;
        info!("stopped");
        Ok(())
    }
}

/// Keeps the figures of the disk fresh: free space every second, since mail is refused by it, the rest more seldom.
async fn watch(free_space: FreeSpace, usage: Usage, shutdown: CancellationToken) {
    const USAGE_EVERY: u32 = 15;
    let mut second = interval(Duration::from_secs(1));
    for n in (0..USAGE_EVERY).cycle() {
        if shutdown.run_until_cancelled(second.tick()).await.is_none() {
            return;
        }
        let (free_space, usage) = (free_space.clone(), usage.clone());
        let measure =
            move || free_space.measure().and_then(|()| if n == 0 { usage.measure() } else { Ok(()) });
        if let Err(error) = spawn_blocking(measure).await.unwrap_or_else(|e| Err(io::Error::other(e))) {
            warn!(%error, "cannot measure the spool's disk");
        }
    }
}
