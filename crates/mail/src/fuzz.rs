//! What must hold for any header: see [`crate::fuzzing`].

use std::collections::BTreeSet;

use mail_parser::{HeaderName, HeaderValue, MessageParser};

use super::*;
use crate::{Timestamp, header::in_front};

// === recipients ===

pub fn addresses(octets: &[u8]) {
    for text in String::from_utf8_lossy(octets).split(['\n', ',', ' ']) {
        if let Ok(address) = text.parse::<MailboxAddress>() {
            check_address(&address);
        }
    }
    let Ok(SplitMessage { header, .. }) = HeaderScanner::split_message(octets) else { return };
    // Three envelopes: strangers, everybody who can be read from the header, and every other one of these.
    let strangers = ["a@x.se", "\"c c\"@x.se"].map(|text| text.parse().ok()).into_iter().flatten();
    let named: Vec<_> = header
        .fields()
        .filter(|field| ["To", "Cc", "Bcc"].into_iter().any(|name| field.is(name)))
        .flat_map(|field| AddressList::parse(field.raw_value()).entries)
        .filter_map(|entry| entry.address)
        .collect();
    let some = named.iter().step_by(2).cloned().collect();
    for recipients in [strangers.collect(), named, some] {
        let recipients: Vec<MailboxAddress> = recipients;
        if let Ok(envelope) = Envelope::new(None, recipients, BodyKind::SevenBit) {
            check_address_to(&header, &envelope);
        }
    }
    if let Ok(author) = author(&header) {
        assert_eq!(header.named("From").count(), 1);
        author.from().iter().chain([author.mailbox()]).for_each(check_address);
    }
}

fn check_address(address: &MailboxAddress) {
    let text = address.as_str();
    assert_eq!(text, format!("{}@{}", address.local(), address.domain()));
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert_eq!(text.parse().as_ref(), Ok(address));
    // In angle brackets it is one entry of an address list, whatever its quotes hold.
    let value = format!(" <{text}>");
    let list = AddressList::parse(value.as_bytes());
    assert!(list.regular && list.entries.len() == 1, "{text:?}");
    // "=?" could be taken for an encoded word, and is nobody's address in a header.
    assert!(list.entries[0].address.as_ref() == Some(address) || text.contains("=?"), "{text:?}");
}

/// Whatever the header contains, mail-parser finds the envelope's recipients in the result, and nobody else.
pub fn check_address_to(header: &HeaderBlock, envelope: &Envelope) {
    let addressed = address_to(header, envelope);
    let text = String::from_utf8_lossy(addressed.header.as_bytes()).into_owned();
    if envelope.recipients().iter().all(mail_parser_knows) {
        assert_eq!(delivered_to(&addressed.header), lowered(envelope.recipients()), "{text}");
    }
    assert_eq!(others(&addressed.header), others(header));
    let own = recipients_of(&addressed.header).expect("every entry is an address");
    assert_eq!(lowered(&own), lowered(envelope.recipients()), "{text}");
    check_block(&addressed.header);
}

/// Inside angle brackets, mail-parser reads quoted text as if it had no quotes.
fn mail_parser_knows(address: &MailboxAddress) -> bool {
    !address.local().trim_matches('"').contains(['"', '\\', '<', '>', '(', ')', ',', ';', ':', '@', '[', ']'])
}

/// Addresses in To, Cc and Bcc as mail-parser reads them, in lower case. An entry without an address is shown
/// as it is.
fn delivered_to(header: &HeaderBlock) -> BTreeSet<String> {
    let bytes = [header.as_bytes(), b"\r\n"].concat();
    let parsed = MessageParser::new().parse_headers(&bytes).unwrap_or_default();
    let mut found = BTreeSet::new();
    for field in parsed.headers() {
        if !matches!(field.name, HeaderName::To | HeaderName::Cc | HeaderName::Bcc) {
            continue;
        }
        match &field.value {
            HeaderValue::Address(list) => {
                found.extend(
                    list.iter().map(|addr| addr.address().map_or(format!("{addr:?}"), str::to_lowercase)),
                );
            }
            HeaderValue::Empty => {}
            other => panic!("not addresses: {other:?}"),
        }
    }
    found
}

fn lowered(addresses: &[MailboxAddress]) -> BTreeSet<String> {
    addresses.iter().map(|address| address.as_str().to_lowercase()).collect()
}

/// Fields other than those that `address_to` may touch.
fn others(header: &HeaderBlock) -> Vec<&[u8]> {
    let touched = ["To", "Cc", "Bcc", "Resent-Bcc", "X-Original-To", "X-Original-Cc"];
    header
        .fields()
        .filter(|field| !touched.iter().any(|name| field.is(name)))
        .map(|field| field.raw())
        .collect()
}

/// Checks that a block is well-formed: the scanner reads it to the end and finds it unchanged, and it
/// consists of its fields alone.
fn check_block(header: &HeaderBlock) {
    let mut scanner = HeaderScanner::with_limit(usize::MAX / 2);
    let again = match scanner.push(header.as_bytes()).expect("a header block") {
        Some(split) => split,
        None => scanner.finish().expect("a header block"),
    };
    assert_eq!(&again.header, header);
    assert!(again.body.is_empty());
    let fields: Vec<u8> = header.fields().flat_map(|field| field.raw()).copied().collect();
    assert_eq!(fields, header.as_bytes());
}

// === files ===

pub fn pickup(octets: &[u8]) {
    let whole = HeaderScanner::split_message(octets);
    for chunk in [1, 2, 7, 64] {
        assert_eq!(split_in(octets, chunk), whole, "in reads of {chunk}");
    }
    let Ok(SplitMessage { header, body }) = whole else { return };
    check_block(&header);
    // Nothing is lost between header and body except a folded line of white space, or the empty line.
    let visible = |octets: &[u8]| octets.iter().filter(|octet| !octet.is_ascii_whitespace()).count();
    let message = &octets[in_front(octets)..];
    assert_eq!(visible(header.as_bytes()) + visible(&body), visible(message));

    if let Ok(Some((envelope, rest))) = injected_envelope(&header) {
        check_rest(&header, &rest);
        assert!(envelope.recipients().len() <= header.named("X-Receiver").count());
    }
    if let Ok((envelope, rest)) = pickup_envelope(&header) {
        check_rest(&header, &rest);
        assert_eq!(rest, without_bcc(&header));
        let named = recipients_of(&header).expect("an envelope of all recipients");
        assert_eq!(lowered(&named), lowered(envelope.recipients()));
        assert!(envelope.sender().is_some());
    }
    mended(&header);
}

fn split_in(octets: &[u8], size: usize) -> Result<SplitMessage, InvalidHeader> {
    let mut scanner = HeaderScanner::default();
    let mut rest = octets;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        if let Some(mut split) = scanner.push(chunk)? {
            split.body.extend_from_slice(rest);
            return Ok(split);
        }
    }
    scanner.finish()
}

/// Checks the part of a header that is passed on: some of its fields, and no hidden recipient.
fn check_rest(header: &HeaderBlock, rest: &HeaderBlock) {
    check_block(rest);
    assert!(rest.named("Bcc").next().is_none() && rest.named("Resent-Bcc").next().is_none());
    let mut all = header.fields();
    assert!(rest.fields().all(|field| all.any(|other| other.raw() == field.raw())));
}

/// Checks the header as it is stored, below a Received field in which the client's name is this very header.
fn mended(header: &HeaderBlock) {
    let at = Timestamp::from_millis(1_784_793_901_000);
    let id = MessageId::first_at(at);
    let helo = String::from_utf8_lossy(header.as_bytes());
    let address = [127, 0, 0, 1].into();
    let origin =
        Origin::Smtp { helo: &helo, address, extended: true, encryption: None, authenticated: false };
    let mut out = Received { origin, by: "relay.example", id, at }.to_bytes();
    let has_author = author(header).is_ok();
    let from = "a@x.se".parse().ok().filter(|_| !has_author);
    let new_from = from.as_ref().map(|address| NewFrom { name: None, address });
    mend(
        header,
        &Mending { id, hostname: "relay.example", at, from: new_from, keeps_sender: true },
        &mut out,
    );
    let stored = HeaderBlock::from_lines(out);
    check_block(&stored);
    assert_eq!(hops(&stored), hops(header) + 1);
    assert!(author(&stored).is_ok());
    assert!(stored.named("Bcc").chain(stored.named("Return-Path")).next().is_none());
}

// === wishes ===

pub fn notification(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    for text in text.split([' ', '\r', '\n']) {
        wish(text);
    }
    wish(text);
}

fn wish(text: &str) {
    if let Ok(notify) = text.parse::<Notify>() {
        assert_eq!(notify.to_string().parse(), Ok(notify));
    }
    if let Ok(ret) = text.parse::<Return>() {
        assert!(ret.to_string().eq_ignore_ascii_case(text));
    }
    if let Ok(id) = text.parse::<EnvelopeId>() {
        assert_eq!(id.to_string(), text);
        assert_eq!(Some(id.decoded()), plainly_decoded(text));
        assert!((1..=100).contains(&id.decoded().len()));
    }
    if let Ok(original) = text.parse::<OriginalRecipient>() {
        assert_eq!(original.to_string(), text);
        let (kind, address) = text.split_once(';').expect("a type and an address");
        assert_eq!(original.kind(), kind);
        let decoded = original.address();
        assert!(!decoded.is_empty() && !decoded.chars().any(char::is_control), "{decoded:?}");
        if !kind.eq_ignore_ascii_case("utf-8") {
            assert_eq!(Some(decoded), plainly_decoded(address));
        }
    }
}

/// RFC 3461 section 4.
fn plainly_decoded(xtext: &str) -> Option<String> {
    let (first, encoded) = xtext.split_once('+').map_or((xtext, None), |(first, rest)| (first, Some(rest)));
    let mut decoded = first.to_owned();
    for part in encoded.into_iter().flat_map(|rest| rest.split('+')) {
        let octet = u8::from_str_radix(part.get(..2)?, 16).ok()?;
        decoded.push(char::from(octet));
        decoded.push_str(&part[2..]);
    }
    let is_plain = |c: char| matches!(c, ' '..='~');
    decoded.chars().all(is_plain).then_some(decoded)
}
