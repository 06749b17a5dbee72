//! The Received field: RFC 5321 section 4.4.

use std::{fmt, net::IpAddr};

use super::MessageId;
use crate::Timestamp;

/// One hop, as it is written at the top of the header.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub origin: Origin<'a>,
    /// This relay's host name.
    pub by: &'a str,
    pub id: MessageId,
    pub at: Timestamp,
}

/// Where the message came from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    Smtp {
        /// What the client called itself. It may be anything.
        helo: &'a str,
        address: IpAddr,
        /// The client said EHLO.
        extended: bool,
        /// `None`: unencrypted.
        encryption: Option<Encryption>,
        /// The client had logged in.
        authenticated: bool,
    },
    Pickup,
}

/// TLS as negotiated. Shown as `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encryption {
    version: &'static str,
    suite: &'static str,
}

impl Encryption {
    /// From the names that rustls uses, such as `TLSv1_3` and `TLS13_AES_256_GCM_SHA384`.
    pub fn new(version: &'static str, suite: &'static str) -> Self {
        Self { version, suite }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.replace('_', ".");
        // RFC 8446 section B.4 has no number in the names.
        match self.suite.strip_prefix("TLS13_") {
            Some(rest) => write!(f, "{version} with cipher TLS_{rest}"),
            None => write!(f, "{version} with cipher {}", self.suite),
        }
    }
}

impl Received<'_> {
    /// The field, folded, with its line end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { by, id, at, .. } = self;
        let date = date(*at);
        match self.origin {
            Origin::Smtp { helo, address, extended, encryption, authenticated } => {
                let helo = harmless(helo);
                let address = literal(address);
                let using = encryption.map(|it| format!("\r\n\t(using {it})")).unwrap_or_default();
                let protocol = protocol(extended, encryption.is_some(), authenticated);
                format!(
                    "Received: from {helo} ({address}){using}\r\n\tby {by} with {protocol} id {id};\r\n\t{date}\r\n"
                )
            }
            Origin::Pickup => format!("Received: by {by} with pickup id {id};\r\n\t{date}\r\n"),
        }
        .into_bytes()
    }
}

/// RFC 3848. Without EHLO there is no word for TLS or a login.
fn protocol(extended: bool, encrypted: bool, authenticated: bool) -> &'static str {
    match (extended, encrypted, authenticated) {
        (false, ..) => "SMTP",
        (true, false, false) => "ESMTP",
        (true, false, true) => "ESMTPA",
        (true, true, false) => "ESMTPS",
        (true, true, true) => "ESMTPSA",
    }
}

/// RFC 5322 section 3.3, in UTC: `Thu, 23 Jul 2026 08:05:01 +0000`.
pub fn date(at: Timestamp) -> String {
    let seconds = i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX);
    let mut bytes = Vec::with_capacity(32);
    mail_builder::headers::date::Date::new(seconds).write_rfc822(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Host names and address literals are kept. Anything else could close the comment, fold the line or begin
/// another field.
fn harmless(helo: &str) -> String {
    const LONGEST: usize = 255;
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-._:[]".contains(c) { c } else { '?' };
    let text: String = helo.chars().take(LONGEST).map(safe).collect();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

/// RFC 5321 section 4.1.3.
fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeaderScanner;
    use proptest::prelude::*;

    fn received(helo: &str, address: &str) -> String {
        let at = Timestamp::from_millis(1_784_793_901_999);
        let address = address.parse().unwrap();
        let origin = Origin::Smtp { helo, address, extended: true, encryption: None, authenticated: false };
        let field = Received { origin, by: "relay.example.net", id: MessageId::first_at(at), at };
        String::from_utf8(field.to_bytes()).unwrap()
    }

    #[test]
    fn over_tls() {
        let at = Timestamp::from_millis(1_784_793_901_999);
        let over = |version, suite, extended| {
            let encryption = Some(Encryption::new(version, suite));
            let address = "10.1.2.3".parse().unwrap();
            let origin =
                Origin::Smtp { helo: "scanner", address, extended, encryption, authenticated: false };
            let field = Received { origin, by: "relay.example.net", id: MessageId::first_at(at), at };
            String::from_utf8(field.to_bytes()).unwrap()
        };
        assert_eq!(
            over("TLSv1_3", "TLS13_AES_256_GCM_SHA384", true),
            "Received: from scanner ([10.1.2.3])\r\n\
             \t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\
             \tby relay.example.net with ESMTPS id 1KY703AXF0000;\r\n\
             \tThu, 23 Jul 2026 08:05:01 +0000\r\n"
        );
        let old = over("TLSv1_2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", false);
        let using = "(using TLSv1.2 with cipher TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)";
        assert!(old.contains(using) && old.contains(" with SMTP id "), "{old}");
    }

    #[test]
    fn as_in_rfc_5321() {
        assert_eq!(
            received("scanner.contoso.com", "10.1.2.3"),
            "Received: from scanner.contoso.com ([10.1.2.3])\r\n\
             \tby relay.example.net with ESMTP id 1KY703AXF0000;\r\n\
             \tThu, 23 Jul 2026 08:05:01 +0000\r\n"
        );
        assert!(received("", "2001:db8::1").starts_with("Received: from unknown ([IPv6:2001:db8::1])\r\n"));
        assert!(
            received("[10.1.2.3]", "::ffff:10.1.2.3")
                .starts_with("Received: from [10.1.2.3] ([10.1.2.3])\r\n")
        );
    }

    #[test]
    fn pickup() {
        let at = Timestamp::from_millis(0);
        let field = Received { origin: Origin::Pickup, by: "r", id: MessageId::first_at(at), at };
        let text = String::from_utf8(field.to_bytes()).unwrap();
        assert_eq!(
            text,
            "Received: by r with pickup id 0000000000000;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
    }

    #[test]
    fn no_date_panics() {
        for millis in [0, u64::MAX, 253_402_300_800_000] {
            assert!(date(Timestamp::from_millis(millis)).ends_with(" +0000"));
        }
    }

    proptest! {
        #[test]
        fn a_hostile_helo_stays_one_short_field(helo in "(\\PC|\r|\n|\\(|\\)|;| ){0,400}") {
            let text = received(&helo, "10.1.2.3");
            let split = HeaderScanner::split_message(text.as_bytes()).unwrap();
            prop_assert_eq!(split.header.as_bytes(), text.as_bytes());
            prop_assert_eq!(split.header.fields().count(), 1);
            prop_assert!(text.is_ascii());
            prop_assert!(text.lines().all(|line| line.len() < 400));
        }
    }
}
