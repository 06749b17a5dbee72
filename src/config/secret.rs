//! Secrets: `"text"`, `{ file = "…" }` or `{ env = "…" }`. Never printed, wiped from memory when dropped.

use std::{fmt, path::PathBuf};

use zeroize::Zeroizing;

#[derive(Clone)]
pub enum SecretSource {
    Text(Secret),
    /// Read at each use, so that a rotation needs no restart. A trailing newline is not part of the secret.
    File(PathBuf),
    Env(String),
}

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(secret) => secret.fmt(f),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}
