//! The safety net under the log: whatever the code logs, no line has a character that gives orders to a
//! terminal, ends the line, or hides.
//!
//! Text that is known to come from outside is an [`Outside`] where it is logged. This is for all the rest:
//! libraries, errors that quote, and call sites that forget.
//!
//! * Text: [`CleanFields`] shows each value of an event or span cleaned, up to a bound. [`CleanLines`] then
//!   passes nothing but the line's end and the colours that the log itself sets.
//! * JSON: [`CleanLines`] writes such characters as `\u202e`, so a line means what it meant.

use std::{
    fmt::{self, Debug},
    io,
};

use tracing::{
    Metadata,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, MakeWriter, format::Writer},
};

use super::{pseudonyms::without_addresses, values::with_arrays};
use crate::config::{LogAddresses, LogConfig, LogFormat};
use relay_mail::outside::{Outside, json_visible, visible};

/// Characters shown of one value.
const LONGEST: usize = 8192;

/// Fields as text: `message name=value`, as tracing-subscriber writes them.
pub(super) struct CleanFields;

impl<'writer> FormatFields<'writer> for CleanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, written: false, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    written: bool,
    result: fmt::Result,
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), value);
        }
    }
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        // Where a record of the `log` crate was made.
        if name.starts_with("log.") {
            return Ok(());
        }
        if std::mem::replace(&mut self.written, true) {
            self.writer.write_char(' ')?;
        }
        match (name, self.writer.has_ansi_escapes()) {
            ("message", _) => {}
            (name, true) => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            (name, false) => write!(self.writer, "{name}=")?,
        }
        write!(self.writer, "{}", Outside::up_to(LONGEST, format_args!("{value:?}")))
    }
}

/// Passes whole lines on, cleaned.
pub(super) struct CleanLines<M> {
    to: M,
    format: LogFormat,
    /// The log sets colours.
    colours: bool,
    addresses: LogAddresses,
}

impl<M> CleanLines<M> {
    pub(super) fn new(to: M, config: &LogConfig, colours: bool) -> Self {
        Self { to, format: config.format, colours, addresses: config.addresses }
    }

    fn with<T>(&self, to: T) -> CleanLines<T> {
        CleanLines { to, format: self.format, colours: self.colours, addresses: self.addresses }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for CleanLines<M> {
    type Writer = CleanLines<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        self.with(self.to.make_writer())
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        self.with(self.to.make_writer_for(event))
    }
}

impl<W: io::Write> io::Write for CleanLines<W> {
    /// `line`: a whole one, as tracing-subscriber hands it over.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = match self.addresses {
            LogAddresses::Full => text,
            LogAddresses::Hashed => without_addresses(&text).into(),
        };
        match self.format {
            LogFormat::Json => self.to.write_all(json_visible(&with_arrays(&text)).as_bytes())?,
            LogFormat::Text => match text.strip_suffix('\n') {
                Some(text) => self.to.write_all((self.clean(text) + "\n").as_bytes())?,
                None => self.to.write_all(self.clean(&text).as_bytes())?,
            },
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W> CleanLines<W> {
    fn clean(&self, text: &str) -> String {
        if !self.colours {
            return visible(text, |_| false).into_owned();
        }
        let mut clean = String::with_capacity(text.len());
        let mut pieces = text.split('\x1b');
        clean += &visible(pieces.next().unwrap_or_default(), |_| false);
        for piece in pieces {
            let end = colour(piece).unwrap_or(0);
            clean += if end == 0 { "\\u{1b}" } else { "\x1b" };
            clean += &piece[..end];
            clean += &visible(&piece[end..], |_| false);
        }
        clean
    }
}

/// Length of the colour that begins the text behind an ESC (ECMA-48, "Select Graphic Rendition").
fn colour(text: &str) -> Option<usize> {
    let end = text.strip_prefix('[')?.find(|c: char| !matches!(c, '0'..='9' | ';'))? + 1;
    text[end..].starts_with('m').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use tracing::{info, info_span, subscriber::with_default};
    use tracing_subscriber::fmt;

    use super::*;
    use crate::telemetry::testing::Lines;
    use relay_mail::outside::is_hidden;

    const NASTY: &str = "a\r\n2026 INFO forged\u{1b}[2J\u{1b}[31m\u{9b}1m\u{7f}\u{202e}\u{2066}\u{2028}\u{200b}\u{feff}\u{e0041}z";

    fn log() {
        let span = info_span!("smtp", peer = %NASTY, name = NASTY);
        let _inside = span.enter();
        let error = io::Error::other(NASTY);
        info!(text = NASTY, shown = %NASTY, debug = ?NASTY, %error, ?error, "{NASTY}");
        info!("{}", NASTY.repeat(1000));
        info!(message = NASTY);
    }

    fn logged(format: LogFormat, colours: bool) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let config = LogConfig { format, ..LogConfig::default() };
        let clean = CleanLines::new(move || to.clone(), &config, colours);
        let builder = fmt().with_writer(clean).with_ansi(colours);
        match format {
            LogFormat::Text => with_default(builder.fmt_fields(CleanFields).finish(), log),
            LogFormat::Json => with_default(builder.json().flatten_event(true).finish(), log),
        }
        lines.text()
    }

    #[test]
    fn no_line_of_text_obeys_what_was_logged() {
        let text = logged(LogFormat::Text, false);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.replace('\n', "").contains(is_hidden), "{text:?}");
        assert!(text.contains("shown=a\\u{d}\\u{a}2026 INFO forged\\u{1b}[2J"), "{text}");
        assert!(text.contains("more octets)"), "{text}");
    }

    #[test]
    fn the_colours_are_the_logs_own() {
        let text = logged(LogFormat::Text, true);
        assert!(text.contains("\x1b[32m INFO\x1b[0m") && text.contains("\x1b[3mshown\x1b[0m"), "{text:?}");
        assert!(!text.contains("\x1b[31m") && !text.contains("\x1b[2J"), "{text:?}");
        let without = text.replace('\n', "");
        let rest: String = without.split('\x1b').map(|piece| &piece[colour(piece).unwrap_or(0)..]).collect();
        assert!(!rest.contains(is_hidden), "{rest:?}");
        // Characters that did not come from a field.
        let lines = CleanLines::new((), &LogConfig::default(), true);
        assert_eq!(lines.clean("\x1b[1;31mx\x1b[0m\x1b[2J\x1b"), "\x1b[1;31mx\x1b[0m\\u{1b}[2J\\u{1b}");
    }

    #[test]
    fn json_says_what_was_logged() {
        let text = logged(LogFormat::Json, false);
        assert!(!text.replace('\n', "").contains(is_hidden), "{text:?}");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0]["text"] == NASTY && lines[0]["message"] == NASTY && lines[0]["span"]["peer"] == NASTY
        );
    }
}
