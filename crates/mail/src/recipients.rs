//! Making the header say what the envelope says.
//!
//! Microsoft Graph takes no envelope: it delivers to everybody in To, Cc and Bcc of the top header.
//! [`address_to`] makes these three name exactly the envelope's recipients. How sure this is rests on one
//! rule: a To or Cc field stays as it is only if RFC 5322 allows one reading of it (see [`super::addresses`])
//! and that reading names nobody outside the envelope. Any other field is written again, from addresses that
//! are in the envelope.

use std::collections::HashSet;

use mail_builder::headers::{Header, address::Address};

use super::{AddressList, BrokenAddress, Entry, Envelope, Field, HeaderBlock, MailboxAddress, addresses};
use crate::loose::addresses_in;

/// A header whose To, Cc and Bcc name the envelope's recipients, and what was changed for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    pub header: HeaderBlock,
    /// Recipients that only the envelope named: they are in a new Bcc field.
    pub bcc: usize,
    pub visible: Visible,
}

/// What was done to the To and Cc fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visible {
    /// They are as they came.
    Kept,
    /// A list with another possible reading, or a repeated field, was written again. It named nobody outside
    /// the envelope.
    Mended,
    /// Somebody outside the envelope, or something that is not an address, was removed.
    Reduced,
}

/// Makes To, Cc and Bcc together name exactly the envelope's recipients.
///
/// - Every Bcc field is removed. Envelope recipients that no field names are put into a new one, at the end
///   of the header.
/// - A To or Cc field whose mailboxes are all in the envelope stays byte for byte. Otherwise it is reduced to
///   those that are, and the original value is kept in `X-Original-To` or `X-Original-Cc`. A field that is
///   left with nobody is removed.
/// - Several To fields, or several Cc fields, become one: RFC 5322 section 3.6 allows one, and which of them
///   the service reads is not documented.
/// - Resent-Bcc is removed, so that it is not shown to anybody. Resent-To and Resent-Cc stay: Graph's
///   documentation names To, Cc and Bcc as what it delivers to, and says nothing about the Resent fields.
///
/// An address that is in the header twice is left there twice: it gets the mail once.
pub fn address_to(header: &HeaderBlock, envelope: &Envelope) -> Addressed {
    let wanted: HashSet<&MailboxAddress> = envelope.recipients().iter().collect();
    let mut to = Group::read(header, "To", &wanted);
    let mut cc = Group::read(header, "Cc", &wanted);

    let mut bytes = Vec::with_capacity(header.as_bytes().len() + 64);
    for field in header.fields() {
        if is_bcc(&field) {
            continue;
        }
        match [&mut to, &mut cc].into_iter().find(|group| field.is(group.name)) {
            Some(group) => group.write(&field, &mut bytes),
            None => bytes.extend_from_slice(field.raw()),
        }
    }

    let missing = envelope
        .recipients()
        .iter()
        .filter(|recipient| !to.found.contains(recipient) && !cc.found.contains(recipient))
        .map(|recipient| format!("<{recipient}>").into_bytes());
    let bcc = write_list("Bcc", missing, &mut bytes);
    Addressed { header: HeaderBlock::from_lines(bytes), bcc, visible: to.fate.max(cc.fate) }
}

/// The header without Bcc and Resent-Bcc, for mail whose recipients were in it.
pub fn without_bcc(header: &HeaderBlock) -> HeaderBlock {
    HeaderBlock::from_fields(header.fields().filter(|field| !is_bcc(field)))
}

/// Everybody in To, Cc and Bcc, in the order of the header.
pub fn recipients_of(header: &HeaderBlock) -> Result<Vec<MailboxAddress>, BrokenAddress> {
    let mut recipients = Vec::new();
    for field in header.fields() {
        if field.is("To") || field.is("Cc") || field.is("Bcc") {
            for address in addresses(&field) {
                recipients.push(address?);
            }
        }
    }
    Ok(recipients)
}

fn is_bcc(field: &Field<'_>) -> bool {
    field.is("Bcc") || field.is("Resent-Bcc")
}

/// All To fields of a header, or all Cc fields.
struct Group<'a> {
    name: &'static str,
    /// Those of their mailboxes that are in the envelope.
    found: HashSet<&'a MailboxAddress>,
    fate: Visible,
    /// The entries of the field that replaces them. Taken when it has been written.
    members: Vec<Vec<u8>>,
}

impl<'a> Group<'a> {
    fn read(header: &HeaderBlock, name: &'static str, wanted: &HashSet<&'a MailboxAddress>) -> Self {
        let mut group = Self { name, found: HashSet::new(), fate: Visible::Kept, members: Vec::new() };
        for (index, field) in header.named(name).enumerate() {
            let list = AddressList::parse(field.raw_value());
            if index > 0 || !list.regular || !field.has_strict_name() {
                group.fate = group.fate.max(Visible::Mended);
            }
            for entry in &list.entries {
                let Some(address) = &entry.address else {
                    group.take_loose(entry, wanted);
                    continue;
                };
                let known = wanted.get(address).copied();
                group.fate = group.fate.max(match known {
                    Some(_) if entry.regular => Visible::Kept,
                    Some(_) => Visible::Mended,
                    None => Visible::Reduced,
                });
                if let Some(address) = known
                    && group.found.insert(address)
                {
                    group.members.push(member(entry, address));
                }
            }
        }
        group
    }

    /// An entry that is not an address: `'b@y.se'`, half of a name with a comma, `undisclosed recipients`. A
    /// stranger is only who has an address.
    fn take_loose(&mut self, entry: &Entry<'_>, wanted: &HashSet<&'a MailboxAddress>) {
        let Some(addresses) = addresses_in(entry.raw) else {
            self.fate = Visible::Reduced;
            return;
        };
        self.fate = self.fate.max(Visible::Mended);
        for address in addresses {
            match wanted.get(&address).copied() {
                Some(address) if self.found.insert(address) => {
                    self.members.push(format!("<{address}>").into_bytes());
                }
                Some(_) => {}
                None => self.fate = Visible::Reduced,
            }
        }
    }

    /// Writes the replacement of `field`, which is one of the group.
    fn write(&mut self, field: &Field<'_>, bytes: &mut Vec<u8>) {
        if self.fate == Visible::Kept {
            bytes.extend_from_slice(field.raw());
            return;
        }
        write_list(self.name, self.members.drain(..), bytes);
        write_original(self.name, field, bytes);
    }
}

/// The entry as it was written, if that has one reading; else the address, with the display name if one can
/// be read.
fn member(entry: &Entry<'_>, address: &MailboxAddress) -> Vec<u8> {
    let fits = entry.raw.split(|&byte| byte == b'\n').all(|line| line.len() < MAX_LINE - 10);
    if entry.regular && fits {
        return entry.raw.to_vec();
    }
    let mut bytes = Vec::new();
    Address::new_address(entry.name(), address.as_str()).write_header(&mut bytes, 4);
    bytes.truncate(bytes.trim_ascii_end().len());
    bytes
}

/// RFC 5322 section 2.1.1, without CRLF.
const MAX_LINE: usize = 998;

/// Writes a field with one entry a line, or nothing if there are no entries. Returns how many there are.
fn write_list(name: &str, entries: impl Iterator<Item = Vec<u8>>, bytes: &mut Vec<u8>) -> usize {
    let mut count = 0;
    for entry in entries {
        if count == 0 {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
        } else {
            bytes.extend_from_slice(b",\r\n ");
        }
        bytes.extend_from_slice(&entry);
        count += 1;
    }
    if count > 0 {
        bytes.extend_from_slice(b"\r\n");
    }
    count
}

/// Keeps the value of a replaced field, in its original folding, under a name that nobody delivers to.
fn write_original(name: &str, field: &Field<'_>, bytes: &mut Vec<u8>) {
    let prefix = format!("X-Original-{name}:");
    bytes.extend_from_slice(prefix.as_bytes());
    let value = field.raw_value();
    let first_line = memchr::memchr(b'\r', value).unwrap_or(value.len());
    if prefix.len() + first_line > MAX_LINE {
        bytes.extend_from_slice(if value.starts_with(b" ") { b"\r\n" } else { b"\r\n " });
    }
    bytes.extend_from_slice(value);
}
