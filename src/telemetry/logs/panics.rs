//! Panics go through the log: each is one line, with place and message.
//!
//! A warning, since a panic is contained: it ends one session, one delivery, or one read of a damaged index.
//! Where it ends a part that the relay cannot do without, an error says so ([`crate::vital`]).

use std::{panic, thread};

use tracing::warn;

use relay_mail::outside::one_line;
use relay_spool::threads;

/// Longer messages are cut: some contain a whole value.
const LONGEST: usize = 300;

pub(super) fn log_them() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let message = one_line(threads::message_of(panic.payload()), LONGEST);
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        warn!(thread = thread.name().unwrap_or("?"), at, why = message, "thread panicked");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_not_long() {
        assert_eq!(one_line(threads::message_of(&"a\n\u{1b}[1mb"), LONGEST), "a [1mb");
        assert_eq!(one_line(threads::message_of(&"x".repeat(5000)), LONGEST).len(), LONGEST);
        assert_eq!(one_line(threads::message_of(&7), LONGEST), "no message");
    }
}
