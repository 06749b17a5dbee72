//! The plain kinds of values: numbers, durations, sizes, addresses, paths, words.
//!
//! Each takes the [`Item`] and returns the value in its final type, or notes what to write instead and
//! returns `None`.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml_span::value::ValueInner;

use super::reader::{Item, nearest};
use relay_mail::ByteSize;
use relay_mail::MailboxAddress;

/// Durations in the file stay below this: nobody means more, and timers can count it.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The least duration where zero would mean nothing.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

impl<'a> Item<'a> {
    /// `example` is shown as it would be written in the file, with quotes.
    pub(super) fn text(&self, example: &str) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.wrong_type(&format!("text in quotes such as {example}")),
        }
    }

    /// Text that is not empty and has no blanks or control characters.
    pub(super) fn word(&self, example: &str) -> Option<&'a str> {
        let text = self.text(example)?;
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return self.fail(format!("{text:?} is empty or has blanks: write text such as {example}"));
        }
        Some(text)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let list = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        let Some(text) = self.value.as_str() else {
            return self.wrong_type(&list);
        };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Some(*value),
            None => match nearest(text, &words) {
                Some(word) => self.fail(format!("{text:?} is not known here; did you mean {word:?}?")),
                None => self.fail(format!("{text:?} is not known here: write {list}")),
            },
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong_type("true or false, without quotes"))
    }

    /// A whole number.
    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let wanted = format!("a whole number from {} to {}, without quotes", range.start(), range.end());
        let Some(number) = self.value.as_integer() else {
            return self.wrong_type(&wanted);
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => self.fail(format!("{number} is out of range: write {wanted}")),
        }
    }

    /// A number, with or without a fraction, for which `allowed` holds; `wanted` says that in words.
    pub(super) fn number(&self, wanted: &str, allowed: impl FnOnce(f64) -> bool) -> Option<f64> {
        let number = match self.value.as_ref() {
            ValueInner::Float(number) => *number,
            #[allow(clippy::cast_precision_loss, reason = "no number that is allowed anywhere is that large")]
            ValueInner::Integer(number) => *number as f64,
            _ => return self.wrong_type(&format!("{wanted}, without quotes")),
        };
        if allowed(number) {
            Some(number)
        } else {
            self.fail(format!("{number} is out of range: write {wanted}"))
        }
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        const WANTED: &str = r#"a number and a unit in quotes, such as "90s", "15m", "4h" or "2d""#;
        let Some(text) = self.value.as_str() else {
            return self.wrong_type(WANTED);
        };
        let Ok(duration) = humantime::parse_duration(text) else {
            return self.fail(format!("{text:?} is not a duration: write {WANTED}"));
        };
        if range.contains(&duration) {
            return Some(duration);
        }
        let [least, most] = [range.start(), range.end()].map(|d| humantime::format_duration(*d));
        self.fail(format!("{text:?} is out of range: write a duration from {least} to {most}"))
    }

    /// At least `least`.
    pub(super) fn size(&self, least: ByteSize) -> Option<ByteSize> {
        const WANTED: &str = r#"a size such as "64KiB", "150MB" or "1GiB", or a number of bytes"#;
        let size = match self.value.as_ref() {
            ValueInner::String(text) => match text.parse() {
                Ok(size) => size,
                Err(error) => return self.fail(format!("{text:?} is not a size ({error}): write {WANTED}")),
            },
            ValueInner::Integer(bytes) => match u64::try_from(*bytes) {
                Ok(bytes) => ByteSize(bytes),
                Err(_) => return self.fail(format!("{bytes} is negative: write {WANTED}")),
            },
            _ => return self.wrong_type(WANTED),
        };
        if size >= least {
            Some(size)
        } else {
            self.fail(format!("{size} is too small: write at least \"{least}\""))
        }
    }

    pub(super) fn size_within(&self, range: RangeInclusive<ByteSize>) -> Option<ByteSize> {
        let size = self.size(*range.start())?;
        if size <= *range.end() {
            Some(size)
        } else {
            self.fail(format!("{size} is too large: write \"{}\" at most", range.end()))
        }
    }

    /// A path; a relative one starts at the configuration file's folder.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text(r#""/var/lib/m365-relay""#)?;
        if text.is_empty() || text.contains('\0') {
            return self.fail("is not a path: write the path of a file or folder");
        }
        Some(self.source.base.join(text))
    }

    /// IP address and port.
    pub(super) fn socket_address(&self, example: &str) -> Option<SocketAddr> {
        let text = self.text(example)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => self.fail(format!("{text:?} is not an IP address with a port: write {example}")),
        }
    }

    pub(super) fn mailbox(&self) -> Option<MailboxAddress> {
        let text = self.text(r#""scanner@example.com""#)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(error) => self.fail(format!("{text:?} is not an address ({error}): write name@domain")),
        }
    }
}

/// Whether `text` can follow the @.
pub(super) fn is_domain(text: &str) -> bool {
    !text.contains('@') && format!("x@{text}").parse::<MailboxAddress>().is_ok()
}
