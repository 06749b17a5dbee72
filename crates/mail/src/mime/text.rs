//! Text in any character set.

use encoding_rs::{Encoding, WINDOWS_1252};

/// The text that `octets` are in `charset`. One that is not known, and text that is not in it, is taken as
/// UTF-8 if it can be, else as Windows-1252, in which every octet is a character.
pub fn decode_text(octets: &[u8], charset: Option<&str>) -> String {
    if let Some(encoding) = charset.and_then(|name| Encoding::for_label(name.trim().as_bytes())) {
        let (text, _, has_errors) = encoding.decode(octets);
        if !has_errors {
            return text.into_owned();
        }
    }
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(octets).0.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_many_character_sets() {
        for (octets, charset, text) in [
            (&b"Gr\xFC\xDFe"[..], Some("iso-8859-1"), "Grüße"),
            (b"Gr\xC3\xBC\xC3\x9Fe", Some("UTF-8"), "Grüße"),
            (b"Gr\xC3\xBC\xC3\x9Fe", None, "Grüße"),
            (b"Gr\xFC\xDFe", None, "Grüße"),
            (b"Gr\xFC\xDFe", Some("no-such-charset"), "Grüße"),
            (b"Gr\xFC\xDFe", Some("utf-8"), "Grüße"),
            (b"\x93\xFA\x96\x7B", Some("Shift_JIS"), "日本"),
            (b"\xCF\xF0\xE8", Some("windows-1251"), "При"),
            (b"", Some("koi8-r"), ""),
        ] {
            assert_eq!(decode_text(octets, charset), text, "{charset:?}");
        }
    }
}
