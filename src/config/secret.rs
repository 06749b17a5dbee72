//! Secrets: `"text"`, `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }`, which is one of systemd's.
//! Never printed, wiped from memory when dropped.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use toml_span::value::ValueInner;
use zeroize::Zeroizing;

use super::reader::{Item, TableReader};

/// Where a secret is. A source in a [`super::Config`] could be read when the configuration was loaded.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    Text(Secret),
    /// Read at each use, so that a rotation needs no restart. A trailing newline is not part of the secret.
    File(PathBuf),
    Env(String),
    /// A file of that name in the folder that systemd names in `$CREDENTIALS_DIRECTORY` (systemd.exec(5),
    /// "Credentials"). Read as a file.
    Credential(String),
}

/// What a source comes down to.
enum SecretPlace<'a> {
    Here(&'a Secret),
    File(Cow<'a, Path>),
    Env(&'a str),
}

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Names the file or variable, never the content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("secret file {} cannot be read: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("secret file {} is not UTF-8 text", path.display())]
    FileNotText { path: PathBuf },
    #[error("secret file {} is over {limit} bytes long, which is too long for a secret", path.display())]
    FileTooLong { path: PathBuf, limit: usize },
    #[error("environment variable {0} is not set, or not UTF-8 text")]
    Env(String),
    #[error(
        "systemd passes no credentials to the relay, so {0} is missing: write LoadCredential={0}:PATH into \
         the unit"
    )]
    NoCredentials(String),
    #[error("{0} is empty")]
    Empty(String),
}

/// In bytes. A federated token has two or three kilobytes.
const LONGEST_SECRET: usize = 16 * 1024;
/// In bytes. A certificate with its key and those above it has some ten kilobytes.
const LONGEST_CERTIFICATE: usize = 1024 * 1024;

const WANTED: &str = r#""text", { file = "path" }, { env = "VARIABLE" } or { credential = "NAME" }"#;

impl SecretSource {
    /// The secret as it is now. Blocks while a file is read.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let secret = match self.place()? {
            SecretPlace::Here(secret) => secret.clone(),
            SecretPlace::File(path) => read_text(&path)?,
            SecretPlace::Env(name) => from_environment(name)?,
        };
        if secret.expose().is_empty() { Err(self.empty()) } else { Ok(secret) }
    }

    /// The octets as they are now, for what need not be text. Blocks while a file is read.
    pub fn read_octets(&self) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let octets = |secret: &Secret| Zeroizing::new(secret.expose().as_bytes().to_owned());
        let octets = match self.place()? {
            SecretPlace::Here(secret) => octets(secret),
            SecretPlace::File(path) => read_file(&path, LONGEST_CERTIFICATE)?,
            SecretPlace::Env(name) => octets(&from_environment(name)?),
        };
        if octets.is_empty() { Err(self.empty()) } else { Ok(octets) }
    }

    /// The file that holds the secret, if one does.
    pub fn path(&self) -> Option<Cow<'_, Path>> {
        match self.place() {
            Ok(SecretPlace::File(path)) => Some(path),
            _ => None,
        }
    }

    fn place(&self) -> Result<SecretPlace<'_>, SecretError> {
        match self {
            Self::Text(secret) => Ok(SecretPlace::Here(secret)),
            Self::File(path) => Ok(SecretPlace::File(path.into())),
            Self::Env(name) => Ok(SecretPlace::Env(name)),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => Ok(SecretPlace::File(Path::new(&folder).join(name).into())),
                None => Err(SecretError::NoCredentials(name.clone())),
            },
        }
    }

    fn empty(&self) -> SecretError {
        SecretError::Empty(format!("{self:?}"))
    }

    /// The secret at `key`, if there is one.
    pub(super) fn read_optional(table: &mut TableReader<'_>, key: &'static str) -> Option<Self> {
        table.note_keys(key, &PLACES);
        table.optional(key, Self::read_item)
    }

    pub(super) fn read_item(item: &Item<'_>) -> Option<Self> {
        let source = Self::read_place(item)?;
        source.refuse_if_exposed(item)?;
        if let Err(error) = source.read() {
            return item.fail(error.to_string());
        }
        source.warn_if_exposed(item);
        Some(source)
    }

    /// The same for a tenant's credential: see [`Item::fail_alone`].
    pub(super) fn read_of_tenant(item: &Item<'_>) -> Option<Self> {
        let source = Self::read_place(item)?;
        source.refuse_if_exposed(item)?;
        if let Err(error) = source.read() {
            return item.fail_alone(source, error.to_string());
        }
        source.warn_if_exposed(item);
        Some(source)
    }

    /// Where it is said to be; whether anything is there is not checked.
    pub(super) fn read_place(item: &Item<'_>) -> Option<Self> {
        item.note_keys(&PLACES);
        match item.value.as_ref() {
            ValueInner::String(text) => Some(Self::Text(Secret::new(text.clone().into_owned()))),
            ValueInner::Table(_) => item.table(|table| {
                let given = PLACES.iter().filter(|key| table.has(key)).count();
                let file = table.optional("file", Item::path).map(Self::File);
                let env = table.optional("env", read_variable).map(|name| Self::Env(name.to_owned()));
                let credential = table.optional("credential", read_credential_name);
                let credential = credential.map(|name| Self::Credential(name.to_owned()));
                match given {
                    1 => file.or(env).or(credential),
                    _ => item.fail(format!("must name exactly one source: write {WANTED}")),
                }
            }),
            _ => item.wrong_type(WANTED),
        }
    }

    /// Notes a mistake if others can write to the file that it is in.
    pub(super) fn refuse_if_exposed(&self, item: &Item<'_>) -> Option<()> {
        self.path().map_or(Some(()), |path| item.only_ours(&path))
    }

    /// Warns if every user of the machine can read the secret.
    pub(super) fn warn_if_exposed(&self, item: &Item<'_>) {
        match self {
            Self::Text(_) if item.source.world_readable => {
                item.warn("every user of this machine can read this file and the secret in it: chmod o-r");
            }
            Self::File(path) if path.metadata().is_ok_and(|m| m.permissions().mode() & 0o004 != 0) => {
                item.warn(format!("every user of this machine can read {}: chmod o-r", path.display()));
            }
            // What systemd makes readable is for systemd to decide.
            _ => {}
        }
    }
}

/// Keys of a table that says where a secret is.
pub(super) const PLACES: [&str; 3] = ["file", "env", "credential"];

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

/// Does not show what it refuses, either. What systemd takes as a credential's name is a file name.
fn read_credential_name<'a>(item: &Item<'a>) -> Option<&'a str> {
    const EXAMPLE: &str = r#""contoso.secret""#;
    let name = item.text(EXAMPLE)?;
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(allowed) {
        return item.fail(format!("is not the name of a systemd credential: write one such as {EXAMPLE}"));
    }
    Some(name)
}

fn from_environment(name: &str) -> Result<Secret, SecretError> {
    std::env::var(name).map(Secret::new).map_err(|_| SecretError::Env(name.to_owned()))
}

fn read_text(path: &Path) -> Result<Secret, SecretError> {
    let bytes = read_file(path, LONGEST_SECRET)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::FileNotText { path: path.to_owned() })?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(Secret::new(line.to_owned()))
}

/// Wiped when it is dropped.
fn read_file(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |error| SecretError::File { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    // Room for all of it, so that growing leaves no copy behind in freed memory. Only a file has a size.
    let size = file.metadata().map_err(failed)?.len();
    let room = usize::try_from(size).unwrap_or(limit).clamp(LONGEST_SECRET, limit);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room + 1));
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(SecretError::FileTooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
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
            Self::Credential(name) => write!(f, "systemd credential {name}"),
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
        let message = error(&SecretSource::Credential("contoso".into()));
        assert!(message.contains("LoadCredential=contoso:PATH"), "{message}");
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
