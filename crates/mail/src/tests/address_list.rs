use super::*;

/// The field's addresses in one string, or the broken entry; and whether it has one reading only.
fn read(value: &str) -> (Result<String, String>, bool) {
    let header = header(&format!("To:{value}\r\n"));
    let field = header.fields().next().unwrap();
    let found = addresses(&field)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map(|list| list.iter().map(MailboxAddress::as_str).collect::<Vec<_>>().join(" "))
        .map_err(|broken| broken.entry);
    let list = AddressList::parse(field.raw_value());
    (found, list.regular && list.entries.iter().all(|entry| entry.regular))
}

#[test]
fn lists_with_one_reading() {
    let rows = [
        ("", ""),
        (" a@x.se", "a@x.se"),
        (" A.B@X.se,b@y.se", "A.B@X.se b@y.se"),
        (" Bee <b@y.se>", "b@y.se"),
        (" \"Bee, the <B>\" <b@y.se>, a@x.se", "b@y.se a@x.se"),
        (" John Q. Public <b@y.se>", "b@y.se"),
        (" \"Jo \\\" \\\\\" < b@y.se >", "b@y.se"),
        (" Bj\u{f6}rn <b@y.se>", "b@y.se"),
        (" =?iso-8859-1?Q?Bj=F6rn?= =?utf-8?B?w6Q=?= <b@y.se>", "b@y.se"),
        (" a@x.se (one (two) \\) b@y.se), (c) Bee (d) <b@y.se> (e)", "a@x.se b@y.se"),
        ("\r\n a@x.se,\r\n\tBee\r\n <b@y.se>\r\n", "a@x.se b@y.se"),
        (" undisclosed-recipients:;", ""),
        (" Friends: a@x.se, Bee <b@y.se>;", "a@x.se b@y.se"),
        (" a@x.se, \"Fri: ends\" (x): b@y.se; , c@z.se", "a@x.se b@y.se c@z.se"),
        (" <\"a>,@b\"@x.se>", "\"a>,@b\"@x.se"),
        (" a@[10.1.2.3], <b@[IPv6:::1]>", "a@[10.1.2.3] b@[IPv6:::1]"),
        (" <j\u{f6}rn@b\u{fc}cher.example>", "j\u{f6}rn@b\u{fc}cher.example"),
        (" o'neil+tag@x.se", "o'neil+tag@x.se"),
    ];
    for (value, found) in rows {
        assert_eq!(read(value), (Ok(found.to_owned()), true), "{value:?}");
    }
}

#[test]
fn lists_that_could_be_read_otherwise() {
    let rows = [
        (" a@x.se; b@y.se", "a@x.se b@y.se"),
        (" a@x.se,", "a@x.se"),
        (" ,a@x.se", "a@x.se"),
        (" a@x.se,,b@y.se", "a@x.se b@y.se"),
        (" a@x.se <a@x.se>", "a@x.se"),
        (" [Team] Bee <b@y.se>", "b@y.se"),
        (" <b@y.se> Bee", "b@y.se"),
        (" Bee \\x <b@y.se>", "b@y.se"),
        (" Friends: a@x.se", "a@x.se"),
        (" undisclosed-recipients:", ""),
        (" Friends: a@x.se,;", "a@x.se"),
        (" Friends: a@x.se; b@y.se", "a@x.se b@y.se"),
        (" one: a@x.se, two: b@y.se;", "a@x.se b@y.se"),
        (" mailto:a@x.se", "a@x.se"),
        (" \"a b\"@x.se, b@[IPv6:::1]", "\"a b\"@x.se b@[IPv6:::1]"),
        (" c@z.se: a@x.se;", "a@x.se"),
        (" \"a\u{1}\" <b@y.se>", "b@y.se"),
        (" (nobody)", ""),
    ];
    for (value, found) in rows {
        assert_eq!(read(value), (Ok(found.to_owned()), false), "{value:?}");
    }
}

#[test]
fn broken_entries_are_reported() {
    let rows = [
        (" a@x.se, root", "root"),
        (" root (Cron Daemon), a@x.se", "root (Cron Daemon)"),
        (" Bee <b@y.se", "Bee <b@y.se"),
        (" \"Bee <b@y.se>, a@x.se", "\"Bee <b@y.se>, a@x.se"),
        (" (Bee <b@y.se>", "(Bee <b@y.se>"),
        (" <a@x.se> <b@y.se>", "<a@x.se> <b@y.se>"),
        (" <a@x.se, b@y.se>", "<a@x.se, b@y.se>"),
        (" <@r.se:a@x.se>", "<@r.se:a@x.se>"),
        (" Bee b@y.se", "Bee b@y.se"),
        (" a@x.se b@y.se", "a@x.se b@y.se"),
        (" a@x (c).se", "a@x (c).se"),
        (" =?utf-8?B?YUB4LnNl?=", "=?utf-8?B?YUB4LnNl?="),
        (" =?utf-8?Q?a?=@x.se", "=?utf-8?Q?a?=@x.se"),
        (" <>", "<>"),
        (" a@x..se", "a@x..se"),
        (" <\u{c}a@x.se>", "<\u{c}a@x.se>"),
        (" a@[b, c@d]", "a@[b, c@d]"),
    ];
    for (value, entry) in rows {
        assert_eq!(read(value), (Err(entry.to_owned()), false), "{value:?}");
    }
}

#[test]
fn the_author() {
    let of = |text: &str| {
        let author = author(&header(text)).map_err(|why| why.to_string())?;
        let from: Vec<_> = author.from().iter().map(MailboxAddress::as_str).collect();
        Ok::<_, String>(format!("{} by {}", from.join(" "), author.mailbox()))
    };
    assert_eq!(of("from:\r\n =?utf-8?Q?=C3=84?=\r\n <a@x.se>\r\n").unwrap(), "a@x.se by a@x.se");
    // A Sender beside one author does not choose the mailbox. It is returned if it has an address.
    assert_eq!(of("From: a@x.se\r\nSender: root\r\n").unwrap(), "a@x.se by a@x.se");
    assert_eq!(of("From: a@x.se\r\nSender: S <s@y.se>\r\n").unwrap(), "a@x.se by a@x.se");
    let sender = |text: &str| author(&header(text)).map(|author| author.sender().map(ToString::to_string));
    assert_eq!(sender("From: a@x.se\r\nSender: S <s@y.se>\r\n"), Ok(Some("s@y.se".into())));
    assert_eq!(sender("From: a@x.se\r\nSender: <>\r\n"), Ok(None));
    assert_eq!(of("From: a@x.se, B <b@x.se>\r\nSender: s@x.se\r\n").unwrap(), "a@x.se b@x.se by s@x.se");

    let why = |text: &str| author(&header(text)).unwrap_err();
    assert_eq!(why("To: a@x.se\r\n"), InvalidAuthor::Missing);
    assert_eq!(why("From: a@x.se\r\nFROM : a@x.se\r\n"), InvalidAuthor::Repeated("From"));
    assert_eq!(why("From:\r\n"), InvalidAuthor::Empty);
    assert_eq!(why("From: g:;\r\n"), InvalidAuthor::Empty);
    assert_eq!(why("From: a@x.se, b@x.se\r\n"), InvalidAuthor::NoSender);
    assert_eq!(why("From: a@x.se, b@x.se\r\nSender: a@x.se, b@x.se\r\n"), InvalidAuthor::SeveralSenders);
    assert!(matches!(why("From: root\r\n"), InvalidAuthor::Broken(_)));

    assert_eq!(of("From: a@x.se <a@x.se>\r\n").unwrap(), "a@x.se by a@x.se");
    for twisted in
        ["a@x.se\r\n <a@x.se>", "a@x.se (x) <a@x.se>", "b@x.se <a@x.se>", "<a@x.se> b", "g: a@x.se;"]
    {
        let text = format!("From: {twisted}\r\n");
        assert!(matches!(why(&text), InvalidAuthor::Ambiguous { .. }), "{twisted:?}");
    }
}
