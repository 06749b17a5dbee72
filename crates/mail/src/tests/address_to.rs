use super::*;

struct Row {
    header: &'static str,
    envelope: &'static [&'static str],
    becomes: &'static str,
    bcc: usize,
    visible: Visible,
}

const ROWS: &[Row] = &[
    Row {
        header: "From: o@x.se\r\nTo: \"Bee\" <B@y.se>,\r\n  c@y.se\r\nCC: d@y.se\r\n",
        envelope: &["b@Y.se", "c@y.se", "d@y.se"],
        becomes: "From: o@x.se\r\nTo: \"Bee\" <B@y.se>,\r\n  c@y.se\r\nCC: d@y.se\r\n",
        bcc: 0,
        visible: Visible::Kept,
    },
    // Hidden recipients, none in the header.
    Row {
        header: "From: o@x.se\r\nTo: undisclosed-recipients:;\r\nSubject: s\r\n",
        envelope: &["b@y.se", "\"c c\"@y.se"],
        becomes: "From: o@x.se\r\nTo: undisclosed-recipients:;\r\nSubject: s\r\nBcc: <b@y.se>,\r\n <\"c c\"@y.se>\r\n",
        bcc: 2,
        visible: Visible::Kept,
    },
    // The client's Bcc fields are replaced; Resent-To is not ours.
    Row {
        header: "Bcc: b@y.se, z@y.se\r\nTo: a@y.se\r\nBCC : q@y.se\r\nResent-Bcc: r@y.se\r\nResent-To: s@y.se\r\n",
        envelope: &["a@y.se", "b@y.se"],
        becomes: "To: a@y.se\r\nResent-To: s@y.se\r\nBcc: <b@y.se>\r\n",
        bcc: 1,
        visible: Visible::Kept,
    },
    // Redirected: nobody in the header is in the envelope.
    Row {
        header: "To: b@y.se\r\nSubject: s\r\n",
        envelope: &["elsewhere@y.se"],
        becomes: "X-Original-To: b@y.se\r\nSubject: s\r\nBcc: <elsewhere@y.se>\r\n",
        bcc: 1,
        visible: Visible::Reduced,
    },
    // Display names, comments and groups of the recipients that stay.
    Row {
        header: "To: =?utf-8?Q?B=C3=A9?= <b@y.se>, out@y.se,\r\n G: \"C, c\" <c@y.se>, x@y.se; , (hi) d@y.se (D)\r\n",
        envelope: &["b@y.se", "c@y.se", "d@y.se"],
        becomes: "To: =?utf-8?Q?B=C3=A9?= <b@y.se>,\r\n \"C, c\" <c@y.se>,\r\n (hi) d@y.se (D)\r\n\
                  X-Original-To: =?utf-8?Q?B=C3=A9?= <b@y.se>, out@y.se,\r\n G: \"C, c\" <c@y.se>, x@y.se; , (hi) d@y.se (D)\r\n",
        bcc: 0,
        visible: Visible::Reduced,
    },
    Row {
        header: "To: b@y.se\r\nCc: out@y.se, c@y.se\r\n",
        envelope: &["b@y.se", "c@y.se"],
        becomes: "To: b@y.se\r\nCc: c@y.se\r\nX-Original-Cc: out@y.se, c@y.se\r\n",
        bcc: 0,
        visible: Visible::Reduced,
    },
    // Outlook's semicolons make Graph refuse the message.
    Row {
        header: "To: b@y.se; C <c@y.se>\r\n",
        envelope: &["b@y.se", "c@y.se"],
        becomes: "To: b@y.se,\r\n C <c@y.se>\r\nX-Original-To: b@y.se; C <c@y.se>\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    Row {
        header: "To: b@y.se <b@y.se>\r\nCc: [Team] C\u{e9} <c@y.se>\r\n",
        envelope: &["b@y.se", "c@y.se"],
        becomes: "To: \"b@y.se\" <b@y.se>\r\nX-Original-To: b@y.se <b@y.se>\r\n\
                  Cc: =?utf-8?Q?=5BTeam=5D_C=C3=A9?= <c@y.se>\r\nX-Original-Cc: [Team] C\u{e9} <c@y.se>\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    // Not an address: it names nobody, or one of the envelope all the same.
    Row {
        header: "To: root, b@y.se\r\nCc: \"c@y.se\r\n",
        envelope: &["b@y.se", "c@y.se"],
        becomes: "To: b@y.se\r\nX-Original-To: root, b@y.se\r\nCc: <c@y.se>\r\nX-Original-Cc: \"c@y.se\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    Row {
        header: "To: undisclosed recipients\r\nCc: 'b@y.se', Meyer, Greg <c@y.se>\r\n",
        envelope: &["b@y.se", "c@y.se"],
        becomes: "X-Original-To: undisclosed recipients\r\nCc: <b@y.se>,\r\n Greg <c@y.se>\r\n\
                  X-Original-Cc: 'b@y.se', Meyer, Greg <c@y.se>\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    // One that is somebody else's, or may be.
    Row {
        header: "To: 'out@y.se'\r\nCc: a@b@y.se\r\n",
        envelope: &["b@y.se"],
        becomes: "X-Original-To: 'out@y.se'\r\nX-Original-Cc: a@b@y.se\r\nBcc: <b@y.se>\r\n",
        bcc: 1,
        visible: Visible::Reduced,
    },
    // Dots that the grammar wants quotes for, and the dot that ends a domain.
    Row {
        header: "To: b..c@y.se, d@y.se.\r\n",
        envelope: &["b..c@y.se", "d@y.se"],
        becomes: "To: <\"b..c\"@y.se>,\r\n <d@y.se>\r\nX-Original-To: b..c@y.se, d@y.se.\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    // Two fields where one is allowed.
    Row {
        header: "To: b@y.se\r\nSubject: s\r\nTO: c@y.se, B@y.se\r\n",
        envelope: &["b@y.se", "c@y.se"],
        becomes: "To: b@y.se,\r\n c@y.se\r\nX-Original-To: b@y.se\r\nSubject: s\r\nX-Original-To: c@y.se, B@y.se\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    Row {
        header: "To : b@y.se\r\n",
        envelope: &["b@y.se"],
        becomes: "To: b@y.se\r\nX-Original-To: b@y.se\r\n",
        bcc: 0,
        visible: Visible::Mended,
    },
    // In To and Cc, and twice in To: left alone.
    Row {
        header: "To: b@y.se, B <b@y.se>\r\nCc: b@Y.SE\r\n",
        envelope: &["b@y.se"],
        becomes: "To: b@y.se, B <b@y.se>\r\nCc: b@Y.SE\r\n",
        bcc: 0,
        visible: Visible::Kept,
    },
    Row { header: "", envelope: &["b@y.se"], becomes: "Bcc: <b@y.se>\r\n", bcc: 1, visible: Visible::Kept },
];

#[test]
fn the_header_says_what_the_envelope_says() {
    for row in ROWS {
        let addressed = address_to(&header(row.header), &envelope(row.envelope));
        assert_eq!(str::from_utf8(addressed.header.as_bytes()).unwrap(), row.becomes);
        assert_eq!((addressed.bcc, addressed.visible), (row.bcc, row.visible), "{}", row.header);
        // A second run changes nothing.
        let again = address_to(&addressed.header, &envelope(row.envelope));
        assert_eq!(again.header, addressed.header);
    }
}

#[test]
fn no_line_grows_too_long() {
    let long = "x".repeat(900);
    let text = format!("To: \"{long}\" <b@y.se>, out@y.se, {}\r\n", "c@y.se, ".repeat(9));
    let addressed = address_to(&header(&text), &envelope(&["b@y.se", "c@y.se"]));
    let bytes = String::from_utf8(addressed.header.into_bytes()).unwrap();
    assert!(bytes.lines().all(|line| line.len() <= 998), "{bytes}");
    assert!(bytes.contains(&text[4..]), "the original value is kept");

    let text = format!("To: out@y.se, \"{}\r\n {}\" <b@y.se>\r\n", "x".repeat(980), "y".repeat(980));
    let addressed = address_to(&header(&text), &envelope(&["b@y.se"]));
    let bytes = String::from_utf8(addressed.header.into_bytes()).unwrap();
    assert!(bytes.lines().all(|line| line.len() <= 998), "{bytes}");
}

#[test]
fn bcc_is_taken_out() {
    let header = header("To: a@x.se\r\nbcc: b@x.se,\r\n c@x.se\r\nResent-Bcc: d@x.se\r\nSubject: s\r\n");
    assert_eq!(without_bcc(&header).as_bytes(), b"To: a@x.se\r\nSubject: s\r\n");
    let recipients: Vec<_> = recipients_of(&header).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(recipients, ["a@x.se", "b@x.se", "c@x.se"]);
}
