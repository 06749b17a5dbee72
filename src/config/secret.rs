//! Secrets: `"text"`, `{ file = "…" }` or `{ env = "…" }`. Never printed, wiped from memory when dropped.

use std::{fmt, fs::File, io::Read, os::unix::fs::PermissionsExt, path::PathBuf};

use toml_span::value::ValueInner;
use zeroize::Zeroizing;

use super::reader::{Item, TableReader};

/// Where a secret is. What a [`super::Config`] holds could be read when the configuration was loaded.
#[derive(Clone, PartialEq)]
pub enum SecretSource {
    Text(Secret),
    /// Read at each use, so that a rotation needs no restart. A trailing newline is not part of the secret.
    File(PathBuf),
    Env(String),
}

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Names the file or variable, never the content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("secret file {} cannot be read: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("secret file {} is not UTF-8 text", path.display())]
    FileNotText { path: PathBuf },
    #[error("secret file {} is over {MAX_FILE} bytes long: it cannot be a secret", path.display())]
    FileTooLong { path: PathBuf },
    #[error("environment variable {0} is not set, or not UTF-8 text")]
    Env(String),
    #[error("{0} is empty")]
    Empty(String),
}

const MAX_FILE: usize = 16 * 1024;

impl SecretSource {
    /// The secret as it is now. Blocks while a file is read.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let secret = match self {
            Self::Text(secret) => secret.clone(),
            Self::File(path) => read_file(path)?,
            Self::Env(name) => Secret::new(std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?),
        };
        if secret.expose().is_empty() { Err(SecretError::Empty(format!("{self:?}"))) } else { Ok(secret) }
    }

    /// The secret at `key`, if there is one.
    pub(super) fn read_optional(table: &mut TableReader<'_>, key: &'static str) -> Option<Self> {
        table.note_keys(key, &["file", "env"]);
        table.optional(key, Self::read_item)
    }

    pub(super) fn read_item(item: &Item<'_>) -> Option<Self> {
        const WANTED: &str = r#""text", { file = "path" } or { env = "VARIABLE" }"#;
        item.note_keys(&["file", "env"]);
        let source = match item.value.as_ref() {
            ValueInner::String(text) => {
                if item.source.world_readable {
                    item.warn(
                        "every user of this machine can read this file and the secret in it: chmod o-r",
                    );
                }
                Self::Text(Secret::new(text.clone().into_owned()))
            }
            ValueInner::Table(_) => item.table(|table| {
                let file = table.optional("file", Item::path);
                let env = table.optional("env", read_variable);
                match (file, env, table.has("file"), table.has("env")) {
                    (Some(path), _, _, false) => Some(Self::File(path)),
                    (_, Some(name), false, _) => Some(Self::Env(name.to_owned())),
                    (_, _, true, false) | (_, _, false, true) => None,
                    _ => item.fail(format!("names not exactly one place: write {WANTED}")),
                }
            })?,
            _ => return item.wrong_type(WANTED),
        };
        if let Err(error) = source.read() {
            return item.fail(error.to_string());
        }
        if let Self::File(path) = &source
            && path.metadata().is_ok_and(|m| m.permissions().mode() & 0o004 != 0)
        {
            item.warn(format!("every user of this machine can read {}: chmod o-r", path.display()));
        }
        Some(source)
    }
}

/// Does not show what it refuses: it may be the secret itself, in the wrong place.
fn read_variable<'a>(item: &Item<'a>) -> Option<&'a str> {
    const EXAMPLE: &str = r#""CONTOSO_SECRET""#;
    let name = item.text(EXAMPLE)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(allowed) {
        return item.fail(format!("is not the name of an environment variable: write one such as {EXAMPLE}"));
    }
    Some(name)
}

fn read_file(path: &PathBuf) -> Result<Secret, SecretError> {
    let failed = |error| SecretError::File { path: path.clone(), error };
    // Room for the longest, so that growing leaves no copy behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    let limit = u64::try_from(bytes.capacity()).unwrap_or(u64::MAX);
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(SecretError::FileTooLong { path: path.clone() });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::FileNotText { path: path.clone() })?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(Secret::new(line.to_owned()))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for (content, secret) in
            [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), (" s \n\n", " s \n")]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(SecretSource::File(path.clone()).read().unwrap().expose(), secret);
        }
    }

    #[test]
    fn errors_name_the_place_and_not_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let error = |source: &SecretSource| source.read().unwrap_err().to_string();

        assert!(error(&SecretSource::File(path.clone())).contains(path.to_str().unwrap()));
        std::fs::write(&path, b"s3cret\xff").unwrap();
        let message = error(&SecretSource::File(path.clone()));
        assert!(message.contains("not UTF-8") && !message.contains("s3cret"), "{message}");
        std::fs::write(&path, "s3cret".repeat(10_000)).unwrap();
        let message = error(&SecretSource::File(path.clone()));
        assert!(message.contains("over 16384 bytes") && !message.contains("s3cret"), "{message}");
        std::fs::write(&path, "\n").unwrap();
        assert!(error(&SecretSource::File(path)).contains("is empty"));
        let message = error(&SecretSource::Env("M365_RELAY_NO_SUCH".into()));
        assert_eq!(message, "environment variable M365_RELAY_NO_SUCH is not set, or not UTF-8 text");
        assert!(error(&SecretSource::Text(Secret::new(String::new()))).contains("is empty"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let source = SecretSource::Text(Secret::new("s3cret".into()));
        assert_eq!(format!("{source:?}"), "(secret)");
    }
}
