//! The relay: puts the rooms together and takes them apart again.
//!
//! Start: the spool is opened, and the picked-up files that the last process had claimed are settled by it.
//! The scheduler is told, then the listeners are bound, then mail is accepted. A start that fails leaves
//! nothing behind. Stop: no new mail is accepted, sessions end, and deliveries in flight are waited for (at
//! most [`GRACE`]). Those still in flight then are found in doubt at the next start. Nothing is lost by a
//! stop of any kind.
//!
//! A [reload] changes the tenants of a running relay.
//!
//! A part that ends before it is told to, as by a panic, stops the relay in the same way, with one error in
//! the log: half a relay would take mail and never deliver it. So does a thread that a room cannot do without
//! ([`vital`](crate::vital)), and an operation on the store that never returns. The service manager starts
//! the process again. A stop that does not come to an end is cut off.

mod logins;
mod mistakes;
mod parts;
mod reload;
pub mod service_manager;
mod spool_watch;
mod suspensions;
mod watches;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admin::{self, ReloadRequest, Reloads},
    background::Background,
    config::{Config, Invalid, Roster, RosterKeeper},
    delivery::{
        ByHand, Routes, Worker, WorkerSettings,
        graph::{Graph, GraphContext},
        smtp as submission,
        smtp::{DialError, Smtp},
    },
    faults,
    identity::{Identity, credential_folder},
    ingress::{
        Door,
        login::Logins,
        pickup::{Marks, Pickup, settle_leftovers},
        smtp,
    },
    limits::allowance::Allowances,
    network::{Clients, NetworkError},
    schedule::{Depths, Inbox, Inspector, Order, Scheduler, Settings},
    telemetry::Metrics,
    vital::{Death, Deaths, Vital, Watchdog},
};
use logins::LoginWatch;
use parts::Parts;
use relay_spool::{DiskStore, Event, FreeSpace, OpenError, PutAside, Quarantine, Spool, StoreError, Usage};
use reload::Reloader;
use spool_watch::SpoolWatch;
use suspensions::Suspensions;

/// How long a stop waits for what is in flight.
const GRACE: Duration = Duration::from_secs(30);
/// How long the rest of a stop may take before the process is cut off. With [`GRACE`] it is less than what
/// the systemd unit allows.
const LAST_STEPS: Duration = Duration::from_secs(10);

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
    identity: Arc<Identity>,
    clients: Clients,
    /// The marks of picked-up files.
    marks: Marks,
    suspensions: Suspensions,
    reloads: (Reloads, mpsc::Receiver<ReloadRequest>),
    vital: Vital,
    deaths: Deaths,
    /// The runtime of everything that delivers.
    background: Background,
}

/// What a process gives to its relay.
pub struct Given {
    pub metrics: Metrics,
    /// The sender of requests to reload, and where they are received.
    pub reloads: (Reloads, mpsc::Receiver<ReloadRequest>),
    /// Where the end of a thread is reported, and where that is received.
    pub vital: (Vital, Deaths),
}

/// The parts of the scheduler.
struct ScheduledParts {
    settings: Settings,
    worker: Arc<Worker>,
    events: mpsc::UnboundedReceiver<Event>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the spool: {0}")]
    Open(#[from] OpenError),
    #[error("cannot read the spool: {0}")]
    Spool(#[from] StoreError),
    #[error("cannot determine the free space at {path}: {source}")]
    FreeSpace { path: PathBuf, source: io::Error },
    #[error("cannot prepare to mark files that are picked up: {path}: {source}")]
    Marks { path: PathBuf, source: io::Error },
    #[error("cannot read who is suspended: {path}: {source}. Mend the file or remove it")]
    Suspensions { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Submission(#[from] DialError),
    #[error("smtp.listener: {0}")]
    Smtp(#[from] smtp::BindError),
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    #[error("cannot start the threads that deliver: {0}")]
    Background(io::Error),
    #[error("the start was interrupted: {0}")]
    BrokenOff(#[from] JoinError),
}

/// Why a relay stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot determine the admin address: {0}")]
    AdminAddress(io::Error),
    #[error(
        "vital part ended: {part}: {why}. The relay stops; the mail it has accepted is safe. Start it again"
    )]
    Broken { part: &'static str, why: String },
}

impl Relay {
    pub async fn start(config: Config, given: Given) -> Result<Self, StartError> {
        let Given { metrics, reloads, vital: (vital, deaths) } = given;
        let path = config.spool.path.clone();
        let longest_wait = config.delivery.longest_wait();
        let watch = SpoolWatch::new(metrics.clone(), vital.clone());
        let opened = spawn_blocking(move || {
            let store = DiskStore::open(&path)?;
            Ok::<_, StartError>(Spool::start_with_waits(store, watch, longest_wait)?)
        });
        let (spool, events) = opened.await??;
        let path = &config.spool.path;
        let marked = path.clone();
        let marks = spawn_blocking(move || Marks::of_spool(&marked)).await?;
        let marks = marks.map_err(|source| StartError::Marks { path: path.clone(), source })?;
        if let Some(pickup) = &config.pickup {
            // Before anything is delivered, as `settle_leftovers` requires.
            settle_leftovers(&pickup.path, config.tenants.keys().cloned(), &spool, &marks).await;
        }
        let free_space = FreeSpace::of(path, config.spool.floor())
            .map_err(|source| StartError::FreeSpace { path: path.clone(), source })?;

        let spool_folder = path.clone();
        let suspensions = spawn_blocking(move || Suspensions::load(&spool_folder)).await?;
        let mut suspensions = suspensions
            .map_err(|source| StartError::Suspensions { path: path.join("suspensions.json"), source })?;
        let roster = Arc::new(roster(&mut suspensions, &config));
        mistakes::tell(&config, &Invalid::default(), &metrics);
        let clients = Clients::new(&config.network, config.tenants.values().map(|tenant| &tenant.cloud))?;
        let identity = Arc::new(Identity::new(clients.clone(), metrics.clone(), credential_folder(path)));
        let allowances = allowances(&config, &metrics, &vital).await?;
        let worker = worker(&config, &spool, &identity, &clients, allowances, &metrics)?;
        let settings = Settings {
            roster,
            max_in_flight: config.delivery.max_in_flight,
            give_up_after: config.delivery.retry.give_up_after,
        };
        let smtp = smtp::Server::bind(&config.smtp).await?;
        let admin = admin::Server::bind(&config.admin).await?;
        let scheduler = ScheduledParts { settings, worker, events };
        let background = Background::start("delivery").map_err(StartError::Background)?;
        let depths = Depths::default();
        Ok(Self {
            config,
            spool,
            free_space,
            metrics,
            depths,
            smtp,
            admin,
            scheduler,
            identity,
            clients,
            marks,
            suspensions,
            reloads,
            vital,
            deaths,
            background,
        })
    }

    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        self.smtp.addresses()
    }

    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.address()
    }

    /// Runs until `shutdown`, or until a part breaks down, then stops in good order. An error is in the log.
    /// `watchdog` is armed from the moment that the stop begins: what remains to be done afterwards must be
    /// done before it expires.
    pub async fn run(self, shutdown: CancellationToken, watchdog: &Watchdog) -> Result<(), RunError> {
        let ran = self.run_all(shutdown, watchdog).await;
        if let Err(error @ RunError::AdminAddress(_)) = &ran {
            error!("{error}");
        }
        ran
    }

    async fn run_all(self, shutdown: CancellationToken, watchdog: &Watchdog) -> Result<(), RunError> {
        let Self {
            config,
            spool,
            free_space,
            metrics,
            depths,
            smtp,
            admin,
            scheduler,
            identity,
            clients,
            marks,
            mut suspensions,
            reloads,
            vital,
            mut deaths,
            background,
        } = self;
        log_listeners(&smtp, &admin)?;
        let (keeper, roster) = RosterKeeper::new(roster(&mut suspensions, &config));
        let logins =
            Logins::new(roster.clone(), config.smtp.lockout, config.smtp.client_prefix, metrics.clone());
        let door = Door::new(roster.clone(), spool.clone(), free_space.clone(), config.smtp.max_message);

        let by_hand = ByHand {
            spool: spool.clone(),
            roster: roster.clone(),
            hostname: config.smtp.hostname.as_str().into(),
            metrics: metrics.clone(),
        };

        // No child of `shutdown`: children are cancelled before their parent is, and a part that ends at that
        // moment would count as broken down.
        let stop = CancellationToken::new();
        let mut parts = Parts::default();
        let ScheduledParts { settings, worker, events } = scheduler;
        let (inspector, questions) = Inspector::new();
        let feeding = service_manager::feed(inspector.clone(), stop.clone());
        parts.spawn_on(&background.handle(), "watchdog-feed", "what feeds the watchdog", feeding);
        let (orders, obeyed) = mpsc::unbounded_channel::<Order>();
        // A task that panics drops what it owns, and threads that serve it end with that. Here the worker
        // stays until the end of the task has been noticed, which is the cause that the log must name.
        let kept = worker.clone();
        for name in &config.unreadable {
            // The scheduler takes it as soon as it runs.
            let _ = orders.send(Order::TryLogin(name.clone()));
        }
        if let Some(every) = config.delivery.check_logins_every {
            let courier = worker.clone();
            let watch = LoginWatch { every, roster: roster.clone(), courier, orders: orders.clone() };
            parts.spawn_on(
                &background.handle(),
                "login-watch",
                "the watch over logins",
                watch.run(stop.clone()),
            );
        }
        let scheduler = Scheduler::run(
            settings,
            worker,
            spool.clone(),
            metrics.clone(),
            depths.clone(),
            Inbox { events, questions, orders: obeyed },
            stop.clone(),
        );
        parts.spawn_on(&background.handle(), "scheduler", "the scheduler", scheduler);
        let smtp = smtp.serve(door.clone(), logins, metrics.clone(), vital.clone(), stop.clone());
        parts.spawn("smtp", "the SMTP server", smtp);
        if let Some(pickup) = &config.pickup {
            let hostname = config.smtp.hostname.clone();
            let pickup = Pickup::new(pickup, roster, door, hostname, marks.clone(), metrics.clone());
            parts.spawn("pickup", "pickup", pickup.run(stop.clone()));
        }
        let usage = Usage::of(&config.spool.path);
        let quarantine = Quarantine::of(&config.spool.path);
        let disk = watches::Disk {
            spool: config.spool.path.clone(),
            free_space: free_space.clone(),
            usage: usage.clone(),
            put_aside: PutAside::of(&config.spool.path),
            tally: spool.tally().clone(),
            metrics: metrics.clone(),
        };
        parts.spawn("disk-watch", "the watch over the disk", disk.watch(stop.clone()));
        let stalls = watches::stalls(spool.clone(), config.spool.stalled_after, vital, stop.clone());
        parts.spawn("stall-watch", "the watch over the spool", stalls);
        // Requests for health are answered until everything else has ended.
        let admin_stop = CancellationToken::new();
        let (reloads, requests) = reloads;
        let tenants = config.tenants.len();
        let credentials =
            watches::credentials(identity.clone(), config.tenants.clone(), orders.clone(), stop.clone());
        parts.spawn("credentials-watch", "the watch over credentials", credentials);
        let reloader = Reloader {
            file: config.file.clone(),
            running: config,
            keeper,
            orders,
            identity,
            clients,
            marks,
            suspensions,
            spool: spool.clone(),
            metrics: metrics.clone(),
        };
        parts.spawn("reload", "what reloads the configuration", reloader.run(requests, stop.clone()));
        let shown = admin::Shown {
            metrics,
            spool,
            quarantine,
            depths,
            inspector,
            by_hand,
            reloads,
            free_space,
            usage,
        };
        let serve = admin.serve(shown, admin_stop.clone());
        let mut admin = tokio::spawn(async move {
            tokio::select! { () = serve => {}, () = faults::due("admin") => {} }
        });
        info!(tenants, version = env!("CARGO_PKG_VERSION"), "ready");
        service_manager::ready(tenants);

        let broken = async {
            tokio::select! {
                Death { part, why } = deaths.next() => RunError::Broken { part, why },
                ended = &mut admin => {
                    let why = ended.map_or_else(|error| error.to_string(), |()| "it has ended".to_owned());
                    RunError::Broken { part: "the server for metrics and health", why }
                }
            }
        };
        let ran = parts.run_until(&shutdown, broken).await;
        drop(kept);
        watchdog.arm(GRACE + LAST_STEPS);
        if let Err(error) = &ran {
            error!("{error}");
        }
        service_manager::stopping();
        stop.cancel();
        wait_for_end(&mut parts).await;
        admin_stop.cancel();
        if !admin.is_finished() {
            // An admin client that keeps its connection open is not waited for.
            let _ = timeout(Duration::from_secs(1), admin).await;
        }
        info!("stopped");
        ran
    }
}

fn log_listeners(smtp: &smtp::Server, admin: &admin::Server) -> Result<(), RunError> {
    for address in smtp.addresses() {
        info!(%address, "listening for SMTP");
    }
    let address = admin.address().map_err(RunError::AdminAddress)?;
    info!(%address, "listening for metrics and health");
    info!(socket = %admin.socket().display(), "listening for commands");
    Ok(())
}

async fn wait_for_end(parts: &mut Parts) {
    info!("stopping: no new mail accepted, waiting for deliveries in flight");
    if timeout(GRACE, parts.ended()).await.is_err() {
        warn!("deliveries still in flight: their outcome is unknown at the next start");
    }
}

/// All tenants of the configuration, with the suspensions of now.
fn roster(suspensions: &mut Suspensions, config: &Config) -> Roster {
    Roster::new(suspensions.over(&config.tenants))
        .with_invalid(config.invalid.clone())
        .with_aliases(config.aliases.clone())
}

/// What each tenant and mailbox may still send, including what was kept of it from before.
async fn allowances(config: &Config, metrics: &Metrics, vital: &Vital) -> Result<Allowances, StartError> {
    let app = config.app_limit;
    let metrics = metrics.clone();
    let ledger = config.spool.path.join("limits/recipients");
    let vital = vital.clone();
    let read = spawn_blocking(move || Allowances::new(app, metrics, Some((&ledger, &vital))));
    Ok(read.await?)
}

/// Makes the worker, which delivers one message by whichever route its tenant has.
fn worker(
    config: &Config,
    spool: &Spool,
    identity: &Arc<Identity>,
    clients: &Clients,
    allowances: Allowances,
    metrics: &Metrics,
) -> Result<Arc<Worker>, StartError> {
    let submission = Smtp::new(submission::SmtpContext {
        identity: identity.clone(),
        clients: clients.clone(),
        network: config.network.clone(),
        allowances: allowances.clone(),
        hostname: config.smtp.hostname.clone(),
        max_recipients: config.graph.max_recipients,
        metrics: metrics.clone(),
    })?;
    let means = GraphContext {
        identity: identity.clone(),
        clients: clients.clone(),
        network: config.network.clone(),
        allowances,
    };
    let settle_after = config.delivery.settle_after;
    let graph = Graph::new(config.graph, settle_after, means, spool.clone(), metrics.clone());
    let settings =
        WorkerSettings { hostname: config.smtp.hostname.clone(), retry: config.delivery.retry, settle_after };
    let routes = Routes::new(graph, submission);
    Ok(Arc::new(Worker::new(settings, spool.clone(), identity.clone(), routes, metrics.clone())))
}
