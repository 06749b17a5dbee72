//! Text in any character set, under any name that mail gives it.
//!
//! Nothing is refused. Where octets are not what their label says, the reading is chosen that most probably
//! was meant, and one bad octet costs one character.

use std::borrow::Cow;

use encoding_rs::{
    BIG5, EUC_JP, EUC_KR, Encoding, GBK, ISO_2022_JP, MACINTOSH, SHIFT_JIS, UTF_8, WINDOWS_1252,
};
use oem_cp::code_table::DECODING_TABLE_CP_MAP;
use oem_cp::code_table_type::TableType;

/// A character set that can be decoded.
#[derive(Clone, Copy)]
pub(crate) struct Charset(Kind);

#[derive(Clone, Copy)]
enum Kind {
    /// And US-ASCII, which nobody keeps to.
    Utf8,
    /// Those of the Encoding Standard (WHATWG), but UTF-8.
    Standard(&'static Encoding),
    /// A code page of DOS: 437, 850, 852 and so on.
    Oem(&'static TableType),
    /// RFC 2152.
    Utf7,
    Utf32 {
        is_big_endian: bool,
    },
    /// RFC 1843. GB 2312 in seven bits.
    Hz,
    /// RFC 1557. KS X 1001 in seven bits.
    Iso2022Kr,
}

/// Labels without meaning: the writer did not know either.
const MEANINGLESS: [&str; 9] =
    ["", "8bit", "binary", "charset", "default", "none", "unknown", "unknown8bit", "xunknown"];

impl Charset {
    /// By its label in a message, in upper or lower case, with whatever punctuation. Python's email package
    /// writes the names of its codecs: `eucgb2312_cn`, `big5_tw`.
    pub(crate) fn named(label: &str) -> Option<Self> {
        let label = label.trim_matches(|c: char| c.is_ascii_whitespace() || "\"';,".contains(c));
        let plain = plain(label);
        let standard = |encoding: &'static Encoding| {
            Self(if encoding == UTF_8 { Kind::Utf8 } else { Kind::Standard(encoding) })
        };
        let kind = match plain.as_str() {
            "usascii" | "ascii" | "ascii8bit" | "ansix341968" | "ansix341986" | "iso646us" | "us" | "646"
            | "ascii7bit" => Kind::Utf8,
            "utf8mb3" | "utf8mb4" | "cp65001" | "65001" | "utf8n" | "utf8bom" => Kind::Utf8,
            "utf7" | "unicode11utf7" | "csunicode11utf7" | "csutf7" | "cp65000" => Kind::Utf7,
            "utf32" | "utf32be" | "ucs4" | "ucs4be" | "iso10646ucs4" => Kind::Utf32 { is_big_endian: true },
            "utf32le" | "ucs4le" => Kind::Utf32 { is_big_endian: false },
            "hz" | "hzgb2312" => Kind::Hz,
            "iso2022kr" | "csiso2022kr" => Kind::Iso2022Kr,
            "cp932" | "ms932" | "windows31j" | "cswindows31j" | "mskanji" | "xmscp932" | "shiftjis2004"
            | "shiftjisx0213" => Kind::Standard(SHIFT_JIS),
            "cp936" | "ms936" | "windows936" | "euccn" | "xeuccn" | "eucgb2312cn" => Kind::Standard(GBK),
            "cp949" | "ms949" | "uhc" | "windows949" | "ksc5601" | "ksx1001" => Kind::Standard(EUC_KR),
            "cp950" | "ms950" | "windows950" | "big5tw" => Kind::Standard(BIG5),
            "cp51932" | "eucjpms" | "eucjpwin" | "ujis" | "eucjis2004" | "eucjisx0213" => {
                Kind::Standard(EUC_JP)
            }
            "cp50220" | "cp50221" | "cp50222" | "iso2022jp1" | "iso2022jp2" | "iso2022jp3"
            | "iso2022jp2004" | "iso2022jpext" | "iso2022jpms" | "jis" => Kind::Standard(ISO_2022_JP),
            "macroman" | "xmacroman" | "applemacintosh" => Kind::Standard(MACINTOSH),
            _ => return standard_name(label, &plain).map(standard).or_else(|| oem(&plain)),
        };
        Some(Self(kind))
    }

    /// The text, and whether there were octets that are nothing in this character set.
    fn decode(self, octets: &[u8]) -> (String, bool) {
        match self.0 {
            Kind::Utf8 => (utf8(octets), false),
            Kind::Standard(encoding) => {
                let (text, _, has_errors) = encoding.decode(octets);
                (text.into_owned(), has_errors)
            }
            Kind::Oem(table) => {
                let text = table.decode_string_lossy(octets);
                let has_errors = text.contains(char::REPLACEMENT_CHARACTER);
                (text, has_errors)
            }
            Kind::Utf7 => utf7(octets),
            Kind::Utf32 { is_big_endian } => utf32(octets, is_big_endian),
            Kind::Hz => decode_with(GBK, &eight_bit_of_hz(octets)),
            Kind::Iso2022Kr => decode_with(EUC_KR, &eight_bit_of_iso_2022_kr(octets)),
        }
    }
}

/// The text that `octets` are in the character set of this label. Without one, with one that is not known,
/// and where the text as a whole is not in it, they are taken as UTF-8 if they can be, else as Windows-1252,
/// in which every octet is a character.
pub fn decode_text(octets: &[u8], label: Option<&str>) -> String {
    let Some(charset) = label.and_then(Charset::named) else { return utf8(octets) };
    match charset.decode(octets) {
        (_, true) if str::from_utf8(octets).is_ok() && !octets.is_ascii() => utf8(octets),
        (text, _) => text,
    }
}

/// Whether [`decode_text`] knows what text with this label is. A label that nobody can mean anything by
/// counts as none.
pub(crate) fn is_readable(label: Option<&str>) -> bool {
    label.is_none_or(|label| Charset::named(label).is_some() || MEANINGLESS.contains(&plain(label).as_str()))
}

/// UTF-8 with a bad octet here and there, or what was never UTF-8.
fn utf8(octets: &[u8]) -> String {
    let octets = octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(octets);
    if let Ok(text) = str::from_utf8(octets) {
        return text.to_owned();
    }
    if octets.utf8_chunks().any(|chunk| !chunk.valid().is_ascii()) {
        return String::from_utf8_lossy(octets).into_owned();
    }
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(octets);
    text.into_owned()
}

fn decode_with(encoding: &'static Encoding, octets: &[u8]) -> (String, bool) {
    let (text, has_errors) = encoding.decode_without_bom_handling(octets);
    (text.into_owned(), has_errors)
}

/// Letters and digits of a label.
fn plain(label: &str) -> String {
    label.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).take(60).collect()
}

/// Not the standard's "replacement", which makes one character of any text.
fn standard_name(label: &str, plain: &str) -> Option<&'static Encoding> {
    let by_label = |label: &str| Encoding::for_label_no_replacement(label.as_bytes());
    let respelt = || -> Option<Cow<'static, str>> {
        if let Some(part) = plain.strip_prefix("iso8859").or_else(|| plain.strip_prefix("8859")) {
            // Of a direction, such as in ISO-8859-8-I.
            let (number, direction) = part.split_at(part.trim_end_matches(['i', 'e']).len());
            let number =
                number.strip_suffix("1987").or_else(|| number.strip_suffix("1988")).unwrap_or(number);
            return Some(match direction {
                "" => format!("iso-8859-{number}").into(),
                direction => format!("iso-8859-{number}-{direction}").into(),
            });
        }
        if let Some(number) = plain.strip_prefix("windows").or_else(|| plain.strip_prefix("win")) {
            return Some(format!("windows-{number}").into());
        }
        Some(match plain {
            "latin7" | "l7" => "iso-8859-13".into(),
            "latin8" | "l8" => "iso-8859-14".into(),
            "latin9" | "latin0" | "l9" => "iso-8859-15".into(),
            "latin10" | "l10" => "iso-8859-16".into(),
            "utf16" | "ucs2" => "utf-16".into(),
            _ => plain.strip_prefix("cs").unwrap_or(plain).to_owned().into(),
        })
    };
    by_label(label)
        .or_else(|| by_label(&label.replace('_', "-")))
        .or_else(|| by_label(plain))
        .or_else(|| by_label(&respelt()?))
}

/// `cp850`, `IBM-850`, `850`, `csPC850Multilingual`.
fn oem(plain: &str) -> Option<Charset> {
    let named = plain.strip_prefix("cs").unwrap_or(plain);
    let prefixes = ["cp", "ibm", "pc", "dos", "oem", "xcp"];
    let rest = prefixes.iter().find_map(|prefix| named.strip_prefix(prefix)).unwrap_or(named);
    let number = rest.strip_suffix("multilingual").unwrap_or(rest).trim_start_matches('0').parse().ok()?;
    DECODING_TABLE_CP_MAP.get(&number).map(|table| Charset(Kind::Oem(table)))
}

/// RFC 2152: between `+` and the first octet that is not of base64, UTF-16 in base64. A `-` that ends it
/// belongs to it; `+-` is a plus sign.
fn utf7(octets: &[u8]) -> (String, bool) {
    let mut text = String::with_capacity(octets.len());
    let mut has_errors = false;
    let mut rest = octets;
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        if octet != b'+' {
            has_errors |= !octet.is_ascii();
            text.push(if octet.is_ascii() { char::from(octet) } else { char::REPLACEMENT_CHARACTER });
            continue;
        }
        let end = rest.iter().position(|&octet| digit(octet).is_none()).unwrap_or(rest.len());
        let (encoded, after) = rest.split_at(end);
        rest = after.strip_prefix(b"-").unwrap_or(after);
        if encoded.is_empty() {
            text.push('+');
            continue;
        }
        let mut units = Vec::with_capacity(encoded.len() * 6 / 16);
        let mut bits = 0_u32;
        let mut count = 0;
        for &octet in encoded {
            bits = bits << 6 | u32::from(digit(octet).unwrap_or_default());
            count += 6;
            if count >= 16 {
                count -= 16;
                units.push((bits >> count) as u16);
                bits &= (1 << count) - 1;
            }
        }
        has_errors |= count >= 6;
        for unit in char::decode_utf16(units) {
            has_errors |= unit.is_err();
            text.push(unit.unwrap_or(char::REPLACEMENT_CHARACTER));
        }
    }
    (text, has_errors)
}

fn digit(octet: u8) -> Option<u8> {
    match octet {
        b'A'..=b'Z' => Some(octet - b'A'),
        b'a'..=b'z' => Some(octet - b'a' + 26),
        b'0'..=b'9' => Some(octet - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

fn utf32(octets: &[u8], is_big_endian: bool) -> (String, bool) {
    let (octets, is_big_endian) = match octets {
        [0, 0, 0xFE, 0xFF, rest @ ..] => (rest, true),
        [0xFF, 0xFE, 0, 0, rest @ ..] => (rest, false),
        _ => (octets, is_big_endian),
    };
    let mut has_errors = !octets.len().is_multiple_of(4);
    let text = octets.chunks(4).map(|unit| {
        let unit = <[u8; 4]>::try_from(unit).ok();
        let code = unit.map(|u| if is_big_endian { u32::from_be_bytes(u) } else { u32::from_le_bytes(u) });
        code.and_then(char::from_u32).unwrap_or_else(|| {
            has_errors = true;
            char::REPLACEMENT_CHARACTER
        })
    });
    let text = text.collect();
    (text, has_errors)
}

/// `~{` begins two-octet characters, `~}` ends them, `~~` is a tilde, and `~` at the end of a line joins it
/// with the next.
fn eight_bit_of_hz(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut is_shifted = false;
    let mut rest = octets;
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        match (octet, after.first()) {
            (b'~', Some(b'{')) => is_shifted = true,
            (b'~', Some(b'}')) => is_shifted = false,
            (b'~', Some(b'\n')) => {}
            (b'~', Some(b'~')) => out.push(b'~'),
            // A line that was cut off does not take the next with it.
            (b'\n', _) => {
                is_shifted = false;
                out.push(octet);
                continue;
            }
            (octet, _) => {
                out.push(if is_shifted { octet | 0x80 } else { octet });
                continue;
            }
        }
        rest = &rest[1..];
    }
    out
}

/// Shift out begins two-octet characters, shift in ends them; `ESC $ ) C` says which.
fn eight_bit_of_iso_2022_kr(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut is_shifted = false;
    let mut rest = octets;
    while let Some((&octet, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\x1B$)C") {
            rest = after;
            continue;
        }
        rest = after;
        match octet {
            0x0E => is_shifted = true,
            0x0F => is_shifted = false,
            b'\r' | b'\n' | b' ' => out.push(octet),
            _ => out.push(if is_shifted { octet | 0x80 } else { octet }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_many_character_sets() {
        for (octets, label, text) in [
            (&b"Gr\xFC\xDFe"[..], Some("iso-8859-1"), "Grüße"),
            (b"Gr\xC3\xBC\xC3\x9Fe", Some("UTF-8"), "Grüße"),
            (b"\xEF\xBB\xBFGr\xC3\xBC\xC3\x9Fe", Some("UTF-8"), "Grüße"),
            (b"Gr\xC3\xBC\xC3\x9Fe", None, "Grüße"),
            (b"Gr\xFC\xDFe", None, "Grüße"),
            (b"Gr\xFC\xDFe", Some("no-such-charset"), "Grüße"),
            (b"Gr\xFC\xDFe", Some("utf-8"), "Grüße"),
            (b"Gr\xC3\xBC\xC3\x9Fe", Some("us-ascii"), "Grüße"),
            (b"Gr\xFC\xDFe", Some("us-ascii"), "Grüße"),
            (b"\xE2\x82\xAC, \xE6\x97 and on", Some("utf-8"), "€, \u{FFFD} and on"),
            (b"\xE2\x82\xAC, \xE6\x97 and on", None, "€, \u{FFFD} and on"),
            (b"\x93\xFA\x96\x7B", Some("Shift_JIS"), "日本"),
            (b"\x93\xFA\x96\x7B", Some("cp932"), "日本"),
            (b"\x93\xFA\xFF\x96\x7B", Some("windows-31j"), "日\u{FFFD}本"),
            (b"\x1B$BF|K\\\x1B(B", Some("ISO-2022-JP"), "日本"),
            (b"\x1B$BF|K\\\x1B(B", Some("iso-2022-jp-ms"), "日本"),
            (b"\xC4\xE3\xBA\xC3", Some("gb2312"), "你好"),
            (b"\xC4\xE3\xBA\xC3", Some("eucgb2312_cn"), "你好"),
            (b"\xC4\xE3\xBA\xC3", Some("cp936"), "你好"),
            (b"a~{<:Ky2;~}b~~", Some("hz-gb-2312"), "a己所不b~"),
            (b"\x1B$)C\x0EGQ1[\x0F!", Some("iso-2022-kr"), "한글!"),
            (b"\xCF\xF0\xE8", Some("windows-1251"), "При"),
            (b"\xCF\xF0\xE8", Some("\"WINDOWS1251\""), "При"),
            (b"\x81\x84\xE1", Some("ibm850"), "üäß"),
            (b"\x81\x84\xE1", Some("CP-850"), "üäß"),
            (b"\x81\x84\xE1", Some("csPC850Multilingual"), "üäß"),
            (b"\xE1\x9C", Some("437"), "ß£"),
            (b"\xA4", Some("iso8859_15"), "€"),
            (b"\xA4", Some("latin9"), "€"),
            (b"\xA4", Some("ISO_8859-15"), "€"),
            (b"\xE0\xF1", Some("iso-8859-8-i"), "אס"),
            (b"Gr+APwA3w-e", Some("utf-7"), "Grüße"),
            (b"1 +- 1, +AOk. +AOk", Some("UTF-7"), "1 + 1, é. é"),
            (b"\0\0\0a\0\x01\xF6\0", Some("utf-32"), "a😀"),
            (b"\xFF\xFE\0\0a\0\0\0", Some("utf-32"), "a"),
            (b"a\0\xFC\0", Some("utf-16le"), "aü"),
            (b"", Some("koi8-r"), ""),
        ] {
            assert_eq!(decode_text(octets, label), text, "{label:?}");
        }
    }

    #[test]
    fn what_can_be_read() {
        for label in [None, Some("utf-8"), Some("unknown-8bit"), Some("x-unknown"), Some("cp858"), Some("")] {
            assert!(is_readable(label), "{label:?}");
        }
        for label in ["viscii", "iso-2022-cn", "x-user-defined-by-me", "cp99999", "ebcdic"] {
            assert!(!is_readable(Some(label)), "{label}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_octets_and_no_label_panic(octets: Vec<u8>, label in "[ -~]{0,20}") {
            decode_text(&octets, Some(&label));
            for label in ["utf-7", "utf-32", "hz", "iso-2022-kr", "cp850", "utf-8"] {
                decode_text(&octets, Some(label));
            }
        }
    }
}
