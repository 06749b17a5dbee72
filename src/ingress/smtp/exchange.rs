//! The exchange that AUTH begins (RFC 4954), for PLAIN (RFC 4616) and LOGIN: lines in, prompts and
//! credentials out.
//!
//! Pure. Forgives what old devices are known for: no padding at the end of base64, blanks after it, a
//! mechanism in lower case, a name given along with `AUTH LOGIN`. Holds passwords in memory that is wiped.

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use super::reply::Reply;
use crate::ingress::login::Credentials;

/// What EHLO offers.
pub(super) const OFFER: &str = "AUTH PLAIN LOGIN";

const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Octets of a name and of a password. RFC 4616 section 2 has 255 for both.
const LONGEST_NAME: usize = 255;
const LONGEST_PASSWORD: usize = 1024;

/// An AUTH command.
#[derive(PartialEq, Eq)]
pub(crate) struct Begin {
    mechanism: Mechanism,
    /// The initial response, in base64. Empty: there is none.
    initial: Zeroizing<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Login,
    Unknown,
}

/// An exchange that waits for the client's next line.
#[derive(Debug)]
pub(super) struct Exchange(Waiting);

#[derive(Debug)]
enum Waiting {
    /// For all of PLAIN.
    Plain,
    LoginName,
    LoginPassword {
        name: String,
    },
}

/// What follows a line.
pub(super) enum Progress {
    /// The client is asked for more, with this text after 334.
    Ask(Exchange, &'static str),
    Done(Credentials),
}

/// Why an exchange ended without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Cancelled,
    NotBase64,
    /// Not what the mechanism wants; too long.
    Malformed,
    NoName,
    NoPassword,
    /// The client wants to act as a user other than the one it logs in as.
    OtherIdentity,
    UnknownMechanism,
}

impl Begin {
    /// `argument` is all that follows AUTH.
    pub(super) fn parse(argument: &[u8]) -> Result<Self, Reply> {
        let argument = argument.trim_ascii();
        let word = argument.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if word.is_empty() {
            return Err(Reply::new(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]"));
        }
        let mechanism = if word.eq_ignore_ascii_case(b"PLAIN") {
            Mechanism::Plain
        } else if word.eq_ignore_ascii_case(b"LOGIN") {
            Mechanism::Login
        } else {
            Mechanism::Unknown
        };
        let initial = Zeroizing::new(argument[word.len()..].trim_ascii().to_vec());
        Ok(Self { mechanism, initial })
    }

    pub(super) fn start(self) -> Result<Progress, Broken> {
        let exchange = match self.mechanism {
            Mechanism::Plain => Exchange(Waiting::Plain),
            Mechanism::Login => Exchange(Waiting::LoginName),
            Mechanism::Unknown => return Err(Broken::UnknownMechanism),
        };
        match &**self.initial {
            b"" => Ok(exchange.ask()),
            // RFC 4954 section 4: a response of no octets.
            b"=" => exchange.take(&[]),
            initial => exchange.take(&decoded(initial)?),
        }
    }
}

impl Exchange {
    /// Takes the client's next line, with or without its end.
    pub(super) fn answer(self, line: &[u8]) -> Result<Progress, Broken> {
        match line.trim_ascii() {
            b"*" => Err(Broken::Cancelled),
            line => self.take(&decoded(line)?),
        }
    }

    fn ask(self) -> Progress {
        let prompt = match self.0 {
            Waiting::Plain => "",
            // "Username:" and "Password:", which old devices compare octet by octet.
            Waiting::LoginName => "VXNlcm5hbWU6",
            Waiting::LoginPassword { .. } => "UGFzc3dvcmQ6",
        };
        Progress::Ask(self, prompt)
    }

    fn take(self, response: &[u8]) -> Result<Progress, Broken> {
        match self.0 {
            Waiting::Plain => {
                let mut parts = response.split(|&octet| octet == 0);
                let (Some(identity), Some(name), Some(password), None) =
                    (parts.next(), parts.next(), parts.next(), parts.next())
                else {
                    return Err(Broken::Malformed);
                };
                if !identity.is_empty() && !identity.eq_ignore_ascii_case(name) {
                    return Err(Broken::OtherIdentity);
                }
                credentials(name_of(name)?, password).map(Progress::Done)
            }
            Waiting::LoginName => Ok(Self(Waiting::LoginPassword { name: name_of(response)? }).ask()),
            Waiting::LoginPassword { name } => credentials(name, response).map(Progress::Done),
        }
    }
}

fn name_of(octets: &[u8]) -> Result<String, Broken> {
    match octets.len() {
        0 => Err(Broken::NoName),
        // What is not UTF-8 is nobody's name.
        1..=LONGEST_NAME => Ok(String::from_utf8_lossy(octets).into_owned()),
        _ => Err(Broken::Malformed),
    }
}

fn credentials(name: String, password: &[u8]) -> Result<Credentials, Broken> {
    match password.len() {
        0 => Err(Broken::NoPassword),
        1..=LONGEST_PASSWORD => Ok(Credentials { name, password: Zeroizing::new(password.to_vec()) }),
        _ => Err(Broken::Malformed),
    }
}

fn decoded(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let mut octets = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = TOLERANT.decode_slice(text, &mut octets).map_err(|_| Broken::NotBase64)?;
    octets.truncate(len);
    Ok(octets)
}

impl Broken {
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::Cancelled => Reply::new(501, "5.7.0", "Authentication cancelled"),
            Self::NotBase64 => Reply::new(501, "5.5.2", "Cannot decode base64"),
            Self::Malformed => Reply::new(501, "5.5.2", "Not a response of this mechanism"),
            Self::NoName => Reply::new(535, "5.7.8", "Authentication credentials invalid: no name"),
            Self::NoPassword => Reply::new(535, "5.7.8", "Authentication credentials invalid: no password"),
            Self::OtherIdentity => Reply::new(
                535,
                "5.7.8",
                "Authentication credentials invalid: the authorization identity must be the login name",
            ),
            Self::UnknownMechanism => Reply::new(504, "5.5.4", "Mechanisms are PLAIN and LOGIN"),
        }
    }
}

impl fmt::Debug for Begin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begin").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    /// Returns name and password after these lines, or the prompts if more is wanted, or what broke the
    /// exchange.
    fn run(argument: &str, lines: &[&str]) -> Result<(String, Vec<u8>), String> {
        let begin = Begin::parse(argument.as_bytes()).map_err(|reply| reply.to_string())?;
        let mut progress = begin.start();
        let mut prompts = String::new();
        let mut lines = lines.iter();
        loop {
            match progress.map_err(|broken| format!("{broken:?}"))? {
                Progress::Done(Credentials { name, password }) => {
                    assert!(lines.next().is_none());
                    return Ok((name, password.to_vec()));
                }
                Progress::Ask(exchange, prompt) => {
                    prompts.push_str(&format!("[{prompt}]"));
                    let Some(line) = lines.next() else { return Err(prompts) };
                    progress = exchange.answer(format!("{line}\r\n").as_bytes());
                }
            }
        }
    }

    fn ok(name: &str, password: &str) -> Result<(String, Vec<u8>), String> {
        Ok((name.into(), password.into()))
    }

    #[test]
    fn plain() {
        // NUL "tim" NUL "tanstaaftanstaaf", as in RFC 4616 section 4.
        let response = "AHRpbQB0YW5zdGFhZnRhbnN0YWFm";
        assert_eq!(run(&format!("PLAIN {response}"), &[]), ok("tim", "tanstaaftanstaaf"));
        assert_eq!(run(&format!(" plAin  {response} \t"), &[]), ok("tim", "tanstaaftanstaaf"));
        assert_eq!(run("PLAIN", &[response]), ok("tim", "tanstaaftanstaaf"));
        assert_eq!(run("PLAIN", &[&format!("{response}  ")]), ok("tim", "tanstaaftanstaaf"));
        assert_eq!(run("PLAIN", &[]), Err("[]".into()));
        let broken = |response: &str| run("PLAIN", &[&BASE64_STANDARD.encode(response)]).unwrap_err();
        assert_eq!(run(&format!("PLAIN {}", BASE64_STANDARD.encode("Tim\0tim\0x")), &[]), ok("tim", "x"));
        assert_eq!(broken("ann\0tim\0x"), "OtherIdentity");
        assert_eq!(broken("\0\0x"), "NoName");
        assert_eq!(broken("\0tim\0"), "NoPassword");
        for malformed in ["", "tim", "tim\0x", "\0tim\0x\0", "\0tim\0x\0y"] {
            assert_eq!(broken(malformed), "Malformed", "{malformed:?}");
        }
        assert_eq!(run("PLAIN =", &[]), Err("Malformed".into()));
        assert_eq!(broken(&format!("\0{}\0x", "n".repeat(256))), "Malformed");
        assert_eq!(broken(&format!("\0n\0{}", "x".repeat(1025))), "Malformed");
    }

    #[test]
    fn login() {
        let name = "dGlt";
        let password = "eA==";
        assert_eq!(run("LOGIN", &[name, password]), ok("tim", "x"));
        assert_eq!(run("login", &[name, "eA"]), ok("tim", "x"));
        assert_eq!(run(&format!("LOGIN {name}"), &[password]), ok("tim", "x"));
        assert_eq!(run("LOGIN", &[]), Err("[VXNlcm5hbWU6]".into()));
        assert_eq!(run("LOGIN", &[name]), Err("[VXNlcm5hbWU6][UGFzc3dvcmQ6]".into()));
        assert_eq!(run("LOGIN dGlt", &[]), Err("[UGFzc3dvcmQ6]".into()));
        assert_eq!(run("LOGIN", &[""]), Err("NoName".into()));
        assert_eq!(run("LOGIN =", &[]), Err("NoName".into()));
        assert_eq!(run("LOGIN", &[name, ""]), Err("NoPassword".into()));
    }

    #[test]
    fn an_exchange_can_be_cancelled_and_broken() {
        for (mechanism, lines) in [("PLAIN", &["*"][..]), ("LOGIN", &["*"]), ("LOGIN", &["dGlt", " * "])] {
            assert_eq!(run(mechanism, lines), Err("Cancelled".into()));
        }
        for junk in ["a", "****", "dGl t", "dG=lt", "é"] {
            assert_eq!(run("LOGIN", &[junk]), Err("NotBase64".into()), "{junk}");
        }
        assert_eq!(run("PLAIN *", &[]), Err("NotBase64".into()));
        assert_eq!(run("LOGIN dGlt eA==", &[]), Err("NotBase64".into()));
        assert_eq!(run("CRAM-MD5", &[]), Err("UnknownMechanism".into()));
        assert!(run(" ", &[]).unwrap_err().starts_with("501 5.5.4"));
    }

    #[test]
    fn debug_shows_no_password() {
        let shown = format!("{:?}", Begin::parse(b"PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm").unwrap());
        assert_eq!(shown, "Begin { mechanism: Plain, .. }");
    }

    proptest! {
        #[test]
        fn any_credentials_come_through(
            name in "[^\0]{1,60}", password in prop::collection::vec(1u8.., 1..200),
            with_identity: bool, padded: bool, at_once: bool,
        ) {
            let encode = |octets: &[u8]| if padded { BASE64_STANDARD.encode(octets) } else { BASE64_STANDARD_NO_PAD.encode(octets) };
            let identity = if with_identity { name.as_bytes() } else { b"" };
            let plain = encode(&[identity, b"\0", name.as_bytes(), b"\0", &password].concat());
            let as_name = encode(name.as_bytes());
            let as_password = encode(&password);
            let expected = Ok((name.clone(), password.clone()));
            let (by_plain, by_login) = if at_once {
                (run(&format!("PLAIN {plain}"), &[]), run(&format!("LOGIN {as_name}"), &[&as_password]))
            } else {
                (run("PLAIN", &[&plain]), run("LOGIN", &[&as_name, &as_password]))
            };
            prop_assert_eq!(&by_plain, &expected);
            prop_assert_eq!(&by_login, &expected);
        }

        #[test]
        fn any_lines_are_answered(
            argument in "(PLAIN|LOGIN|login|X)?( [ -~]{0,20})?",
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 3),
        ) {
            let Ok(begin) = Begin::parse(argument.as_bytes()) else { return Ok(()) };
            let mut progress = begin.start();
            for line in &lines {
                let Ok(Progress::Ask(exchange, _)) = progress else { return Ok(()) };
                progress = exchange.answer(line);
            }
            prop_assert!(!matches!(progress, Ok(Progress::Ask(..))), "never more than two prompts");
        }
    }
}
