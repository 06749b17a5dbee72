//! Refresh tokens on the disk: `NAME.json` for each tenant that has one, in a folder that no other user may
//! read.
//!
//! A file is replaced as a whole: written beside, synced, renamed, and the folder synced. So after a crash
//! there is either the old token or the new one. The writers are the relay and `m365-relay tenant login`,
//! which may run as root: what it makes belongs to the folder's owner. A lock on the folder keeps them out of
//! each other's way.
//!
//! All of this blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::config::{Secret, Tenant};
use relay_mail::{TenantName, Timestamp};

#[derive(Debug, Clone)]
pub(super) struct Store {
    folder: PathBuf,
}

/// What a file holds.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct StoredToken {
    refresh_token: String,
    /// The [`fingerprint`] of the configured refresh token that this one goes back to, or that was configured
    /// when a user signed in.
    pub(super) descends_from: Option<String>,
    /// A refresh token is valid for one application in one directory.
    client_id: String,
    directory: String,
    /// For people.
    stored_at: String,
}

/// A token to be stored in place of another.
#[derive(Clone)]
pub(super) struct Successor {
    pub(super) stored: StoredToken,
    /// What the store held when the successor was asked for. If the store now holds another one, a user has
    /// signed in since.
    pub(super) replaces: Option<Secret>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is not in the relay's format: remove it, and run m365-relay tenant login", path.display())]
    Damaged { path: PathBuf },
}

/// A refresh token has some 2 KB.
const LARGEST: u64 = 64 * 1024;

/// Tells one refresh token from another without holding it.
pub(super) fn fingerprint(token: &Secret) -> String {
    digest(&SHA256, token.expose().as_bytes()).as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

impl Store {
    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A tenant's name is a file name, and never begins with a dot.
    pub(super) fn file(&self, tenant: &TenantName) -> PathBuf {
        self.folder.join(format!("{tenant}.json"))
    }

    /// What is stored for the tenant, for whichever application.
    pub(super) fn read(&self, tenant: &Tenant) -> Result<Option<StoredToken>, StoreError> {
        self.read_file(&self.file(&tenant.name))
    }

    fn read_file(&self, path: &Path) -> Result<Option<StoredToken>, StoreError> {
        let failed = |error| StoreError::Io { path: path.to_owned(), error };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = Zeroizing::new(Vec::with_capacity(LARGEST as usize));
        file.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
        let stored = serde_json::from_slice(&text);
        stored.map(Some).map_err(|_| StoreError::Damaged { path: path.to_owned() })
    }

    /// Stores the successor, unless another one has been stored since it was asked for.
    pub(super) fn replace(&self, tenant: &TenantName, successor: &Successor) -> Result<(), StoreError> {
        let folder = self.locked_folder()?;
        let now = match self.read_file(&self.file(tenant)) {
            Ok(now) => now.map(|stored| stored.refresh_token()),
            // A damaged token is of no use.
            Err(StoreError::Damaged { .. }) => successor.replaces.clone(),
            Err(error) => return Err(error),
        };
        if now != successor.replaces {
            return Ok(());
        }
        self.write(&folder, tenant, &successor.stored)
    }

    /// Stores what a user's sign-in gave, whatever was there.
    pub(super) fn put(&self, tenant: &TenantName, stored: &StoredToken) -> Result<(), StoreError> {
        let folder = self.locked_folder()?;
        self.write(&folder, tenant, stored)
    }

    fn write(&self, folder: &File, tenant: &TenantName, stored: &StoredToken) -> Result<(), StoreError> {
        // No tenant's name begins with a dot.
        let new = self.folder.join(format!(".{tenant}.json"));
        let path = &self.file(tenant);
        let failed = |error| StoreError::Io { path: path.to_owned(), error };
        // Left by a crash.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut text = Zeroizing::new(Vec::with_capacity(LARGEST as usize));
        serde_json::to_writer_pretty(&mut *text, stored).map_err(|e| failed(e.into()))?;
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
                own_as(&folder.metadata()?, &file.metadata()?, &new)?;
                file.write_all(&text)?;
                file.sync_all()?;
                fs::rename(&new, path)?;
                folder.sync_all()
            });
        written.map_err(failed)
    }

    /// The folder, made if it is missing, and locked until the file is closed.
    fn locked_folder(&self) -> Result<File, StoreError> {
        let failed = |error| StoreError::Io { path: self.folder.clone(), error };
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Ok(()) => {
                let above = self.folder.parent().unwrap_or(Path::new("/"));
                fs::metadata(above)
                    .and_then(|above| own_as(&above, &self.folder.metadata()?, &self.folder))
                    .map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let folder = File::open(&self.folder).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(folder)
    }
}

/// What root makes belongs to the relay.
fn own_as(above: &fs::Metadata, made: &fs::Metadata, path: &Path) -> io::Result<()> {
    if (above.uid(), above.gid()) == (made.uid(), made.gid()) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    chown(path, Some(above.uid()), Some(above.gid()))
}

impl StoredToken {
    pub(super) fn of(tenant: &Tenant, refresh_token: Secret, descends_from: Option<String>) -> Self {
        Self {
            refresh_token: refresh_token.expose().to_owned(),
            descends_from,
            client_id: tenant.client_id.to_lowercase(),
            directory: tenant.directory.to_lowercase(),
            stored_at: Timestamp::wall().to_string(),
        }
    }

    /// Whether it is for the tenant as it is configured now.
    pub(super) fn is_of(&self, tenant: &Tenant) -> bool {
        self.client_id == tenant.client_id.to_lowercase() && self.directory == tenant.directory.to_lowercase()
    }

    pub(super) fn refresh_token(&self) -> Secret {
        Secret::new(self.refresh_token.clone())
    }
}
