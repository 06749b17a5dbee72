//! The top header block of a message, as bytes.
//!
//! [`HeaderScanner`] takes a message in chunks and divides it into a [`HeaderBlock`] and the beginning of the
//! body. It holds the header and one chunk, nothing more. A message is written again as `header`, an empty
//! line, `body`; that is the message as it came, byte for byte, unless it broke the rules of RFC 5322 in one
//! of these ways:
//!
//! - A continuation line contained white space only, which some programs take for the empty line: it is left
//!   out.
//! - A line feed without carriage return ended a header line: it becomes CRLF.
//! - There was no empty line between header and body: it is put in. A line that is neither a field nor the
//!   continuation of one cannot belong to the header (RFC 5322 section 2.2: every header line is a field), so
//!   it begins the body. With the empty line put in before it, the service reads the same header that this
//!   relay has checked.
//!
//! A carriage return without line feed is refused: some programs see a line end there and some do not, and a
//! `To:` after it would be a recipient that only some of them know of.

use std::{borrow::Cow, fmt};

use crate::{ByteSize, words::decode_words};

/// Exchange refuses larger headers with `552 5.3.4`.
pub const MAX_HEADER: usize = 256 * 1024;

/// The largest header that this relay itself has written: one of [`MAX_HEADER`] with the fields that are
/// added on arrival, which have some 1500 octets at most.
pub const MAX_STORED_HEADER: usize = MAX_HEADER + 8 * 1024;

/// A header block without the empty line that ends it.
///
/// A sequence of fields. Every line ends in CRLF, and there is no CR or LF elsewhere.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HeaderBlock {
    bytes: Vec<u8>,
}

/// One field, with its continuation lines and its line ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    raw: &'a [u8],
    colon: usize,
}

/// What a scanner found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMessage {
    pub header: HeaderBlock,
    /// The part of the body that the scanner has been given. What has not been pushed yet follows it.
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    #[error("the header is larger than {}", ByteSize(MAX_HEADER as u64))]
    TooLarge,
    #[error("the header has a carriage return without a line feed (RFC 5322 section 2.2)")]
    BareCarriageReturn,
    #[error("the message is in UTF-16: write it in ASCII or UTF-8")]
    Utf16,
}

/// Finds the end of the header in a stream of chunks.
#[derive(Debug)]
pub struct HeaderScanner {
    /// The largest header that is accepted.
    limit: usize,
    /// Whole lines with CRLF, then the beginning of a line as it came.
    bytes: Vec<u8>,
    line: usize,
}

enum Line {
    Header,
    /// The empty line.
    Separator,
    /// Neither a field nor the continuation of one.
    Body,
}

impl Default for HeaderScanner {
    fn default() -> Self {
        Self::with_limit(MAX_HEADER)
    }
}

impl HeaderScanner {
    /// A scanner for headers of up to `limit` octets, [`MAX_HEADER`] at least.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), line: 0 }
    }

    /// Octets of memory that it takes up.
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Takes the next bytes of the message. Returns the header once its end has been seen; push no more after
    /// that.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Option<SplitMessage>, InvalidHeader> {
        let mut rest = chunk;
        while let Some(length) = memchr::memchr(b'\n', rest) {
            self.extend(&rest[..length])?;
            rest = &rest[length + 1..];
            let cr = self.bytes[self.line..].ends_with(b"\r");
            if cr {
                self.bytes.pop();
            }
            match self.end_line()? {
                Line::Header => {}
                Line::Separator => return Ok(Some(self.split(rest))),
                Line::Body => {
                    self.bytes.extend_from_slice(if cr { b"\r\n" } else { b"\n" });
                    return Ok(Some(self.split(rest)));
                }
            }
        }
        self.extend(rest)?;
        Ok(None)
    }

    /// The message ended while the header went on: the body is empty, or one line that is not a header line.
    pub fn finish(mut self) -> Result<SplitMessage, InvalidHeader> {
        if self.line < self.bytes.len() {
            self.end_line()?;
        }
        Ok(self.split(b""))
    }

    /// Divides a whole message.
    pub fn split_message(message: &[u8]) -> Result<SplitMessage, InvalidHeader> {
        let mut scanner = Self::default();
        match scanner.push(message)? {
            Some(split) => Ok(split),
            None => scanner.finish(),
        }
    }

    fn extend(&mut self, part: &[u8]) -> Result<(), InvalidHeader> {
        // The carriage return of the empty line may be one octet more.
        if self.bytes.len() + part.len() > self.limit + 1 {
            return Err(InvalidHeader::TooLarge);
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// Judges the line at `self.line`, whose line end has been cut off, and closes it if it is a header line.
    fn end_line(&mut self) -> Result<Line, InvalidHeader> {
        if self.line == 0 {
            self.begin()?;
        }
        let line = &self.bytes[self.line..];
        if self.line == 0 && is_mbox_line(line) {
            self.bytes.clear();
            return Ok(Line::Header);
        }
        if line.is_empty() {
            return Ok(Line::Separator);
        }
        let continues = self.line > 0 && is_wsp(line[0]);
        if continues && line.iter().copied().all(is_wsp) {
            self.bytes.truncate(self.line);
            return Ok(Line::Header);
        }
        if !continues && name_length(line).is_none() {
            return Ok(Line::Body);
        }
        if memchr::memchr(b'\r', line).is_some() {
            return Err(InvalidHeader::BareCarriageReturn);
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.line = self.bytes.len();
        if self.line > self.limit {
            return Err(InvalidHeader::TooLarge);
        }
        Ok(Line::Header)
    }

    /// Programs put a byte order mark in front of the header, which is part of no message.
    fn begin(&mut self) -> Result<(), InvalidHeader> {
        match self.bytes.as_slice() {
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [_, 0, _, 0, ..] | [0, _, 0, _, ..] => {
                return Err(InvalidHeader::Utf16);
            }
            [0xEF, 0xBB, 0xBF, ..] => drop(self.bytes.drain(..3)),
            _ => {}
        }
        Ok(())
    }

    fn split(&mut self, rest: &[u8]) -> SplitMessage {
        let mut body = self.bytes.split_off(self.line);
        body.extend_from_slice(rest);
        SplitMessage { header: HeaderBlock { bytes: std::mem::take(&mut self.bytes) }, body }
    }
}

impl HeaderBlock {
    /// Without the empty line that ends a header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let colon = memchr::memchr(b':', rest)?;
            let (raw, after) = rest.split_at(field_length(rest));
            rest = after;
            Some(Field { raw, colon })
        })
    }

    /// Every field of that name, in any case.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Field<'a>> {
        self.fields().filter(move |field| field.is(name))
    }

    /// The block built from raw fields of this or of another block.
    pub fn from_fields<'a>(fields: impl Iterator<Item = Field<'a>>) -> Self {
        Self { bytes: fields.flat_map(|field| field.raw).copied().collect() }
    }

    /// `bytes` must be whole fields in which every line ends in CRLF.
    pub(super) fn from_lines(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.is_empty() || bytes.ends_with(b"\r\n"));
        Self { bytes }
    }
}

impl<'a> Field<'a> {
    /// With continuation lines and line ends.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The name as it was written, without the white space that may come before the colon (RFC 5322 section
    /// 4.5).
    pub fn name(&self) -> &'a [u8] {
        self.raw[..self.colon].trim_ascii_end()
    }

    /// Whether the field has that name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// Unfolded (RFC 5322 section 2.2.3), without white space at both ends.
    pub fn value(&self) -> Cow<'a, [u8]> {
        let value = self.raw_value().trim_ascii();
        if memchr::memchr(b'\n', value).is_none() {
            return Cow::Borrowed(value);
        }
        Cow::Owned(value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect())
    }

    /// The value as people read it: unfolded, encoded words decoded (RFC 2047). For unstructured fields.
    pub fn text(&self) -> String {
        decode_words(self.raw_value())
    }

    /// All that follows the colon, with folding and the line end.
    pub(super) fn raw_value(&self) -> &'a [u8] {
        &self.raw[self.colon + 1..]
    }

    /// Whether the colon follows the name directly, as every writer must do since RFC 2822.
    pub(super) fn has_strict_name(&self) -> bool {
        self.name().len() == self.colon
    }
}

/// The line in front of a message in a file of the format mbox (RFC 4155), where it is no field.
fn is_mbox_line(line: &[u8]) -> bool {
    let line = line.strip_prefix(b">").unwrap_or(line);
    line.starts_with(b"From ") && name_length(line).is_none()
}

/// Octets in front of the header that are left out of it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn in_front(octets: &[u8]) -> usize {
    let mut rest = octets;
    loop {
        rest = rest.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(rest);
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let line = rest[..end].strip_suffix(b"\n").unwrap_or(&rest[..end]);
        if !is_mbox_line(line.strip_suffix(b"\r").unwrap_or(line)) {
            return octets.len() - rest.len();
        }
        rest = &rest[end..];
    }
}

/// The length of the field name, if this line begins a field.
pub(crate) fn name_length(line: &[u8]) -> Option<usize> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let valid = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    valid.then_some(name.len())
}

/// The length of the first field in `rest`, up to the first line that does not continue it.
fn field_length(rest: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', rest)
        .map(|line_feed| line_feed + 1)
        .find(|&next| !rest.get(next).copied().is_some_and(is_wsp))
        .unwrap_or(rest.len())
}

pub(super) fn is_wsp(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

impl fmt::Debug for HeaderBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.raw), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(message: &str) -> (String, String) {
        let SplitMessage { header, body } = HeaderScanner::split_message(message.as_bytes()).unwrap();
        (String::from_utf8(header.into_bytes()).unwrap(), String::from_utf8(body).unwrap())
    }

    #[test]
    fn utf_16_is_named() {
        let text = "From: a@x.se\r\n\r\nx\r\n";
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for octets in [&little, &big, &[b"\xFF\xFE", &little[..]].concat(), &[b"\xFE\xFF", &big[..]].concat()]
        {
            assert_eq!(HeaderScanner::split_message(octets).unwrap_err(), InvalidHeader::Utf16);
        }
    }

    #[test]
    fn the_header_ends_where_it_ends() {
        let rows = [
            // message, header, body
            ("A: 1\r\nB: 2\r\n\r\nbody\r\n", "A: 1\r\nB: 2\r\n", "body\r\n"),
            ("\r\nbody", "", "body"),
            ("", "", ""),
            ("A: 1\r\n", "A: 1\r\n", ""),
            ("A: 1", "A: 1\r\n", ""),
            ("A: 1\r\n folded\r\n\tmore\r\n\r\n\r\nx", "A: 1\r\n folded\r\n\tmore\r\n", "\r\nx"),
            ("A : 1\r\n\r\n", "A : 1\r\n", ""),
            ("A: 1\nB: 2\n\nbody\n", "A: 1\r\nB: 2\r\n", "body\n"),
            ("A: 1\r\n \t\r\nB: 2\r\n \r\n\r\nx", "A: 1\r\nB: 2\r\n", "x"),
            // Not header lines.
            ("A: 1\r\nhello\r\nB: 2\r\n\r\n", "A: 1\r\n", "hello\r\nB: 2\r\n\r\n"),
            ("A: 1\r\nhello", "A: 1\r\n", "hello"),
            (" A: 1\r\n\r\nB", "", " A: 1\r\n\r\nB"),
            // Octets in front of the header.
            ("From a@b Mon Jan 1 00:00\nA: 1\r\n", "A: 1\r\n", ""),
            (">From a@b Mon Jan 1 00:00\nA: 1\r\n\r\nx", "A: 1\r\n", "x"),
            ("\u{FEFF}A: 1\r\n\r\nx", "A: 1\r\n", "x"),
            ("\u{FEFF}From a@b Mon Jan 1 00:00\nA: 1\r\n", "A: 1\r\n", ""),
            ("A: 1\r\nFrom a@b Mon Jan 1 00:00\r\n", "A: 1\r\n", "From a@b Mon Jan 1 00:00\r\n"),
            ("From : a@b\r\n", "From : a@b\r\n", ""),
            (": 1\r\nA: 1\r\n", "", ": 1\r\nA: 1\r\n"),
            ("Ä: 1\r\nA: 1\r\n", "", "Ä: 1\r\nA: 1\r\n"),
        ];
        for (message, header, body) in rows {
            assert_eq!(split(message), (header.to_owned(), body.to_owned()), "{message:?}");
        }
    }

    #[test]
    fn a_bare_carriage_return_is_refused() {
        for message in ["A: 1\rTo: x@y\r\n\r\n", "A: 1\r\r\n\r\n", "A: 1\r"] {
            let refused = HeaderScanner::split_message(message.as_bytes());
            assert_eq!(refused, Err(InvalidHeader::BareCarriageReturn), "{message:?}");
        }
        // In the body it is none of our business.
        assert_eq!(split("A: 1\r\n\r\nx\ry").1, "x\ry");
    }

    #[test]
    fn the_cap_is_exact() {
        let message = |size: usize| format!("A: {}\r\n\r\nbody", "x".repeat(size - 5));
        assert!(HeaderScanner::split_message(message(MAX_HEADER).as_bytes()).is_ok());
        let refused = HeaderScanner::split_message(message(MAX_HEADER + 1).as_bytes());
        assert_eq!(refused, Err(InvalidHeader::TooLarge));
        let endless = vec![b'x'; MAX_HEADER + 2];
        assert_eq!(HeaderScanner::default().push(&endless), Err(InvalidHeader::TooLarge));
    }

    #[test]
    fn fields_are_slices() {
        let (header, _) = split("Subject: a\r\n\tb \r\nTO : x@y\r\nX:\r\n\r\n");
        let block = HeaderBlock::from_lines(header.into_bytes());
        let fields: Vec<_> = block.fields().collect();
        assert_eq!(fields[0].raw(), b"Subject: a\r\n\tb \r\n");
        assert_eq!(fields[0].value().as_ref(), b"a\tb");
        assert!(fields[0].is("subject") && fields[0].has_strict_name());
        assert!(fields[1].is("To") && !fields[1].has_strict_name());
        assert_eq!(fields[2].value().as_ref(), b"");
        let header = HeaderScanner::split_message(b"S: =?utf-8?Q?f=C3=BCr?=\r\n you\r\n").unwrap().header;
        assert_eq!(header.fields().next().unwrap().text(), "f\u{fc}r you");
        assert_eq!(block.named("to").count(), 1);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(message in "(A: 1|b:|c|\r\n|\n|\r| x|y|\t){0,30}", cuts in prop::collection::vec(0usize..9, 0..20)) {
            let whole = HeaderScanner::split_message(message.as_bytes());
            let mut scanner = HeaderScanner::default();
            let mut rest = message.as_bytes();
            let mut cuts = cuts.into_iter();
            let mut found = Ok(None);
            while !rest.is_empty() && found == Ok(None) {
                let (chunk, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
                rest = after;
                found = scanner.push(chunk);
            }
            let pieces = match found {
                Ok(Some(mut split)) => {
                    split.body.extend_from_slice(rest);
                    Ok(split)
                }
                Ok(None) => scanner.finish(),
                Err(why) => Err(why),
            };
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn any_bytes_make_fields_or_an_error(message in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(split) = HeaderScanner::split_message(&message) {
                let fields: Vec<u8> = split.header.fields().flat_map(|field| field.raw()).copied().collect();
                prop_assert_eq!(&fields, split.header.as_bytes());
                let again = HeaderScanner::split_message(split.header.as_bytes()).unwrap();
                prop_assert_eq!(again.header, split.header);
                prop_assert!(again.body.is_empty());
            }
        }
    }
}
