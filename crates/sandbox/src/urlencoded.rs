//! `application/x-www-form-urlencoded` and percent-encoding, read leniently.

/// Decodes percent-encoding. `plus` says whether `+` is a space, as in forms and in Microsoft's query
/// strings. Bad escapes stay as they are.
pub(super) fn decode_percent(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = match bytes[at] {
            b'%' => bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()),
            _ => None,
        };
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if plus && bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The pairs of a form body or query string.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_percent(name, true), decode_percent(value, true))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_escapes_stay_as_they_are() {
        assert_eq!(decode_percent("a%40b%2", false), "a@b%2");
        assert_eq!(decode_percent("%zz+%C3%A4", true), "%zz ä");
        assert_eq!(decode_percent("a+b", false), "a+b");
        let all: Vec<_> = pairs("a=1&&b&c=x%3Dy+z").collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(all, [pair("a", "1"), pair("b", ""), pair("c", "x=y z")]);
    }
}
