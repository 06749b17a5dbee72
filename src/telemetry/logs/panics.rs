//! Panics go through the log: each is one line, with place and message.
//!
//! A warning, since a panic is contained: it ends one session, one delivery, or one read of a damaged index. Where it ends a part that
//! the relay cannot do without, an error says so ([`crate::vital`]).

use std::{panic, thread};

use tracing::warn;

use crate::vital;

/// Longer messages are cut: some have a whole value in them.
const LONGEST: usize = 300;

pub(super) fn log_them() {
    panic::set_hook(Box::new(|panic| {
        let (thread, message) = (thread::current(), message_of(panic.payload()));
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        warn!(thread = thread.name().unwrap_or("?"), at, why = message, "panicked");
    }));
}

/// In one line.
fn message_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = vital::message_of(payload);
    text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_not_long() {
        assert_eq!(message_of(&"a\n\u{1b}[1mb"), "a  [1mb");
        assert_eq!(message_of(&"x".repeat(5000)).len(), LONGEST);
        assert_eq!(message_of(&7), "no message");
    }
}
