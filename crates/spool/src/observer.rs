//! Who hears what happens in the spool.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

/// Hears what happens in the spool, from the spool's own threads: nothing here may take long, or wait for the
/// spool.
pub trait Observer: Send + Sync + 'static {
    /// A group commit has ended, well or not: how many changes it had, and how long it took.
    fn committed(&self, _changes: usize, _took: Duration) {}

    /// A damaged message or record was put aside.
    fn quarantined(&self) {}

    /// A thread has ended, of which `part` is the name for people. Without it the spool takes no change, for
    /// ever: the process had better end. It is also told when the last [`Spool`](crate::Spool) is gone.
    fn ended(&self, _part: &'static str, _why: &str) {}

    /// The thread with this name has done what it had to do, once. Tests make it panic here.
    fn turned(&self, _thread: &'static str) {}
}

/// Nobody listens: for commands that end with their work, and for tests.
impl Observer for () {}

/// Starts a thread whose end is told.
pub(crate) fn spawn(
    observer: &Arc<dyn Observer>,
    thread: &'static str,
    part: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let observer = observer.clone();
    let watched = move || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => observer.ended(part, "it has ended"),
        Err(panic) => observer.ended(part, &format!("it panicked: {}", message_of(&*panic))),
    };
    thread::Builder::new().name(thread.into()).spawn(watched).map(drop)
}

/// What a panic says, as far as it says something.
pub(crate) fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// For a thread of the spool. That it panics is told at once, and not after the store has been dropped, which
/// may hang.
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
