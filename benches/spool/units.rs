//! Figures in a form that people read.

use std::fmt::{self, Display};

/// A number with a comma between thousands.
pub(crate) struct Grouped(pub(crate) f64);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:.0}", self.0);
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// Octets as MB, 1,000,000 of them.
pub(crate) struct Megabytes(pub(crate) u64);

impl Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB", Grouped(self.0 as f64 / 1e6))
    }
}
