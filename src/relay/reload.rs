//! Reads the configuration again while the relay runs.
//!
//! It is read and checked whole first: on a mistake that belongs to everybody nothing changes. A tenant in
//! whose configuration there is a mistake stays as it was. Then the new tenants take the place of the old, at
//! once for new mail. Nothing that a tenant did not change is disturbed; deliveries and SMTP
//! transactions that have begun end as they began. Other tables take effect at the next start, and are named.
//!
//! One reload at a time, and a limited number in a while. A request that comes before it begins gets its
//! answer too, so a thousand requests are a few reloads. A reload does not retry a login that failed, unless
//! its credential has changed. It does retry what Microsoft 365 refused, with new tokens.
//!
//! A single tenant can be retried without reading anything: when somebody has seen that its login and its
//! permissions work.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{mistakes, suspensions::Suspensions};
use crate::{
    admin::{ReloadRequest, Reloaded, SuspensionError, SuspensionKind, SuspensionWish},
    clock,
    config::{Changes, Config, Problem, RosterKeeper},
    identity::Identity,
    ingress::pickup::{Marks, settle_leftovers},
    network::Clients,
    schedule::Order,
    telemetry::{List, Metrics, seconds},
};
use relay_mail::{TenantName, Timestamp};
use relay_spool::Spool;

/// What a reload changes.
pub(super) struct Reloader {
    pub(super) file: PathBuf,
    /// The configuration in effect.
    pub(super) running: Config,
    pub(super) keeper: RosterKeeper,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) identity: Arc<Identity>,
    pub(super) clients: Clients,
    pub(super) marks: Marks,
    pub(super) suspensions: Suspensions,
    pub(super) spool: Spool,
    pub(super) metrics: Metrics,
}

/// Allows some reloads at once, and after these one in a while: each reads all files and hashes of the
/// configuration.
struct Pace {
    /// When the full number of reloads is allowed at once again.
    full_at: Instant,
}

impl Pace {
    const EVERY: Duration = Duration::from_secs(1);
    const AT_ONCE: u32 = 10;

    fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    /// Waits for the turn of the next one.
    async fn turn(&mut self) {
        let full_at = self.full_at.max(Instant::now());
        // If the machine started a moment ago, the clock does not go back that far.
        if let Some(at) = full_at.checked_sub(Self::EVERY * (Self::AT_ONCE - 1)) {
            sleep_until(at).await;
        }
        self.full_at = full_at + Self::EVERY;
    }
}

impl Reloader {
    /// Answers requests until `shutdown`.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<ReloadRequest>,
        shutdown: CancellationToken,
    ) {
        let mut pace = Pace::new();
        loop {
            let next_end = self.suspensions.next_end();
            let request = tokio::select! {
                () = shutdown.cancelled() => return,
                () = wait_for(next_end) => {
                    self.lift().await;
                    continue;
                }
                request = requests.recv() => request,
            };
            let Some(request) = request else { return };
            if shutdown.run_until_cancelled(pace.turn()).await.is_none() {
                return;
            }
            // All requests that have come by now are answered by files that are read from here on.
            let mut asked = Vec::new();
            let mut next = Some(request);
            while let Some(request) = next {
                match request {
                    ReloadRequest::Everything { answer } => asked.push(answer),
                    ReloadRequest::Tenant { name, answer } => self.retry(name, answer),
                    ReloadRequest::Suspension { wish, answer } => {
                        // The caller may have gone.
                        let _ = answer.send(self.change_suspension(wish).await);
                    }
                }
                next = requests.try_recv().ok();
            }
            if asked.is_empty() {
                continue;
            }
            let reloaded = self.reload().await;
            self.metrics.reloaded(reloaded.ok);
            for answer in asked {
                // The caller may have gone. The reload is done all the same.
                let _ = answer.send(reloaded.clone());
            }
        }
    }

    /// Tries this tenant's mail again, with new tokens. The answer: whether there is such a tenant.
    fn retry(&self, name: TenantName, answer: oneshot::Sender<bool>) {
        if !self.running.tenants.contains_key(&name) {
            let _ = answer.send(false);
            return;
        }
        let identity = self.identity.clone();
        let look_again = self.look_again();
        tokio::spawn(async move {
            identity.renew(&name).await;
            info!(tenant = %name, "retrying what was refused");
            look_again(name);
            // The caller may have gone.
            let _ = answer.send(true);
        });
    }

    async fn change_suspension(&mut self, wish: SuspensionWish) -> Result<(), SuspensionError> {
        let SuspensionWish { tenant, mailbox, is } = wish;
        let Some(configured) = self.running.tenants.get(&tenant) else {
            return Err(SuspensionError::NoTenant(tenant));
        };
        if mailbox.is_none() && configured.suspended.is_some() {
            return Err(SuspensionError::Configured(tenant));
        }
        let suspensions = &mut self.suspensions;
        let changed = match is {
            SuspensionKind::Suspend { until, reason } => {
                suspensions.suspend(&tenant, mailbox.as_ref(), until, reason).await.map(|()| true)
            }
            SuspensionKind::Resume => suspensions.resume(&tenant, mailbox.as_ref()).await,
        };
        match changed {
            Ok(true) => {
                self.spread();
                Ok(())
            }
            Ok(false) => {
                let what = mailbox.map_or_else(|| tenant.to_string(), |mailbox| mailbox.to_string());
                Err(SuspensionError::NotSuspended(what))
            }
            Err(error) => Err(SuspensionError::Store(error)),
        }
    }

    /// Suspensions are over.
    async fn lift(&mut self) {
        let (lifted, written) = self.suspensions.lift().await;
        if let Err(error) = written {
            warn!(%error, "suspensions not written: those that are over are forgotten again at the next start");
        }
        for what in &lifted {
            info!(what, "suspension over");
        }
        if !lifted.is_empty() {
            self.spread();
        }
    }

    /// Those that run are the tenants from now on, apart from what is suspended: first for the part that
    /// delivers, then for those that accept. The scheduler listens as long as the relay runs.
    fn spread(&mut self) {
        let roster = Arc::new(super::roster(&mut self.suspensions, &self.running));
        let _ = self.orders.send(Order::Adopt(roster.clone()));
        self.keeper.replace(roster);
    }

    fn look_again(&self) -> impl Fn(TenantName) + Clone + Send + Sync + 'static {
        let orders = self.orders.clone();
        move |tenant| {
            // The scheduler listens as long as the relay runs.
            let _ = orders.send(Order::LookAgain(tenant));
        }
    }

    async fn reload(&mut self) -> Reloaded {
        let began = Instant::now();
        let file = self.file.clone();
        let clients = self.clients.clone();
        let running = self.running.clone();
        let read = move || {
            let mut config = Config::load_to_run(&file).map_err(|errors| errors.problems().to_vec())?;
            config.keep_as_in(&running);
            clients
                .follow(config.tenants.values().map(|tenant| &tenant.cloud))
                .map_err(|error| vec![Problem::of_file(&file, error.to_string())])?;
            Ok::<_, Vec<Problem>>(config)
        };
        let read = spawn_blocking(read).await;
        match read.unwrap_or_else(|error| Err(vec![Problem::of_file(&self.file, error.to_string())])) {
            Ok(config) => {
                let reloaded = self.adopt(config).await;
                let Changes { added, changed, removed, invalid, unchanged, at_restart } = &reloaded.changes;
                let [added, changed, removed, invalid] = [added, changed, removed, invalid].map(List::of);
                let took = seconds(began.elapsed());
                info!(?added, ?changed, ?removed, ?invalid, unchanged, took, "configuration reloaded");
                for table in at_restart {
                    warn!(table, "setting changed; it takes effect at the next start");
                }
                reloaded.warnings.iter().for_each(|warning| warn!("{warning}"));
                reloaded
            }
            Err(errors) => {
                errors.iter().for_each(|problem| error!("{problem}"));
                error!(
                    errors = errors.len(),
                    "configuration reload failed: the relay keeps its current configuration"
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
            // Files of a process that ended while the tenant was there. Before any of the tenant's mail is
            // delivered, as `settle_leftovers` requires.
            let added = new.tenants.keys().filter(|name| !self.running.tenants.contains_key(*name));
            settle_leftovers(&pickup.path, added.cloned(), &self.spool, &self.marks).await;
        }
        let warnings = std::mem::take(&mut new.warnings);
        let before = std::mem::replace(&mut self.running.invalid, new.invalid);
        // Each time, tables that wait for a restart are compared with those in effect.
        (self.running.tenants, self.running.files) = (new.tenants, new.files);
        self.running.aliases = new.aliases;
        self.spread();
        mistakes::tell(&self.running, &before, &self.metrics);
        self.identity.note_tenants(&self.running.tenants).await;
        // The reload may follow a repair of what the configuration only names. A tenant with a new credential
        // starts again in any case.
        let except = self.identity.look_again(self.look_again()).await;
        let _ = self.orders.send(Order::AskServices { except });
        for name in std::mem::take(&mut new.unreadable) {
            let _ = self.orders.send(Order::TryLogin(name));
        }
        let errors = self.running.invalid.problems().cloned().collect();
        Reloaded { ok: true, errors, warnings, changes }
    }
}

/// Returns at this time of the wall clock, or never.
async fn wait_for(at: Option<Timestamp>) {
    match at {
        // The clock may be set meanwhile, so the time that is left is looked at again and again.
        Some(at) => {
            while let left = at.since(clock::wall())
                && !left.is_zero()
            {
                sleep_until(Instant::now() + left.min(Duration::from_secs(30))).await;
            }
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_at_once_and_then_one_in_a_while() {
        let mut pace = Pace::new();
        let began = Instant::now();
        let mut turns = Vec::new();
        for _ in 0..13 {
            pace.turn().await;
            turns.push(began.elapsed().as_secs());
        }
        assert_eq!(turns, [[0; 10].as_slice(), &[1, 2, 3]].concat());
        tokio::time::sleep(Pace::EVERY * 100).await;
        let began = Instant::now();
        for _ in 0..Pace::AT_ONCE {
            pace.turn().await;
        }
        assert!(began.elapsed().is_zero());
    }
}
