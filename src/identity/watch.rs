//! The watch over credentials: a failure that a file is to blame for ends when the file changes, tokens that
//! are no longer used are forgotten, and certificates that end soon are reported.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Identity, cache::TokenCache, contents::Contents};
use crate::config::Tenant;
use relay_mail::TenantName;

/// How often the files of blocked tenants are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often spent tokens are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How often certificates are read, so that their end is known for tenants without mail, too.
const READ_EVERY: Duration = Duration::from_secs(3600);
/// How often the log warns of a certificate that ends.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3600);

impl Identity {
    /// Takes all tenants, at the start and again when the configuration has changed. Those that are gone are
    /// forgotten, with their tokens, and the ends of certificates are shown in the metrics. Nothing is
    /// logged, since the configuration has its own warnings.
    pub async fn note_tenants(&self, tenants: &BTreeMap<TenantName, Arc<Tenant>>) {
        self.caches().retain(|(name, _), _| tenants.contains_key(name));
        let certified: Vec<_> =
            tenants.values().filter(|tenant| tenant.credential.certificate().is_some()).cloned().collect();
        let before = std::mem::replace(&mut *self.certified(), certified.clone());
        let names: HashSet<&TenantName> = certified.iter().map(|tenant| &tenant.name).collect();
        for gone in before.iter().filter(|old| !names.contains(&old.name)) {
            self.means.metrics.credential_gone(&gone.name);
        }
        self.read_certificates(false).await;
    }

    /// Runs until `shutdown`. `again` is told of tenants that could not log in, and may try now: a file that
    /// their credential is read from has changed.
    pub async fn watch(&self, again: impl Fn(TenantName) + Sync, shutdown: CancellationToken) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut forgotten = started;
        let mut read = started;
        let mut told = started;
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            self.watch_once(&again).await;
            let now = Instant::now();
            if now - forgotten >= FORGET_EVERY {
                forgotten = now;
                self.forget_spent();
            }
            if now - read >= READ_EVERY {
                read = now;
                let tell = now - told >= TELL_EVERY;
                if tell {
                    told = now;
                }
                self.read_certificates(tell).await;
            }
        }
    }

    pub(super) fn forget_spent(&self) {
        self.caches().retain(|_, cache| !cache.is_spent());
    }

    /// What a reload does; `again` as for [`watch`](Self::watch). An operator who reloads may have fixed a
    /// file, or the way to the login service, or granted a permission. A login that the service has refused
    /// is not tried again with the same credential, since repeated failures lock a user out.
    ///
    /// Returns the tenants whose tokens are being renewed since something was denied to them: `again` is told
    /// of them later.
    pub async fn look_again(
        &self,
        again: impl Fn(TenantName) + Clone + Send + Sync + 'static,
    ) -> HashSet<TenantName> {
        let denied: Vec<_> = self.caches().values().filter(|cache| cache.is_denied()).cloned().collect();
        let renewing = denied.iter().map(|cache| cache.tenant().clone()).collect();
        for cache in denied {
            let again = again.clone();
            tokio::spawn(async move {
                cache.renew().await;
                again(cache.tenant().clone());
            });
        }
        let unreached: Vec<_> =
            self.caches().values().filter(|cache| cache.is_unreached()).cloned().collect();
        for cache in unreached {
            cache.forgive();
            again(cache.tenant().clone());
        }
        self.watch_once(&again).await;
        renewing
    }

    /// Looks once at the files of tenants that could not log in; `again` as for [`watch`](Self::watch).
    pub(super) async fn watch_once(&self, again: &(impl Fn(TenantName) + Sync)) {
        let failed: Vec<(Arc<TokenCache>, Contents)> =
            self.caches().values().filter_map(|cache| Some((cache.clone(), cache.blamed_files()?))).collect();
        if failed.is_empty() {
            return;
        }
        let changed = spawn_blocking(move || {
            failed
                .into_iter()
                .filter(|(_, looks)| looks.have_changed())
                .map(|(cache, _)| cache)
                .collect::<Vec<_>>()
        });
        match changed.await {
            Err(error) => error!(%error, "credential file check failed"),
            Ok(changed) => {
                for cache in changed {
                    let tenant = cache.tenant();
                    info!(%tenant, "credential file changed; retrying the login");
                    cache.forgive();
                    again(tenant.clone());
                }
            }
        }
    }

    /// Shows the ends of certificates in the metrics, and with `tell` logs those that are near.
    async fn read_certificates(&self, tell: bool) {
        let certified = self.certified().clone();
        let metrics = self.means.metrics.clone();
        if certified.is_empty() {
            return;
        }
        let read = spawn_blocking(move || {
            for tenant in certified {
                let name = &tenant.name;
                match tenant.credential.certificate().map(|certificate| certificate.read()) {
                    None => {}
                    Some(Ok(certificate)) => {
                        metrics.credential_expires(name, certificate.not_after);
                        if let Some(warning) = certificate.warning().filter(|_| tell) {
                            warn!(tenant = %name, "{warning}");
                        }
                    }
                    Some(Err(error)) => warn!(tenant = %name, %error, "certificate unreadable"),
                }
            }
        });
        if let Err(error) = read.await {
            error!(%error, "credential certificate check failed");
        }
    }

    fn certified(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Tenant>>> {
        self.certified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
