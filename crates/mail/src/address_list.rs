//! Mailboxes in header fields: RFC 5322 `address-list`.
//!
//! The question is not "what can be made of this text" but "whom will the service deliver to". So this is a
//! strict reader. An entry is *regular* if RFC 5322 allows only one reading of it, with the few liberties
//! that every mailer takes (dots and raw 8-bit text in display names). An entry that can be read, but also in
//! another way (`a@x; b@y`, an unquoted `@` in a display name, an address outside the angle brackets), is
//! *irregular*: a caller that must be certain writes it again. An entry that names no mailbox at all is
//! *broken*.

use std::ops::Range;

use super::{Field, MailboxAddress, words::decode_words};

/// An entry of an address list that names no mailbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {entry:?} is not an address (RFC 5322 section 3.4)")]
pub struct BrokenAddress {
    pub field: String,
    /// The entry as it was written, shortened.
    pub entry: String,
}

/// All entries of the field, group members included, in their order.
pub fn addresses(field: &Field<'_>) -> Vec<Result<MailboxAddress, BrokenAddress>> {
    let list = AddressList::parse(field.raw_value());
    list.entries
        .into_iter()
        .map(|entry| entry.address.ok_or_else(|| BrokenAddress::new(field, entry.raw)))
        .collect()
}

impl BrokenAddress {
    pub(super) fn new(field: &Field<'_>, entry: &[u8]) -> Self {
        Self {
            field: String::from_utf8_lossy(field.name()).into_owned(),
            entry: String::from_utf8_lossy(entry).chars().take(100).collect(),
        }
    }
}

/// A field's value, parsed.
pub(super) struct AddressList<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    /// The commas, colons and semicolons between the entries are where RFC 5322 has them.
    pub(super) regular: bool,
    /// There is a group, or something like one.
    pub(super) groups: bool,
}

/// One mailbox, or the text in its place. Groups are not entries; their members are.
pub(super) struct Entry<'a> {
    /// The entry as it was written, folding included, without white space at both ends.
    pub(super) raw: &'a [u8],
    pub(super) address: Option<MailboxAddress>,
    pub(super) regular: bool,
    /// The entry is regular, except for brackets in the display name or a display name that repeats the
    /// address.
    pub(super) tolerable: bool,
}

impl Entry<'_> {
    /// The display name, decoded.
    pub(super) fn name(&self) -> Option<String> {
        let name = decode_words(&phrase(self.raw));
        (!name.is_empty()).then_some(name)
    }
}

/// Whether the entry has the address in just that form, and not one that was repaired.
fn is_written_in(entry: &[u8], address: &str) -> bool {
    let found = memchr::memmem::find(entry, address.as_bytes());
    found.is_some_and(|at| entry.get(at + address.len()) != Some(&b'.'))
}

/// What stands in front of the angle brackets, without quotes and comments. Without such brackets the last
/// comment, which was the name of old.
fn phrase(entry: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut comment = Vec::new();
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut octets = entry.iter().copied();
    while let Some(octet) = octets.next() {
        let text = if depth > 0 { &mut comment } else { &mut name };
        match octet {
            b'\\' if quoted || depth > 0 => text.extend(octets.next()),
            b'"' if depth == 0 => quoted = !quoted,
            b'(' if !quoted => {
                if depth == 0 {
                    comment.clear();
                }
                depth += 1;
            }
            b')' if depth > 0 => depth -= 1,
            b'<' if !quoted && depth == 0 => return name,
            octet => text.push(octet),
        }
    }
    comment
}

impl<'a> AddressList<'a> {
    /// `value` is what follows the colon, folded or not.
    pub(super) fn parse(value: &'a [u8]) -> Self {
        let mut reader = Reader {
            value,
            list: AddressList { entries: Vec::new(), regular: true, groups: false },
            group: Group::None,
            comma: false,
            entry: Draft::default(),
        };
        reader.read();
        reader.list
    }
}

/// Octets of an address literal with the `@` before it, with room for any that [`MailboxAddress`] takes.
const MAX_LITERAL: usize = 256;

/// Walks over the value once.
struct Reader<'a> {
    value: &'a [u8],
    list: AddressList<'a>,
    group: Group,
    /// A comma was the last separator, so another entry should follow.
    comma: bool,
    entry: Draft,
}

#[derive(PartialEq, Clone, Copy)]
enum Group {
    None,
    /// Between the colon and the semicolon.
    Open,
    /// After the semicolon, where only a comma may follow.
    Closed,
}

/// The entry being read. Positions are in the value.
#[derive(Default)]
struct Draft {
    start: usize,
    /// From the first to after the last byte that is neither white space, nor comment, nor in angle brackets.
    bare: Option<Range<usize>>,
    /// There is white space or a comment inside `bare`.
    gap: bool,
    /// Between the angle brackets.
    angle: Option<Range<usize>>,
    /// There is an `@` outside quotes, comments and angle brackets.
    at_sign: bool,
    comment: bool,
    /// There is a `[` or `]` outside quotes, comments, angle brackets and address literals.
    brackets: bool,
    /// After a `[`, before its `]`.
    in_brackets: bool,
    quoted: bool,
    irregular: bool,
    broken: bool,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut at = 0;
        while let Some(&byte) = self.value.get(at) {
            at = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => at + 1,
                b'(' => self.comment(at),
                b'"' => {
                    self.entry.quoted = true;
                    let end = self.end_of_quote(at);
                    self.bare(at, end)
                }
                b'<' => self.angle(at),
                b'@' => self.at_sign(at),
                b',' => self.comma(at),
                b':' => self.colon(at),
                b';' => self.semicolon(at),
                _ => {
                    // Specials and controls outside of quotes and comments: no two programs agree about them.
                    if matches!(byte, b'[' | b']') {
                        self.entry.bracket(byte);
                    }
                    self.entry.irregular |= matches!(byte, b')' | b'>' | b'\\') || byte.is_ascii_control();
                    self.bare(at, at + 1)
                }
            };
        }
        self.list.regular &= self.group != Group::Open;
        self.end_entry(at, self.comma);
    }

    /// Reads one byte, or an escaped one, of a comment or of a quoted string. Returns where the next one is.
    fn text(&mut self, at: usize) -> usize {
        let escaped = self.value[at] == b'\\';
        let byte = self.value.get(at + usize::from(escaped)).copied().unwrap_or_default();
        self.entry.irregular |= match byte {
            b'\t' | b' '..=b'~' | 0x80.. => false,
            b'\r' | b'\n' => escaped,
            _ => true,
        };
        at + 1 + usize::from(escaped)
    }

    /// Skips a comment, which may contain comments. If it is unfinished, it extends to the end.
    fn comment(&mut self, open: usize) -> usize {
        self.entry.comment = true;
        let mut depth = 0;
        let mut at = open;
        while let Some(&byte) = self.value.get(at) {
            match byte {
                b'(' => depth += 1,
                b')' if depth == 1 => return at + 1,
                b')' => depth -= 1,
                _ => {}
            }
            at = self.text(at);
        }
        self.entry.broken = true;
        self.value.len()
    }

    fn end_of_quote(&mut self, open: usize) -> usize {
        let mut at = open + 1;
        while let Some(&byte) = self.value.get(at) {
            if byte == b'"' {
                return at + 1;
            }
            at = self.text(at);
        }
        self.entry.broken = true;
        self.value.len()
    }

    /// Reads to the closing angle bracket.
    fn angle(&mut self, open: usize) -> usize {
        self.entry.broken |= self.entry.angle.is_some();
        let mut at = open + 1;
        while let Some(&byte) = self.value.get(at) {
            at = match byte {
                b'"' => self.end_of_quote(at),
                b'>' => {
                    self.entry.angle = Some(open + 1..at);
                    return at + 1;
                }
                _ => at + 1,
            };
        }
        self.entry.broken = true;
        self.value.len()
    }

    fn at_sign(&mut self, at: usize) -> usize {
        self.entry.at_sign = true;
        // An address literal may contain colons: [IPv6:::1]. One that is too long does not count: in a header
        // full of them, looking for the end of each would take time that grows with the square of its size.
        let rest = &self.value[at..];
        let literal = &rest[..if rest.starts_with(b"@[") { rest.len().min(MAX_LITERAL) } else { 0 }];
        let close = memchr::memchr(b']', literal).unwrap_or(0);
        // Lenient readers know neither these nor quoted local parts, except in angle brackets.
        self.entry.irregular |=
            self.value[at..=at + close].contains(&b':') || self.value[..at].ends_with(b"\"");
        self.bare(at, at + close + 1)
    }

    /// Takes a piece of a display name, or of an address without angle brackets. Returns its end.
    fn bare(&mut self, from: usize, to: usize) -> usize {
        let entry = &mut self.entry;
        entry.irregular |= entry.angle.is_some();
        match &mut entry.bare {
            Some(bare) => {
                entry.gap |= bare.end != from;
                bare.end = to;
            }
            None => entry.bare = Some(from..to),
        }
        to
    }

    fn comma(&mut self, at: usize) -> usize {
        self.end_entry(at, self.group != Group::Closed);
        if self.group == Group::Closed {
            self.group = Group::None;
        }
        self.comma = true;
        at + 1
    }

    /// What came before was the name of a group.
    fn colon(&mut self, at: usize) -> usize {
        let name = self.next_entry(at);
        let plain = name.bare.is_some() && name.angle.is_none();
        self.list.regular &=
            plain && !name.at_sign && !name.irregular && !name.brackets && self.group == Group::None;
        self.list.groups = true;
        self.group = Group::Open;
        self.comma = false;
        at + 1
    }

    fn semicolon(&mut self, at: usize) -> usize {
        self.list.regular &= self.group == Group::Open;
        self.end_entry(at, self.comma);
        self.group = Group::Closed;
        self.comma = false;
        at + 1
    }

    fn next_entry(&mut self, end: usize) -> Draft {
        std::mem::replace(&mut self.entry, Draft { start: end + 1, ..Draft::default() })
    }

    /// `expected`: there must be an entry here. RFC 5322 section 4.4 lets old programs leave it out; that is
    /// irregular.
    fn end_entry(&mut self, end: usize, expected: bool) {
        let entry = self.next_entry(end);
        if entry.bare.is_none() && entry.angle.is_none() && !entry.broken {
            self.list.regular &= !expected && !entry.comment;
            return;
        }
        self.list.regular &= self.group != Group::Closed;
        let address = entry.address(self.value);
        let named = entry.angle.is_some();
        let raw = self.value[entry.start..end].trim_ascii();
        let is_as_written = address.as_ref().is_some_and(|address| is_written_in(raw, address.as_str()));
        let plain = is_as_written && !entry.irregular && !entry.in_brackets;
        let regular = plain && !entry.brackets && !(named && entry.at_sign);
        let tolerable = match (entry.brackets, entry.at_sign) {
            // Some parsers take brackets beside quotes for a domain.
            (true, false) => plain && named && !entry.quoted,
            (false, true) => plain && named && entry.is_twice_the_same(self.value, address.as_ref()),
            _ => regular,
        };
        self.list.entries.push(Entry { raw, address, regular, tolerable });
    }
}

impl Draft {
    /// Notes a bracket in a display name. Brackets must come in pairs.
    fn bracket(&mut self, byte: u8) {
        self.brackets = true;
        self.irregular |= self.in_brackets == (byte == b'[');
        self.in_brackets = byte == b'[';
    }

    /// Whether the display name is the address.
    fn is_twice_the_same(&self, value: &[u8], address: Option<&MailboxAddress>) -> bool {
        // With a fold or a comment between the two, mail-parser reads them as one.
        let (Some(name), Some(angle)) = (&self.bare, &self.angle) else { return false };
        if self.comment || name.start > angle.start || value[name.start..angle.start].contains(&b'\n') {
            return false;
        }
        let bare = self.bare.clone().filter(|_| !self.gap).and_then(|bare| str::from_utf8(&value[bare]).ok());
        bare.and_then(|bare| bare.parse().ok()).as_ref() == address && address.is_some()
    }

    fn address(&self, value: &[u8]) -> Option<MailboxAddress> {
        let range = match (&self.angle, &self.bare) {
            _ if self.broken => return None,
            (Some(angle), _) => angle,
            (None, Some(bare)) if !self.gap => bare,
            _ => return None,
        };
        // Only folding white space is trimmed: a form feed is part of the text.
        let text = str::from_utf8(&value[range.clone()]).ok()?.trim_matches([' ', '\t', '\r', '\n']);
        // RFC 2047 section 5 forbids encoded words in addresses. A program that decodes them there reads
        // another address.
        if text.contains("=?") { None } else { text.parse().ok() }
    }
}
