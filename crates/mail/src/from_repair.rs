//! From fields that are not believed as they are, and that say who wrote the message all the same.
//!
//! [`author`](crate::author()) believes a field only if all programs read it alike. Real mail has others: an
//! unquoted comma in the name, no angle brackets, a route, a name that is the address in another form. If
//! there is one address in the field, in whichever way it is read, then that is the author, and the field
//! is written again so that nobody can read it otherwise. With two different addresses it stays refused.

use crate::{HeaderBlock, MailboxAddress, loose::addresses_in, words::decode_words};

/// What a From field that needs to be written again means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedFrom {
    /// Of the field, in whatever form; not the address.
    pub name: Option<String>,
    /// `None`: no address in it has a domain, as in `Scanner <>` and `MAILER-DAEMON`.
    pub address: Option<MailboxAddress>,
}

/// `None`: there is not exactly one such field, it has two addresses in it, something that may be one, or a
/// control character, which no program writes there by mistake.
pub fn repaired_from(header: &HeaderBlock) -> Option<RepairedFrom> {
    let mut fields = header.named("From");
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let raw = field.raw_value();
    let is_folding = |octet: &u8| matches!(octet, b'\t' | b'\r' | b'\n');
    if raw.iter().any(|octet| octet.is_ascii_control() && !is_folding(octet)) {
        return None;
    }
    let mut found = addresses_in(raw)?.into_iter();
    let address = found.next();
    if found.any(|other| address.as_ref() != Some(&other)) {
        return None;
    }
    let name = name_beside(&decode_words(raw));
    (address.is_some() || !name.is_empty() || !raw.trim_ascii().is_empty())
        .then(|| RepairedFrom { name: Some(name).filter(|name| !name.is_empty()), address })
}

/// The text without the address, without what is in angle brackets, without quotes and brackets, and without
/// what is left of encoded words that are none: a reader might find one in it after all.
fn name_beside(decoded: &str) -> String {
    let outside = match (decoded.find('<'), decoded.rfind('>')) {
        (Some(open), Some(close)) if open < close => {
            format!("{} {}", &decoded[..open], &decoded[close + 1..])
        }
        _ => decoded.replace(['<', '>'], " "),
    };
    let outside = outside.replace(['"', '\\'], "");
    let is_of_name = |word: &&str| !["@", "=?", "?="].iter().any(|mark| word.contains(mark));
    let name = outside.split_whitespace().filter(is_of_name).collect::<Vec<_>>().join(" ");
    name.trim_matches(|c: char| c.is_whitespace() || ",;:'()".contains(c)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeaderScanner, author, from_field};

    fn repaired(value: &str) -> Option<(Option<String>, Option<String>)> {
        let header = HeaderScanner::split_message(format!("From:{value}\r\n").as_bytes()).unwrap().header;
        let RepairedFrom { name, address } = repaired_from(&header)?;
        if let Some(address) = &address {
            // What is written instead is believed.
            let field = from_field(name.as_deref(), address);
            let header = HeaderScanner::split_message(&field).unwrap().header;
            assert_eq!(author(&header).unwrap().from(), std::slice::from_ref(address), "{value}");
        }
        Some((name, address.map(|address| address.to_string())))
    }

    #[test]
    fn one_address_is_the_author() {
        for (value, name, address) in [
            (" Meyer, Greg <a@x.se>", "Meyer, Greg", "a@x.se"),
            (" Meyer; Greg <a@x.se>", "Meyer; Greg", "a@x.se"),
            (" Ann Example a@x.se", "Ann Example", "a@x.se"),
            (" a@x.se Ann Example", "Ann Example", "a@x.se"),
            (" Ann <@relay.example.net:a@x.se>", "Ann", "a@x.se"),
            (" Ann <@one.example,@two.example:a@x.se>", "Ann", "a@x.se"),
            (" =?utf-8?Q?J=C3=BCrgen_<a=40x.se>?=", "Jürgen", "a@x.se"),
            (" =?utf-8?B?SsO8cmdlbiA8YUB4LnNlPg==?=", "Jürgen", "a@x.se"),
            (" 'Ann' <a@x.se> ", "Ann", "a@x.se"),
            (" <Ann a@x.se>", "", "a@x.se"),
            (" Ann (a@x.se) <a@x.se>", "Ann", "a@x.se"),
            (" a@x.se <A@X.SE>,", "", "a@x.se"),
            (" Ann < a@x.se >", "Ann", "a@x.se"),
            (" Ann <<a@x.se>>", "Ann", "a@x.se"),
            (" \"Ann <a@x.se>", "Ann", "a@x.se"),
            (" Ann: a@x.se;", "Ann", "a@x.se"),
            (" =?utf-8?Q?a@x.se?=", "", "a@x.se"),
            (" a@x.se.", "", "a@x.se"),
            (" ?=a@x.se =?utf-8?Q? ", "", "?=a@x.se"),
            (" a@x.se Ann =\"?utf-8?Q? Example", "Ann Example", "a@x.se"),
        ] {
            let expected = (Some(name.to_owned()).filter(|name| !name.is_empty()), Some(address.to_owned()));
            assert_eq!(repaired(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_name_without_an_address() {
        for (value, name) in [
            (" Scanner <>", Some("Scanner")),
            (" \"Scanner\" <>", Some("Scanner")),
            (" Mail Delivery Subsystem <MAILER-DAEMON>", Some("Mail Delivery Subsystem")),
            (" root", Some("root")),
            (" <root>", None),
            (" =?utf-8?Q?Dr=C3=BCcker?= <>", Some("Drücker")),
        ] {
            assert_eq!(repaired(value), Some((name.map(str::to_owned), None)), "{value}");
        }
    }

    #[test]
    fn two_addresses_are_refused() {
        for value in [
            " a@x.se, b@x.se",
            " a@x.se <b@x.se>",
            " Ann (b@x.se) <a@x.se>",
            " =?utf-8?Q?b=40x.se?= <a@x.se>",
            " \"b@x.se\" <a@x.se>",
            " a@x.se@y.se",
            " =?utf-8?Q?a@x.se",
            " Ann <a@x.se\x00>",
            " a@-bad- <a@x.se>",
            "",
        ] {
            assert_eq!(repaired(value), None, "{value:?}");
        }
        let header =
            HeaderScanner::split_message(b"From: Ann a@x.se\r\nFrom: Ann a@x.se\r\n").unwrap().header;
        assert_eq!(repaired_from(&header), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_again_has_one_reading(value in "( |<|>|,|;|:|\"|'|\\(|\\)|a@x\\.se|b@y\\.se|@|=\\?utf-8\\?Q\\?|=40|\\?=|Ann|ü){0,12}") {
            repaired(&value);
        }
    }
}
