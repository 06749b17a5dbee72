//! From fields that programs may read as another mailbox than the relay does, and how the relay treats them.

use std::fmt::Write;

use relay_mail::{HeaderScanner, MailboxAddress, RepairedFrom, addresses, author, repaired_from};

/// The sender may use this.
pub(crate) const OWN: &str = "a@contoso.example";
/// The sender may not use this.
pub(crate) const VICTIM: &str = "ceo@victim.example";

/// Forms of the field, with `A` for an own address and `V` for the victim's.
const FORMS: [&str; 44] = [
    "N <A>",
    "<A> N",
    "N A",
    "A N",
    "A (N)",
    "(N) A",
    "(N) <A>",
    "<A> (N)",
    "N (N) <A>",
    "N <A>, ",
    ", N <A>",
    "N <A>;",
    "N: A;",
    "N: <A>",
    "N <A>, <A>",
    "\"N\" <A>",
    "\"N <V>\" <A>",
    "\"N\\\" <V>, \\\"\" <A>",
    "N\\\" <V>, \" <A>",
    "N <A> <V>",
    "N <V> <A>",
    "N <A>, N <V>",
    "N <<A>>",
    "N <A",
    "N A>",
    "N <A,V>",
    "N <A V>",
    "N <V,A>",
    "N <@V:A>",
    "N <@victim.example:A>",
    "N \"V\" <A>",
    "V <A>",
    "<A> V",
    "N [V] <A>",
    "N\r\n <A>",
    "N\r\n\t\"\r\n <V>\" <A>",
    "N\0 <A>",
    "N\u{b}<V> <A>",
    "N\u{c}<A>",
    "N <A\0>",
    "N <A>\u{b}V",
    "N <\"V\"@contoso.example>",
    "N <\"<V>,\"@contoso.example>",
    "N <A(V)>",
];

/// Names that are put into the forms.
const NAMES: [&str; 16] = [
    "",
    "Bee",
    "V",
    "<V>",
    "V,",
    "V;",
    "\"V\"",
    "foo\\\" <V>, bar\"",
    "(V)",
    "(<V>)",
    "(\\) V,",
    "=?utf-8?q?ceo=40victim=2Eexample?=",
    "=?utf-8?q?=3Cceo=40victim=2Eexample=3E=2C?=",
    "=?utf-8?b?Y2VvQHZpY3RpbS5leGFtcGxlLA==?=",
    "B\u{f6}se,",
    "[x]",
];

fn filled(form: &str) -> Vec<u8> {
    // The letters stand for nothing else in forms and names.
    form.replace('V', VICTIM).replace('A', OWN).into_bytes()
}

/// Every form with every name.
pub(crate) fn made_by_hand() -> Vec<Vec<u8>> {
    let pairs = FORMS.iter().flat_map(|form| NAMES.map(|name| (form, name)));
    pairs.map(|(form, name)| filled(&form.replace('N', name))).collect()
}

/// Pieces one after the other, always the same.
pub(crate) fn random(count: usize) -> Vec<Vec<u8>> {
    const PIECES: [&[u8]; 34] = [
        b"A",
        b"V",
        b"<A>",
        b"<V>",
        b"A",
        b"<A>",
        b"\"",
        b"\\",
        b"(",
        b")",
        b"<",
        b">",
        b",",
        b";",
        b":",
        b"@",
        b" ",
        b" ",
        b"\r\n ",
        b"\t",
        b"=?utf-8?q?ceo=40victim=2Eexample?=",
        b"=?utf-8?b?PGNlb0B2aWN0aW0uZXhhbXBsZT4s?=",
        b"Bee",
        b"\"Bee\"",
        b"[",
        b"]",
        b".",
        b"\0",
        b"\x0b",
        b"\xc3\xa9",
        b"\xff",
        b"\\\"",
        b"(x)",
        b"\"V\"",
    ];
    // Xorshift: Marsaglia, "Xorshift RNGs".
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let mut field = || {
        let mut value = Vec::new();
        for _ in 0..=next(8) {
            match PIECES[next(PIECES.len())] {
                b"A" => value.extend_from_slice(OWN.as_bytes()),
                b"V" => value.extend_from_slice(VICTIM.as_bytes()),
                piece if piece.starts_with(b"<") && piece.len() == 3 || piece == b"\"V\"" => {
                    value.extend(filled(&String::from_utf8_lossy(piece)));
                }
                piece => value.extend_from_slice(piece),
            }
        }
        value
    };
    (0..count).map(|_| field()).collect()
}

/// The header with that From field.
pub(crate) fn header(value: &[u8]) -> Vec<u8> {
    [b"From: ", value, b"\r\nTo: b@example.net\r\nSubject: x\r\n\r\n"].concat()
}

/// The mailboxes that the relay checks before it accepts a message with that From field. `None`: it is
/// refused.
pub(crate) fn checked(value: &[u8]) -> Option<Vec<MailboxAddress>> {
    let split = HeaderScanner::split_message(&header(value)).ok()?;
    author(&split.header).ok().map(|author| author.everybody().cloned().collect())
}

/// The mailbox that the relay writes into such a field instead of what is in it; that of the envelope, if
/// there is none.
pub(crate) fn repaired(value: &[u8], envelope: &str) -> Option<MailboxAddress> {
    let split = HeaderScanner::split_message(&header(value)).ok()?;
    let RepairedFrom { address, .. } = repaired_from(&split.header)?;
    address.or_else(|| envelope.parse().ok())
}

/// The same, if the relay accepted whatever has mailboxes in it: what the check is for.
pub(crate) fn checked_without_the_check(value: &[u8]) -> Option<Vec<MailboxAddress>> {
    let split = HeaderScanner::split_message(&header(value)).ok()?;
    let mut fields = split.header.named("From");
    let found: Vec<_> = addresses(&fields.next()?).into_iter().collect::<Result<_, _>>().ok()?;
    (!found.is_empty() && fields.next().is_none()).then_some(found)
}

/// Mailboxes that another program reads there, and that the relay has not checked.
pub(crate) fn foreign<'a>(read: &'a [String], checked: &[MailboxAddress]) -> Vec<&'a str> {
    // Python shows octets that are not ASCII as unknown.
    let ascii = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
    let is_checked = |text: &str| {
        text.parse().is_ok_and(|address| checked.contains(&address))
            || text.contains('\u{fffd}') && checked.iter().any(|one| ascii(one.as_str()) == ascii(text))
    };
    read.iter().map(String::as_str).filter(|text| text.contains('@') && !is_checked(text)).collect()
}

/// A line for each of the foreign readings, to be read by the person who fixes the check.
pub(crate) fn report(found: &[(Vec<u8>, String)]) -> String {
    let mut text = String::new();
    for (value, read) in found.iter().take(40) {
        let _ = writeln!(text, "{} is read as {read:?}", value.escape_ascii());
    }
    text
}
