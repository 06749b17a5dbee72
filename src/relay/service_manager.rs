//! What the service manager is told (sd_notify(3)): that the relay is ready, that it stops, and that it is
//! alive. Where none has asked, nothing is told.
//!
//! The watchdog is fed by the scheduler's turns and by nothing else: a relay whose scheduler no longer turns
//! delivers nothing, whatever else of it runs, and is killed and started again. What it has accepted is safe.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::schedule::Inspector;

/// The relay takes mail.
pub(super) fn ready(tenants: usize) {
    let status = format!("{tenants} tenant{}", if tenants == 1 { "" } else { "s" });
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The relay does not start.
pub fn failed(why: &str) {
    tell(&[NotifyState::Status(why.lines().next().unwrap_or_default())]);
}

/// Feeds the watchdog until `stop`, if there is one: three times as often as it wants to be fed, whenever the
/// scheduler has turned.
pub(super) async fn feed(inspector: Inspector, stop: CancellationToken) {
    let Some(every) = sd_notify::watchdog_enabled() else { return stop.cancelled().await };
    let mut tick = interval((every / 3).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if stop.run_until_cancelled(inspector.turn()).await == Some(true) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "service manager not told: see $NOTIFY_SOCKET");
    }
}
