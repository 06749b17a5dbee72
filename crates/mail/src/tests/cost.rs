//! What the worst headers cost: time in proportion to their size, and no more.

#![allow(clippy::disallowed_types, reason = "real time is measured")]

use std::time::Duration;

use std::time::Instant;

use super::*;

/// A debug build needs a quarter of it at most, on a busy machine. Time that grows with the square would be a
/// minute.
const BOUND: Duration = Duration::from_secs(10);

/// Pieces of which a header of the largest size is made.
const PIECES: [&str; 24] = [
    "@",
    "@[",
    "[@",
    "@]",
    "<",
    "\"",
    "\\",
    "(",
    "()",
    "((",
    ",",
    ":;",
    "a@x.se,",
    "a@x.se;",
    "<a@x.se>",
    "\"@\"",
    "=?",
    "=?utf-8?Q?",
    "=?utf-8?Q?a?= ",
    "\r\n ",
    " \r\n\t",
    "@[\r\n ",
    "a@[1.2.3.4],",
    "<@r.se:",
];

#[test]
fn no_header_costs_more_than_its_size() {
    let envelope = envelope(&["a@x.se", "b@y.se"]);
    for piece in PIECES {
        // As one value, and followed by a recipient that is in the envelope.
        for end in ["", " <a@x.se>", ", a@x.se"] {
            let value = piece.repeat((MAX_HEADER / 2 - 100) / piece.len());
            let text = format!("From: {value}{end}\r\nTo: {value}{end}\r\n");
            let began = Instant::now();
            let header = header(&text);
            let _ = (author(&header), recipients_of(&header), pickup_envelope(&header));
            address_to(&header, &envelope);
            let took = began.elapsed();
            assert!(took < BOUND, "{piece:?} with {end:?}: {took:?}");
        }
    }
}

#[test]
fn no_number_of_fields_costs_more_than_its_size() {
    let envelope = envelope(&["a@x.se"]);
    for field in
        ["a:\r\n", "To:\r\n", "To: a@x.se\r\n", "Bcc: b@x.se\r\n", "X-Receiver: a@x.se\r\n", "a: \r\n b\r\n"]
    {
        let text = format!("From: o@x.se\r\n{}", field.repeat((MAX_HEADER - 100) / field.len()));
        let began = Instant::now();
        let header = header(&text);
        let _ = (author(&header), injected_envelope(&header), pickup_envelope(&header));
        address_to(&header, &envelope);
        let took = began.elapsed();
        assert!(took < BOUND, "{field:?}: {took:?}");
    }
}
