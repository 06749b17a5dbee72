//! The proof that an Azure Arc agent asks for: what stands in a file that only the agent and administrators
//! can read.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::super::{ids::random_uuid, store::lock};

/// The secrets that an agent has written and not seen again, by their files.
#[derive(Default)]
pub(super) struct ArcSecrets(Mutex<HashMap<String, PathBuf>>);

/// Why a caller is not let in.
pub(super) enum NoProof {
    /// The secret in this new file is to be shown.
    Wanted(PathBuf),
    /// The file could not be written.
    NotWritten(PathBuf, io::Error),
}

impl ArcSecrets {
    /// Who can read a file that only its agent and administrators can read is let in, once a file.
    pub(super) fn check(&self, secret: Option<&str>, folder: &Path) -> Result<(), NoProof> {
        let mut secrets = lock(&self.0);
        if let Some(file) = secret.and_then(|secret| secrets.remove(secret)) {
            // It may be gone already; it opens nothing more.
            let _ = std::fs::remove_file(file);
            return Ok(());
        }
        let file = folder.join(format!("{}.key", random_uuid()));
        let secret = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 48]>());
        if let Err(error) = write_secret(&file, &secret) {
            return Err(NoProof::NotWritten(file, error));
        }
        secrets.insert(secret, file.clone());
        Err(NoProof::Wanted(file))
    }
}

fn write_secret(file: &Path, secret: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(secret.as_bytes())
}
