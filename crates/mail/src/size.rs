//! Sizes in bytes, written `"150MB"`, `"2.2MiB"`, `"64KiB"` or a plain number of bytes.

use std::{fmt, str::FromStr};

/// A number of bytes.
///
/// `MB` is a million bytes, `MiB` is 1024 × 1024. Displayed with the largest unit that leaves a whole number,
/// so that what is displayed parses to the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    #[error("no number before the unit")]
    Number,
    #[error("the unit must be B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")]
    Unit,
    #[error("over 16 EiB")]
    TooLarge,
}

/// Largest first.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
];

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    pub const fn mb(n: u64) -> Self {
        Self(n * 1_000_000)
    }

    /// Displayed as `1.5 MB`: in decimal units with one digit, rounded down.
    pub const fn rounded(self) -> Rounded {
        Rounded(self.0)
    }
}

/// A size for people, see [`ByteSize::rounded`].
#[derive(Debug, Clone, Copy)]
pub struct Rounded(u64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimal = UNITS.iter().filter(|(name, _)| !name.ends_with("iB"));
        match decimal.into_iter().find(|(_, factor)| self.0 >= *factor) {
            Some((name, factor)) => write!(f, "{}.{} {name}", self.0 / factor, self.0 % factor * 10 / factor),
            None => write!(f, "{} octets", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number = &text[..end];
        let unit = text[end..].trim_start();
        let factor = match unit {
            "" => 1,
            unit if unit.eq_ignore_ascii_case("B") => 1,
            unit => {
                let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
                known.ok_or(InvalidSize::Unit)?.1
            }
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(InvalidSize::Number);
        }
        let whole: u64 = whole.parse().map_err(|_| InvalidSize::TooLarge)?;
        // Twelve digits of a fraction of the largest unit are less than a byte apart, and keep u128 from
        // overflowing.
        let fraction = &fraction[..fraction.len().min(12)];
        let scale = 10u128.pow(fraction.len().try_into().map_err(|_| InvalidSize::Number)?);
        let fraction: u128 = fraction.parse().map_err(|_| InvalidSize::Number)?;
        let bytes = u128::from(whole) * u128::from(factor) + fraction * u128::from(factor) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| InvalidSize::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("150MB", 150_000_000),
            ("2.2MiB", 2_306_867),
            ("1GiB", 1 << 30),
            ("0.5TB", 500_000_000_000),
            (" 1GB ", 1_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn rounded_for_people() {
        let sizes = [0, 999, 1_000, 1_990_000, 2_000_000_000, u64::MAX];
        let read = ["0 octets", "999 octets", "1.0 KB", "1.9 MB", "2.0 GB", "18446744.0 TB"];
        assert_eq!(sizes.map(|size| ByteSize(size).rounded().to_string()), read);
    }

    #[test]
    fn nonsense() {
        for text in ["", "MB", ".5MB", "1.MB", "1.2.3MB", "-1MB", "1M", "1 MB MB", "1e6", "½MB", "1MiBé"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!("16777216TiB".parse::<ByteSize>(), Err(InvalidSize::TooLarge));
        assert_eq!("99999999999999999999".parse::<ByteSize>(), Err(InvalidSize::TooLarge));
    }

    #[test]
    fn shown_with_the_largest_whole_unit() {
        for (bytes, text) in
            [(0, "0B"), (150_000_000, "150MB"), (1 << 30, "1GiB"), (1025, "1025B"), (2000, "2KB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_back(bytes: u64, factor in proptest::sample::select(UNITS.to_vec())) {
            for size in [ByteSize(bytes), ByteSize((bytes % 1000) * factor.1)] {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = text.parse::<ByteSize>();
        }
    }
}
