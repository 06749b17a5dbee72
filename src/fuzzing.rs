//! Properties that must hold for any octets, as functions that take octets and panic if one does not.
//!
//! One function per target, each beside the code that it checks: here they only get their names. They are
//! driven by `fuzz/` (`just fuzz TARGET`), which needs a nightly compiler and runs until it is stopped, and
//! by the tests of this module, which replay every file of `fuzz/corpus` and try a fixed number of random
//! inputs. See `CONTRIBUTING.md`.

use crate::ingress::smtp;
use relay_mail as message;

/// Panics if something does not hold.
pub type Target = fn(&[u8]);

/// By name: the folder of its seeds in `fuzz/corpus`, its program in `fuzz/fuzz_targets`, its words in
/// `fuzz/dictionaries`.
pub const TARGETS: [(&str, Target); 6] = [
    ("smtp_line", smtp_line),
    ("smtp_data", smtp_data),
    ("smtp_session", smtp_session),
    ("addresses", addresses),
    ("pickup", pickup),
    ("notification", notification),
];

/// Command lines: however they are cut into reads, each is read as it is, and means one thing.
pub fn smtp_line(octets: &[u8]) {
    smtp::fuzz::line(octets);
}

/// The content after DATA: only CR LF `.` CR LF ends it, and bare line ends are refused or fixed.
pub fn smtp_data(octets: &[u8]) {
    smtp::fuzz::data(octets);
}

/// All that a client sends on one connection: what is accepted is what a reader of the wire sees.
pub fn smtp_session(octets: &[u8]) {
    smtp::fuzz::session(octets);
}

/// A message's header: in the end it names the envelope's recipients, whatever it named before.
pub fn addresses(octets: &[u8]) {
    message::fuzz::addresses(octets);
}

/// A file in a pickup folder: its header, and its envelope in either form.
pub fn pickup(octets: &[u8]) {
    message::fuzz::pickup(octets);
}

/// The parameters of DSN, and what they stand for.
pub fn notification(octets: &[u8]) {
    message::fuzz::notification(octets);
}

#[cfg(test)]
mod tests;
