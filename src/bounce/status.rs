//! Enhanced status codes: RFC 3463.

use std::{fmt, str::FromStr};

/// `class.subject.detail`, such as `5.1.1`: class 2, 4 or 5, the others 0 to 999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    class: u8,
    subject: u16,
    detail: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code such as 5.1.1 (RFC 3463)")]
pub struct InvalidStatus;

impl EnhancedStatus {
    /// The retry time ran out.
    pub const EXPIRED: Self = Self { class: 4, subject: 4, detail: 7 };
    /// Handed over.
    pub const RELAYED: Self = Self { class: 2, subject: 0, detail: 0 };
    /// Something is wrong with the relay itself.
    pub const SYSTEM: Self = Self { class: 5, subject: 3, detail: 0 };
    /// Nothing more is known.
    pub const UNDEFINED: Self = Self { class: 5, subject: 0, detail: 0 };

    pub fn new(class: u8, subject: u16, detail: u16) -> Result<Self, InvalidStatus> {
        let valid = matches!(class, 2 | 4 | 5) && subject < 1000 && detail < 1000;
        if valid { Ok(Self { class, subject, detail }) } else { Err(InvalidStatus) }
    }

    /// 2 success, 4 temporary, 5 permanent.
    pub fn class(self) -> u8 {
        self.class
    }

    /// 1 addresses, 2 mailboxes, 3 mail systems, 4 network, 5 protocol, 6 content, 7 security and policy.
    pub fn subject(self) -> u16 {
        self.subject
    }

    pub fn detail(self) -> u16 {
        self.detail
    }
}

impl FromStr for EnhancedStatus {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let mut numbers = text.splitn(3, '.').map(|number| {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u16>().ok().filter(|_| digits).ok_or(InvalidStatus)
        });
        let mut next = || numbers.next().unwrap_or(Err(InvalidStatus));
        let class = u8::try_from(next()?).map_err(|_| InvalidStatus)?;
        Self::new(class, next()?, next()?)
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["5.1.1", "4.4.7", "2.0.0", "5.7.708"] {
            assert_eq!(text.parse::<EnhancedStatus>().unwrap().to_string(), text);
        }
        for text in ["", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.1000", "5.+1.1", "5..1", "5.1.1 x"] {
            assert_eq!(text.parse::<EnhancedStatus>(), Err(InvalidStatus), "{text}");
        }
    }
}
