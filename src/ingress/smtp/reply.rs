//! Replies: a code, an enhanced status code (RFC 2034, RFC 3463) and a text that says little.

use std::{borrow::Cow, fmt};

use crate::ingress::Refusal;

/// RFC 5321 section 4.5.3.1.5: 512 octets a line, with room for the code and the line end.
const MAX_TEXT: usize = 480;

/// What the server answers. Kept small: there is one for each command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// Empty where RFC 2034 wants none: the greeting, the answers to EHLO and HELO, and 354.
    enhanced: &'static str,
    /// Each line of it becomes a line of the reply.
    text: Cow<'static, str>,
}

impl Reply {
    pub(crate) fn new(code: u16, enhanced: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced, text: text.into() }
    }

    pub(crate) fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code, "", text)
    }

    /// Whether it says that the client's error is permanent.
    pub(super) fn is_permanent_error(&self) -> bool {
        self.code >= 500
    }

    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(self.code.to_string().as_bytes());
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if !self.enhanced.is_empty() {
                out.extend_from_slice(self.enhanced.as_bytes());
                out.push(b' ');
            }
            // A reply is ASCII without control characters, whatever its text was made from.
            let clean = |octet: u8| if matches!(octet, b' '..=b'~') { octet } else { b'?' };
            out.extend(line.bytes().take(MAX_TEXT).map(clean));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl From<&Refusal> for Reply {
    fn from(refusal: &Refusal) -> Self {
        Self::new(refusal.code, refusal.enhanced, refusal.text.clone())
    }
}

/// For logs.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.enhanced, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        assert_eq!(written(Reply::new(250, "2.0.0", "Ok")), "250 2.0.0 Ok\r\n");
        assert_eq!(
            written(Reply::plain(250, "host\nSIZE 1\nPIPELINING")),
            "250-host\r\n250-SIZE 1\r\n250 PIPELINING\r\n"
        );
    }

    #[test]
    fn nothing_from_outside_breaks_out_of_a_line() {
        assert_eq!(written(Reply::new(550, "5.7.1", "a\rb\0c é")), "550 5.7.1 a?b?c ??\r\n");
        assert!(written(Reply::new(550, "5.7.1", "x".repeat(5000))).len() <= 512);
    }
}
