//! What signals do.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::Reloads;

/// A token that is cancelled by SIGTERM, SIGINT or SIGQUIT. A second signal ends the process at once: its
/// sender no longer wants to wait, and the spool is safe at any moment.
pub(super) fn on_signal() -> std::io::Result<CancellationToken> {
    let mut signals =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?];
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let [terminate, interrupt, quit] = &mut signals;
        for is_second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
            }
            if is_second {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(token)
}

/// From now on SIGHUP makes the relay read its configuration again. How that goes is in the log.
pub(super) fn reload_on_hangup(reloads: Reloads) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloads.reload().await;
        }
    });
    Ok(())
}
