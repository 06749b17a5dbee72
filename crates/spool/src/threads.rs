//! Threads whose end is reported: the spool's own, and those of the program that runs the spool.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

/// Starts a thread with this name. `ended` hears why it has ended, whether it returned or panicked.
pub fn watched(
    name: &str,
    work: impl FnOnce() + Send + 'static,
    ended: impl FnOnce(&str) + Send + 'static,
) -> io::Result<()> {
    let run = move || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => ended("it has ended"),
        Err(panic) => ended(&format!("it panicked: {}", message_of(&*panic))),
    };
    thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

/// The message of a panic, if it has one.
pub fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
