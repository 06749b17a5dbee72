//! Who is believed to have written a message: the one place where From and Sender are judged.
//!
//! # Contract
//!
//! Every mailbox that is shown as the author has been checked against the tenant's `senders`. The relay,
//! Exchange and the receiver's program each read the fields with their own parser, and they read a twisted
//! field in different ways. So a field is believed only if **every mature parser reads the mailboxes that
//! this one reads**; else the message is refused, and the error says why. In the tests, mail-parser and
//! Python's two parsers judge each field that is accepted.
//!
//! Beyond what RFC 5322 forbids, these are refused, so that a field has one reading:
//!
//! - more than one From, or one Sender: each program picks a different one;
//! - text after the angle brackets, two pairs of them, a backslash or a bracket out of place: it is read as
//!   another mailbox;
//! - controls: for some, a field or a text ends there;
//! - groups: some read the name as the mailbox, some do not know groups;
//! - an address in quotes in which a line ends: for some, the quotes end with the line;
//! - a comment, or an encoded word, with an address other than the author's in it: some decode, or strip,
//!   before they parse;
//! - a local part in quotes that hold `<`, `>`, `,`, `@` and the like, or without angle brackets: lenient
//!   readers do not know quotes there.
//!
//! These are not RFC 5322, but are accepted, since they are common and have one reading: `[` and `]` in a
//! display name, the same address as display name (`a@x.se <a@x.se>`), a comma or semicolon at the end, raw
//! 8-bit text and dots in names. A name in quotes may contain anything. To accept more, only [`believed`]
//! must be changed.

use super::{AddressList, BrokenAddress, Field, HeaderBlock, MailboxAddress};
use crate::outside::is_hidden;

/// Who wrote the message: RFC 5322 section 3.6.2. The tenant must be allowed every mailbox in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// One mailbox in From. It is the one that sends, whatever Sender says.
    One { address: MailboxAddress, sender: Option<MailboxAddress> },
    /// Several mailboxes in From. The one in Sender sends.
    Several { from: Vec<MailboxAddress>, sender: MailboxAddress },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthor {
    #[error("the header has no From field")]
    Missing,
    #[error("the header has more than one {0} field")]
    Repeated(&'static str),
    #[error("the From field names no mailbox")]
    Empty,
    #[error(transparent)]
    Broken(#[from] BrokenAddress),
    #[error("{field} can be read as naming another mailbox: {why}")]
    Ambiguous { field: &'static str, why: Twist },
    #[error(
        "From names several mailboxes, so a Sender field with exactly one is needed (RFC 5322 section 3.6.2)"
    )]
    NoSender,
    #[error("the Sender field has to name exactly one mailbox (RFC 5322 section 3.6.2)")]
    SeveralSenders,
}

/// Why a field has more than one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Twist {
    #[error("it has a control character")]
    Control,
    #[error("it has a group, or a name with a colon that is not in quotes")]
    Group,
    #[error("it has characters that RFC 5322 does not allow there; write it as \"Name\" <address>")]
    Irregular,
    #[error("a comment holds an address; put it in quotes, or remove it")]
    Comment,
    #[error("an encoded word holds another address")]
    EncodedWord,
    #[error("quotes that hold an address span two lines; write the name on one line")]
    Folded,
    #[error("its local part is quoted and holds special characters")]
    QuotedLocalPart,
}

impl Author {
    /// The mailboxes of the From field, at least one.
    pub fn from(&self) -> &[MailboxAddress] {
        match self {
            Self::One { address, .. } => std::slice::from_ref(address),
            Self::Several { from, .. } => from,
        }
    }

    /// The mailbox of the Sender field, if there is one.
    pub fn sender(&self) -> Option<&MailboxAddress> {
        match self {
            Self::One { sender, .. } => sender.as_ref(),
            Self::Several { sender, .. } => Some(sender),
        }
    }

    /// The mailbox that sends: the only one of From, or Sender.
    pub fn mailbox(&self) -> &MailboxAddress {
        match self {
            Self::One { address, .. } => address,
            Self::Several { sender, .. } => sender,
        }
    }

    /// Everybody that the message may be shown to be from.
    pub fn everybody(&self) -> impl Iterator<Item = &MailboxAddress> {
        self.from().iter().chain(self.sender())
    }
}

/// The author: From, and Sender.
pub fn author(header: &HeaderBlock) -> Result<Author, InvalidAuthor> {
    let field = only(header, "From")?.ok_or(InvalidAuthor::Missing)?;
    // Devices write this if nobody has given them an address.
    if field.value().as_ref() == b"<>" {
        return Err(InvalidAuthor::Empty);
    }
    let mut from = believed(&field, "From")?;
    let sender = sender(header)?;
    match (from.len(), sender) {
        (0, _) => Err(InvalidAuthor::Empty),
        (1, sender) => Ok(Author::One { address: from.remove(0), sender }),
        (_, Some(sender)) => Ok(Author::Several { from, sender }),
        (_, None) => Err(InvalidAuthor::NoSender),
    }
}

/// The one mailbox of the Sender field, which receivers may be shown too ("on behalf of"). `None`: there is
/// no such field, or it has no address, as in `Sender: root`.
pub fn sender(header: &HeaderBlock) -> Result<Option<MailboxAddress>, InvalidAuthor> {
    let Some(field) = only(header, "Sender")? else { return Ok(None) };
    let value = field.raw_value();
    // Without either of these, nothing in it can be read, or decoded, as an address with a domain.
    if !value.contains(&b'@') && memchr::memmem::find(value, b"=?").is_none() {
        return Ok(None);
    }
    match <[MailboxAddress; 1]>::try_from(believed(&field, "Sender")?) {
        Ok([sender]) => Ok(Some(sender)),
        Err(_) => Err(InvalidAuthor::SeveralSenders),
    }
}

fn only<'a>(header: &'a HeaderBlock, name: &'static str) -> Result<Option<Field<'a>>, InvalidAuthor> {
    let mut fields = header.named(name);
    let first = fields.next();
    if fields.next().is_some() { Err(InvalidAuthor::Repeated(name)) } else { Ok(first) }
}

/// The mailboxes of a field that has one reading.
fn believed(field: &Field<'_>, name: &'static str) -> Result<Vec<MailboxAddress>, InvalidAuthor> {
    let twisted = |why| InvalidAuthor::Ambiguous { field: name, why };
    let value = field.raw_value();
    if has_control(value) {
        return Err(twisted(Twist::Control));
    }
    let list = AddressList::parse(without_last_separators(value));
    if list.groups && !list.entries.is_empty() {
        return Err(twisted(Twist::Group));
    }
    let mut addresses = Vec::with_capacity(list.entries.len());
    let mut regular = list.regular || list.entries.is_empty();
    for entry in list.entries {
        regular &= entry.regular || entry.tolerable;
        addresses.push(entry.address.ok_or_else(|| BrokenAddress::new(field, entry.raw))?);
    }
    if !regular {
        return Err(twisted(Twist::Irregular));
    }
    if addresses.iter().any(has_special_in_quotes) {
        return Err(twisted(Twist::QuotedLocalPart));
    }
    if let Some(why) = strange_address(value) {
        return Err(twisted(why));
    }
    if has_other_address_in_encoded_word(field, &addresses) {
        return Err(twisted(Twist::EncodedWord));
    }
    Ok(addresses)
}

/// Folding and tabs do not count. C1 and the line ends of Unicode count only where the text is UTF-8: in
/// other character sets these octets are letters.
fn has_control(value: &[u8]) -> bool {
    if value.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n')) {
        return true;
    }
    let ends_lines = |c: char| is_hidden(c) && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    str::from_utf8(value).is_ok_and(|text| text.contains(|c: char| !c.is_ascii() && ends_lines(c)))
}

/// People type `a@x.se;` into forms.
fn without_last_separators(value: &[u8]) -> &[u8] {
    let trimmed = value.trim_ascii_end();
    let end = trimmed.iter().rposition(|byte| !matches!(byte, b',' | b';' | b' ' | b'\t' | b'\r' | b'\n'));
    let kept = end.map_or(0, |end| end + 1);
    // Without its semicolon, an empty group is not a group.
    if trimmed[..kept].ends_with(b":") { trimmed } else { &trimmed[..kept] }
}

fn has_special_in_quotes(address: &MailboxAddress) -> bool {
    address.local().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).is_some_and(|inside| {
        inside.contains(|c: char| "<>()[],;:@\\\"".contains(c)) || inside.contains(char::is_whitespace)
    })
}

/// What looks like an address in a comment, or in quotes that some (Python's `email.utils`) take to end with
/// the line.
fn strange_address(value: &[u8]) -> Option<Twist> {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    // In the open quotes: a fold, and something like an address.
    let mut folded = false;
    let mut address = false;
    for &byte in value {
        if std::mem::take(&mut escaped) {
            // In a comment, a program that does not know escapes takes an escaped bracket for a real one.
            if depth > 0 && matches!(byte, b'(' | b')') {
                return Some(Twist::Comment);
            }
            continue;
        }
        match byte {
            b'\\' => escaped = true,
            b'"' if depth == 0 => {
                quoted = !quoted;
                (folded, address) = (false, false);
            }
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            b'@' | b'<' | b'>' if depth > 0 => return Some(Twist::Comment),
            b'@' | b'<' | b'>' if quoted => address = true,
            b'\r' | b'\n' if quoted => folded = true,
            _ => {}
        }
        if folded && address {
            return Some(Twist::Folded);
        }
    }
    None
}

/// A program that decodes before it parses the field finds what is in the words.
fn has_other_address_in_encoded_word(field: &Field<'_>, addresses: &[MailboxAddress]) -> bool {
    if memchr::memmem::find(field.raw_value(), b"=?").is_none() {
        return false;
    }
    let decoded = field.text();
    let pieces = decoded.split(|c: char| c.is_whitespace() || is_hidden(c) || "<>()[],;:\"'".contains(c));
    let found = pieces.filter(|piece| piece.contains('@'));
    let mut others =
        found.filter(|piece| !piece.parse::<MailboxAddress>().is_ok_and(|one| addresses.contains(&one)));
    others.any(|piece| piece.trim_matches('@').contains('@'))
}
