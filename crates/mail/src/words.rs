//! Unstructured text of a header (RFC 5322 section 2.2.1), with encoded words (RFC 2047) as mail has them.
//!
//! What the standard forbids and programs write is read as it was meant: a character that is divided between
//! two words, base64 without its padding, blanks inside of a word, words that touch the text beside them, raw
//! octets. What comes out is one line without control characters.

use crate::{
    charset::decode_text,
    mime::{Decoder, TransferEncoding},
};

/// Octets of a charset's name. RFC 2978 allows 40.
const MAX_LABEL: usize = 75;

/// The text that `value`, folded or not, shows to people.
pub(crate) fn decode_words(value: &[u8]) -> String {
    let mut pieces = Pieces::default();
    let mut rest = value;
    let mut plain = 0;
    // Where no word can end any more, none is looked for: the time is that of one pass.
    while let Some(begin) = memchr::memmem::find(&rest[plain..], b"=?").map(|at| at + plain) {
        match EncodedWord::at(&rest[begin..]) {
            Found::Word(word, len) => {
                pieces.push_raw(&rest[..begin]);
                pieces.push_word(word);
                rest = &rest[begin + len..];
                plain = 0;
            }
            Found::Nothing => plain = begin + 2,
            Found::NoEnd => break,
        }
    }
    pieces.push_raw(rest);
    pieces.into_text()
}

enum Piece<'a> {
    Raw(&'a [u8]),
    /// Of neighbouring words of one charset.
    Decoded {
        charset: &'a str,
        octets: Vec<u8>,
    },
}

#[derive(Default)]
struct Pieces<'a>(Vec<Piece<'a>>);

impl<'a> Pieces<'a> {
    fn push_raw(&mut self, octets: &'a [u8]) {
        if !octets.is_empty() {
            self.0.push(Piece::Raw(octets));
        }
    }

    fn push_word(&mut self, word: EncodedWord<'a>) {
        // White space between two words is no text (RFC 2047 section 6.2).
        if let [.., Piece::Decoded { .. }, Piece::Raw(between)] = self.0.as_slice()
            && between.iter().all(u8::is_ascii_whitespace)
        {
            self.0.pop();
        }
        match self.0.last_mut() {
            Some(Piece::Decoded { charset, octets }) if charset.eq_ignore_ascii_case(word.charset) => {
                word.decode_into(octets);
            }
            _ => {
                let mut octets = Vec::new();
                word.decode_into(&mut octets);
                self.0.push(Piece::Decoded { charset: word.charset, octets });
            }
        }
    }

    fn into_text(self) -> String {
        let raw = self.0.iter().filter_map(|piece| match piece {
            Piece::Raw(octets) => Some(*octets),
            Piece::Decoded { .. } => None,
        });
        let label = label_of_raw(&raw.collect::<Vec<_>>().concat());
        let mut text = String::new();
        for piece in self.0 {
            match piece {
                Piece::Raw(octets) => text.push_str(&decode_text(octets, Some(label))),
                Piece::Decoded { charset, octets } => text.push_str(&decode_text(&octets, Some(charset))),
            }
        }
        one_line(&text)
    }
}

/// One for the whole field: a piece of it may be too short to tell.
fn label_of_raw(octets: &[u8]) -> &'static str {
    let is_jis =
        [&b"\x1B$B"[..], b"\x1B$@"].iter().any(|shift| memchr::memmem::find(octets, shift).is_some());
    let has_utf8 = || octets.utf8_chunks().any(|chunk| !chunk.valid().is_ascii());
    match octets {
        _ if octets.is_ascii() && is_jis => "iso-2022-jp",
        _ if octets.is_ascii() || has_utf8() => "utf-8",
        _ => "windows-1252",
    }
}

/// Without what ends a line or directs a terminal. Folding is a blank.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' | '\n' | '\u{2028}' | '\u{2029}' | '\u{85}' => {
                // The white space behind a line end stands for it.
                if !chars.peek().is_none_or(|next| next.is_whitespace()) {
                    line.push(' ');
                }
            }
            '\t' => line.push(' '),
            c if c.is_control() => {}
            c => line.push(c),
        }
    }
    line.trim().to_owned()
}

/// `=?charset?encoding?text?=`
struct EncodedWord<'a> {
    charset: &'a str,
    encoding: WordEncoding,
    text: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WordEncoding {
    Q,
    B,
}

enum Found<'a> {
    /// With its length.
    Word(EncodedWord<'a>, usize),
    Nothing,
    /// There is none from here on.
    NoEnd,
}

impl<'a> EncodedWord<'a> {
    /// `octets` begins with `=?`.
    fn at(octets: &'a [u8]) -> Found<'a> {
        let head = &octets[2..octets.len().min(2 + MAX_LABEL)];
        let Some(label_len) = memchr::memchr(b'?', head) else { return Found::Nothing };
        // RFC 2231 section 5: a language may follow.
        let label = head[..label_len].split(|octet| *octet == b'*').next().unwrap_or_default();
        let is_label = |label: &&str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_graphic());
        let Some(charset) = str::from_utf8(label).ok().filter(is_label) else { return Found::Nothing };
        let begin = 2 + label_len + 3;
        let encoding = match octets.get(begin - 2..begin) {
            Some([b'q' | b'Q', b'?']) => WordEncoding::Q,
            Some([b'b' | b'B', b'?']) => WordEncoding::B,
            _ => return Found::Nothing,
        };
        let Some(len) = memchr::memmem::find(&octets[begin..], b"?=") else { return Found::NoEnd };
        let text = &octets[begin..begin + len];
        Found::Word(Self { charset, encoding, text }, begin + len + 2)
    }

    fn decode_into(&self, out: &mut Vec<u8>) {
        let mut decoder;
        match self.encoding {
            WordEncoding::B => {
                decoder = Decoder::new(TransferEncoding::Base64);
                decoder.push(self.text, out);
            }
            WordEncoding::Q => {
                decoder = Decoder::new(TransferEncoding::QuotedPrintable);
                let text: Vec<u8> = self.text.iter().map(|&b| if b == b'_' { b' ' } else { b }).collect();
                decoder.push(&text, out);
            }
        }
        decoder.finish(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_mail_has_them() {
        for (value, text) in [
            ("plain text", "plain text"),
            (" =?iso-8859-1?Q?Gr=FC=DFe?= aus\r\n K=?utf-8?q?=C3=B6ln?=\r\n", "Grüße aus Köln"),
            ("=?utf-8?B?R3LD?=\r\n =?utf-8?B?vMOfZQ==?=", "Grüße"),
            ("=?utf-8?Q?Gr=C3?= =?UTF-8?B?vMOfZQ==?=", "Grüße"),
            ("=?utf-8?B?SGVsbG8?=", "Hello"),
            ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?=. And more", "Grüße. And more"),
            ("(=?utf-8?Q?a?=)", "(a)"),
            ("=?utf-8?Q?a?==?utf-8?Q?b?=", "ab"),
            ("=?utf-8?Q?a?= =?iso-8859-1?Q?=FC?=", "aü"),
            ("=?utf-8?Q?a b?= c", "a b c"),
            ("=?utf-8*de?Q?=C3=BC?=", "ü"),
            ("=?ISO-2022-JP?B?GyRCRnxLXBsoQg==?=", "日本"),
            ("=?gb2312?B?xOO6wy5wZGY=?=", "你好.pdf"),
            ("=?utf-8?Q?first=0D=0ABcc:_x@example.org?=", "first Bcc: x@example.org"),
            ("=?utf-8?Q?a=00=1Bb?=", "ab"),
            ("=?x-nobody-knows?Q?Gr=FC=DFe?=", "Grüße"),
            ("=?utf-8?X?abc?= =?utf-8", "=?utf-8?X?abc?= =?utf-8"),
            ("=?utf-8?Q?no end", "=?utf-8?Q?no end"),
            ("=?utf-8?Q??= x", "x"),
            ("a\r\n\tb\r\n c", "a b c"),
            ("\x1B$BF|K\\\x1B(B", "日本"),
        ] {
            assert_eq!(decode_words(value.as_bytes()), text, "{value:?}");
        }
        assert_eq!(decode_words(b"Pr\xFCfbericht"), "Prüfbericht");
        assert_eq!(decode_words(b"Pr\xFCf =?utf-8?Q?=C3=BC?= \xFC"), "Prüf ü ü");
        assert_eq!(decode_words("Prüf €".as_bytes()), "Prüf €");
    }

    #[test]
    #[expect(clippy::disallowed_types, reason = "processor time is measured")]
    fn time_is_that_of_one_pass() {
        for octets in ["=?", "=?a?q?", "=?a?q?b?= ", "=?=?"] {
            let value = octets.repeat(1 << 18);
            let began = std::time::Instant::now();
            decode_words(value.as_bytes());
            assert!(began.elapsed().as_secs() < 10, "{octets}");
        }
    }

    proptest::proptest! {
        #[test]
        fn one_line_whatever_comes(value: Vec<u8>) {
            let text = decode_words(&value);
            proptest::prop_assert!(!text.contains(char::is_control));
        }

        #[test]
        fn text_without_words_stays(text in "[a-zA-Zäöü€日 .,:;!-]{0,40}") {
            proptest::prop_assert_eq!(decode_words(text.as_bytes()), text.trim());
        }
    }
}
