//! Logins: whose name and password are these?
//!
//! # Contract
//!
//! * A login succeeds only with the password that the configured hash of that user was made from.
//! * Wrong name and wrong password get the same answer after the same work: a comparison with one hash of
//!   each cost that there is. Failures are counted for the name as it was typed, so a count does not show
//!   whether there is such a user, or of which tenant.
//! * Hashes are computed where they may block, a few at a time: a flood of logins takes up neither all
//!   processors nor the memory, nor the tasks of other clients. A client that has to wait too long for its
//!   turn is told to come again.
//! * A login that was right is remembered for five minutes, so that a busy client does not cost a hash each
//!   time.
//! * A name that nobody has, and that a tenant whose configuration has mistakes may have, is not wrong: the
//!   client is told to come again.
//! * A client that fails often waits longer, and is then locked out for a time: see [`lockout`]. Memory is
//!   bounded, and nothing outlives the process.
//! * Passwords are kept nowhere; names are logged, passwords and hashes never are.
//!
//! Called by the SMTP server at AUTH. Knows no SMTP.

mod known;
mod lockout;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::{
    config::{ClientPrefix, LiveRoster, LockoutConfig, Tenant, User, UserName},
    telemetry::{LoginResult, Metrics},
};
use known::KnownLogins;
use lockout::{Client, Lockout};
use relay_mail::outside::Outside;

/// How long a login waits for its turn to be checked.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// The name and password that a client gives.
pub struct Credentials {
    /// `NAME@TENANT`, or `NAME`; anything at all.
    pub name: String,
    /// Octets, since old devices have encodings of their own.
    pub password: Zeroizing<Vec<u8>>,
}

/// Who has logged in.
#[derive(Debug, Clone)]
pub struct Login {
    pub tenant: Arc<Tenant>,
    pub user: UserName,
}

/// Why a login was denied.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no such user, or it has another password. The client must be told so after this time.
    Wrong(Duration),
    /// After too many failures, no password is looked at for a time.
    Locked,
    /// Too many clients are logging in at this moment, or nobody knows who may.
    Busy,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Logins(Arc<Inner>);

struct Inner {
    roster: LiveRoster,
    known: KnownLogins,
    lockout: Lockout,
    turns: Arc<Semaphore>,
    metrics: Metrics,
}

impl Logins {
    pub fn new(roster: LiveRoster, lockout: LockoutConfig, prefix: ClientPrefix, metrics: Metrics) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Inner {
            roster,
            known: KnownLogins::new(),
            lockout: Lockout::new(lockout, prefix),
            turns: Arc::new(Semaphore::new((processors / 2).max(1))),
            metrics,
        }))
    }

    /// Whether there is any user who could log in.
    pub fn exist(&self) -> bool {
        self.0.roster.now().has_users()
    }

    /// Checks whether `credentials` are right, for a client at `address`.
    pub async fn log_in(&self, credentials: Credentials, address: IpAddr) -> Result<Login, Denied> {
        let Credentials { name, password } = credentials;
        let inner = &self.0;
        let roster = inner.roster.now();
        let user = roster.user(&name);
        let shown = shown(&name);
        // As it was typed: counting a user's short name together with the long one would show that there is
        // such a user.
        let client = inner.lockout.client(address, &name.to_lowercase());
        let at_home = roster.is_at_home(&name, address);
        let deny = |result: LoginResult, denied: Denied| {
            inner.metrics.login(result);
            info!(user = %shown, result = result.as_str(), "login failed");
            Err(denied)
        };
        if inner.lockout.is_locked(&client, at_home, Instant::now()) {
            return deny(LoginResult::Locked, Denied::Locked);
        }
        let decoys = roster.decoys();
        let own = user.map(|user| user.hash.clone());
        // A name that nobody has is looked up as well.
        let looked_up = own.as_ref().or_else(|| decoys.first());
        let full_name = user.map_or_else(|| name.to_lowercase(), User::full_name);
        let is_known =
            looked_up.is_some_and(|hash| inner.known.has(&full_name, &password, hash, Instant::now()));
        if let Some(user) = user.filter(|_| is_known) {
            inner.lockout.succeeded(&client, Instant::now());
            inner.metrics.login(LoginResult::Cached);
            info!(user = %user.name, tenant = %user.tenant.name, "login succeeded");
            return Ok(Login::of(user));
        }

        let turn = timeout(LONGEST_TURN, inner.turns.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else { return deny(LoginResult::Busy, Denied::Busy) };
        // Logins before this one may have failed often enough meanwhile.
        if inner.lockout.is_locked(&client, at_home, Instant::now()) {
            return deny(LoginResult::Locked, Denied::Locked);
        }
        let checked = spawn_blocking(move || {
            let matches = own.as_ref().is_some_and(|hash| hash.matches(&password));
            if !matches {
                let others =
                    decoys.iter().filter(|decoy| own.as_ref().is_none_or(|own| !own.costs_as(decoy)));
                // Whatever the outcome: nobody knows their passwords.
                others.for_each(|decoy| {
                    std::hint::black_box(decoy.matches(&password));
                });
            }
            // The turn is given back with the result: the next login gets it once this one has been counted.
            // If nobody waits for the result any more, the next one gets it as soon as the result is there.
            (matches, password, turn)
        });
        let (matches, password, _turn) = match checked.await {
            Ok(checked) => checked,
            Err(error) => {
                error!(%error, "password check failed");
                return deny(LoginResult::Busy, Denied::Busy);
            }
        };
        let now = Instant::now();
        match user.filter(|_| matches) {
            Some(user) => {
                inner.known.add(&user.full_name(), &password, &user.hash, now);
                inner.lockout.succeeded(&client, now);
                inner.metrics.login(LoginResult::Ok);
                info!(user = %user.name, tenant = %user.tenant.name, "login succeeded");
                Ok(Login::of(user))
            }
            None if user.is_none() && roster.invalid().may_log_in(&name) => {
                deny(LoginResult::Unknown, Denied::Busy)
            }
            None => {
                let wait = self.failed(&client, at_home, &shown, now);
                let result = if user.is_some() { LoginResult::Wrong } else { LoginResult::Unknown };
                deny(result, Denied::Wrong(wait))
            }
        }
    }

    /// Counts a failure. Returns how long the client must wait for its answer.
    fn failed(&self, client: &Client, at_home: bool, name: &str, now: Instant) -> Duration {
        let failed = self.0.lockout.failed(client, at_home, now);
        if failed.address_locked {
            warn!("address locked out after too many failed logins");
        }
        if failed.name_locked {
            warn!(user = %name, "user locked out for unknown addresses after too many failed logins");
        }
        failed.wait
    }
}

impl Login {
    fn of(user: &User) -> Self {
        Self { tenant: user.tenant.clone(), user: user.name.clone() }
    }
}

/// A name as it may appear in the log.
fn shown(name: &str) -> String {
    const LONGEST: usize = 128;
    Outside::up_to(LONGEST, name).to_string()
}
