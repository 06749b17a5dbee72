//! `users` of a tenant: its SMTP logins.

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use super::{PasswordHash, reader::TableReader};

/// Each with the hash of its password.
pub type Users = BTreeMap<UserName, PasswordHash>;

/// 1 to 64 letters, digits and ASCII marks without `@`, in lower case: names are compared without regard to
/// case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a login name is 1 to 64 letters, digits and marks, without '@' and blanks")]
pub struct InvalidUserName;

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        let allowed = |c: char| (c.is_ascii_graphic() || c.is_alphanumeric()) && c != '@';
        let lower = text.to_lowercase();
        let valid = (1..=64).contains(&text.chars().count()) && lower.chars().all(allowed);
        if valid { Ok(Self(lower.into())) } else { Err(InvalidUserName) }
    }
}

impl Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shows no value that it refuses: it may be the password.
pub(super) fn read_users(table: &mut TableReader<'_>) -> Users {
    const EXAMPLE: &str = r#""$argon2id$…""#;
    let mut users = Users::new();
    for (name, item) in table.named() {
        if item.source.world_readable {
            item.warn("every user of this machine can read this file and the password hash in it: chmod o-r");
        }
        let name = match name.parse::<UserName>() {
            Ok(name) => Some(name),
            Err(error @ InvalidUserName) => item.fail(error.to_string()),
        };
        let hash = match item.text(EXAMPLE).map(str::parse::<PasswordHash>) {
            Some(Ok(hash)) => Some(hash),
            Some(Err(error)) => item.fail(format!("{error}: `m365-relay hash-password` makes one")),
            None => None,
        };
        let Some((name, hash)) = name.zip(hash) else { continue };
        if users.insert(name, hash).is_some() {
            item.fail::<()>("this name is listed twice (case makes no difference): remove one, or rename it");
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["scanner", "Étage-2.mfp_1", "a", &"x".repeat(64), "contoso\\scanner", "1"] {
            assert_eq!(good.parse::<UserName>().unwrap().as_str(), good.to_lowercase());
        }
        for bad in [
            "",
            "a@b",
            "a b",
            "a\tb",
            "a\0",
            "a\u{200b}",
            "a\u{a0}b",
            &"x".repeat(65),
            "é".repeat(65).as_str(),
        ] {
            assert_eq!(bad.parse::<UserName>(), Err(InvalidUserName), "{bad:?}");
        }
    }
}
