//! The proof that an Azure Arc agent requires: the contents of a file that only the agent and administrators
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

/// The secrets that an agent has written and that have not been presented yet, by their files.
#[derive(Default)]
pub(super) struct ArcSecrets(Mutex<HashMap<String, PathBuf>>);

/// Why a caller is refused.
pub(super) enum NoProof {
    /// The caller must present the secret in this new file.
    Wanted(PathBuf),
    /// The file could not be written.
    NotWritten(PathBuf, io::Error),
}

impl ArcSecrets {
    /// Admits a caller that can read a file which only its agent and administrators can read, once per file.
    pub(super) fn check(&self, secret: Option<&str>, folder: &Path) -> Result<(), NoProof> {
        let mut secrets = lock(&self.0);
        if let Some(file) = secret.and_then(|secret| secrets.remove(secret)) {
            // It may already be gone; it opens nothing any more.
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
