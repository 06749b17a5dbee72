//! How many files and connections the process may have open.
//!
//! Many systems start a process with a soft limit of 1024, for programs that use `select`, and let it ask for
//! more. Without descriptors, connections are refused and bodies cannot be read.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

use crate::{config::Config, ingress::pickup::MAX_FILES};
use relay_spool::OPEN_LISTS;

/// Listeners, the spool's index and the segments that it works on, the log, logins, metrics.
const FOR_THE_REST: u64 = 200;

/// Raises the limit as far as the system allows, and warns if that is not enough for what `config` allows.
pub(super) fn provide(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => debug!(?before, now = ?limit.current, "open file limit raised"),
        Err(error) => {
            debug!(%error, ?before, wanted = ?limit.current, "open file limit not raised")
        }
    }
    let needed = needed(config.smtp.max_connections, config.delivery.max_in_flight);
    // `None` is no limit.
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < needed) {
        warn!(
            limit,
            needed,
            "open file limit too low for smtp.max_connections and delivery.max_in_flight: raise it \
             (LimitNOFILE= in a systemd unit) or lower these settings"
        );
    }
}

/// Two for each client, which may be sending a body that has a file; two for each delivery, which has a
/// connection and may have a body's file; two for each file that is picked up; the spool's lists.
fn needed(max_connections: usize, max_in_flight: usize) -> u64 {
    let in_twos = (max_connections as u64).saturating_add(max_in_flight as u64);
    in_twos
        .saturating_add(MAX_FILES as u64)
        .saturating_mul(2)
        .saturating_add(OPEN_LISTS as u64)
        .saturating_add(FOR_THE_REST)
}
