//! Text from outside: what clients, files, services and users wrote, on its way to somebody's eyes.
//!
//! A terminal obeys control characters, a log is read line by line, and characters that cannot be seen make
//! one text look like another. So nothing from outside is printed as it is:
//!
//! * [`Outside`] shows such characters as `\u{1b}`, and no more text than its bound. For log fields, errors
//!   and the output of commands.
//! * [`one_line`] puts a blank in their place. For a service's words that people read, and that are stored or
//!   quoted.
//! * [`visible`] and [`json_visible`] are the safety net behind them: they clean a whole text, or a whole
//!   line of JSON, that is ready to be written, whatever its source.
//!
//! The characters are those that [`is_hidden`] names. This module depends on no other.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Characters that are shown of a text unless the caller asks for another bound.
const LONGEST: usize = 512;

/// Something from outside that can be printed: shown without characters that give orders or hide, up to a
/// bound.
///
/// `Display` and `Debug` are the same, so that no formatting of a log field gets around it.
#[derive(Clone, Copy)]
pub struct Outside<T> {
    text: T,
    longest: usize,
}

impl<T: fmt::Display> Outside<T> {
    pub const fn new(text: T) -> Self {
        Self { text, longest: LONGEST }
    }

    /// Shows `longest` characters at most.
    pub const fn up_to(longest: usize, text: T) -> Self {
        Self { text, longest }
    }
}

impl<T: fmt::Display> fmt::Display for Outside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cleaner = Cleaner { out: f, room: self.longest, cut: 0 };
        write!(cleaner, "{}", self.text)?;
        match cleaner.cut {
            0 => Ok(()),
            cut => write!(f, "… ({cut} more octets)"),
        }
    }
}

impl<T: fmt::Display> fmt::Debug for Outside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Passes on what is written to it, cleaned, as long as there is room.
struct Cleaner<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    /// In characters.
    room: usize,
    /// In octets.
    cut: usize,
}

impl Write for Cleaner<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.char_indices().nth(self.room).map_or(text.len(), |(at, _)| at);
        let (shown, cut) = text.split_at(end);
        self.room -= shown.chars().count();
        self.cut += cut.len();
        escape_into(self.out, shown, |_| false)
    }
}

/// Whether a character gives orders to a terminal, ends a line, turns the direction of the text, or cannot be
/// seen.
///
/// The groups: C0, DEL and C1; soft hyphen, joiners, fillers and zero widths; marks of direction (U+061C,
/// U+200E and U+200F, U+202A to U+202E, U+2066 to U+2069); line and paragraph separator; variation selectors;
/// U+FEFF; interlinear annotations; signs of musical notation, shorthand and hieroglyphs that only format;
/// tags. That is what Unicode calls Cc, Cf, Zl, Zp and Default_Ignorable_Code_Point, without a few signs of
/// single scripts that can be seen.
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text on one line. Each run of white space and of characters that [`is_hidden`] names becomes one
/// blank; `longest` characters at most.
pub fn one_line(text: &str, longest: usize) -> String {
    let mut line = String::with_capacity(text.len().min(longest));
    let mut room = longest;
    for c in text.chars() {
        if room == 0 {
            break;
        }
        let c = if is_hidden(c) || c.is_whitespace() { ' ' } else { c };
        if c == ' ' && (line.is_empty() || line.ends_with(' ')) {
            continue;
        }
        line.push(c);
        room -= 1;
    }
    line.truncate(line.trim_end().len());
    line
}

/// The text with its hidden characters shown as `\u{…}`, except those that `allowed` accepts.
pub fn visible(text: &str, allowed: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(|c| is_hidden(c) && !allowed(c)) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    // Writing to a String cannot fail.
    let _ = escape_into(&mut clean, text, allowed);
    Cow::Owned(clean)
}

/// The same for JSON, which stays JSON and means the same: `\u202e`. The line's end stays.
///
/// RFC 8259 section 7: inside a string any character may be written like this, and outside strings there are
/// no such characters.
pub fn json_visible(json: &str) -> Cow<'_, str> {
    let kept = |c: char| c == '\n' || !is_hidden(c);
    if json.chars().all(kept) {
        return Cow::Borrowed(json);
    }
    let mut clean = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if kept(c) {
            clean.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(clean, "\\u{unit:04x}");
        }
    }
    Cow::Owned(clean)
}

fn escape_into(out: &mut impl Write, text: &str, allowed: impl Fn(char) -> bool) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(|c| is_hidden(c) && !allowed(c)) {
        out.write_str(&rest[..at])?;
        let mut chars = rest[at..].chars();
        if let Some(hidden) = chars.next() {
            write!(out, "{}", hidden.escape_unicode())?;
        }
        rest = chars.as_str();
    }
    out.write_str(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of each group.
    const HIDDEN: &str = "\0\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{34f}\u{61c}\u{115f}\u{17b4}\u{180e}\u{200b}\u{200d}\
        \u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{13430}\
        \u{1bca0}\u{1d173}\u{e0001}\u{e0041}\u{e01ef}";

    #[test]
    fn what_gives_orders_or_hides_is_shown() {
        for hidden in HIDDEN.chars() {
            let text = format!("a{hidden}b");
            let shown = format!("a\\u{{{:x}}}b", u32::from(hidden));
            assert_eq!(Outside::new(&text).to_string(), shown);
            assert_eq!(format!("{:?}", Outside::new(&text)), shown);
            assert_eq!(visible(&text, |_| false), shown);
            assert_eq!(one_line(&text, 9), "a b");
        }
        let plain = "Grüße aus Köln, 日本, שלום, \\u{41} \u{1f600} {}";
        assert_eq!(Outside::new(plain).to_string(), plain);
        assert!(matches!(visible(plain, |_| false), Cow::Borrowed(_)));
        assert_eq!(visible("a\n\u{1b}b\n", |c| c == '\n'), "a\n\\u{1b}b\n");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(Outside::up_to(3, "äöüß€").to_string(), "äöü… (5 more octets)");
        assert_eq!(Outside::up_to(3, format_args!("{}{}", "ab", "cd")).to_string(), "abc… (1 more octets)");
        assert_eq!(Outside::up_to(4, "abcd").to_string(), "abcd");
        assert_eq!(Outside::up_to(0, "abcd").to_string(), "… (4 more octets)");
        let long = Outside::new("\u{1b}".repeat(100_000)).to_string();
        assert!(long.len() < 5_000 && long.ends_with("… (99488 more octets)"), "{}", long.len());
        assert_eq!(one_line(" a \r\n\t b\u{2028}c ", 100), "a b c");
        assert_eq!(one_line("abc def", 4), "abc");
    }

    proptest! {
        #[test]
        fn json_means_the_same_and_shows_all(words in proptest::collection::vec(any::<String>(), 0..4)) {
            let words: Vec<String> = words.into_iter().map(|word| word + HIDDEN).collect();
            let json = serde_json::to_string(&words).unwrap() + "\n";
            let clean = json_visible(&json);
            prop_assert!(!clean.trim_end_matches('\n').contains(is_hidden));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&clean).unwrap(), words);
        }

        #[test]
        fn nothing_hidden_passes(text in any::<String>()) {
            let text = text + HIDDEN;
            prop_assert!(!Outside::new(&text).to_string().contains(is_hidden));
            prop_assert!(!one_line(&text, 1000).contains(is_hidden));
            prop_assert!(!visible(&text, |_| false).contains(is_hidden));
        }
    }
}
