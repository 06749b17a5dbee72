//! What the relay cannot do without.
//!
//! A relay that has lost a thread of its own would take mail and never deliver it, or never answer. So it
//! runs whole or ends:
//!
//! * Such a thread is started by [`Vital::spawn`]. If it panics, or returns while the relay runs, the relay
//!   learns of it from [`Deaths`], stops in order, and exits with 1; the service manager starts the process
//!   again.
//! * A stop that does not come to an end, as when it waits for a thread that has died, is cut off by the
//!   [`Watchdog`].
//!
//! Nothing is global: a relay that starts makes the pair, and hands one half down.

use std::{
    io,
    sync::{Mutex, PoisonError, mpsc as blocking},
    thread,
    time::Duration,
};

use relay_spool::threads;
use tokio::sync::mpsc;
use tracing::error;

/// A part that has ended before it was told to.
#[derive(Debug)]
pub struct Death {
    /// The part's name, for people.
    pub part: &'static str,
    pub why: String,
}

/// Where a death is reported.
#[derive(Debug, Clone)]
pub struct Vital(mpsc::UnboundedSender<Death>);

/// Where deaths are received.
#[derive(Debug)]
pub struct Deaths(mpsc::UnboundedReceiver<Death>);

pub fn watched() -> (Vital, Deaths) {
    let (vital, deaths) = mpsc::unbounded_channel();
    (Vital(vital), Deaths(deaths))
}

impl Vital {
    /// Nobody listens: for commands that end with their work, and for tests.
    pub fn unwatched() -> Self {
        watched().0
    }

    /// Starts a thread. `part` is its name for people. Its end is reported in any case: after a stop has
    /// begun, nobody listens.
    pub fn spawn(
        &self,
        thread: &str,
        part: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let vital = self.clone();
        threads::watched(thread, work, move |why| vital.tell(part, why))
    }

    /// `part` has ended, or as good as ended. The first report ends the relay.
    pub fn tell(&self, part: &'static str, why: &str) {
        // Nobody listens any more: the relay is ending already.
        let _ = self.0.send(Death { part, why: why.to_owned() });
    }
}

impl Deaths {
    /// Waits for a death.
    pub async fn next(&mut self) -> Death {
        match self.0.recv().await {
            Some(death) => death,
            // Nothing is left that could die.
            None => std::future::pending().await,
        }
    }
}

/// Ends the process when its stop does not come to an end. Disarmed when it is dropped.
#[derive(Debug, Default)]
pub struct Watchdog(Mutex<Option<blocking::Sender<()>>>);

impl Watchdog {
    /// From now on the process has this time to end by itself.
    pub fn arm(&self, time: Duration) {
        let (disarm, disarmed) = blocking::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(disarm);
        let watch = move || {
            if disarmed.recv_timeout(time) == Err(blocking::RecvTimeoutError::Timeout) {
                error!(
                    "stop timed out: terminating the process. The outcome of deliveries in flight is unknown at the next start"
                );
                // Gives the log's thread time.
                thread::park_timeout(Duration::from_millis(200));
                std::process::exit(1);
            }
        };
        if let Err(error) = thread::Builder::new().name("watchdog".into()).spawn(watch) {
            error!(%error, "stop watchdog not started");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_thread_is_told_whether_it_panics_or_returns() {
        let (vital, mut deaths) = watched();
        vital.spawn("one", "the one", || panic!("on {}", "purpose")).unwrap();
        let Death { part, why } = deaths.next().await;
        assert_eq!((part, &*why), ("the one", "it panicked: on purpose"));
        vital.spawn("other", "the other", || {}).unwrap();
        let Death { part, why } = deaths.next().await;
        assert_eq!((part, &*why), ("the other", "it has ended"));
    }

    /// In another process of this very test.
    #[test]
    fn a_stop_that_does_not_come_to_an_end_is_cut_off() {
        const HANG: &str = "M365_RELAY_TEST_HANG";
        if std::env::var_os(HANG).is_some() {
            let watchdog = Watchdog::default();
            watchdog.arm(Duration::from_millis(10));
            loop {
                thread::park();
            }
        }
        let name = "vital::tests::a_stop_that_does_not_come_to_an_end_is_cut_off";
        let mut hanging = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = hanging.args(["--exact", name]).env(HANG, "").output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    }

    #[test]
    fn nobody_has_to_listen() {
        let (vital, deaths) = watched();
        drop(deaths);
        vital.tell("the one", "it has ended");
    }
}
