//! Whatever the header contains, mail-parser finds the envelope's recipients in the result, and nobody else.

use proptest::prelude::*;

use super::{super::fuzz::check_address_to, *};

const POOL: [&str; 8] = [
    "a@x.se",
    "b.b@x.se",
    "o'neil+tag@sub.x.se",
    "\"c c\"@x.se",
    "d@[10.1.2.3]",
    "e@[IPv6:2001:db8::1]",
    "j\u{f6}rn@b\u{fc}cher.example",
    "f_g@x-y.se",
];

fn an_envelope() -> impl Strategy<Value = Envelope> {
    prop::sample::subsequence(POOL.as_slice(), 1..POOL.len()).prop_map(|chosen| envelope(&chosen))
}

/// White space, sometimes folded, sometimes with a comment.
fn gap() -> impl Strategy<Value = String> {
    "( |\r\n |\r\n\t| \\(no, <z@z\\.se> \\(here\\)\\) )"
}

fn a_mailbox() -> impl Strategy<Value = String> {
    let address = (prop::sample::select(POOL.as_slice()), any::<bool>())
        .prop_map(|(text, upper)| if upper { text.to_uppercase() } else { text.to_owned() });
    let name = prop::sample::select(vec![
        "Bee",
        "John Q. Public",
        "\"Bee, <z@z.se>; (B)\"",
        "\"quo\\\"ted \\\\\"",
        "=?utf-8?B?QsOpLCA8ekB6LnNlPg==?=",
        "=?iso-8859-1?Q?B=E9?= =?utf-8?Q?_=C3=A9?=",
        "B\u{e9}",
    ]);
    (prop::option::of(name), gap(), address, gap()).prop_map(|(name, before, address, after)| match name {
        Some(name) => format!("{name}{before}<{address}>{after}"),
        None => format!("{before}{address}{after}"),
    })
}

fn a_list() -> impl Strategy<Value = String> {
    let group = ("(Team|\"A: B\"|undisclosed-recipients)", prop::collection::vec(a_mailbox(), 0..3))
        .prop_map(|(name, members)| format!("{name}:{};", members.join(",")));
    prop::collection::vec(prop_oneof![4 => a_mailbox(), 1 => group], 1..5)
        .prop_map(|entries| entries.join(","))
}

fn a_header() -> impl Strategy<Value = HeaderBlock> {
    let addressed = ("(To|TO|cc|Cc|Bcc|bCC|Resent-To|Resent-Bcc)", a_list());
    let other = (
        "(From|Subject|X-To|Received)",
        "(a|b|@|,|<|>|\r\n |\"|;){0,20}".prop_map(|text| format!("x{text}")),
    );
    prop::collection::vec(prop_oneof![addressed, other], 0..6).prop_map(|fields| {
        let text: String = fields.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        header(&text)
    })
}

proptest! {
    #[test]
    fn good_headers(header in a_header(), envelope in an_envelope()) {
        check_address_to(&header, &envelope);
    }

    #[test]
    fn bad_lists(
        name in "(To|Cc|Bcc)",
        value in "(a@x\\.se|b\\.b@x\\.se|z@z\\.se|Bee| |,|;|:|<|>|@|\"|\\(|\\)|\\\\|\\[|\\]|\r\n |=\\?utf-8\\?Q\\?|\\?=|=40|\\.|\u{e9}|\u{1}){0,14}",
        envelope in an_envelope(),
    ) {
        check_address_to(&header(&format!("{name}:{value}\r\nSubject: s\r\n")), &envelope);
    }

    #[test]
    fn bad_lists_with_much_sense(
        value in "((Bee |\"B\" )?<?(a@x\\.se|b\\.b@x\\.se|z@z\\.se)>?(,|;| \\(c\\)|:| |\r\n\t)){1,6}",
        envelope in an_envelope(),
    ) {
        check_address_to(&header(&format!("To:{value}\r\n")), &envelope);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60), envelope in an_envelope()) {
        let message = [b"To: ", bytes.as_slice(), b"\r\nCc: ", bytes.as_slice(), b"\r\n"].concat();
        if let Ok(split) = HeaderScanner::split_message(&message) {
            let _ = (author(&split.header), recipients_of(&split.header), without_bcc(&split.header));
            let _ = (injected_envelope(&split.header), pickup_envelope(&split.header));
            check_address_to(&split.header, &envelope);
        }
    }

    #[test]
    fn any_lines_at_the_top(value in "(<|>|a@x\\.se|\"| |=|\\\\|BODY=7BIT|\r\n ){0,8}") {
        let header = header(&format!("X-Sender:{value}\r\nX-Receiver: <b@y.se>\r\nX-Receiver:{value}\r\n"));
        let _ = injected_envelope(&header);
    }
}
