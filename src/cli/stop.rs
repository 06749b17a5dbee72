//! What signals do.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// A token that is cancelled by SIGTERM, SIGINT or SIGQUIT. A second signal ends the process at once: whoever sends it no
/// longer wants to wait, and the spool is safe at any moment.
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

/// SIGHUP asks a daemon to read its configuration again. This one cannot yet, and must not end by it either, which is what
/// a process does that says nothing about SIGHUP.
pub(super) fn ignore_hangup() -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            warn!("SIGHUP is ignored: this version cannot reload its configuration, restart it instead");
        }
    });
    Ok(())
}
