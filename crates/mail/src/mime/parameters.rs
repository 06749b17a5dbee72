//! Fields with parameters, such as Content-Type and Content-Disposition (RFC 2045 section 5.1, RFC 2231).
//!
//! Read as they were meant: folded anywhere, without quotes around blanks, without a semicolon between two
//! parameters, with encoded words in quotes. Pieces of a value (RFC 2231 section 3) are joined as octets
//! before they become text, since a character may be divided between two.

use std::borrow::Cow;

use crate::{
    Field,
    charset::{Charset, decode_text},
    words::{decode_words, one_line},
};

/// A field's value, taken apart.
#[derive(Debug, Default)]
pub(super) struct Parameterized {
    /// What comes before the parameters, in lower case, without blanks.
    pub(super) value: String,
    parameters: Vec<Parameter>,
}

#[derive(Debug)]
struct Parameter {
    /// In lower case, without a section.
    name: String,
    section: Section,
    /// Without quotes.
    value: Vec<u8>,
}

/// RFC 2231: `name*0*`, `name*1`, `name*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// `name`
    Whole,
    /// `name*`, whose number is 0, or one of several.
    Piece { number: u32, is_encoded: bool },
}

impl Parameterized {
    pub(super) fn read(field: &Field<'_>) -> Self {
        Self::parse(&unfolded(field.raw_value()))
    }

    fn parse(octets: &[u8]) -> Self {
        let mut reader = Reader { octets, at: 0 };
        let value = reader.main_value();
        let mut parameters = Vec::new();
        while let Some((name, value)) = reader.parameter() {
            parameters.push(Parameter::new(&name, value));
        }
        Self { value, parameters }
    }

    /// The octets of a parameter that was given in one piece.
    pub(super) fn octets(&self, name: &str) -> Option<&[u8]> {
        let given = |parameter: &&Parameter| {
            parameter.name == name
                && parameter.section == Section::Whole
                && !parameter.value.trim_ascii().is_empty()
        };
        self.parameters.iter().find(given).map(|parameter| parameter.value.as_slice())
    }

    /// A parameter as people read it: one line, never empty. What was encoded by RFC 2231 comes before the
    /// same in plain form, which is there for programs that know no better.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let of_name = || self.parameters.iter().filter(|parameter| parameter.name == name);
        let whole = of_name().find(|parameter| parameter.section == Section::Whole);
        let text = joined(of_name()).or_else(|| whole.map(|whole| decode_words(&whole.value)));
        text.filter(|text| !text.is_empty())
    }
}

/// The pieces of one parameter, by their numbers.
fn joined<'a>(parameters: impl Iterator<Item = &'a Parameter>) -> Option<String> {
    let mut pieces: Vec<(u32, bool, &[u8])> = parameters
        .filter_map(|parameter| match parameter.section {
            Section::Piece { number, is_encoded } => Some((number, is_encoded, parameter.value.as_slice())),
            Section::Whole => None,
        })
        .collect();
    // A stable sort: of two with one number the first counts.
    pieces.sort_by_key(|(number, ..)| *number);
    pieces.dedup_by_key(|(number, ..)| *number);
    let &(_, first_is_encoded, first) = pieces.first()?;
    // Some cut the whole by its length, amid `%3D` or the name of the character set. So it is decoded as a
    // whole.
    let mut whole = Vec::new();
    for &(_, is_encoded, value) in &pieces {
        match is_encoded {
            true => whole.extend_from_slice(value),
            false => whole.extend(value.iter().flat_map(|octet| match octet {
                b'%' => b"%25".as_slice(),
                octet => std::slice::from_ref(octet),
            })),
        }
    }
    if !first_is_encoded {
        return Some(decode_words(&decoded(&whole)));
    }
    let (label, text) = match charset_in_front(&whole) {
        Some((label, length)) if length <= first.len() || Charset::named(label).is_some() => {
            (Some(label), &whole[length..])
        }
        _ => (None, &whole[..]),
    };
    let label = label.filter(|label| !label.is_empty());
    Some(one_line(&decode_text(&decoded(text), label)))
}

fn decoded(octets: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(octets).into()
}

/// Of `charset'language'value`, and where the value begins.
fn charset_in_front(whole: &[u8]) -> Option<(&str, usize)> {
    let mut marks = memchr::memchr_iter(b'\'', whole);
    let (charset_end, language_end) = (marks.next()?, marks.next()?);
    Some((str::from_utf8(&whole[..charset_end]).unwrap_or_default(), language_end + 1))
}

impl Parameter {
    fn new(name: &[u8], value: Vec<u8>) -> Self {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let (base, section) = match name.split_once('*') {
            None => (name.as_str(), Section::Whole),
            Some((base, "")) => (base, Section::Piece { number: 0, is_encoded: true }),
            Some((base, section)) => {
                let (digits, is_encoded) = match section.strip_suffix('*') {
                    Some(digits) => (digits, true),
                    None => (section, false),
                };
                // One that is no number is behind all others.
                (base, Section::Piece { number: digits.parse().unwrap_or(u32::MAX), is_encoded })
            }
        };
        Self { name: base.to_owned(), section, value }
    }
}

/// A line end and the blanks behind it are one blank.
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect())
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.octets.get(self.at).copied()
    }

    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) {
        while let Some(octet) = self.peek() {
            match octet {
                b'(' => self.comment(),
                octet if is_skipped(octet) => self.at += 1,
                _ => return,
            }
        }
    }

    /// Comments may be nested.
    fn comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(octet) = self.peek() {
            self.at += 1;
            match octet {
                // One may be the last octet of all.
                b'\\' => self.at = self.octets.len().min(self.at + 1),
                b'(' => depth += 1,
                b')' if depth == 1 => return,
                b')' => depth -= 1,
                _ => {}
            }
        }
    }

    /// `text/html`, in front of a semicolon, a blank or the end. Blanks around the slash are none of it.
    fn main_value(&mut self) -> String {
        let mut value = Vec::new();
        loop {
            self.skip(|octet| octet.is_ascii_whitespace());
            let begin = self.at;
            while self.peek().is_some_and(|octet| !octet.is_ascii_whitespace() && !b";(=\"".contains(&octet))
            {
                self.at += 1;
            }
            let word = &self.octets[begin..self.at];
            // A first parameter without a semicolon in front of it.
            if self.peek() == Some(b'=') {
                self.at = begin;
                break;
            }
            value.extend_from_slice(word);
            self.skip(|octet| octet.is_ascii_whitespace());
            if word.is_empty() || !(value.ends_with(b"/") || self.peek() == Some(b'/')) {
                break;
            }
        }
        let value = value.strip_suffix(b",").unwrap_or(&value);
        String::from_utf8_lossy(value).to_ascii_lowercase()
    }

    /// The next `name=value`.
    fn parameter(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        loop {
            self.skip(|octet| octet.is_ascii_whitespace() || matches!(octet, b';' | b','));
            self.peek()?;
            let begin = self.at;
            while self.peek().is_some_and(|octet| !octet.is_ascii_whitespace() && !b";=(\"".contains(&octet))
            {
                self.at += 1;
            }
            let name = self.octets[begin..self.at].to_vec();
            self.skip(|octet| octet.is_ascii_whitespace());
            match self.peek() {
                Some(b'=') if !name.is_empty() => {
                    self.at += 1;
                    return Some((name, self.value()));
                }
                // Something else: passed over.
                Some(b'=' | b'"') => self.at += 1,
                _ => {}
            }
        }
    }

    fn value(&mut self) -> Vec<u8> {
        while self.peek().is_some_and(|octet| octet.is_ascii_whitespace()) {
            self.at += 1;
        }
        if self.peek() == Some(b'"') {
            self.at += 1;
            return self.quoted();
        }
        let rest = &self.octets[self.at..];
        let value = &rest[..unquoted_len(rest)];
        self.at += value.len();
        value.trim_ascii_end().to_vec()
    }

    /// Up to the quote that ends it, or the end. A backslash in front of anything but a quote or a
    /// backslash is one: people send Windows paths.
    fn quoted(&mut self) -> Vec<u8> {
        let mut value = Vec::new();
        while let Some(octet) = self.peek() {
            self.at += 1;
            match (octet, self.peek()) {
                (b'"', _) => break,
                (b'\\', Some(escaped @ (b'"' | b'\\'))) => {
                    value.push(escaped);
                    self.at += 1;
                }
                (octet, _) => value.push(octet),
            }
        }
        value
    }
}

/// The length of a value without quotes: up to a semicolon, or to another parameter, which begins with a
/// blank, a word of letters and `=`.
fn unquoted_len(rest: &[u8]) -> usize {
    let mut begin = 0;
    while let Some(mark) = memchr::memchr2(b';', b'=', &rest[begin..]).map(|at| at + begin) {
        if rest[mark] == b';' {
            return mark;
        }
        let before = rest[begin..mark].trim_ascii_end();
        let name_len =
            before.iter().rev().take_while(|b| b.is_ascii_alphabetic() || b"-*".contains(b)).count();
        let (value, name) = before.split_at(before.len() - name_len);
        if !name.is_empty() && value.last().is_some_and(u8::is_ascii_whitespace) {
            return begin + value.len();
        }
        begin = mark + 1;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Parameterized {
        Parameterized::parse(&unfolded(value.as_bytes()))
    }

    #[test]
    fn values_and_parameters_as_mail_has_them() {
        for (field, value, name, text) in [
            (" text/plain; charset=utf-8", "text/plain", "charset", Some("utf-8")),
            ("Text/HTML charset=utf-8", "text/html", "charset", Some("utf-8")),
            ("text/plain charset=\"utf-8\" format=flowed", "text/plain", "format", Some("flowed")),
            ("text/plain; charset=utf-8 format=flowed", "text/plain", "charset", Some("utf-8")),
            ("text/plain; charset=utf-8 format=flowed", "text/plain", "format", Some("flowed")),
            (
                "text / plain (a comment; x=y) ; charset = utf-8 (c)",
                "text/plain",
                "charset",
                Some("utf-8 (c)"),
            ),
            ("multipart/mixed; boundary=\r\n\t\"b1\"", "multipart/mixed", "boundary", Some("b1")),
            ("multipart/mixed;\r\n boundary=\"a b\";type=x", "multipart/mixed", "boundary", Some("a b")),
            ("attachment; filename=my file.pdf; size=3", "attachment", "filename", Some("my file.pdf")),
            ("attachment; filename=my file.pdf", "attachment", "filename", Some("my file.pdf")),
            ("attachment; filename=a=b c.txt", "attachment", "filename", Some("a=b c.txt")),
            ("attachment; filename=\"no end.pdf", "attachment", "filename", Some("no end.pdf")),
            ("attachment; filename=\"a;b\\\"c.pdf\";x=y", "attachment", "filename", Some("a;b\"c.pdf")),
            ("attachment; filename=\"C:\\temp\\x.doc\"", "attachment", "filename", Some("C:\\temp\\x.doc")),
            ("attachment; filename=\"\"; filename=\"b\"", "attachment", "filename", None),
            (
                "application/pdf; name=\"=?gb2312?B?xOO6wy5wZGY=?=\"",
                "application/pdf",
                "name",
                Some("你好.pdf"),
            ),
            (
                "attachment; filename=\"=?UTF-8?Q?quarterly_report_?=\r\n        =?UTF-8?Q?f=C3=BCr_2026.p?=\r\n =?UTF-8?Q?df?=\"",
                "attachment",
                "filename",
                Some("quarterly report für 2026.pdf"),
            ),
            ("attachment; filename*=utf-8''Gr%C3%BC%C3%9Fe.txt", "attachment", "filename", Some("Grüße.txt")),
            (
                "attachment; filename=x.txt; filename*=utf-8'de'%C3%BC.txt",
                "attachment",
                "filename",
                Some("ü.txt"),
            ),
            (
                "attachment; filename*0*=utf-8''%C3; filename*1*=%BC.t; filename*2=xt",
                "attachment",
                "filename",
                Some("ü.txt"),
            ),
            // Cut by length, as by a program that splits what it has encoded as a whole.
            (
                "attachment; filename*0*=utf-; filename*1*=8''%C; filename*2*=3%BC.t; filename*3*=xt",
                "attachment",
                "filename",
                Some("ü.txt"),
            ),
            (
                "attachment; filename*0*=it's; filename*1=\"100%25 Ann's.txt\"",
                "attachment",
                "filename",
                Some("it's100%25 Ann's.txt"),
            ),
            ("attachment; filename*1=\"b.txt\"; filename*0=\"a\"", "attachment", "filename", Some("ab.txt")),
            (
                "attachment; filename*0=\"=?utf-8?B?w7w=?=\"; filename*1=\".txt\"",
                "attachment",
                "filename",
                Some("ü.txt"),
            ),
            ("attachment; filename*=iso-8859-1''Gr%FC.txt", "attachment", "filename", Some("Grü.txt")),
            ("attachment; filename*=Gr%C3%BC.txt", "attachment", "filename", Some("Grü.txt")),
            ("attachment; filename=Gr\u{fc}.txt", "attachment", "filename", Some("Grü.txt")),
            ("attachment; filename=\"a\x07\r\n\tb.txt\"", "attachment", "filename", Some("a b.txt")),
            ("charset=utf-8", "", "charset", Some("utf-8")),
            ("", "", "charset", None),
            ("text/plain;;; charset", "text/plain", "charset", None),
            ("text/plain, charset=utf-8", "text/plain", "charset", Some("utf-8")),
        ] {
            let parsed = parsed(field);
            assert_eq!((parsed.value.as_str(), parsed.text(name).as_deref()), (value, text), "{field:?}");
        }
        let raw = Parameterized::parse(b"attachment; filename=\"Pr\xFCf.pdf\"");
        assert_eq!(raw.text("filename").as_deref(), Some("Prüf.pdf"));
    }

    #[test]
    #[expect(clippy::disallowed_types, reason = "processor time is measured")]
    fn time_is_that_of_one_pass() {
        for piece in ["; a=b", " a=b", "=", "\"", "(", ";", "; filename*1=a", " a", "; a=\"\\"] {
            let began = std::time::Instant::now();
            let parsed = parsed(&format!("text/plain{}", piece.repeat((1 << 18) / piece.len())));
            parsed.text("filename");
            assert!(began.elapsed().as_secs() < 10, "{piece:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_and_text_is_one_line(octets: Vec<u8>) {
            let parsed = Parameterized::parse(&unfolded(&octets));
            for parameter in &parsed.parameters {
                let text = parsed.text(&parameter.name).unwrap_or_default();
                proptest::prop_assert!(!text.contains(char::is_control));
            }
        }

        #[test]
        fn what_is_quoted_comes_back(value in "[a-zA-Z0-9 ;=().,äöü_-]{1,40}") {
            proptest::prop_assume!(!value.trim().is_empty() && !value.contains("=?"));
            let parsed = parsed(&format!("attachment; filename=\"{value}\"; x=y"));
            proptest::prop_assert_eq!(parsed.text("filename").unwrap(), value.trim());
        }
    }
}
