use mail_parser::{MessageParser, PartType};
use proptest::prelude::*;

use super::*;
use crate::mime::part::Disposition;

fn split(message: &[u8]) -> (HeaderBlock, Vec<u8>) {
    let split = HeaderScanner::split_message(message).unwrap();
    (split.header, split.body)
}

fn scan(message: &[u8], piece: usize) -> Result<Structure, Unreadable> {
    let (header, body) = split(message);
    let mut scanner = StructureScanner::new(&header);
    body.chunks(piece.max(1)).for_each(|chunk| scanner.push(chunk));
    scanner.finish()
}

fn leaves(node: &Node) -> Vec<&Part> {
    match node {
        Node::Leaf(part) => vec![part],
        Node::Multipart { children, .. } => children.iter().flat_map(leaves).collect(),
    }
}

/// Type, content decoded, of each leaf.
fn contents(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (_, body) = split(message);
    let structure = scan(message, usize::MAX).unwrap();
    let content = |part: &Part| {
        let mut decoder = Decoder::new(part.encoding);
        let mut out = Vec::new();
        decoder.push(&body[part.range.start as usize..part.range.end as usize], &mut out);
        decoder.finish(&mut out);
        assert_eq!(out.len() as u64, part.decoded_len, "{part:?}");
        (part.media_type.clone(), out)
    };
    leaves(&structure.root).into_iter().map(content).collect()
}

const MIXED: &str = "Content-Type: multipart/mixed; boundary=\"a b\"\r\n\r\npreamble\r\n\
    --a b\r\n\r\nplain\r\n--a b \r\nContent-Type: multipart/alternative; boundary=\"a b2\"\r\n\r\n\
    --a b2\r\nContent-Type: TEXT/Plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
    soft=\r\nbreak=C3=BC\r\n\r\n--a b2\r\nContent-Type: text/html\r\n\r\n<p>-- \r\n--other\r\n\r\n--a b2--\r\nepilogue\r\n\
    --a b\r\nContent-Type: application/pdf; name=\"x.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\
    Content-Disposition: attachment;\r\n filename*0*=utf-8''%C3%BC;\r\n filename*1=ber.pdf\r\nContent-ID: <id@x>\r\n\r\n\
    aGVs\r\nbG8=\r\n--a b\r\nContent-Type: message/rfc822\r\n\r\n\
    Content-Type: multipart/mixed; boundary=\"inner\"\r\n\r\n--inner\r\n\r\nx\r\n--inner--\r\n--a b--\r\nthe end\r\n";

#[test]
fn parts_and_their_contents() {
    let found = contents(MIXED.as_bytes());
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let found: Vec<_> = found.iter().map(|(kind, content)| (kind.as_str(), text(content))).collect();
    let expected = [
        ("text/plain", "plain"),
        ("text/plain", "softbreakü\r\n"),
        ("text/html", "<p>-- \r\n--other\r\n"),
        ("application/pdf", "hello"),
        (
            "message/rfc822",
            "Content-Type: multipart/mixed; boundary=\"inner\"\r\n\r\n--inner\r\n\r\nx\r\n--inner--",
        ),
    ];
    assert_eq!(found, expected.map(|(kind, content)| (kind, content.to_owned())));
    let structure = scan(MIXED.as_bytes(), 1).unwrap();
    let pdf = leaves(&structure.root)[3];
    assert_eq!(pdf.name.as_deref(), Some("über.pdf"));
    assert_eq!(pdf.content_id.as_deref(), Some("id@x"));
    assert_eq!(pdf.disposition, Disposition::Attachment);
}

#[test]
fn odd_messages() {
    for (message, expected) in [
        ("A: 1\r\n\r\nbody\r\n", vec![("text/plain", "body\r\n")]),
        ("A: 1\r\n\r\n", vec![("text/plain", "")]),
        // Without a boundary it is not divided, and with one that does not come neither.
        ("Content-Type: multipart/mixed\r\n\r\nx", vec![("text/plain", "x")]),
        ("Content-Type: multipart/mixed; boundary=b\r\n\r\nnothing\r\n", vec![("text/plain", "nothing\r\n")]),
        ("Content-Type: multipart/mixed; boundary=b\r\n\r\n\r\n--b--\r\n", vec![]),
        ("Content-Type: nonsense\r\n\r\nx", vec![("text/plain", "x")]),
        // The last delimiter is missing.
        ("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n", vec![("text/plain", "x\r\n")]),
        ("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b", vec![("text/plain", "x")]),
        // Nothing in a part, and no header either.
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n--b\r\n--b\r\nX: y\r\n--b--",
            vec![("text/plain", "")],
        ),
        // A delimiter too many, without its dashes, at the end.
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\n\r\n",
            vec![("text/plain", "x")],
        ),
        // Headers that break off.
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\nno empty line\r\nX: y\r\n\r\nz\r\n--b--",
            vec![("text/html", "no empty line\r\nX: y\r\n\r\nz")],
        ),
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: application/pdf;\r\nname=\"a.pdf\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b--",
            vec![("application/pdf", "hello")],
        ),
        (
            "Content-Type: multipart/mixed; boundary=\r\n\t\"a b\"\r\n\r\n--a b\r\nContent-Type: text/html charset=utf-8\r\n\r\nx\r\n--a b--",
            vec![("text/html", "x")],
        ),
        // The outer one ends while the inner one is open.
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n\
             --c\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--\r\n",
            vec![("text/plain", "x"), ("text/plain", "y")],
        ),
        (
            "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: s\r\n\r\n\r\n--b--\r\n",
            vec![("message/rfc822", "Subject: s\r\n\r\n")],
        ),
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=c\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
            vec![("text/plain", "x")],
        ),
        // A boundary with a character set (RFC 2231), and one in pieces.
        (
            "Content-Type: multipart/mixed; boundary*=us-ascii''b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n",
            vec![("text/plain", "x")],
        ),
        (
            "Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\r\n\r\n--ab\r\n\r\nx\r\n--ab--\r\n",
            vec![("text/plain", "x")],
        ),
        // Lines that end in LF.
        ("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\ny\n--b--\n", vec![("text/plain", "x\ny")]),
    ] {
        let found = contents(message.as_bytes());
        let expected: Vec<_> =
            expected.iter().map(|(kind, text)| ((*kind).to_owned(), text.as_bytes().to_vec())).collect();
        assert_eq!(found, expected, "{message:?}");
    }
}

#[test]
fn what_is_too_much_is_said() {
    let nested: String =
        (0..31).map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n")).collect();
    assert_eq!(scan(nested.as_bytes(), 100), Err(Unreadable::TooDeep));
    let many = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\n\r\n".repeat(1000));
    assert_eq!(scan(many.as_bytes(), 100), Err(Unreadable::TooManyParts));
    let header = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX: {}", "x".repeat(70_000));
    assert_eq!(scan(header.as_bytes(), 1000), Err(Unreadable::HeaderTooLarge));
    // A line may be of any length.
    let long = format!("A: 1\r\n\r\n--{}", "x".repeat(1_000_000));
    assert_eq!(contents(long.as_bytes())[0].1.len(), 1_000_002);
}

#[test]
fn the_same_parts_as_another_parser_finds() {
    let parsed = MessageParser::default().parse(MIXED.as_bytes()).unwrap();
    let theirs: Vec<Vec<u8>> = parsed
        .parts
        .iter()
        .filter_map(|part| match &part.body {
            PartType::Text(text) | PartType::Html(text) => Some(text.as_bytes().to_vec()),
            PartType::Binary(octets) | PartType::InlineBinary(octets) => Some(octets.to_vec()),
            PartType::Message(_) => Some(part.contents().to_vec()),
            PartType::Multipart(_) => None,
        })
        .collect();
    let ours: Vec<Vec<u8>> = contents(MIXED.as_bytes()).into_iter().map(|(_, content)| content).collect();
    assert_eq!(ours[..4], theirs[..4]);
}

fn piece_of_mail() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("--b\r\n".to_owned()),
        Just("--b--\r\n".to_owned()),
        Just("--c\r\n".to_owned()),
        Just("--c--\r\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("Content-Type: multipart/mixed; boundary=c\r\n".to_owned()),
        Just("Content-Transfer-Encoding: base64\r\n".to_owned()),
        Just("Content-Transfer-Encoding: quoted-printable\r\n".to_owned()),
        "[-a-z=\r\n]{0,20}",
    ]
}

proptest! {
    #[test]
    fn portions_make_no_difference(pieces in prop::collection::vec(piece_of_mail(), 0..20), size in 1..40usize) {
        let message = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", pieces.concat());
        prop_assert_eq!(scan(message.as_bytes(), size), scan(message.as_bytes(), usize::MAX));
    }

    #[test]
    fn parts_lie_in_the_body_one_after_the_other(pieces in prop::collection::vec(piece_of_mail(), 0..20)) {
        let message = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", pieces.concat());
        let (_, body) = split(message.as_bytes());
        let structure = scan(message.as_bytes(), usize::MAX).unwrap();
        let mut at = 0;
        for part in leaves(&structure.root) {
            prop_assert!(part.range.start >= at && part.range.end >= part.range.start, "{part:?}");
            at = part.range.end;
        }
        prop_assert!(at <= body.len() as u64);
        // And their lengths are what comes out.
        contents(message.as_bytes());
    }

    #[test]
    fn no_octets_panic(octets: Vec<u8>) {
        if let Ok(split) = HeaderScanner::split_message(&octets) {
            let mut scanner = StructureScanner::new(&split.header);
            scanner.push(&split.body);
            let _ = scanner.finish();
        }
    }
}
