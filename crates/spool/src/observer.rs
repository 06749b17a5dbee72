//! Who hears what happens in the spool.

use std::{sync::Arc, thread, time::Duration};

/// Hears what happens in the spool, from the spool's own threads: nothing here may take long, or wait for the
/// spool.
pub trait Observer: Send + Sync + 'static {
    /// A group commit has ended, well or not: how many changes it had, and how long it took.
    fn committed(&self, _changes: usize, _took: Duration) {}

    /// A damaged message or record was quarantined.
    fn quarantined(&self) {}

    /// A thread has ended; `part` is its name for people. Without it the spool never takes a change again, so
    /// the process should end. This is also called when the last [`Spool`](crate::Spool) is gone.
    fn ended(&self, _part: &'static str, _why: &str) {}

    /// The thread with this name has done one round of its work. Tests make it panic here.
    fn turned(&self, _thread: &'static str) {}
}

/// Nobody listens: for commands that end with their work, and for tests.
impl Observer for () {}

/// Reports a panic of a thread of the spool at once, and not after the store has been dropped, which may
/// hang.
pub(crate) struct TellOnPanic {
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) part: &'static str,
}

impl Drop for TellOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.observer.ended(self.part, "it panicked");
        }
    }
}
