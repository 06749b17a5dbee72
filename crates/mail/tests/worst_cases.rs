//! Mail that is made to take long, or to break a parser. The time is that of one pass over it, whatever it
//! consists of.
//!
//! The sizes are such that a pass for each line, part, parameter or word would take minutes.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use m365_relay_mail::{
    Attachment, HeaderScanner, Properties, StructureScanner, author, decode_text, outline, recipients_of,
    repaired_from,
};
use proptest::{collection::vec, prelude::*};

/// Plenty for one pass, in a debug build beside other tests.
const MOST: Duration = Duration::from_secs(20);

#[track_caller]
#[expect(clippy::disallowed_types, reason = "processor time is measured")]
fn within_the_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = std::time::Instant::now();
    let result = work();
    let took = began.elapsed();
    println!("{took:10.3?}  {what}");
    assert!(took < MOST, "{what}: {took:?}");
    result
}

/// Taken apart as far as it can be.
fn take_apart(header: &[u8], body: &[u8]) {
    let header = HeaderScanner::split_message(header).unwrap().header;
    let mut scanner = StructureScanner::new(&header);
    for chunk in body.chunks(16 * 1024) {
        scanner.push(chunk);
    }
    if let Ok(structure) = scanner.finish()
        && let Ok(mut outline) = outline(&structure)
    {
        outline.find_inline(&decode_text(body, None));
        // What is read from the disk, and sent, by it.
        let ranges = outline.attachments.iter().map(|attachment| &attachment.range);
        for range in ranges.chain(outline.body.as_ref().map(|body| &body.range)) {
            assert!(range.start <= range.end && range.end <= body.len() as u64, "{range:?}");
        }
        for Attachment { name, .. } in &outline.attachments {
            assert!(!name.is_empty() && name.chars().count() <= 200, "{name:?}");
            assert!(!name.contains(|c: char| c.is_control() || "/\\".contains(c)), "{name:?}");
        }
    }
    let _ = (Properties::of(&header), author(&header), repaired_from(&header), recipients_of(&header));
}

#[test]
fn bodies() {
    const LEN: usize = 10 << 20;
    let mixed = "Content-Type: multipart/mixed; boundary=b\r\n";
    let long = format!("Content-Type: multipart/mixed; boundary=\"{}\"\r\n", "b".repeat(60_000));
    for (what, header, unit) in [
        ("delimiters", mixed, "--b\r\n"),
        ("last delimiters", mixed, "--b--\r\n"),
        ("what is nearly a delimiter", mixed, "--bx\r\n"),
        ("hyphens in lines", mixed, "-\r\n"),
        ("hyphens in one line", mixed, "-"),
        ("carriage returns", mixed, "\r"),
        ("empty lines", mixed, "\r\n"),
        ("beginnings of a long delimiter", &long, "--bbbbbbbbbbbbbbbbbbb"),
        ("lines like a long delimiter", &long, "--bbbbbbbbbbbbbbbbbbb\r\n"),
        ("parts", mixed, "--b\r\n\r\nx\r\n"),
        ("parts without headers", mixed, "--b\r\nx\r\n"),
        ("headers without parts", mixed, "--b\r\nX: x\r\n"),
        ("base64 without an end", "Content-Transfer-Encoding: base64\r\n", "QUJD"),
        ("base64 that ends again and again", "Content-Transfer-Encoding: base64\r\n", "QQ==\r\n"),
        ("quoted-printable without lines", "Content-Transfer-Encoding: quoted-printable\r\n", "=\t "),
        ("soft line ends", "Content-Transfer-Encoding: quoted-printable\r\n", "=\r\n"),
        ("blanks of quoted-printable", "Content-Transfer-Encoding: quoted-printable\r\n", " "),
        ("uuencode", "Content-Transfer-Encoding: x-uuencode\r\n", "begin 644 x\r\n"),
        ("uuencode without lines", "Content-Transfer-Encoding: x-uuencode\r\n", "M"),
        ("content ids", "Content-Type: text/html\r\n", "cid:"),
        ("colons", "Content-Type: text/html\r\n", ":"),
    ] {
        let body = unit.repeat(LEN / unit.len());
        within_the_time(what, || take_apart(header.as_bytes(), body.as_bytes()));
    }
}

#[test]
fn nested_parts() {
    for subtype in ["mixed", "alternative", "related", "digest", "report"] {
        for depth in [5, 28, 100, 1000] {
            let mut body = String::new();
            for level in 0..depth {
                let inner = level + 1;
                body += &format!("--{level}\r\nContent-Type: multipart/{subtype}; boundary={inner}\r\n\r\n");
            }
            body += &format!("--{depth}\r\nContent-Type: text/plain\r\n\r\n\r\n");
            let header = format!("Content-Type: multipart/{subtype}; boundary=0\r\n");
            let what = format!("{depth} times multipart/{subtype}");
            within_the_time(&what, || take_apart(header.as_bytes(), body.as_bytes()));
        }
    }
}

#[test]
fn headers() {
    const LEN: usize = 250 << 10;
    for (what, begin, unit) in [
        ("parameters", "Content-Type: text/plain", "; a=b"),
        ("parameters in pieces", "Content-Type: text/plain", "; name*0*=b"),
        ("parameters without values", "Content-Type: text/plain", ";="),
        ("equals signs", "Content-Type: text/plain; a=", "="),
        ("words and equals signs", "Content-Type: text/plain; a=", " a="),
        ("quotes", "Content-Type: text/plain; a=", "\""),
        ("backslashes", "Content-Type: text/plain; a=\"", "\\"),
        ("comments", "Content-Type: ", "("),
        ("comments that end", "Content-Type: text", "()"),
        ("slashes", "Content-Type: text", "/ "),
        ("From: commas", "From: ", ","),
        ("From: angle brackets", "From: ", "<"),
        ("From: addresses", "From: ", "a@b.se,"),
        ("From: words", "From: ", "a@"),
        ("From: comments", "From: ", "("),
        ("From: encoded words", "From: ", "=?utf-8?q?a@b?= "),
        ("To: addresses", "To: ", "a@b.se,"),
        ("To: groups", "To: ", "a:"),
        ("To: quotes", "To: ", "\""),
        ("Subject: words that begin", "Subject: ", "=?"),
        ("Subject: words that nearly end", "Subject: ", "=?utf-8?q?x?"),
        ("Subject: words of many character sets", "Subject: ", "=?utf-8?q?x?= =?x?q?y?= "),
        ("fields", "", "X: x\r\n"),
    ] {
        let units = unit.repeat(LEN / unit.len());
        let field = format!("{begin}{}\r\n", units.trim_end_matches("\r\n"));
        within_the_time(what, || take_apart(field.as_bytes(), b"--b\r\n\r\nx\r\n"));
    }
}

#[test]
fn an_escape_at_the_end_of_a_comment() {
    for value in ["(\\", "text/(\\", "text/plain; (\\", "text/plain; a=(\\", "text/plain; a=\"\\"] {
        take_apart(format!("Content-Type: {value}\r\n").as_bytes(), b"x\r\n");
    }
}

/// Pieces of everything that some parser looks for.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(
        [
            "(",
            ")",
            "\\",
            "\"",
            "<",
            ">",
            "@",
            ",",
            ";",
            ":",
            "=",
            "?",
            "'",
            "*",
            "%",
            "/",
            ".",
            "+",
            "-",
            "[",
            "]",
            "=?",
            "?=",
            "=?utf-8?q?",
            "=?utf-7?b?",
            "utf-8",
            "*0*",
            "*1",
            "%4",
            "0",
            "QQ==",
            "=3D",
            "=\r\n",
            " ",
            "\t",
            "\r\n ",
            "\r",
            "\0",
            "\u{1b}$B",
            "\u{fc}",
            "a",
            "b@x.se",
            "charset",
            "name",
            "boundary=b",
            "multipart/mixed",
            "text/plain",
            "message/rfc822",
            "base64",
            "x-uuencode",
            "begin 644 a\r\n",
            "M",
            "`",
            "end\r\n",
            "cid:",
        ]
        .to_vec(),
    );
    let octets =
        prop_oneof![9 => piece.prop_map(|piece| piece.as_bytes().to_vec()), 1 => vec(any::<u8>(), 1..3)];
    vec(octets, 0..5).prop_map(|octets| octets.concat())
}

proptest! {
    #[test]
    fn no_header_and_no_body_harms(
        fields in vec((prop::sample::select(FIELDS.to_vec()), pieces()), 1..4),
        body in vec(prop_oneof![
            pieces(),
            (prop::sample::select(FIELDS.to_vec()), pieces()).prop_map(|(name, value)| field(name, &value)),
            Just(b"\r\n--b\r\n".to_vec()),
            Just(b"\r\n--b--\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
        ], 0..20),
    ) {
        let header: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        // Not every header is one.
        if HeaderScanner::split_message(&header).is_ok() {
            take_apart(&header, &body.concat());
        }
    }
}

const FIELDS: [&str; 14] = [
    "From",
    "Sender",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "References",
    "X-A",
    "Importance",
    "Content-Type",
    "Content-Disposition",
    "Content-Transfer-Encoding",
    "Content-ID",
];

fn field(name: &str, value: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b": ", value, b"\r\n"].concat()
}
