//! A runtime for work that gives way.
//!
//! Accepting mail goes before delivering it: a client waits for its 250 and gives up after a while, a message
//! in the queue does neither. So everything that delivers runs on threads of its own with a lower priority.
//! With processor time to spare that makes no difference. When there is none, a burst is taken in first, and
//! deliveries continue with about a tenth of the processor time.

use std::{io, sync::Once};

use tokio::runtime::{Builder, Handle, Runtime};
use tracing::warn;

/// On the scale of nice(2). The kernel gives a thread at 10 a ninth of what one at 0 gets.
const NICENESS: i32 = 10;

/// A runtime whose tasks are cut off when it is dropped.
pub struct Background(Option<Runtime>);

impl Background {
    /// `name` is given to its threads.
    pub fn start(name: &str) -> io::Result<Self> {
        let told = Once::new();
        let runtime = Builder::new_multi_thread()
            .thread_name(name)
            .on_thread_start(move || give_way(lower_priority, &told))
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// For spawning on it.
    pub fn handle(&self) -> Handle {
        // Only a drop takes it out.
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed where this is dropped, which is on another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Warns if that fails, once for all threads.
fn give_way(lower_priority: impl Fn() -> io::Result<()>, told: &Once) {
    if let Err(error) = lower_priority() {
        told.call_once(|| {
            warn!(
                %error,
                "delivery thread priority not lowered: in a burst of mail, deliveries slow down acceptance. \
                 Allow the system call setpriority (SystemCallFilter=setpriority in a systemd unit, after any \
                 line that denies @resources)"
            );
        });
    }
}

/// On Linux, each thread has its own priority (setpriority(2), "C library/kernel differences"). A lower one
/// stays as it is: to raise it takes a privilege.
fn lower_priority() -> io::Result<()> {
    if rustix::process::getpriority_process(None)? < NICENESS {
        rustix::process::setpriority_process(None, NICENESS)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt;

    use super::*;
    use crate::telemetry::testing::Lines;

    #[test]
    fn that_threads_cannot_give_way_is_said_once() {
        let lines = Lines::default();
        let to = lines.clone();
        // At the relay's usual log level, which leaves debug lines out.
        let log = fmt().with_max_level(tracing::Level::INFO).with_writer(move || to.clone()).finish();
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        with_default(log, || {
            let told = Once::new();
            for _ in 0..8 {
                give_way(denied, &told);
            }
        });
        let lines = lines.text();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains("WARN") && lines.contains("SystemCallFilter=setpriority"), "{lines}");
    }

    #[tokio::test]
    async fn its_threads_give_way_and_no_others() {
        let background = Background::start("background").unwrap();
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let (task, blocking) = background
            .handle()
            .spawn(async move { (niceness(), tokio::task::spawn_blocking(niceness).await.unwrap()) })
            .await
            .unwrap();
        assert_eq!((task, blocking), (before.max(NICENESS), before.max(NICENESS)));
        assert_eq!(niceness(), before);
    }
}
