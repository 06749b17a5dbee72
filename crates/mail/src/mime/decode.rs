//! Content-Transfer-Encoding (RFC 2045 section 6), taken off as the octets come.

use super::uuencode::Uudecoder;

/// How the content of a part is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferEncoding {
    /// 7bit, 8bit, binary, and what nobody knows.
    Identity,
    Base64,
    /// Base64 behind whose end mailing lists have put a footer, as it is.
    Base64Text,
    QuotedPrintable,
    Uuencode,
}

impl TransferEncoding {
    /// `is_text`: text is what it encodes.
    pub(super) fn of(name: &[u8], is_text: bool) -> Self {
        // Some put a comment or a semicolon behind it.
        let end = name.iter().position(|octet| b" \t;(".contains(octet)).unwrap_or(name.len());
        match name[..end].to_ascii_lowercase().as_slice() {
            b"base64" if is_text => Self::Base64Text,
            b"base64" => Self::Base64,
            b"quoted-printable" => Self::QuotedPrintable,
            b"x-uuencode" | b"uuencode" | b"x-uue" | b"uue" => Self::Uuencode,
            _ => Self::Identity,
        }
    }
}

/// Takes encoded octets in any portions and gives the decoded ones. How they are divided makes no difference.
///
/// Base64: what is not of its alphabet is passed over (RFC 2045 section 6.8), and `=` ends it.
/// Quoted-printable: what is no valid escape stays as it is.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Identity,
    Base64 {
        bits: u32,
        digits: u8,
        /// What comes behind the end is text.
        has_text: bool,
    },
    /// Behind its end: nothing any more.
    Ended,
    /// Behind its end: text, but not if it is blank. Its blanks so far.
    Footer {
        blanks: Vec<u8>,
    },
    /// An escape that has begun: `=`, and what follows it.
    QuotedPrintable {
        escape: Vec<u8>,
    },
    Uuencode(Uudecoder),
}

/// What each octet stands for in base64.
const DIGITS: [u8; 256] = {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [NO_DIGIT; 256];
    let mut n = 0;
    while n < 64 {
        table[ALPHABET[n] as usize] = n as u8;
        n += 1;
    }
    table
};
const NO_DIGIT: u8 = 255;
/// Blanks in front of a footer that are kept.
const MOST_BLANKS: usize = 80;

impl Decoder {
    pub fn new(encoding: TransferEncoding) -> Self {
        Self(match encoding {
            TransferEncoding::Identity => State::Identity,
            TransferEncoding::Base64 => State::Base64 { bits: 0, digits: 0, has_text: false },
            TransferEncoding::Base64Text => State::Base64 { bits: 0, digits: 0, has_text: true },
            TransferEncoding::QuotedPrintable => State::QuotedPrintable { escape: Vec::new() },
            TransferEncoding::Uuencode => State::Uuencode(Uudecoder::default()),
        })
    }

    /// Appends what `octets` stand for to `out`, as far as that is certain.
    pub fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        match &mut self.0 {
            State::Identity => out.extend_from_slice(octets),
            State::Base64 { bits, digits, has_text } => {
                out.reserve(octets.len() / 4 * 3 + 3);
                for (at, &octet) in octets.iter().enumerate() {
                    let digit = DIGITS[octet as usize];
                    if digit != NO_DIGIT {
                        *bits = *bits << 6 | u32::from(digit);
                        *digits += 1;
                        if *digits == 4 {
                            out.extend_from_slice(&bits.to_be_bytes()[1..]);
                            (*bits, *digits) = (0, 0);
                        }
                    } else if octet == b'=' && *digits >= 2 {
                        end_group(bits, digits, out);
                        self.0 = if *has_text { State::Footer { blanks: Vec::new() } } else { State::Ended };
                        return self.push(&octets[at + 1..], out);
                    }
                }
            }
            State::Ended => {}
            State::Footer { blanks } => {
                let is_blank = |octet: &&u8| octet.is_ascii_whitespace() || **octet == b'=';
                let leading = octets.iter().take_while(is_blank).count();
                let kept = octets[..leading].iter().filter(|octet| **octet != b'=');
                blanks.extend(kept.take(MOST_BLANKS - blanks.len()));
                if leading < octets.len() {
                    out.append(blanks);
                    out.extend_from_slice(&octets[leading..]);
                    self.0 = State::Identity;
                }
            }
            State::QuotedPrintable { escape } => {
                for &octet in octets {
                    push_quoted(escape, octet, out);
                }
            }
            State::Uuencode(decoder) => decoder.push(octets, out),
        }
    }

    /// The end: what was held back is decided.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        match &mut self.0 {
            State::Identity | State::Ended | State::Footer { .. } => {}
            State::Base64 { bits, digits, .. } => end_group(bits, digits, out),
            State::QuotedPrintable { escape } => {
                // A lone "=" at the end is a soft line break whose line end has been cut off.
                if escape.len() > 1 && !escape[1..].iter().all(u8::is_ascii_whitespace) {
                    out.append(escape);
                }
                escape.clear();
            }
            State::Uuencode(decoder) => decoder.finish(out),
        }
    }
}

/// A group that is not full: two digits are an octet, three are two.
fn end_group(bits: &mut u32, digits: &mut u8, out: &mut Vec<u8>) {
    match *digits {
        2 => out.push((*bits >> 4) as u8),
        3 => out.extend_from_slice(&((*bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    (*bits, *digits) = (0, 0);
}

fn push_quoted(escape: &mut Vec<u8>, octet: u8, out: &mut Vec<u8>) {
    if escape.is_empty() {
        if octet == b'=' {
            escape.push(octet)
        } else {
            out.push(octet)
        }
        return;
    }
    let hex = |octet: u8| char::from(octet).to_digit(16).map(|digit| digit as u8);
    match (escape.len(), octet) {
        // A soft line break, before whose line end there may be blanks (RFC 2045 section 6.7, rule 3).
        (_, b'\n') if escape[1..].iter().all(|octet| matches!(octet, b' ' | b'\t' | b'\r')) => escape.clear(),
        (_, b' ' | b'\t' | b'\r') if escape.len() < 80 && escape[1..].iter().all(u8::is_ascii_whitespace) => {
            escape.push(octet);
        }
        (1, _) if hex(octet).is_some() => escape.push(octet),
        (2, _) => match (hex(escape[1]), hex(octet)) {
            (Some(high), Some(low)) => {
                out.push(high << 4 | low);
                escape.clear();
            }
            _ => give_up(escape, octet, out),
        },
        _ => give_up(escape, octet, out),
    }
}

/// It was no escape. The octet that shows it may begin another.
fn give_up(escape: &mut Vec<u8>, octet: u8, out: &mut Vec<u8>) {
    out.append(escape);
    push_quoted(escape, octet, out);
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use proptest::prelude::*;

    use super::*;

    fn decode(encoding: TransferEncoding, pieces: &[&[u8]]) -> Vec<u8> {
        let mut decoder = Decoder::new(encoding);
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| decoder.push(piece, &mut out));
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn quoted_printable() {
        for (encoded, decoded) in [
            ("Gr=FC=dfe", &b"Gr\xFC\xDFe"[..]),
            ("soft=\r\n break", b"soft break"),
            ("soft= \t\r\nbreak", b"softbreak"),
            ("soft=\nbreak", b"softbreak"),
            ("at the end=", b"at the end"),
            ("=3D=3D", b"=="),
            ("a=b, =zz, =4", b"a=b, =zz, =4"),
            ("==41", b"=A"),
            ("line\r\nline", b"line\r\nline"),
        ] {
            assert_eq!(
                decode(TransferEncoding::QuotedPrintable, &[encoded.as_bytes()]),
                decoded,
                "{encoded}"
            );
        }
    }

    #[test]
    fn base64_with_whatever_is_in_it() {
        for (encoded, decoded) in [
            ("aGVs\r\nbG8=", "hello"),
            ("aGVsbG8", "hello"),
            ("a G!V*s bG8=\r\n", "hello"),
            ("=aGVsbG8=aGVsbG8=", "hello"),
            ("aGVsbA==\r\nlist mailing list", "hell"),
            ("a", ""),
            ("", ""),
        ] {
            assert_eq!(
                decode(TransferEncoding::Base64, &[encoded.as_bytes()]),
                decoded.as_bytes(),
                "{encoded}"
            );
        }
    }

    #[test]
    fn a_footer_behind_base64_is_text() {
        for (encoded, decoded) in [
            ("aGVsbG8=\r\n\r\n____\r\nlist\r\n", "hello\r\n\r\n____\r\nlist\r\n"),
            ("aGVsbA==\r\n\r\n", "hell"),
            ("aGVsbG8=", "hello"),
            ("aGVsbG8h", "hello!"),
        ] {
            for cut in 0..encoded.len() {
                let (a, b) = encoded.as_bytes().split_at(cut);
                assert_eq!(decode(TransferEncoding::Base64Text, &[a, b]), decoded.as_bytes(), "{encoded}");
            }
        }
    }

    #[test]
    fn names_of_encodings() {
        use TransferEncoding::*;
        for (name, is_text, encoding) in [
            ("base64", false, Base64),
            ("BASE64", true, Base64Text),
            ("Quoted-Printable", true, QuotedPrintable),
            ("base64 (a comment)", false, Base64),
            ("x-uuencode", false, Uuencode),
            ("8bit", true, Identity),
            ("x-unknown", false, Identity),
            ("", true, Identity),
        ] {
            assert_eq!(TransferEncoding::of(name.as_bytes(), is_text), encoding, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(content: Vec<u8>, cut: usize) {
            let lines: Vec<String> = BASE64_STANDARD.encode(&content).as_bytes().chunks(76)
                .map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect();
            let encoded = lines.concat();
            let (a, b) = encoded.as_bytes().split_at(cut % (encoded.len() + 1));
            prop_assert_eq!(decode(TransferEncoding::Base64, &[a, b]), &content[..]);
            let quoted: String = content.iter().map(|octet| format!("={octet:02X}")).collect();
            let (a, b) = quoted.as_bytes().split_at(cut % (quoted.len() + 1));
            prop_assert_eq!(decode(TransferEncoding::QuotedPrintable, &[a, b]), &content[..]);
        }

        #[test]
        fn portions_make_no_difference(octets in "[=0-9A-F \t\r\na-z+/]{0,60}", cuts in prop::collection::vec(0..60usize, 0..4)) {
            let octets = octets.as_bytes();
            for encoding in [TransferEncoding::Identity, TransferEncoding::Base64, TransferEncoding::Base64Text, TransferEncoding::QuotedPrintable, TransferEncoding::Uuencode] {
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
                cuts.extend([0, octets.len()]);
                cuts.sort_unstable();
                let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &octets[pair[0]..pair[1]]).collect();
                prop_assert_eq!(decode(encoding, &pieces), decode(encoding, &[octets]));
            }
        }
    }
}
